"""Signals: the first drains the service, the second ends the drain."""

import signal
from typing import Any, Protocol

from twisted.application.service import Service

from echotwist.init import DRAINING


class Drained(Protocol):
    """A service that drains as it is stopped."""

    def hurry(self) -> None: ...


class Signals(Service):
    """SIGTERM, SIGINT and SIGHUP: the first drains, a second one has `drained` end that at once.

    twistd's own handling would pass the signal on to the process when all is done, so that a
    perfect end would have the exit status of a failure (twisted/application/app.py, 26.10).
    """

    def __init__(self, reactor: Any, drained: Drained) -> None:
        self._reactor = reactor
        self._drained = drained
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        # Not before: the reactor installs its own handlers as it starts to run.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._install()
        # Whoever started this may have blocked them until there are handlers; see `init`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DRAINING)

    def _install(self) -> None:
        # SIGHUP is what a terminal sends that is closed; who started this by nohup, or in the
        # background of a script, does not want to hear of it.
        for number in DRAINING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: self.received())

    def received(self) -> None:
        if self._stopping:
            self._reactor.callFromThread(self._drained.hurry)
        else:
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)
