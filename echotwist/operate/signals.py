"""Signals: the first one drains the service, the second one aborts the drain."""

import signal
from typing import Any, Protocol

from twisted.application.service import Service

from echotwist.init import DRAIN_SIGNALS


class Drainable(Protocol):
    """A service whose `stopService` drains it."""

    def abortDrain(self) -> None:
        """End the drain at once, by dropping the connections that are left."""


class Signals(Service):
    """Handles SIGTERM, SIGINT and SIGHUP: the first one stops the reactor, which drains `service`,
    and a second one aborts that drain.

    twistd's own handlers would raise the signal again at the end, so that even a perfect drain
    would have the exit status of a failure (26.10, twisted/application/app.py,
    `_exitWithSignal`).
    """

    def __init__(self, reactor: Any, service: Drainable) -> None:
        self._reactor = reactor
        self._service = service
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        # Later, because the reactor installs its own handlers when it starts to run.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._install()
        # They may have been blocked until there are handlers; see `init`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DRAIN_SIGNALS)

    def _install(self) -> None:
        # A terminal sends SIGHUP when it is closed. It stays ignored for a service that was started
        # with nohup, or in the background of a script.
        for number in DRAIN_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: self.received())

    def received(self) -> None:
        if self._stopping:
            self._reactor.callFromThread(self._service.abortDrain)
        else:
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)
