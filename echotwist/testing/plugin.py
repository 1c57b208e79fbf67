"""The pytest plugin: the fixtures `echotwist` and `echotwist_tls`; docs/testing.md has examples.

pytest imports this at its start, in every project that has echotwist installed. So it imports
nothing else until a test asks for the service.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from echotwist.testing.process import ServiceProcess

MARKER = (
    "echotwist(*options): the fixtures `echotwist` and `echotwist_tls` give the test, class or "
    "module that is marked a service of its own, with these options of twistd echotwist after "
    "those of the ini-file"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "echotwist_options",
        "options of twistd echotwist for the fixtures, such as --max-message=1M",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


Start = Callable[..., "ServiceProcess"]


@pytest.fixture(scope="session")
def echotwist_start(pytestconfig: pytest.Config) -> Iterator[Start]:
    """A function, `echotwist_start(*options, tls=False)`: the session's service with these options,
    after those of the ini-file, for fixtures with a wider scope than a test's. It starts with the
    first call, and again, on the same port, if it has ended since."""
    running: dict[tuple[bool, Sequence[str]], ServiceProcess] = {}

    def started(*options: str, tls: bool = False) -> "ServiceProcess":
        service = _service(pytestconfig, options, tls)
        return _served(running.setdefault((tls, service.options), service))

    yield started
    for service in running.values():
        service.close()


@pytest.fixture
def echotwist(request: pytest.FixtureRequest) -> "ServiceProcess":
    """The service, with the options of the ini-file: one for the session, or one for each test,
    class or module that is marked. A test may stop it; it is restarted for the next test."""
    return _of(request, tls=False)


@pytest.fixture
def echotwist_tls(request: pytest.FixtureRequest) -> "ServiceProcess":
    """As `echotwist`, over TLS."""
    return _of(request, tls=True)


def _of(request: pytest.FixtureRequest, tls: bool) -> "ServiceProcess":
    marked = list(request.node.iter_markers_with_node("echotwist"))
    if not marked:
        start: Start = request.getfixturevalue("echotwist_start")
        return start(tls=tls)
    # The closest marker comes first: its options come last, and the service belongs to its node.
    options = [option for _, mark in reversed(marked) for option in _optionsOf(mark)]
    node = marked[0][0]
    key = _KEYS[tls]
    if key not in node.stash:
        node.stash[key] = _service(request.config, options, tls)

        def end() -> None:
            # pytest may come back to a module or class, which then gets another service.
            service = node.stash[key]
            del node.stash[key]
            service.close()

        node.addfinalizer(end)
    return _served(node.stash[key])


def _optionsOf(mark: pytest.Mark) -> Sequence[str]:
    if mark.kwargs or not all(isinstance(option, str) for option in mark.args):
        pytest.fail(
            'the marker echotwist takes options as strings, such as "--max-message=1k"; for TLS '
            "there is the fixture echotwist_tls",
            pytrace=False,
        )
    return mark.args


def _served(service: "ServiceProcess") -> "ServiceProcess":
    """Started, if it has ended or is draining."""
    if not service.isServing:
        service.stop()
        service.start()
    return service


_KEYS: "dict[bool, pytest.StashKey[ServiceProcess]]" = {
    False: pytest.StashKey(),
    True: pytest.StashKey(),
}


def _service(config: pytest.Config, options: Sequence[str], tls: bool) -> "ServiceProcess":
    # Not at the top: see above.
    from echotwist.testing.process import ServiceProcess

    return ServiceProcess(*config.getini("echotwist_options"), *options, tls=tls)
