"""What systemd is told: that the service is ready, that it stops, that it lives.

    READY=1       when it listens, and not when its process exists: what waits for it may come
    STATUS=...    the connections, for `systemctl status`
    WATCHDOG=1    as long as the reactor turns, and the fast path's threads do; if one of them does
                  not, systemd starts the service anew
    STOPPING=1    at the first moment of a drain

sd_notify(3) is a datagram of such lines to the socket that NOTIFY_SOCKET names. That is so
little that it is written here; the package `systemd-python` wants a compiler and libsystemd
for it. The sockets that systemd listens on come through Twisted's own endpoint, `systemd:`.
"""

import os
import socket
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

MARGIN = 10
"""Seconds from the end of the drain limit to the end of the process, at the most."""

_log = Logger(namespace="echotwist")


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


class Served(Protocol):
    """A service that listens."""

    @property
    def isListening(self) -> bool: ...

    @property
    def connected(self) -> int:
        """Clients."""

    @property
    def drainTimeout(self) -> float:
        """Seconds."""

    def isAlive(self) -> bool:
        """Whether what the reactor does not do itself goes on."""


class Notifier(Service):
    """Tells systemd of what is `served`. Does nothing where nobody wants to know.

    It is to be the last child of its parent: so it starts after that, and is the first that
    stops.
    """

    def __init__(self, reactor: Any, served: Served) -> None:
        self._reactor = reactor
        self._served = served
        self._where = ""
        self._status = ""
        self._isReady = self._hasFailed = False
        self._loops: list[LoopingCall] = []

    def startService(self) -> None:
        super().startService()
        self._where = os.environ.get("NOTIFY_SOCKET", "")
        if self._where:
            self._reactor.callWhenRunning(self._run)

    def _run(self) -> None:
        self._every(1, self._tell)
        if interval := _watchdog():
            # Half, as sd_watchdog_enabled(3) has it. From the reactor, so that it stops when the
            # reactor does. The reactor's clock is the wall's; if that is set back by more than
            # the interval, no deadline of the service holds any more, and to start anew is right.
            self._every(interval / 2, self._live)

    def _live(self) -> None:
        if self._served.isAlive():
            self._send("WATCHDOG=1")

    def _every(self, seconds: float, call: Any) -> None:
        loop = LoopingCall(call)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds)

    def stopService(self) -> None:
        super().stopService()
        if self._loops:
            # Whatever --drain-timeout is, TimeoutStopSec= shall not cut it off.
            most = int((self._served.drainTimeout + MARGIN) * 1e6)
            self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={most}")
            self._tell()

    def _tell(self) -> None:
        count = self._served.connected
        status = f"STATUS={count} connected"
        if not self.running:
            status = f"STATUS=draining, {count} connected"
            if not count:
                for loop in self._loops:
                    loop.stop()
                self._loops.clear()
        elif not self._isReady:
            if not self._served.isListening:
                return
            status = f"READY=1\n{status}"
        # What could not be sent is tried again, a second later.
        if status != self._status and self._send(status):
            self._status = status.removeprefix("READY=1\n")
            self._isReady = True

    def _send(self, state: str) -> bool:
        """Returns whether systemd will get it. It never waits for systemd."""
        address = "\0" + self._where[1:] if self._where[0] == "@" else self._where
        try:
            # A new one each time: it is not kept from being closed, or lost in a fork.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.setblocking(False)
                s.sendto(state.encode(), address)
        except BlockingIOError:
            return False  # It is busy.
        except OSError as e:
            if not self._hasFailed:
                _log.warn("cannot notify {where!r}: {why}", where=self._where, why=str(e))
            self._hasFailed = True
            return False
        return True


def _watchdog() -> float:
    """The seconds after which systemd takes this process for dead, or 0."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0
