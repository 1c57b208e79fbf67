"""`echotwist probe --http2`, against servers of HTTP/2 that do as RFC 8441 says, and others."""

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from support.http2 import STREAM, Peer, Server, frame
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from echotwist.paths.measured import Http2
from echotwist.probe import http2
from echotwist.probe.dialer import Dialer
from echotwist.probe.probing import Probing
from echotwist.probe.target import Target
from echotwist.testing import startInReactor
from echotwist.testing.frames import BINARY, CONTINUATION, PING, TEXT

WORKS: Http2 = {"alpn": "h2", "connectProtocol": True, "status": 200, "echoed": True, "why": ""}


def fails(why: str, **others: Any) -> Http2:
    return {**WORKS, "echoed": False, "why": why, **others}  # type: ignore[typeddict-item]


async def measured(server: Server, **options: Any) -> Http2:
    url = await server.listen(reactor)
    near = Dialer(reactor, Target.parse(url, caFile=str(server.caFile), **options))
    try:
        return await http2.measure(near)
    finally:
        near.abortAll()
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_websocket_over_http2(tmp_path: Path) -> None:
    server = Server(tmp_path, Peer)
    assert await measured(server, headers=(("Cookie", "a=b"), ("Keep-Alive", "5"))) == WORKS
    (peer,) = server.peers
    authority = peer.headers[":authority"]
    assert authority.startswith("localhost:")
    assert peer.headers.pop("user-agent").startswith("echotwist-probe/")
    assert peer.headers == {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":scheme": "https",
        ":authority": authority,
        ":path": "/echo?a=b",
        "origin": f"https://{authority}",
        "sec-websocket-version": "13",
        "cookie": "a=b",  # Keep-Alive is none of HTTP/2's (RFC 9113, 8.2.2).
    }
    assert peer.hasClosed


@pytest_twisted.ensureDeferred
async def test_with_any_certificate_too(tmp_path: Path) -> None:
    assert await measured(Server(tmp_path, Peer), isInsecure=True) == WORKS


class Narrow(Peer):
    """Has no room for a byte, and makes some once it is asked for a WebSocket."""

    settings = {**Peer.settings, SettingCodes.INITIAL_WINDOW_SIZE: 0}

    def answer(self) -> None:
        super().answer()
        self.flush()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})


class Piecewise(Peer):
    """With an informational answer first, and an echo in fragments, between which it pings."""

    def answer(self) -> None:
        self.respond(103)
        self.respond(200)

    def echo(self, payload: bytes) -> None:
        pieces = [
            frame(TEXT, payload[:3], fin=False),
            frame(PING, b"?"),
            frame(CONTINUATION, payload[3:]),
        ]
        for byte in b"".join(pieces):
            self.h2.send_data(STREAM, bytes([byte]))


class Unanswering(Peer):
    """Ends the stream instead of answering the close."""

    def close(self, payload: bytes) -> None:
        self.h2.reset_stream(STREAM)


@pytest.mark.parametrize("kind", [Narrow, Piecewise, Unanswering])
@pytest_twisted.ensureDeferred
async def test_what_a_server_may_do(tmp_path: Path, kind: type[Peer]) -> None:
    assert await measured(Server(tmp_path, kind)) == WORKS


class Plain(Peer):
    settings = {}


class Refusing(Peer):
    def answer(self) -> None:
        self.respond(403, end=True)


class Resetting(Peer):
    def answer(self) -> None:
        self.h2.reset_stream(STREAM, ErrorCodes.REFUSED_STREAM)


class Going(Peer):
    def answer(self) -> None:
        self.h2.close_connection(ErrorCodes.INADEQUATE_SECURITY)


class Fickle(Peer):
    """Says yes and no at once."""

    def answer(self) -> None:
        super().answer()
        self.h2.reset_stream(STREAM, ErrorCodes.CANCEL)


class Leaving(Peer):
    def begin(self) -> None:
        self.h2.initiate_connection()
        self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        pass


class Full(Peer):
    settings = {**Peer.settings, SettingCodes.MAX_CONCURRENT_STREAMS: 0}


class Strange(Peer):
    """Resets with a code that RFC 9113 does not have."""

    def answer(self) -> None:
        self.h2.reset_stream(STREAM, 0x77)


class Ending(Peer):
    def echo(self, payload: bytes) -> None:
        self.h2.end_stream(STREAM)


class Closing(Peer):
    def echo(self, payload: bytes) -> None:
        self.close(b"")


class Other(Peer):
    def echo(self, payload: bytes) -> None:
        self.h2.send_data(STREAM, frame(BINARY, payload) + frame(TEXT, b"else"))


class Masking(Peer):
    def echo(self, payload: bytes) -> None:
        self.h2.send_data(STREAM, b"\x81\x80????")


class Losing(Peer):
    def echo(self, payload: bytes) -> None:
        self.transport.abortConnection()


