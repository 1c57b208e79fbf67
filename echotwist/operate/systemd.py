"""What systemd is told: that the service is ready, that it stops, that it lives.

    READY=1       when it listens, and not when its process exists: what waits for it may come
    STATUS=...    the connections, for `systemctl status`
    WATCHDOG=1    as long as the reactor turns, and the fast path's threads do; if one of them does
                  not, systemd starts the service anew
    STOPPING=1    at the first moment of a drain

sd_notify(3) is a datagram of such lines to the socket that NOTIFY_SOCKET names. That is so
little that it is written here; the package `systemd-python` wants a compiler and libsystemd
for it.
"""

import os
import socket
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

MARGIN = 10
"""Seconds from the end of the drain limit to the end of the process, at the most."""

_log = Logger(namespace="echotwist")


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
