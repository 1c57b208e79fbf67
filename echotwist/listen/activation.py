"""Socket activation: the sockets on which systemd listens and which it passes to the service.

They come through Twisted's endpoint `systemd:`. This module corrects what that gets wrong.
"""

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint


def activatedEndpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint `systemd:...`. Raises ValueError, with a message for the operator.

    Twisted (26.10) trusts `domain`. If that is wrong, it decodes the wrong kind of address: the log
    had peers such as [::58cb:f5ef:837f:0%4022103982]:50974.
    """
    try:
        endpoint: Any = serverFromString(reactor, description)
    except (IndexError, KeyError) as e:
        raise ValueError("systemd has passed no such socket to this process") from e
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as s:
            family = s.family
    except OSError as e:
        raise ValueError("what systemd has passed to this process is not a socket") from e
    if family != endpoint.addressFamily:
        raise ValueError(f"the socket is domain={family.name.removeprefix('AF_')}")
    if family == socket.AF_UNIX:
        endpoint = AdoptedStreamServerEndpoint(_UnixAdopter(reactor), endpoint.fileno, family)
    activated: IStreamServerEndpoint = endpoint
    return activated


class _UnixAdopter:
    """Stands in for the reactor, to adopt a Unix socket as a `_UnixPort`."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> IListeningPort:
        port: Any = _UnixPort._fromListeningDescriptor(self._reactor, descriptor, factory)
        port.startListening()
        adopted: IListeningPort = port
        return adopted


class _UnixPort(unix.Port):
    """A Unix socket that belongs to systemd.

    Twisted (26.10, twisted/internet/unix.py, `Port.startListening` and `Port.connectionLost`)
    treats the socket as its own. It changes the file's mode, which a DynamicUser may not, so the
    service did not start. It cuts the backlog to 50. At the end it shuts the socket down and
    removes its file, so that no client reaches the next process. With a TCP socket
    (twisted/internet/tcp.py, `Port`) it does none of this, and this class follows that. It does not
    call `tcp.Port.startListening`, which would log a letter of the path as the port number.
    """

    # As for an inherited socket in tcp.Port.
    _shouldShutdown = False

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        factory: Any = self.factory
        factory.doStart()
        inherited: Any = self._preexistingSocket
        self._preexistingSocket = None
        self.socket = inherited
        self.fileno = inherited.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        tcp.Port.connectionLost(self, reason)
