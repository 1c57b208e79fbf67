from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import skipped
from support.frames import TEXT, Frame, text
from support.memory import Client, Service
from twisted.logger import LogLevel, formatEvent, globalLogPublisher


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have `tox` tell at its end what was skipped; in CI that is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # A report's `longrepr` is where it was skipped, in a path and a line, and why.
    skips = Counter(
        f"{report.nodeid.partition('[')[0]}: {report.longrepr[2].removeprefix('Skipped: ')}"
        for report in reporter.stats.get("skipped", ())
    )
    if skipped.note(skips):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Log:
    """What was logged during a test."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def lines(self, namespace: str = "echotwist") -> list[str]:
        return [formatEvent(e) for e in self.events if e.get("log_namespace") == namespace]

    def errors(self) -> list[str]:
        return [
            formatEvent(e) + str(e.get("log_failure", ""))
            for e in self.events
            if e["log_level"] >= LogLevel.warn
        ]


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """Everything that is logged. Whatever a client does, nothing may be logged as an error."""
    log = Log()
    globalLogPublisher.addObserver(log.events.append)
    yield log
    globalLogPublisher.removeObserver(log.events.append)
    assert log.errors() == []


@pytest.fixture(params=["Autobahn", "fast path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test twice: Autobahn echoes everything, and with the fast path."""
    monkeypatch.setattr(Service, "isFast", request.param == "fast path")
    yield request.param
    Service.closeAll()


@pytest.fixture
def service() -> Service:
    """The service in memory, as it is without options."""
    return Service()


@pytest.fixture
def client(service: Service) -> Client:
    """An open connection to it; it is lent, if there is a fast path."""
    client = service.open()
    if service.isFast:
        client.send(text(""))
        assert client.frames() == [Frame(TEXT, b"")]
        assert client.protocol.isLent
    return client


@pytest.fixture
def serve() -> Callable[..., Service]:
    return Service
