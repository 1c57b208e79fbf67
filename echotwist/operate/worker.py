"""The worker's side of `--workers`: it drains when its supervisor asks, or is gone.

The supervisor has the worker's standard input as a pipe, sends SIGTERM to drain it, and SIGQUIT to
abort the drain.
"""

import os
import signal
import stat
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.operate.signals import Signals

_log = Logger(namespace="echotwist")


def isSupervised(descriptor: int = 0) -> bool:
    """Whether a supervisor started this process: its standard input is then a pipe. An operator may
    also start a worker by hand, as in a terminal."""
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


class WorkerSignals(Signals):
    """Handles SIGTERM and SIGQUIT from the supervisor. A second SIGTERM changes nothing, because
    systemd and the supervisor may both send one. SIGINT and SIGHUP from a terminal are ignored,
    because the supervisor gets them as well."""

    def _install(self) -> None:
        if not isSupervised():
            super()._install()
            return
        signal.signal(signal.SIGTERM, lambda *_: None if self._stopping else self.received())
        signal.signal(
            signal.SIGQUIT, lambda *_: self._reactor.callFromThread(self._service.abortDrain)
        )
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


@implementer(IReadDescriptor)
class Lifeline(Service):
    """Drains the worker if its supervisor is gone, which closes the pipe at `descriptor`."""

    def __init__(self, reactor: Any, descriptor: int = 0) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def startService(self) -> None:
        super().startService()
        if isSupervised(self._descriptor):
            self._reactor.addReader(self)

    def stopService(self) -> None:
        super().stopService()
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        if not os.read(self._descriptor, 1024):
            self.connectionLost()

    def fileno(self) -> int:
        return self._descriptor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The pipe is closed. epollreactor calls this itself; other reactors call `doRead`."""
        self._reactor.removeReader(self)
        _log.warn("the supervisor is gone")
        self._reactor.stop()

    def logPrefix(self) -> str:
        return "lifeline"
