"""The service in a Twisted reactor that runs already, without a process."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred

from echotwist import __version__
from echotwist.fatal import Fatal
from echotwist.operate.announce import announced
from echotwist.operate.signals import Signals
from echotwist.operate.systemd import Notifier
from echotwist.service import EchoService
from echotwist.tap import Options, makeService
from echotwist.testing.announced import Announced
from echotwist.testing.certificates import Authority
from echotwist.testing.process import NotStarted, checked, listensElsewhere


class ServiceInReactor(Announced):
    """A service that listens. What it logs goes to the log of the process."""

    version = __version__

    def __init__(
        self,
        options: Sequence[str],
        services: MultiService,
        folder: "tempfile.TemporaryDirectory[str] | None",
        authority: Authority | None,
    ) -> None:
        self.options = tuple(options)
        self._services = services
        self._folder = folder
        self._authority = authority
        self._stopping: Deferred[Any] | None = None
        self._announced = announced(_echoOf(services))

    def stop(self) -> "Deferred[None]":
        """Drain: clients get close 1001, and have --drain-timeout to leave. Fires when all is
        gone, or fails as that does. Further calls fire as the first one."""
        if self._stopping is None:
            self._stopping = DeferredList([self._stop()], consumeErrors=True)
        done: Deferred[None] = Deferred()

        def stopped(outcomes: list[tuple[bool, Any]]) -> list[tuple[bool, Any]]:
            [(_, result)] = outcomes
            done.callback(result)  # None, or a Failure.
            return outcomes

        self._stopping.addCallback(stopped)
        return done

    @inlineCallbacks
    def _stop(self) -> Any:
        try:
            yield maybeDeferred(self._services.stopService)
        finally:
            if self._folder is not None:
                self._folder.cleanup()


@inlineCallbacks
def start(options: Sequence[str], tls: bool, reactor: Any) -> Any:
    """See echotwist.testing.startInReactor."""
    folder = authority = None
    defaults = []
    isElsewhere = listensElsewhere(checked(options), tls)
    if tls:
        folder = tempfile.TemporaryDirectory(prefix="echotwist-")
        authority = Authority(Path(folder.name))
        defaults.append(f"--listen={authority.endpoint(0)}")
    elif not isElsewhere:
        defaults.append("--listen=tcp:0:interface=127.0.0.1")
    services: Any = None
    try:
        parsed = Options()
        parsed.parseOptions([*defaults, *options])
        for option in ("workers", "worker", "announce"):
            if parsed[option] not in (1, None):
                raise NotStarted(f"--{option} is for a process: use ServiceProcess")
        services = makeService(parsed, reactor)
        for service in list(services):
            # The process is not ours: neither its signals, nor what systemd is told of it.
            if isinstance(service, Signals | Notifier):
                service.disownServiceParent()
        services.startService()
    except (Exception, SystemExit) as e:
        if services is not None:
            yield services.stopService()
        if folder is not None:
            folder.cleanup()
        if isinstance(e, Fatal):
            raise NotStarted(str(e)) from e
        if isinstance(e, SystemExit):
            raise NotStarted("--help and --version start no service") from e
        raise
    return ServiceInReactor(options, services, folder, authority)


def _echoOf(services: MultiService) -> EchoService:
    return next(service for service in services if isinstance(service, EchoService))
