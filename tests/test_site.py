"""The URLs, and what HTTP may cost."""

import re

import pytest
from frames import BINARY, TEXT, Frame, binary, close, parse, text
from memory import Client, Service, request
from twisted.python.filepath import FilePath
from twisted.web.http_headers import Headers

from echotwist.closing import unsent
from echotwist.site import RESOURCES


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


def test_the_page_may_load_its_own_files_and_nothing_else(service: Service) -> None:
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


@pytest.mark.parametrize("name", [path.name for path in RESOURCES.iterdir()])
def test_every_file_is_validated_by_its_etag(service: Service, name: str) -> None:
    _, headers, body = ask(service, get(f"/{name}"))
    assert body
    assert value(headers, "Cache-Control") == "no-cache"
    etag = value(headers, "ETag")
    status, headers, body = ask(service, get(f"/{name}", headers=f"If-None-Match: {etag}\r\n"))
    assert (status, body) == (304, b"")
    assert value(headers, "ETag") == etag
    assert ask(service, get(f"/{name}", headers='If-None-Match: "x"\r\n'))[0] == 200


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
     "/resources", "/healthz/x", "/__init__.py", "/%00"],
)  # fmt: skip
def test_there_is_nothing_else(service: Service, target: str) -> None:
    status, headers, body = ask(service, get(target))
    assert status == 404
    assert value(headers, "Content-Type") == "text/plain; charset=utf-8"
    assert b"nothing here" in body


def test_a_host_may_be_no_utf8(service: Service) -> None:
    assert ask(service, b"GET /healthz HTTP/1.1\r\nHost: \xff\r\n\r\n")[0] == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: a\r\n"])
@pytest.mark.parametrize("target", [b"/", b"/healthz", b"/nothing"])
def test_a_request_has_one_host(service: Service, hosts: bytes, target: bytes) -> None:
    assert ask(service, b"GET %s HTTP/1.1\r\n%s\r\n" % (target, hosts))[0] == 400
    assert ask(service, b"GET %s HTTP/1.0\r\n%s\r\n" % (target, hosts))[0] != 400


def test_a_client_cannot_make_the_answer_quote_it(service: Service) -> None:
    _, _, body = ask(service, get("/<script>alert(1)</script>"))
    assert b"script" not in body


@pytest.mark.parametrize("target", ["/", "/echo", "/healthz", "/readyz", "/nothing"])
@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get"]
)
def test_other_methods_are_not_allowed(service: Service, target: str, method: str) -> None:
    status, headers, _ = ask(service, get(target, method))
    assert status == 405
    assert value(headers, "Allow") == "GET, HEAD"


@pytest.mark.parametrize("target", ["/", "/healthz", "/readyz", "/nothing", "/echo"])
def test_head_has_the_headers_of_get(service: Service, target: str) -> None:
    status, headers, body = ask(service, get(target))
    headed = ask(service, get(target, "HEAD"))
    assert headed[0] == status
    assert headed[2] == b""
    assert value(headed[1], "Content-Length") == value(headers, "Content-Length")
    assert int(value(headers, "Content-Length") or "") == len(body)


def test_health_and_readiness(service: Service) -> None:
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
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_body_is_taken(
    service: Service, target: str, headers: str, status: int, method: str
) -> None:
    client = service.connect()
    client.send(get(target, method, headers + "\r\n") + b"5\r\nhello\r\n" * 1000)
    got, _, body = answer(client)
    assert (got, body) == (status, b"")
    assert client.socket.fin
    # What still comes is read, or the answer would be lost to a reset; and it is not kept.
    for _ in range(100):
        client.send(b"x" * 65536)
    assert client.received() == b""
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset


def test_a_body_without_end_is_cut_off(service: Service) -> None:
    client = service.connect()
    client.send(get("/", "POST", "Transfer-Encoding: chunked\r\n"))
    for _ in range(49):
        service.advance(0.1)
        client.send(b"5\r\nhello\r\n")
    assert not client.socket.closed
    service.advance(0.2)
    assert client.socket.reset
    assert service.site.channels == set()


def test_a_body_upgrades_nothing(service: Service) -> None:
    client = service.connect()
    client.send(request(Content_Length="5") + b"hello")
    assert answer(client)[0] == 413


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"x" * 20_000,
        get(headers="X: " + "x" * 17_000 + "\r\n"),
        get(headers=("X: " + "x" * 1000 + "\r\n") * 17),
        get(headers="X: y\r\n" * 501),
        get(headers="X: y\r\n" + " zzzz\r\n" * 6000),
    ],
    ids=["target", "line", "header", "headers", "many headers", "folded header"],
)
def test_what_is_too_long_is_refused(service: Service, data: bytes) -> None:
    client = service.connect()
    client.send(data)
    assert client.received().startswith(b"HTTP/1.1 400 ")
    client.finish()
    assert client.socket.closed
    service.advance(20)
    assert service.timers() == 0


