"""Socket activation: the sockets that systemd listens on, and passes to the service.

They come through Twisted's own endpoint, `systemd:`; this is what it gets wrong.
"""

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint


def inherited(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint `systemd:...`. Raises ValueError, with a message for the operator.

    Twisted believes the `domain`. If that is wrong it reads addresses out of memory that is none:
    the log had peers such as [::58cb:f5ef:837f:0%4022103982]:50974 (26.10).
    """
    try:
        endpoint: Any = serverFromString(reactor, description)
    except (IndexError, KeyError) as e:
        raise ValueError("systemd has passed no such socket to this process") from e
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as s:
            family = s.family
    except OSError as e:
        raise ValueError("what systemd has passed to this process is no socket") from e
    if family != endpoint.addressFamily:
        raise ValueError(f"the socket is domain={family.name.removeprefix('AF_')}")
    if family == socket.AF_UNIX:
        endpoint = AdoptedStreamServerEndpoint(_UnixAdopter(reactor), endpoint.fileno, family)
    given: IStreamServerEndpoint = endpoint
    return given


class _UnixAdopter:
    """Stands for the reactor where that is to adopt a Unix socket."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> IListeningPort:
        port: Any = _UnixPort._fromListeningDescriptor(self._reactor, descriptor, factory)
        port.startListening()
        adopted: IListeningPort = port
        return adopted


class _UnixPort(unix.Port):
    """A Unix socket that stays systemd's.

    Twisted (26.10, `internet/unix.py`, `Port.startListening` and `connectionLost`) treats it as its
    own: it has the file's mode changed, which a DynamicUser may not, so that nothing started;
    shortens the queue to 50; and at the end shuts the socket down and removes its file, so that
    nobody gets to the next process. With a TCP socket (`internet/tcp.py`) it does none of this, and
    this does as that does. `tcp.Port.startListening` itself would log a letter of the path as the
    port's number.
    """

    # Of an inherited socket, in tcp.Port.
    _shouldShutdown = False

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        factory: Any = self.factory
        factory.doStart()
        held: Any = self._preexistingSocket
        self._preexistingSocket = None
        self.socket = held
        self.fileno = held.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        tcp.Port.connectionLost(self, reason)
