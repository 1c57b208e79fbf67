"""The URLs, and what HTTP may cost."""

import gzip
import re
from typing import Any

import pytest
from support.memory import Client, Service
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from echotwist.http.channel import Request
from echotwist.http.site import RESOURCES
from echotwist.testing.frames import BINARY, TEXT, Frame, binary, close, parse, text
from echotwist.testing.raw import request
from echotwist.wire.transport import unsent


def get(target: str = "/", method: str = "GET", headers: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("latin-1")


def answer(client: Client) -> tuple[int, Headers, bytes]:
    head, _, body = client.received().partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = Headers()
    for line in lines:
        headers.addRawHeader(*line.split(b": ", 1))
    return int(first.split()[1]), headers, body


def ask(service: Service, data: bytes) -> tuple[int, Headers, bytes]:
    client = service.connect()
    client.send(data)
    return answer(client)


def value(headers: Headers, name: str) -> str | None:
    values = headers.getRawHeaders(name)
    return None if values is None else ", ".join(values)


@pytest.mark.parametrize("target", ["/", "/websockets.html", "/?x=y"])
def test_the_page_is_served(service: Service, target: str) -> None:
    status, headers, body = ask(service, get(target))
    assert status == 200
    assert body == (RESOURCES / "websockets.html").read_bytes()
    assert value(headers, "Content-Type") == "text/html"
    assert value(headers, "X-Content-Type-Options") == "nosniff"


def test_the_content_security_policy_allows_only_own_files(service: Service) -> None:
    _, headers, body = ask(service, get())
    policy = value(headers, "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "*" not in policy
    for name in re.findall(rb'(?:src|href)="([^"]+)"', body):
        assert ask(service, get("/" + name.decode()))[0] == 200, name
    assert b"<style" not in body
    assert b" style=" not in body
    assert re.search(rb"<script(?! src=)", body) is None


@pytest.mark.parametrize(
    "name", [str(p.relative_to(RESOURCES)) for p in RESOURCES.rglob("*") if p.is_file()]
)
def test_every_file_has_an_etag_and_answers_304(service: Service, name: str) -> None:
    _, headers, body = ask(service, get(f"/{name}"))
    assert body
    assert value(headers, "Cache-Control") == "no-cache"
    etag = value(headers, "ETag")
    status, headers, body = ask(service, get(f"/{name}", headers=f"If-None-Match: {etag}\r\n"))
    assert (status, body) == (304, b"")
    assert value(headers, "ETag") == etag
    assert ask(service, get(f"/{name}", headers='If-None-Match: "x"\r\n'))[0] == 200


GZIP = "Accept-Encoding: br, gzip\r\n"


def test_a_file_is_compressed_for_who_takes_that(service: Service) -> None:
    target = "/workbench/main.js"
    _, plain, whole = ask(service, get(target))
    status, headers, body = ask(service, get(target, headers=GZIP))
    assert (status, value(headers, "Content-Encoding")) == (200, "gzip")
    assert gzip.decompress(body) == whole
    assert len(body) < len(whole) / 2
    assert value(headers, "Content-Length") == str(len(body))
    assert value(headers, "Content-Type") == value(plain, "Content-Type")
    assert value(headers, "Vary") == value(plain, "Vary") == "Accept-Encoding"
    assert value(plain, "Content-Encoding") is None
    # Of other bytes, another ETag.
    etag = value(headers, "ETag")
    assert etag != value(plain, "ETag")
    known = f"If-None-Match: {etag}\r\n"
    assert ask(service, get(target, headers=GZIP + known))[::2] == (304, b"")
    assert ask(service, get(target, headers=known))[::2] == (200, whole)
    _, headers, body = ask(service, get(target, "HEAD", GZIP))
    assert (value(headers, "Content-Encoding"), body) == ("gzip", b"")


@pytest.mark.parametrize("coding", ["gzip;q=0", "identity", "br", "x-gzip", ""])
def test_a_file_is_plain_for_everybody_else(service: Service, coding: str) -> None:
    _, headers, body = ask(service, get(headers=f"Accept-Encoding: {coding}\r\n"))
    assert value(headers, "Content-Encoding") is None
    assert body == (RESOURCES / "websockets.html").read_bytes()


@pytest.mark.parametrize(
    "header",
    ["Range: bytes=0-1", "Range: \xff", "If-Modified-Since: \xff", "Cookie: \xff", "X: \xff"],
)
def test_headers_that_twisted_cannot_parse_do_no_harm(service: Service, header: str) -> None:
    status, _, body = ask(service, get(headers=f"{header}\r\n"))
    assert (status, body) == (200, (RESOURCES / "websockets.html").read_bytes())


@pytest.mark.parametrize(
    "target",
    ["/x", "/websockets.html/", "/websockets.html/x", "/../setup.py", "/%2e%2e/setup.py", "/%ff",
     "/resources", "/healthz/x", "/__init__.py", "/%00", "/workbench", "/workbench/",
     "/workbench/main.js/", "/workbench/websockets.js", "/workbench.html/main.js"],
)  # fmt: skip
def test_unknown_paths_are_404(service: Service, target: str) -> None:
    status, headers, body = ask(service, get(target))
    assert status == 404
    assert value(headers, "Content-Type") == "text/plain; charset=utf-8"
    assert b"nothing here" in body


def test_a_host_header_may_be_invalid_utf8(service: Service) -> None:
    assert ask(service, b"GET /healthz HTTP/1.1\r\nHost: \xff\r\n\r\n")[0] == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: a\r\n"])
@pytest.mark.parametrize("target", [b"/", b"/healthz", b"/nothing"])
def test_a_request_without_exactly_one_host_is_400(
    service: Service, hosts: bytes, target: bytes
) -> None:
    assert ask(service, b"GET %s HTTP/1.1\r\n%s\r\n" % (target, hosts))[0] == 400
    assert ask(service, b"GET %s HTTP/1.0\r\n%s\r\n" % (target, hosts))[0] != 400


def test_responses_never_quote_the_request(service: Service) -> None:
    _, _, body = ask(service, get("/<script>alert(1)</script>"))
    assert b"script" not in body


@pytest.mark.parametrize("target", ["/", "/echo", "/healthz", "/readyz", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO", "get"])
def test_other_methods_are_405(service: Service, log: Any, target: str, method: str) -> None:
    status, headers, _ = ask(service, get(target, method))
    assert status == 405
    assert value(headers, "Allow") == "GET, HEAD, OPTIONS"
    assert log.lines() == ["127.0.0.1:40000 refused: 405 only GET, HEAD and OPTIONS are answered"]


@pytest.mark.parametrize("target", ["/", "/echo", "/healthz", "/readyz", "*", "/?x"])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_options_answers_with_allow(service: Service, log: Any, target: str, version: str) -> None:
    """HAProxy's `option httpchk` asks `OPTIONS / HTTP/1.0`, without a Host."""
    host = "Host: localhost\r\n" if version == "HTTP/1.1" else ""
    status, headers, body = ask(
        service, f"OPTIONS {target} {version}\r\n{host}\r\n".encode("ascii")
    )
    assert (status, body) == (200, b"")
    assert value(headers, "Allow") == "GET, HEAD, OPTIONS"
    assert value(headers, "Content-Length") == "0"
    assert (value(headers, "Server") or "").startswith("echotwist/")
    assert log.events == []


def test_options_of_an_unknown_path_is_404(service: Service) -> None:
    assert ask(service, get("/nothing", "OPTIONS"))[0] == 404
    assert ask(service, b"OPTIONS * HTTP/1.1\r\n\r\n")[0] == 400


@pytest.mark.parametrize(
    "data",
    [get(), get("/nothing"), get("*", "OPTIONS"), get("*"), get("/", "FOO"), get("/echo"),
     request(Host=None), b"?\r\n", b"\x16", get(headers="Content-Length: 1\r\n")],
)  # fmt: skip
def test_every_response_has_the_server_header(service: Service, data: bytes) -> None:
    _, headers, _ = ask(service, data)
    servers = headers.getRawHeaders("Server")
    assert servers is not None
    assert len(servers) == 1
    assert servers[0].startswith("echotwist/")


@pytest.mark.parametrize("target", ["/", "/healthz", "/readyz", "/nothing", "/echo"])
def test_head_has_the_headers_of_get(service: Service, target: str) -> None:
    status, headers, body = ask(service, get(target))
    headed = ask(service, get(target, "HEAD"))
    assert headed[0] == status
    assert headed[2] == b""
    assert value(headed[1], "Content-Length") == value(headers, "Content-Length")
    assert int(value(headers, "Content-Length") or "") == len(body)


def test_healthz_and_readyz_answer(service: Service) -> None:
    assert ask(service, get("/healthz"))[::2] == (200, b"ok\n")
    assert ask(service, get("/readyz"))[::2] == (200, b"ready\n")
    service.open()  # So that the drain waits.
    client = service.connect()
    service.echo.stopService()
    client.send(get("/readyz"))
    assert answer(client)[::2] == (503, b"draining\n")
    client.send(get("/healthz"))
    assert answer(client)[0] == 200
    client.send(request())
    status, headers, _ = answer(client)
    assert (status, value(headers, "Retry-After")) == (503, "5")


@pytest.mark.parametrize("target", ["/", "/echo", "/healthz", "/nothing"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 1", 413),
        ("Content-Length: 100000000000", 413),
        ("content-length: 5", 413),
        ("Content-Length: " + "9" * 5000, 413),
        ("Content-Length: -1", 400),
        ("Content-Length: +0", 400),
        ("Content-Length: x", 400),
        ("Content-Length: 0, 0", 400),
        ("Content-Length:", 400),
        ("Transfer-Encoding: chunked", 413),
        ("Transfer-Encoding: identity", 413),
        ("Transfer-Encoding: gzip", 413),
        ("Transfer-Encoding: xchunked", 413),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", 413),
        ("Content-Length: 0\r\nContent-Length: 0", 400),
        ("Content-Length: 0\r\nContent-Length: 7", 413),
        # RFC 9112, 5.1: if a proxy took these for headers, requests could be smuggled.
        ("Transfer-Encoding : chunked", 400),
        ("Content-Length\t: 5", 400),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_with_a_body_is_refused(
    service: Service, target: str, headers: str, status: int, method: str
) -> None:
    client = service.connect()
    client.send(get(target, method, headers + "\r\n") + b"5\r\nhello\r\n" * 1000)
    got, _, body = answer(client)
    assert got == status
    assert body.decode().rstrip("\n") in (
        "no body is taken here",
        "the Content-Length is no number",
        "a header has a space before its colon",
        "the request is malformed",
    )
    assert client.socket.fin
    # The rest is read and discarded: unread, it would reset the connection and lose the answer.
    for _ in range(100):
        client.send(b"x" * 65536)
    assert client.received() == b""
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset


def test_an_endless_request_body_is_cut_off(service: Service) -> None:
    client = service.connect()
    client.send(get("/", "POST", "Transfer-Encoding: chunked\r\n"))
    for _ in range(49):
        service.advance(0.1)
        client.send(b"5\r\nhello\r\n")
    assert not client.socket.closed
    service.advance(0.2)
    assert client.socket.reset
    assert service.site.channels == {}


def test_a_request_body_cannot_upgrade(service: Service) -> None:
    client = service.connect()
    client.send(request(Content_Length="5") + b"hello")
    assert answer(client)[0] == 413


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"x" * 17_000, 414),
        (b"x" * 20_000, 414),
        (get(headers="X: " + "x" * 20_000 + "\r\n"), 431),
        (get(headers="X: " + "x" * 17_000), 431),
        (get(headers="Cookie: " + "x" * 17_000 + "\r\n"), 431),
        (get(headers=("X: " + "x" * 1000 + "\r\n") * 17), 431),
        (get(headers="X: y\r\n" * 501), 431),
        (get(headers="X: y\r\n" + " zzzz\r\n" * 6000), 431),
    ],
    ids=["target", "no end of the target", "line", "header", "no end of the header", "cookies",
         "headers", "many headers", "folded header"],
)  # fmt: skip
def test_oversized_request_lines_and_headers_are_refused(
    service: Service, log: Any, data: bytes, status: int
) -> None:
    client = service.connect()
    client.send(data)
    got, headers, body = answer(client)
    assert got == status
    assert value(headers, "Connection") == "close"
    assert client.socket.fin
    words = body.decode("ascii").rstrip("\n")
    assert log.lines() == [f"127.0.0.1:40000 refused: {status} {words}"]
    assert service.context.journal.totals.refused == {(status, words): 1}
    client.finish()
    assert client.socket.closed
    service.advance(20)
    assert service.timers() == 0


def test_sixteen_kilobytes_of_headers_pass(service: Service) -> None:
    for headers in (
        "Cookie: " + "x" * 16_384 + "\r\n",
        ("X: " + "x" * 1021 + "\r\n") * 16,
        "X: y\r\n" * 490,
    ):
        assert ask(service, get(headers=headers))[0] == 200
        assert ask(service, request()[:-2] + headers.encode() + b"\r\n")[0] == 101
    assert ask(service, get("/?" + "x" * 16_000))[0] == 200


def test_header_limits_are_per_request(service: Service) -> None:
    client = service.connect()
    for _ in range(3):
        client.send(get(headers="X: " + "x" * 16_000 + "\r\n"))
        assert answer(client)[0] == 200


NO_REQUEST = {
    # A TLS ClientHello, whole and just its first byte.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": "this port speaks plain HTTP, not TLS",
    b"\x16": "this port speaks plain HTTP, not TLS",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n": "this port takes no PROXY protocol; "
    "a haproxy: endpoint does",
    b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c": "this port takes no PROXY protocol; "
    "a haproxy: endpoint does",
    b"\0" * 100: "this is no HTTP request",
    b"\x04\x01": "this is no HTTP request",
    "\u00e4".encode(): "this is no HTTP request",
    b"GET / HTTP/1.1\nHost: x\n\n": "a line ends without CR, with LF alone",
    b"GET / HTTP/1.1\nHost: x\r\n\r\n": "a line ends without CR, with LF alone",
    b"GET / HTTP/1.1\r\nHost: x\n\n": "a line ends without CR, with LF alone",
    b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n": "a line ends without CR, with LF alone",
    b"\nGET / HTTP/1.1\r\n": "a line ends without CR, with LF alone",
    b"\r\n\r\n\r\n": "the request is malformed",
    b"SSH-2.0-OpenSSH_9.2\r\n": "the request is malformed",
    b"GET  HTTP/1.1\r\n": "the request is malformed",
    b"GET / HTTP/1.1\r\nX\0Y: z\r\n\r\n": "the request is malformed",
    b"GET x HTTP/1.1\r\nHost: x\r\n\r\n": "the target is no path, and no URL with a host",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n": "the target is no path, and no URL with a host",
    b"GET http:///healthz HTTP/1.1\r\nHost: x\r\n\r\n": "the target is no path, and no URL with "
    "a host",
    b"GET http://u@x/healthz HTTP/1.1\r\nHost: x\r\n\r\n": "the target is no path, and no URL "
    "with a host",
    b"GET ftp://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n": "the target is no path, and no URL with "
    "a host",
}


@pytest.mark.parametrize("data", NO_REQUEST)
def test_a_malformed_request_is_refused_at_once_with_a_reason(
    service: Service, log: Any, data: bytes
) -> None:
    client = service.connect()
    client.send(data)
    status, _, body = answer(client)
    assert (status, body.decode()) == (400, NO_REQUEST[data] + "\n")
    assert log.lines() == [f"127.0.0.1:40000 refused: 400 {NO_REQUEST[data]}"]
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset
    assert service.timers() == 1  # The log's second.


@pytest.mark.parametrize("segment", [1, 2, 3, 7])
def test_request_lines_may_be_segmented_anywhere(service: Service, segment: int) -> None:
    client = service.connect()
    client.send(b"\r\n" + get("/healthz"), segment)
    assert answer(client)[0] == 200
    client.send(request(), segment)
    assert answer(client)[0] == 101


def test_a_refused_head_request_has_no_body(service: Service) -> None:
    status, headers, body = ask(service, get(method="HEAD", headers="Content-Length: 5\r\n"))
    assert (status, body) == (413, b"")
    assert value(headers, "Content-Length") == str(len("no body is taken here\n"))


# Deadlines


@pytest.mark.parametrize("data", [b"G", request()[:-2]])
def test_the_handshake_timeout_is_answered_408(service: Service, log: Any, data: bytes) -> None:
    client = service.connect()
    client.send(data)
    service.advance(9.9)
    assert client.received() == b""
    service.advance(0.2)
    assert answer(client)[0] == 408
    assert client.socket.fin
    assert log.lines() == ["127.0.0.1:40000 refused: 408 the request did not come in time"]
    service.advance(5)
    assert client.socket.closed
    assert service.site.channels == {}
    assert service.timers() == 0


def test_an_unused_connection_is_closed_without_a_response(service: Service, log: Any) -> None:
    """Browsers open spare connections, and balancers look whether the port is open."""
    spare, probe = service.connect(), service.connect()
    probe.finish()
    assert probe.socket.closed
    service.advance(10.1)
    assert spare.socket.closed
    assert log.events == []
    assert service.timers() == 0


def test_slow_headers_do_not_extend_the_handshake_timeout(service: Service) -> None:
    client = service.connect()
    for byte in request():
        client.send(bytes([byte]))
        service.advance(0.1)
        if client.socket.fin:
            break
    assert answer(client)[0] == 408
    assert service.reactor.seconds() < 10.2
    for _ in range(51):
        client.send(b"x")
        service.advance(0.1)
    assert client.socket.closed


class Slow(Resource):
    """Answers when it is told to. `pending` are the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Request] = []

    def render(self, request: Request) -> int:
        self.pending.append(request)
        return NOT_DONE_YET

    def finish(self, service: Service) -> None:
        request = self.pending.pop(0)
        if request.channel is not None:  # The client may be gone.
            request.write(b"at last")
            request.finish()
        service.run()


AT_LAST = b"7\r\nat last\r\n0\r\n\r\n"


@pytest.fixture
def slow(service: Service) -> Slow:
    slow = Slow()
    service.site.resource.putChild(b"slow", slow)
    return slow


def test_a_half_close_waits_for_a_slow_response(service: Service, slow: Slow) -> None:
    client = service.connect()
    client.socket.peerDone = True
    client.send(get("/slow"))
    assert not client.socket.closed
    slow.finish(service)
    assert answer(client)[::2] == (200, AT_LAST)
    assert client.socket.closed
    assert service.timers() == 0


@pytest.mark.parametrize("how", ["loseConnection", "endOverBudget"])
def test_a_response_after_the_end_changes_nothing(service: Service, slow: Slow, how: str) -> None:
    client = service.connect()
    client.send(get("/slow"))
    getattr(client.protocol, how)()
    service.run()
    slow.finish(service)
    service.advance(6)
    assert client.socket.closed
    assert client.received() == b""
    assert service.site.channels == {}
    assert service.timers() == 0


def test_a_slow_reader_of_responses_is_not_late(service: Service, log: Any) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 200)
    got = b""
    while got.count(b"HTTP/1.1 200 OK") < 200:
        client.socket.window = 4000
        service.run()
        service.advance(1)
        assert not client.socket.closed
        got += client.received()
    assert log.events == []


def test_a_client_that_stops_reading_responses_is_dropped_and_logged(
    service: Service, log: Any
) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 200)
    service.advance(16)
    assert client.socket.closed
    assert log.lines() == ["127.0.0.1:40000 dropped: its answers were not read"]


def test_a_client_that_resumes_reading_has_its_timeout_again(service: Service, log: Any) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 200 + b"GET /half")
    service.advance(12)
    client.socket.window = float("inf")
    service.run()
    assert client.received().count(b"HTTP/1.1 200 OK") == 200
    service.advance(10.1)
    assert answer(client)[0] == 408


def test_a_client_that_resumes_reading_and_asks_no_more_is_closed(
    service: Service, log: Any
) -> None:
    client = service.connect()
    client.socket.window = 0
    while not client.protocol.paused:
        client.send(get())
    service.advance(12)
    client.socket.window = float("inf")
    service.run()
    assert not client.socket.fin
    service.advance(7)
    assert client.socket.fin
    client.finish()
    assert client.socket.closed
    assert log.events == []
    assert service.timers() == 0


def test_a_slow_response_is_not_late(service: Service, slow: Slow) -> None:
    client, gone, evicted = service.connect(), service.connect(), service.connect()
    for each in (client, gone, evicted):
        each.send(get("/slow"))
    service.advance(60)
    evicted.protocol.evict()
    assert evicted.socket.closed
    slow.finish(service)
    assert answer(client)[::2] == (200, AT_LAST)
    gone.transport.connectionLost(Failure(ConnectionDone()))
    assert [request.channel for request in slow.pending] == [None, None]
    service.advance(60)
    assert service.site.channels == {}
    assert service.timers() == 0


def test_a_websocket_has_no_handshake_timeout(client: Client) -> None:
    client.service.advance(20)
    assert not client.socket.closed


def test_an_idle_http_keepalive_connection_is_closed_in_order(service: Service) -> None:
    client = service.connect()
    for _ in range(3):
        client.send(get("/healthz"))
        assert answer(client)[0] == 200
        service.advance(9)
    assert not client.socket.fin
    service.advance(1.1)
    assert client.socket.fin
    assert not client.socket.closed
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset
    assert service.timers() == 0


def test_a_client_that_does_not_read_the_page_is_dropped(service: Service) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 200)
    service.advance(16)
    assert client.socket.closed
    assert service.site.channels == {}
    assert service.timers() == 0


def test_the_page_opens_no_file(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read it would occupy a second descriptor for as long as it likes."""
    monkeypatch.setattr(FilePath, "open", None)
    assert ask(service, get())[0] == 200


@pytest.mark.parametrize("target", ["/", "/healthz", "/nothing", "/echo"])
def test_backpressure_stops_reading_pipelined_requests_of_a_client_that_does_not_read(
    service: Service, target: str
) -> None:
    client = service.connect()
    client.socket.window = 0
    ended = 0.0
    while not client.socket.closed:
        client.send(get(target) * 1000)
        assert unsent(client.transport) < 100_000
        assert not client.reading or client.socket.fin or ended >= 10  # Then it reads and discards.
        service.advance(1)
        ended += 1
        assert ended <= 16
    assert service.site.channels == {}


@pytest.mark.parametrize("segment", [None, 1000])
def test_pipelined_requests_resume_when_the_client_reads(
    service: Service, segment: int | None
) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get("/healthz") * 3000 + request() + binary(bytes(100_000)), segment)
    got, data = b"", b" "
    while data:
        client.socket.window = 5000
        service.run()
        data = client.received()
        got += data
    assert got.count(b"HTTP/1.1 200 OK") == 3000
    client.socket.window = float("inf")
    client.send(text("more"))
    got += client.received()
    assert parse(got.partition(b"Sec-WebSocket-Accept")[2].partition(b"\r\n\r\n")[2]) == [
        Frame(BINARY, bytes(100_000)),
        Frame(TEXT, b"more"),
    ]


def test_waiting_responses_go_out_after_a_half_close(service: Service) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 100)
    client.finish()
    client.socket.window = float("inf")
    service.run()
    assert client.received().count(b"HTTP/1.1 200 OK") == 100
    assert client.socket.closed
    assert not client.socket.reset


def test_a_half_close_gets_its_response(service: Service) -> None:
    """As `nc -N` does."""
    client = service.connect()
    client.socket.peerDone = True
    client.send(get("/healthz"))
    assert answer(client)[0] == 200
    assert client.socket.closed
    assert not client.socket.reset
    assert service.timers() == 0


def test_a_handshake_timeout_of_an_hour_outlasts_twisteds_idle_timer() -> None:
    """Twisted's own idle timer would end it after a minute."""
    service = Service("--handshake-timeout=1h")
    client = service.connect()
    service.advance(3000)
    assert not client.socket.fin


@pytest.mark.parametrize(
    "target",
    ["http://localhost/", "HTTPS://localhost", "http://a:8080/?x=/y", "ws://a", "http://a:/",
     "http://[::1]:80/"],
)  # fmt: skip
def test_a_request_target_may_be_absolute(service: Service, target: str) -> None:
    assert ask(service, get(target))[2] == (RESOURCES / "websockets.html").read_bytes()


@pytest.mark.parametrize(
    "headers",
    ["Connection: close", "Connection: close, TE", "Connection: TE,close", "Connection: CLOSE",
     "Connection: TE\r\nConnection: close", "Connection: keep-alive,\tclose"],
)  # fmt: skip
def test_connection_close_is_honoured(service: Service, headers: str) -> None:
    client = service.connect()
    client.send(get("/healthz", headers=headers + "\r\n"))
    status, answered, _ = answer(client)
    assert (status, value(answered, "Connection")) == (200, "close")
    assert client.socket.fin


@pytest.mark.parametrize("headers", ["Connection: closed", "Connection: TE", "X: close"])
def test_other_connection_options_close_nothing(service: Service, headers: str) -> None:
    client = service.connect()
    client.send(get("/healthz", headers=headers + "\r\n"))
    assert not client.socket.fin


def test_far_over_max_connections_the_longest_idle_make_room(log: Any) -> None:
    """Otherwise descriptors would run out, and accept() would fail over and over."""
    service = Service("--max-connections=1")
    clients = [service.connect() for _ in range(51)]
    clients[0].send(get("/healthz"))  # So another one is silent for longest.
    late = [service.connect() for _ in range(3)]
    assert [c.socket.closed for c in clients] == [False] + [True] * 3 + [False] * 47
    assert [c.socket.closed for c in late] == [False] * 3
    assert log.lines() == [
        f"127.0.0.1:{port} dropped: its place was needed for another"
        for port in (40001, 40002, 40003)
    ]
    for client in late:
        client.send(get("/healthz"))
        assert answer(client)[0] == 200


def test_idle_connections_do_not_keep_a_health_check_out(log: Any) -> None:
    """170 of them once did, for a service of 100: Kubernetes would have restarted it."""
    service = Service("--max-connections=100")
    for _ in range(170):
        service.connect()
    for _ in range(30):
        assert ask(service, get("/healthz"))[0] == 200
        service.connect()
        service.connect()
    assert len(service.site.channels) == 150
    assert not any("too many" in line for line in log.lines())
    service.open()


def test_websockets_are_never_closed_to_make_room() -> None:
    service = Service("--max-connections=3")
    clients = [service.open() for _ in range(3)]
    for _ in range(100):
        service.connect()
    for client in clients:
        client.send(text("x"))
        assert client.frames() == [Frame(TEXT, b"x")]


def test_only_http_1_1_is_offered(service: Service) -> None:
    assert service.site.acceptableProtocols() == [b"http/1.1"]
    client = service.connect()
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer(client)[0] == 400


def test_http_requests_leave_no_line_in_the_log(service: Service, log: Any) -> None:
    service.site.doStart()
    log.events.clear()
    ask(service, get("/%1b", headers="X-Forwarded-For: \x1b[31m\r\n"))
    ask(service, get("/x", "HEAD"))
    assert log.events == []
    service.site.doStop()


def test_an_upgraded_connection_is_no_longer_an_http_channel(service: Service) -> None:
    client = service.open()
    assert service.site.channels == {}
    client.send(close())
    client.finish()
    assert client.socket.closed


class Streamed(Resource):
    """A response that takes its time."""

    isLeaf = True

    def render_GET(self, request: Any) -> int:
        def send(left: int) -> None:
            request.write(bytes(100_000))
            if left:
                request.channel.site.context.reactor.callLater(0.1, send, left - 1)

        send(100)
        return NOT_DONE_YET


def test_requests_behind_a_streamed_response_are_not_read() -> None:
    service = Service(isFast=False)
    service.site.resource.putChild(b"streamed", Streamed())
    client = service.connect()
    client.send(b"GET /streamed HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(50):
        client.socket.window = 0
        client.socket.arriving += b"G" * (200_000 - len(client.socket.arriving))
        service.advance(0.1)
        client.socket.window = float("inf")
        service.run()
    assert sum(map(len, client.protocol._dataBuffer)) == 0