def test_garbage_is_refused(service: Service) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\0" * 100 + b"\r\n",
        b"\r\n\r\n\r\n",
    ):
        client = service.connect()
        client.send(data)
        assert client.received().startswith(b"HTTP/1.1 400 ")


# Deadlines


@pytest.mark.parametrize("data", [b"", b"G", request()[:-2]])
def test_a_handshake_has_its_time_and_no_more(service: Service, data: bytes) -> None:
    client = service.connect()
    client.send(data)
    service.advance(9.9)
    assert not client.socket.closed
    service.advance(0.2)
    assert client.socket.closed
    assert service.site.channels == set()
    assert service.timers() == 0


def test_a_byte_now_and_then_wins_no_time(service: Service) -> None:
    client = service.connect()
    for byte in request():
        client.send(bytes([byte]))
        service.advance(0.1)
        if client.socket.closed:
            break
    assert client.socket.closed
    assert service.reactor.seconds() < 10.2


def test_an_open_connection_has_no_handshake_deadline(client: Client) -> None:
    client.service.advance(20)
    assert not client.socket.closed


def test_a_kept_connection_is_closed_in_order_when_nothing_comes(service: Service) -> None:
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
    assert service.site.channels == set()
    assert service.timers() == 0


def test_the_page_opens_no_file(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read it would hold a second descriptor, for as long as it likes."""
    monkeypatch.setattr(FilePath, "open", None)
    assert ask(service, get())[0] == 200


@pytest.mark.parametrize("target", ["/", "/healthz", "/nothing", "/echo"])
def test_a_client_that_asks_for_ever_and_does_not_read_is_not_read(
    service: Service, target: str
) -> None:
    client = service.connect()
    client.socket.window = 0
    ended = 0.0
    while not client.socket.closed:
        client.send(get(target) * 1000)
        assert unsent(client.transport) < 100_000
        assert not client.reading or client.socket.fin or ended >= 10  # Then it discards.
        service.advance(1)
        ended += 1
        assert ended <= 16
    assert service.site.channels == set()


@pytest.mark.parametrize("segment", [None, 1000])
def test_what_was_paused_goes_on_when_the_client_reads(
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


def test_answers_that_wait_for_a_client_that_says_fin_go_out(service: Service) -> None:
    client = service.connect()
    client.socket.window = 0
    client.send(get() * 100)
    client.finish()
    client.socket.window = float("inf")
    service.run()
    assert client.received().count(b"HTTP/1.1 200 OK") == 100
    assert client.socket.closed
    assert not client.socket.reset


def test_a_client_that_says_fin_gets_its_answer(service: Service) -> None:
    """As `nc -N` does."""
    client = service.connect()
    client.socket.peerDone = True
    client.send(get("/healthz"))
    assert answer(client)[0] == 200
    assert client.socket.closed
    assert not client.socket.reset
    assert service.timers() == 0


def test_a_connection_lives_as_long_as_its_deadline_says() -> None:
    """Twisted's own idle timer would end it after a minute."""
    service = Service("--handshake-timeout=1h")
    client = service.connect()
    service.advance(3000)
    assert not client.socket.fin


@pytest.mark.parametrize(
    "target", ["http://localhost/", "HTTPS://localhost", "http://a:8080/?x=/y"]
)
def test_a_target_may_be_absolute(service: Service, target: str) -> None:
    assert ask(service, get(target))[2] == (RESOURCES / "websockets.html").read_bytes()


def test_connection_close_is_honoured(service: Service) -> None:
    client = service.connect()
    client.send(get("/healthz", headers="Connection: close\r\n"))
    assert answer(client)[0] == 200
    assert client.socket.fin


def test_far_over_the_limit_connections_are_dropped_at_once(log) -> None:
    """Or the process would be out of descriptors, and accept() would fail and fail."""
    service = Service("--max-connections=1")
    clients = [service.connect() for _ in range(60)]
    service.run()
    assert [client.socket.closed for client in clients] == [False] * 51 + [True] * 9
    assert log.lines() == [f"127.0.0.1:{40051} dropped: too many connections"] * 9
    clients[0].finish()
    assert not service.connect().socket.closed


def test_only_http_1_1_is_offered(service: Service) -> None:
    assert service.site.acceptableProtocols() == [b"http/1.1"]
    client = service.connect()
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer(client)[0] == 400


def test_requests_leave_no_line_in_the_log(service: Service, log) -> None:
    service.site.doStart()
    log.events.clear()
    ask(service, get("/\x1b", headers="X-Forwarded-For: \x1b[31m\r\n"))
    ask(service, get("/x", "HEAD"))
    assert log.events == []
    service.site.doStop()


def test_an_upgraded_connection_is_no_channel_any_more(service: Service) -> None:
    client = service.open()
    assert service.site.channels == set()
    client.send(close())
    client.finish()
    assert client.socket.closed
