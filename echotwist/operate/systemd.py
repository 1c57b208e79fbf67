"""Notifications to systemd: that the service is ready, alive, or stopping.

    READY=1       when it listens, so that units ordered after it can connect
    STATUS=...    the number of connections, for `systemctl status`
    WATCHDOG=1    while the reactor and the threads of the fast path run; if one of them hangs,
                  systemd restarts the service
    STOPPING=1    when a drain begins

sd_notify(3) is a datagram of such lines to the socket that NOTIFY_SOCKET names. That is little
enough to write here; the package `systemd-python` needs a compiler and libsystemd.
"""

import os
import socket
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

STOP_MARGIN = 10
"""Seconds that the process may take to end after its drain timeout."""

_log = Logger(namespace="echotwist")


class MonitoredService(Protocol):
    """The service whose state systemd is told."""

    @property
    def isListening(self) -> bool: ...

    @property
    def connected(self) -> int:
        """How many clients are connected."""

    @property
    def drainTimeout(self) -> float:
        """Seconds."""

    def isAlive(self) -> bool:
        """Whether what runs outside the reactor is alive. A reactor that hangs cannot answer."""


class Notifier(Service):
    """Tells systemd the state of `service`, if systemd asks for it.

    It must be the last child of its parent, to start after `service` and stop before it.
    """

    def __init__(self, reactor: Any, service: MonitoredService) -> None:
        self._reactor = reactor
        self._service = service
        self._address = ""
        self._status = ""
        self._isReady = self._hasFailed = False
        self._loops: list[LoopingCall] = []

    def startService(self) -> None:
        super().startService()
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address:
            self._reactor.callWhenRunning(self._run)

    def _run(self) -> None:
        self._callEvery(1, self._sendStatus)
        if interval := _watchdog():
            # At half the interval, as sd_watchdog_enabled(3) advises. The reactor sends it, so that
            # it stops if the reactor hangs. The reactor's clock is the wall clock; if that is set
            # back by more than the interval, no deadline of the service holds any more, and a
            # restart is right.
            self._callEvery(interval / 2, self._sendWatchdog)

    def _sendWatchdog(self) -> None:
        if self._service.isAlive():
            self._send("WATCHDOG=1")

    def _callEvery(self, seconds: float, call: Any) -> None:
        loop = LoopingCall(call)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds)

    def stopService(self) -> None:
        super().stopService()
        if self._loops:
            # TimeoutStopSec= must not cut off a longer --drain-timeout.
            most = int((self._service.drainTimeout + STOP_MARGIN) * 1e6)
            self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={most}")
            self._sendStatus()

    def _sendStatus(self) -> None:
        count = self._service.connected
        status = f"STATUS={count} connected"
        if not self.running:
            status = f"STATUS=draining, {count} connected"
            if not count:
                for loop in self._loops:
                    loop.stop()
                self._loops.clear()
        elif not self._isReady:
            if not self._service.isListening:
                return
            status = f"READY=1\n{status}"
        # If it cannot be sent, the next second tries again.
        if status != self._status and self._send(status):
            self._status = status.removeprefix("READY=1\n")
            self._isReady = True

    def _send(self, state: str) -> bool:
        """Send lines to systemd, without waiting for it. Returns whether they were sent."""
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            # A new socket each time: there is none to close at the end, and none that a fork
            # shares.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.setblocking(False)
                s.sendto(state.encode(), address)
        except BlockingIOError:
            return False  # systemd is busy.
        except OSError as e:
            if not self._hasFailed:
                _log.warn("cannot notify {where!r}: {why}", where=self._address, why=str(e))
            self._hasFailed = True
            return False
        return True


def _watchdog() -> float:
    """Seconds without WATCHDOG=1 after which systemd restarts this process; 0 if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0
