"""What all tests share. Each has the marker of its folder, which says what it needs:

- `memory`: Python alone. The service runs in memory, and its clock is turned by hand.
- `sockets`: real sockets, the real reactor, real time.
- `process`: the service as a process, and the programs that the tests name when they skip.
- `page`: Chromium, and Firefox.
- `deploy`, `packaging`: proxies, containers, builds; run by the environments of tox of that name.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import skipped
from support.memory import Client, Service
from support.recorder import Recorder
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from echotwist.fastpath import lending
from echotwist.testing.frames import TEXT, Frame, text

FOLDER = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """`-m 'not slow'` tries a fifth of the examples.

    A shell has its jobs in the background ignore SIGINT, which every process of the tests would
    inherit. And a fast path of other sources would fail tests in a hundred places.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "compiled from other sources" in lending.whyNot:
        raise pytest.UsageError(f"no fast path, {lending.whyNot}; compile it: pip install -e .")
    hypothesis.settings.register_profile("whole", deadline=None, max_examples=100)
    hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
    isQuick = "not slow" in config.option.markexpr
    hypothesis.settings.load_profile("quick" if isQuick else "whole")


@pytest.hookimpl(tryfirst=True)  # Before `-m` looks at the markers.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its folder, and `slow` to all that are not in memory."""
    for item in items:
        for mark in item.iter_markers("slow"):
            if not mark.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.slow wants a reason")
        folder = item.path.relative_to(FOLDER).parts[0]
        item.add_marker(folder)
        if folder != "memory":
            item.add_marker("slow")
        if folder == "page":
            # With --dist loadgroup: one browser and one service for the module, not four of each.
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have `tox` tell at its end what was skipped; in CI that is a failure."""
    if hasattr(session.config, "workerinput"):
        return  # A worker of pytest-xdist; all reports come to the process that started it.
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    # A report's `longrepr` is where it was skipped, in a path and a line, and why.
    skips = Counter(
        f"{report.nodeid.partition('[')[0]}: {report.longrepr[2].removeprefix('Skipped: ')}"
        for report in reporter.stats.get("skipped", ())
    )
    if skipped.note(skips):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Log(Recorder):
    """What was logged during a test."""

    def lines(self, namespace: str = "echotwist") -> list[str]:
        return [formatEvent(e) for e in self.events if e.get("log_namespace") == namespace]

    def errors(self) -> list[str]:
        return [
            formatEvent(e) + str(e.get("log_failure", ""))
            for e in self.events
            if e["log_level"] >= LogLevel.warn
        ]


@pytest.fixture(scope="session", autouse=True)
def ownTemporaryRoot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have each pytest that a test starts keep its temporary folders apart. All share one root
    else, where each removes old ones of the others, and fails if that goes wrong (ResourceWarning
    of an iterator of scandir; pytest 9.2)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path_factory.mktemp("pytest")))
        yield


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """Everything that is logged. Whatever a client does, nothing may be logged as an error."""
    log = Log()
    globalLogPublisher.addObserver(log)
    yield log
    globalLogPublisher.removeObserver(log)
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
