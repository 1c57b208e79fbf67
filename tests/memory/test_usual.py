"""What is usual is answered a short way, which must come to the same as the long one."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.usual import isUsual

from echotwist.limits import MAX_HEADERS, MAX_REQUEST_LINE
from echotwist.testing.frames import CLOSE, PING, close, frame, text
from echotwist.testing.raw import request

CHROMIUM = (
    b"GET /echo?x=%20&y HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Upgrade\r\n"
    b"Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0\r\n"
    b"Upgrade: websocket\r\nOrigin: http://localhost:8080\r\nSec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: a=b; c\r\n"
    b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
FIREFOX = CHROMIUM.replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")

OPTIONS = [
    (),
    ("--log-rate=0",),
    ("--log-frames",),
    ("--no-compression",),
    ("--context-takeover",),
    ("--ping-interval=0",),
    ("--allow-origin=http://localhost:8080",),
    ("--allow-origin=https://example.com", "--allow-origin=null"),
    ("--trusted-proxy=127.0.0.1",),
    ("--max-connections-per-address=1",),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "data",
    [
        request(),
        CHROMIUM,
        FIREFOX,
        CHROMIUM + text("early"),
        CHROMIUM + close(1000, "early"),
        request(Upgrade="WebSocket", Connection="upgrade"),
        request(Sec_WebSocket_Protocol="chat, superchat"),
        request(Sec_WebSocket_Extensions="x-webkit-deflate-frame, permessage-deflate"),
        request(Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=8"),
        request(Host="[::1]:"),
    ],
)
def test_usual_handshakes_are_answered_the_same_either_way(
    data: bytes, options: tuple[str, ...]
) -> None:
    assert isUsual([data], *options)


@pytest.mark.parametrize("option", ["--allow-origin=https://example.com", "--allow-origin=null"])
def test_a_page_that_may_not_connect_is_refused_the_long_way(option: str) -> None:
    assert not isUsual([CHROMIUM.replace(b"Host: localhost", b"Host: example.com")], option)


@pytest.mark.parametrize(
    "data",
    [
        request("/"),
        request("/echo/"),
        request("/nothing"),
        request("/%65cho"),
        request("http://a/echo"),
        request(Host=None),
        request(Host="a b"),
        request(Upgrade=None),
        request(Upgrade="h2c, websocket"),
        request(Connection="close, upgrade"),
        request(Sec_WebSocket_Version="8"),
        request(Sec_WebSocket_Key="x"),
        request(Sec_WebSocket_Key=None),
        request(Sec_WebSocket_Protocol="a,a"),
        request(Sec_WebSocket_Extensions=";"),
        request(X_Forwarded_For="192.0.2.7"),
        request(Forwarded="for=192.0.2.7"),
        request(Content_Length="0"),
        request(Content_Length="1"),
        request(Transfer_Encoding="chunked"),
        request(Expect="100-continue"),
        request(Origin="https://example.com", Host="\x80"),
        request(X="\x80"),
        request(X="\x1c"),
        request(X="a\tb"),
        request().replace(b"Host:", b"Host :"),
        request().replace(b"\r\nHost:", b"\r\n folded\r\nHost:"),
        request().replace(b"\r\nHost:", b"\r\nHost: b\r\nHost:"),
        request().replace(b"\r\nHost:", b"\r\nno colon\r\nHost:"),
        request().replace(b"\r\nHost:", b"\r\nupgrade\r\nHost:"),
        request().replace(b"\r\nHost:", b"\r\n: no name\r\nHost:"),
        request().replace(b"\r\n", b"\n"),
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        request().replace(b"GET", b"POST"),
        b"\r\n" + request(),
        request()[:-1],
        request("/echo?" + "x" * MAX_REQUEST_LINE),
        request("/echo?" + "x=y&" * 3000, X="x" * MAX_REQUEST_LINE),
        request().replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n"),
    ],
)
def test_unusual_handshakes_go_the_long_way(data: bytes) -> None:
    assert not isUsual([data])


def test_a_handshake_in_two_segments_goes_the_long_way() -> None:
    data = request()
    assert not isUsual([data[:40], data[40:]])


def test_the_short_way_takes_nobody_while_the_service_drains() -> None:
    assert not isUsual([request()], isDraining=True)


_BASES = st.sampled_from([CHROMIUM, FIREFOX, request(), request(Sec_WebSocket_Protocol="a, b")])
_LINES = st.sampled_from(
    [
        *(b"Host: a", b"Host:b:1", b"X: y", b"Origin: null", b"Origin: https://example.com"),
        *(b"Upgrade: websocket", b"upgrade:WEBSOCKET ", b"Connection: Upgrade", b"Cookie: a=b"),
        *(b"Connection: keep-alive,Upgrade", b"Sec-WebSocket-Version:13", b"Expect: 100-continue"),
        *(b"Sec-WebSocket-Protocol: a", b"Sec-WebSocket-Protocol: b,,c", b"Content-Length: 0"),
        *(b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover",),
        *(b"Sec-WebSocket-Extensions: permessage-deflate; x, permessage-deflate",),
        *(b'Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits="9"',),
        *(b"Sec-WebSocket-Extensions: a; b=c", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        *(b"X-Forwarded-For: 192.0.2.7", b"Forwarded: for=192.0.2.7", b" folded", b""),
        *(b"Via: \xff", b"Via: \x00", b"X : y", b": y", b"X", b"X:\ty", b"X: y ", b"X:"),
    ]
)
_BYTES = st.one_of(st.sampled_from(b'\r\n \t:;,="/?%\x00\x7f\x80'), st.integers(0, 255))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A usual request, with some lines and bytes changed, and frames behind it."""
    lines = draw(_BASES).removesuffix(b"\r\n\r\n").split(b"\r\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(lines)))
        match draw(st.sampled_from(["insert", "replace", "remove"])):
            case "insert":
                lines.insert(at, draw(_LINES))
            case "replace":
                lines[at:][:1] = [draw(_LINES)]
            case "remove":
                del lines[at - 1 : at]
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 1))] = bytes([draw(_BYTES)] * draw(st.integers(0, 2)))
    return bytes(data) + draw(st.sampled_from([b"", text("x"), close(1000), b"\x88", b"\xff" * 9]))


