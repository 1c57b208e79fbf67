"""The service in a Twisted reactor that runs already, without a process."""

import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred

from echotwist import __version__
from echotwist.fatal import Fatal
from echotwist.operate.announce import announced
from echotwist.operate.signals import Signals
from echotwist.operate.systemd import Notifier
from echotwist.service import EchoService
from echotwist.tap import Options, makeService
from echotwist.testing.certificates import Authority
from echotwist.testing.process import NotStarted, listensElsewhere, told


class ServiceInReactor:
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

    @property
    def url(self) -> str:
        """Of the echo, such as `ws://127.0.0.1:40123/echo`."""
        return told(self._announced, "url")

    @property
    def page(self) -> str:
        """Its URL, such as `http://127.0.0.1:40123/`."""
        return told(self._announced, "page")

    @property
    def clientContext(self) -> ssl.SSLContext | None:
        """For clients in Python of the `url`; None without TLS."""
        return None if self._authority is None else self._authority.clientContext()

    @property
    def caFile(self) -> Path | None:
        """The authority's certificate; None without TLS."""
        return None if self._authority is None else self._authority.caFile

    def stop(self) -> "Deferred[None]":
        """Drain: clients are told 1001, and given --drain-timeout to leave. Fires when nothing is
        left of it; however often it is called, it stops once."""
        if self._stopping is None:
            self._stopping = self._stop()
        done: Deferred[None] = Deferred()

        def stopped(result: object) -> object:
            done.callback(None)
            return result

        self._stopping.addBoth(stopped)
        return done

    @inlineCallbacks
    def _stop(self) -> Any:
        yield maybeDeferred(self._services.stopService)
        if self._folder is not None:
            self._folder.cleanup()


@inlineCallbacks
def start(options: Sequence[str], tls: bool, reactor: Any) -> Any:
    """See echotwist.testing.startInReactor."""
    folder = authority = None
    defaults = []
    if tls:
        folder = tempfile.TemporaryDirectory(prefix="echotwist-")
        authority = Authority(Path(folder.name))
        defaults.append(f"--listen={authority.endpoint(0)}")
    elif not listensElsewhere(options, tls):
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
    except (Fatal, NotStarted) as e:
        if services is not None:
            yield services.stopService()
        if folder is not None:
            folder.cleanup()
        raise NotStarted(str(e)) from e
    return ServiceInReactor(options, services, folder, authority)


def _echoOf(services: MultiService) -> EchoService:
    return next(service for service in services if isinstance(service, EchoService))