class Babbling(Peer):
    """Sends without end what is in order."""

    def echo(self, payload: bytes) -> None:
        for _ in range(http2.MOST // 17 + 1):
            self.h2.ping(b"12345678")


class Broken(Peer):
    def begin(self) -> None:
        self.transport.write(b"\0\0\5\4\0\0\0\0\0hello")  # Settings have six bytes each.

    def dataReceived(self, data: bytes) -> None:
        pass


SOON = {"status": None}
EARLY = {"status": None, "connectProtocol": None}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            Plain,
            fails(
                "h2 without SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, 3)",
                status=None,
                connectProtocol=False,
            ),
        ),
        (Refusing, fails("the extended CONNECT is answered 403", status=403)),
        (
            Resetting,
            fails("no answer to CONNECT: the stream was reset, with REFUSED_STREAM", **SOON),
        ),
        (Going, fails("no answer to CONNECT: GOAWAY came, with INADEQUATE_SECURITY", **SOON)),
        (Fickle, fails("no room to send: the stream was reset, with CANCEL")),
        (
            Leaving,
            fails("no extended CONNECT: GOAWAY came, with ENHANCE_YOUR_CALM", **SOON),
        ),
        (
            Full,
            fails("HTTP/2 forbids what was to be sent: Max outbound streams is 0, 0 open", **SOON),
        ),
        (Strange, fails("no answer to CONNECT: the stream was reset, with 119", **SOON)),
        (Ending, fails("no echo: the stream was ended")),
        (Closing, fails("no echo: a close frame came")),
        (Other, fails("another message came: 4 bytes")),
        (Masking, fails("no echo, but what is not in order: a server must not mask")),
        (Losing, fails("no echo, but an end without TLS's close_notify")),
        (Babbling, fails("no echo, but more than 262,144 bytes")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_keeps_it_from_working(
    tmp_path: Path, kind: type[Peer], expected: Http2
) -> None:
    assert await measured(Server(tmp_path, kind)) == expected


@pytest_twisted.ensureDeferred
async def test_what_is_broken_http2(tmp_path: Path) -> None:
    found = await measured(Server(tmp_path, Broken))
    why = found["why"]
    assert why.startswith("no SETTINGS, but what is not in order: ")
    assert found == fails(why, **EARLY)


class Silent(Peer):
    def begin(self) -> None:
        pass


class Lingering(Peer):
    """Does not answer a close."""

    def close(self, payload: bytes) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Silent, fails("no SETTINGS in 1 s", **EARLY)), (Lingering, WORKS)],
)
@pytest_twisted.ensureDeferred
async def test_it_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Peer], expected: Http2
) -> None:
    monkeypatch.setattr(http2, "PATIENCE", 1.0)
    assert await measured(Server(tmp_path, kind)) == expected


@pytest_twisted.ensureDeferred
async def test_what_may_not_be_sent_over_http2(tmp_path: Path) -> None:
    found = await measured(Server(tmp_path, Peer), headers=(("TE", "gzip"),))
    assert found["why"].startswith("HTTP/2 forbids what was to be sent: ")
    assert found == fails(found["why"], **SOON)


@pytest_twisted.ensureDeferred
async def test_a_server_that_answers_nothing_by_alpn(tmp_path: Path) -> None:
    found = await measured(Server(tmp_path, Peer, knowsAlpn=False))
    why = "h2 is not negotiated: it was offered, and the answer was nothing"
    assert found == fails(why, alpn=None, **EARLY)


class Deaf(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_no_connection_for_h2(tmp_path: Path) -> None:
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port: Any = await endpoint.listen(Factory.forProtocol(Deaf))
    near = Dialer(reactor, Target.parse(f"wss://127.0.0.1:{port.getHost().port}/echo"))
    found = await http2.measure(near)
    assert found["why"].startswith("no connection for h2 alone: tls: ")
    assert found == fails(found["why"], alpn=None, **EARLY)
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_it_is_a_part_of_a_probe() -> None:
    """Of the service itself, which speaks HTTP/1.1 alone; and only if it is asked for."""
    service = await startInReactor(tls=True)
    target = Target.parse(service.url, caFile=str(service.caFile))
    said: list[tuple[str, str]] = []
    for asks in (False, True):
        probing = Probing(
            reactor, target, 1, ("handshake",), lambda area, what: said.append((area, what))
        )
        probing.triesHttp2 = asks
        report = await probing.run()
        assert not report.incomplete
        found = report.measured["handshake"].get("http2")
        assert (found is not None) == asks == (("handshake", "HTTP/2") in said)
        assert [each.rule for each in report.findings] == ["http2-refused"] * asks
    assert found is not None
    assert found["why"].startswith("no connection for h2 alone: tls: ")
    assert found["why"].endswith("alert no application protocol")
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_without_tls_it_is_not_tried() -> None:
    service = await startInReactor()
    found = await http2.measure(Dialer(reactor, Target.parse(service.url)))
    assert found == fails("HTTP/2 is tried over TLS only", alpn=None, **EARLY)
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_not_reached_is_not_tried() -> None:
    probing = Probing(reactor, Target.parse("wss://127.0.0.1:1/echo"), 1, ("handshake",))
    probing.triesHttp2 = True
    report = await probing.run()
    assert "http2" not in report.measured["handshake"]
