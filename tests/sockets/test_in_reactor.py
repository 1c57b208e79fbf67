"""echotwist.testing: the service in the reactor that the tests run in."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from echotwist.testing import NotStarted, inreactor, startInReactor
from echotwist.testing.frames import TEXT, Frame, close, text
from echotwist.testing.raw import RawClient


@pytest.fixture(autouse=True)
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left behind, and nobody is told."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")  # It would be said that it cannot be told.
    yield
    assert list(tmp_path.iterdir()) == []


def handlers() -> list[Any]:
    return [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


def echoed(url: str, context: Any) -> Frame:
    with RawClient(url, context=context) as client:
        client.send(text("hello"))
        frame = client.frame()
        client.send(close(1000))
        client.gone()
        return frame


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest_twisted.inlineCallbacks
def test_it_echoes_and_stops(tls: bool) -> Any:
    before = handlers()
    service = yield startInReactor("--max-message=1M", tls=tls)
    assert handlers() == before
    secure = "s" * tls
    assert service.url.startswith(f"ws{secure}://127.0.0.1:")
    assert service.page == service.url.replace("ws", "http", 1).replace("echo", "")
    assert service.options == ("--max-message=1M",)
    assert (service.caFile is None) == (not tls)
    frame = yield deferToThread(echoed, service.url, service.clientContext)
    assert frame == Frame(TEXT, b"hello")
    first, second = service.stop(), service.stop()
    yield second
    yield first
    with pytest.raises(ConnectionRefusedError):
        RawClient(service.url, context=service.clientContext)


@pytest_twisted.inlineCallbacks
def test_it_drains() -> Any:
    service = yield startInReactor("--listen=tcp:0:interface=127.0.0.1")
    client = yield deferToThread(RawClient, service.url)
    stopping = service.stop()
    frame = yield deferToThread(client.frame)
    assert frame.payload[2:] == b"server going away"
    client.send(close(1001))
    assert (yield deferToThread(client.end)) == b""
    client.close()
    yield stopping


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--max-message=lots"], "echotwist: --max-message 'lots': takes a size"),
        (["--workers=2"], "--workers is for a process: use ServiceProcess"),
        (["--help"], "--help and --version start no service"),
        (["--nope"], "echotwist: option --nope not recognized"),
        (["--announce=x"], "--announce is for a process"),
        (["--listen=unix:/nowhere/s"], "echotwist: cannot listen on unix:/nowhere/s"),
    ],
)
@pytest_twisted.inlineCallbacks
def test_why_it_does_not_start(options: list[str], error: str) -> Any:
    with pytest.raises(NotStarted, match=error):
        yield startInReactor(*options)


@pytest_twisted.inlineCallbacks
def test_what_fails_over_tls_leaves_no_files() -> Any:
    with pytest.raises(NotStarted, match="--max-message"):
        yield startInReactor("--max-message=lots", tls=True)


@pytest_twisted.inlineCallbacks
def test_an_error_that_nobody_foresaw_leaves_no_files(monkeypatch: pytest.MonkeyPatch) -> Any:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(inreactor, "makeService", fails)
    with pytest.raises(ZeroDivisionError):
        yield startInReactor(tls=True)


@pytest.mark.parametrize(
    ("option", "tls", "error", "message"),
    [
        ("--listen=tcp:0", True, ValueError, "tls has an endpoint of its own"),
        (["--port=0"], False, TypeError, "options are strings"),
    ],
)
@pytest_twisted.inlineCallbacks
def test_options_that_it_refuses(
    option: Any, tls: bool, error: type[Exception], message: str
) -> Any:
    with pytest.raises(error, match=message):
        yield startInReactor(option, tls=tls)


@pytest_twisted.inlineCallbacks
def test_each_call_of_a_stop_that_fails_says_so() -> Any:
    service = yield startInReactor(tls=True)
    stop = service._services.stopService
    service._services.stopService = lambda: stop().addCallback(lambda _: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            yield service.stop()