@settings(suppress_health_check=list(HealthCheck))
@given(requests(), st.sampled_from(OPTIONS))
def test_whatever_the_short_way_takes_the_long_way_answers_alike(
    data: bytes, options: tuple[str, ...]
) -> None:
    isUsual([data], *options)


@pytest.mark.parametrize(
    "data",
    [
        close(1000),
        close(1000, "bye"),
        close(1014, "é" * 61),
        close(3000),
        close(4999, "x" * 123),
        frame(CLOSE, b""),
    ],
)
def test_usual_closes_are_answered_the_same_either_way(data: bytes) -> None:
    unusual = request(Forwarded="for=192.0.2.7")
    assert isUsual([unusual, data])
    assert isUsual([unusual, text("x"), data])
    assert not isUsual([unusual, data[:-1], data[-1:]])
    assert not isUsual([unusual, text("x") + data])
    assert not isUsual([unusual, frame(1, b"x", fin=False), data])
    assert not isUsual([unusual, data + text("behind it")])


@pytest.mark.parametrize(
    "data",
    [
        close(999),
        close(1004),
        close(2999),
        close(5000),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, b"\x03\xe8\xff"),
        frame(CLOSE, b"\x03\xe8" + b"x" * 124),
        b"\x88\x02\x03\xe8",  # Not masked.
        frame(PING, b"x"),
    ],
)
def test_unusual_closes_are_autobahns(data: bytes) -> None:
    assert not isUsual([request(Forwarded="for=192.0.2.7"), data])


@settings(suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=127), st.sampled_from([(), ("--log-frames",)]), st.binary(max_size=2))
def test_whatever_close_the_short_way_takes_autobahn_answers_alike(
    payload: bytes, options: tuple[str, ...], behind: bytes
) -> None:
    isUsual([request(), frame(CLOSE, payload) + behind], *options)
