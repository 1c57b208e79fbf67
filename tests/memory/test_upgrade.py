"""The request to upgrade: what is answered with 101, and what every other one gets."""

import base64
import hashlib
from typing import Any

import pytest
from support.memory import Client, Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from echotwist.http.upgrade import canonicalOrigin
from echotwist.testing.frames import TEXT, Frame, text
from echotwist.testing.raw import KEY, request


def answer(client: Client) -> tuple[int, dict[str, str], str]:
    """The status, headers and body of the one response that was sent."""
    head, _, body = client.received().partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if (size := headers.get("content-length")) is not None:
        assert len(body) == int(size)
    return int(first.split()[1]), headers, body.decode()


def ask(service: Service, data: bytes) -> tuple[int, dict[str, str], str]:
    client = service.connect()
    client.send(data)
    return answer(client)


def test_the_handshake_is_answered_as_rfc_6455_shows(service: Service) -> None:
    status, headers, body = ask(service, request())
    assert status == 101
    assert headers["upgrade"].lower() == "websocket"
    assert headers["connection"] == "upgrade"
    digest = hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode().lower()
    assert "sec-websocket-protocol" not in headers
    assert "sec-websocket-extensions" not in headers
    assert body == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"connection": None, "CONNECTION": "uPgRaDe"},
        {"Host": "[::1]:8080"},
        {"Host": "example.com"},
        {"Content_Length": "0"},
        {"Cookie": "a=b; c=d"},
        {"User_Agent": "x" * 8000},
        # The service does not read these (RFC 9110, 5.5).
        {"Cookie": "n=Zoë".encode().decode("latin-1")},  # After document.cookie = "n=Zoë".
        {"cf-city": "Montréal"},
        {"X": "a\x85X-Forwarded-For: 1.2.3.4"},
        {"X": bytes(range(0x80, 0x100)).decode("latin-1")},
        {"User_Agent": "a\tb"},
        # A tab is white space in a list.
        {"Connection": "keep-alive,\tUpgrade"},
        {"Upgrade": "\twebsocket\t"},
        {"Connection": ", Upgrade,,"},
        {"Host": "h:"},
        {"Host": "[::1]:"},
    ],
)
def test_unusual_but_valid_handshakes_are_accepted(
    service: Service, changes: dict[str, Any]
) -> None:
    assert ask(service, request(**changes))[0] == 101


@pytest.mark.parametrize("proxies", [[], ["--trusted-proxy=127.0.0.0/8"]])
@pytest.mark.parametrize("newline", ["\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_no_header_can_be_injected_through_another(
    log: Any, newline: str, proxies: list[str]
) -> None:
    """Autobahn splits headers where str.splitlines() does; none of these may reach it."""
    service = Service(*proxies)
    value = f"a{newline}X-Forwarded-For: 1.2.3.4{newline}Sec-WebSocket-Protocol: forged"
    status, headers, _ = ask(service, request(X=value))
    assert status == (400 if newline < " " else 101)
    assert "sec-websocket-protocol" not in headers
    assert "1.2.3.4" not in "".join(log.lines())


@pytest.mark.parametrize(
    "target",
    ["/echo", "/echo?x=y", "/echo?redirect=http://evil.example", "/echo?", "ws://localhost/echo",
     "wss://localhost:8080/echo?x", "HTTP://localhost/echo", "ws://h:/echo"],
)  # fmt: skip
def test_the_query_of_the_echo_endpoint_is_ignored(service: Service, target: str) -> None:
    assert ask(service, request(target))[0] == 101


@pytest.mark.parametrize(
    "changes",
    [{"Upgrade": None}, {"Upgrade": None, "Connection": "keep-alive"}, {"Upgrade": "h2c"}],
)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_plain_request_to_the_echo_is_426(
    service: Service, changes: dict[str, Any], version: str
) -> None:
    status, headers, body = ask(service, request(version=version, **changes))
    assert status == 426
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "upgrade"
    assert headers["sec-websocket-version"] == "13"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert "new WebSocket(url)" in body


def test_a_plain_request_to_the_echo_is_not_redirected(service: Service) -> None:
    status, headers, body = ask(
        service, request("/echo?redirect=http://evil.example", Upgrade=None)
    )
    assert status == 426
    assert "location" not in headers
    assert "evil" not in body


@pytest.mark.parametrize("version", ["8", "7", "0", "14", "013", "13, 8", "abc", ""])
def test_another_websocket_version_is_told_version_13(service: Service, version: str) -> None:
    status, headers, _ = ask(service, request(Sec_WebSocket_Version=version))
    assert status == 426
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade")
    assert headers["sec-websocket-version"] == "13"


def twice(header: str, value: str) -> bytes:
    return request().replace(b"\r\n\r\n", f"\r\n{header}: {value}\r\n\r\n".encode())


MALFORMED = {
    "no key": request(Sec_WebSocket_Key=None),
    "empty key": request(Sec_WebSocket_Key=""),
    "short key": request(Sec_WebSocket_Key="dGhlIHNhbXBsZQ=="),
    "long key": request(Sec_WebSocket_Key=base64.b64encode(bytes(17)).decode()),
    "key of no base64": request(Sec_WebSocket_Key="!" * 22 + "=="),
    "key in url-safe base64": request(Sec_WebSocket_Key="-" * 22 + "=="),
    "key with a newline in base64": request(Sec_WebSocket_Key=KEY + " x"),
    "two keys": twice("Sec-WebSocket-Key", KEY),
    "two versions": twice("Sec-WebSocket-Version", "13"),
    "no version": request(Sec_WebSocket_Version=None),
    "no host": request(Host=None),
    "empty host": request(Host=""),
    "two hosts": twice("Host", "localhost:8080"),
    "two different hosts": twice("Host", "evil.example"),
    "host with a path": request(Host="a/b"),
    "host with a user": request(Host="a@b"),
    "host with a bad port": request(Host="a:b"),
    "host with two ports": request(Host="a:1:2"),
    "no connection": request(Connection=None),
    "other connection": request(Connection="keep-alive"),
    "two origins": request(Origin="http://a").replace(b"\r\n\r\n", b"\r\nOrigin: http://a\r\n\r\n"),
    "HTTP/1.0": request(version="HTTP/1.0"),
    "HTTP/2.0": request(version="HTTP/2.0"),
    "no HTTP": b"hello\r\n\r\n",
    "control byte in a header": request(X="a\x01b"),
    "escape in a header": request(X="a\x1bb"),
    "FS in a header": request(X="a\x1cb"),
    "vertical tab in a header": request(X="a\x0bb"),
    "NUL in a header": request(X="a\0b"),
    "DEL in a header": request(X="a\x7fb"),
    "tab in a header that is read": request(Host="a\tb"),
    "non-ASCII host": request(Host="ä"),
    "non-ASCII origin": request(Origin="http://ä"),
    "non-ASCII subprotocol": request(Sec_WebSocket_Protocol="chät"),
    "non-ASCII extension": request(Sec_WebSocket_Extensions="x; a=ä"),
    "NEL in a header that is read": request(Upgrade="websocket, \x85"),
    "non-ASCII word in Connection": request(Connection="Upgrade, ä"),
    "user in an absolute target": request("ws://u@localhost/echo"),
    "absolute target without a host": request("ws:///echo"),
    "non-breaking space in the target": request("/echo?\xa0HTTP/1.1"),
    "NEL in the target": request("/echo?\x85x"),
    "control byte in the target": request("/echo?\x01"),
    "DEL in the target": request("/echo?\x7f"),
    "header without a name": request().replace(b"\r\n\r\n", b"\r\n: x\r\n\r\n"),
    "header without a colon": request().replace(b"\r\n\r\n", b"\r\nxyz\r\n\r\n"),
    "space before the colon": request().replace(b"Host:", b"Host :"),
    "extension that is none": request(Sec_WebSocket_Extensions="permessage-deflate; ="),
    "extension cut": request(Sec_WebSocket_Extensions="permessage-deflate;"),
    "extension with an open quote": request(Sec_WebSocket_Extensions='x; a="b'),
    "subprotocol that is no token": request(Sec_WebSocket_Protocol="a b"),
    "subprotocol twice": request(Sec_WebSocket_Protocol="chat, chat"),
    "empty subprotocol": request(Sec_WebSocket_Protocol=""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_upgrade_is_answered_400(service: Service, name: str) -> None:
    client = service.connect()
    client.send(MALFORMED[name])
    status, _, _ = answer(client)
    assert status == 400
    assert service.connections.open == set()


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "get", "FOO"])
def test_only_get_upgrades(service: Service, method: str) -> None:
    client = service.connect()
    client.send(request(method=method))
    data = client.received()
    assert data.startswith(b"HTTP/1.1 426 " if method == "HEAD" else b"HTTP/1.1 405 ")
    if method == "HEAD":
        assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", ["/echo/", "/echo/x", "/Echo", "//echo", "/", "/readyz"])
def test_the_echo_endpoint_has_no_other_path(service: Service, log: Any, target: str) -> None:
    assert ask(service, request(target))[0] == 404
    assert log.lines() == [
        "127.0.0.1:40000 refused: 404 there is nothing to upgrade here; try /echo"
    ]


def test_a_refused_handshake_may_be_retried_on_the_connection(service: Service) -> None:
    client = service.connect()
    client.send(request(Sec_WebSocket_Version="8"))
    assert answer(client)[0] == 426
    client.open()
    client.send(text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]


def test_a_page_and_an_upgrade_may_share_a_connection(service: Service) -> None:
    """Requests of a proxy that keeps its connections; also the bytes behind the second one."""
    client = service.connect()
    page = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(page + request() + text("early"))
    data = client.received()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\x81\x05early")


# Subprotocols and extensions


@pytest.mark.parametrize("offer", ["a,,b", "a,", ",a", " , a ,\t, b", "a"])
def test_empty_elements_of_a_header_list_are_ignored(service: Service, offer: str) -> None:
    """RFC 9110, 5.6.1.2."""
    status, headers, _ = ask(service, request(Sec_WebSocket_Protocol=offer))
    assert (status, headers["sec-websocket-protocol"]) == (101, "a")


def test_subprotocols_of_two_headers_are_one_list(service: Service) -> None:
    data = request(Sec_WebSocket_Protocol="a").replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: b\r\n\r\n"
    )
    _, headers, _ = ask(service, data)
    assert headers["sec-websocket-protocol"] == "a"


def test_the_first_offered_subprotocol_is_selected(service: Service) -> None:
    _, headers, _ = ask(service, request(Sec_WebSocket_Protocol="chat, superchat"))
    assert headers["sec-websocket-protocol"] == "chat"


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits=8", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate"),
        ('permessage-deflate; client_max_window_bits="10"', "permessage-deflate"),
        ("Permessage-Deflate ; client_no_context_takeover", "permessage-deflate"),
        ("permessage-deflate;server_no_context_takeover", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=15",
        ),
        # Declined: zlib cannot do it, or it is invalid (RFC 7692, 7.1).
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=09", None),
        ("permessage-deflate; server_max_window_bits=+9", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; unknown", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-bzip2", None),
        ("", None),
        (" , ", None),
        # The first acceptable offer counts.
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "permessage-deflate"),
        ("foo; bar=1, permessage-deflate", "permessage-deflate"),
    ],
)
def test_compression_is_negotiated(service: Service, offer: str, accepted: str | None) -> None:
    status, headers, _ = ask(service, request(Sec_WebSocket_Extensions=offer))
    assert status == 101
    got = headers.get("sec-websocket-extensions")
    if accepted is None:
        assert got is None
    else:
        name, *parameters = accepted.split("; ")
        takeover = {"server_no_context_takeover", "client_no_context_takeover"}
        assert got is not None
        assert got.split("; ")[0] == name
        assert set(got.split("; ")[1:]) == {*parameters, *takeover}


def test_extensions_may_come_in_two_headers(service: Service) -> None:
    data = request(Sec_WebSocket_Extensions="foo").replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    _, headers, _ = ask(service, data)
    assert headers["sec-websocket-extensions"].startswith("permessage-deflate")


def test_compression_can_be_turned_off() -> None:
    status, headers, _ = ask(
        Service("--no-compression"), request(Sec_WebSocket_Extensions="permessage-deflate")
    )
    assert status == 101
    assert "sec-websocket-extensions" not in headers


def test_context_takeover_is_negotiated_if_the_option_allows_it() -> None:
    service = Service("--context-takeover")
    _, headers, _ = ask(service, request(Sec_WebSocket_Extensions="permessage-deflate"))
    assert headers["sec-websocket-extensions"] == "permessage-deflate"
    offer = "permessage-deflate; server_no_context_takeover"
    _, headers, _ = ask(service, request(Sec_WebSocket_Extensions=offer))
    assert headers["sec-websocket-extensions"] == offer


# Origins


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:8080", "https://evil.example", "null", "file://", "?"]
)
def test_every_origin_may_connect_by_default(service: Service, origin: str | None) -> None:
    assert ask(service, request(Origin=origin))[0] == 101


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        # The service's own page: Host is localhost:8080.
        ("http://localhost:8080", 101),
        ("https://localhost:8080", 101),
        ("HTTP://LOCALHOST:8080", 101),
        ("http://localhost:8081", 403),
        ("http://localhost", 403),
        ("https://good.example", 101),
        ("https://good.example:443", 101),
        ("https://GOOD.example", 101),
        ("https://good.example:444", 403),
        ("http://good.example", 403),
        ("http://good.example:3000", 101),
        ("https://good.example.evil.example", 403),
        ("https://evilgood.example", 403),
        ("https://good.example@evil.example", 403),
        ("https://evil.example/https://good.example", 403),
        ("https://good.example:443:443", 403),
        ("https://good.example:x", 403),
        ("http://[::1]:3000", 101),
        ("http://[::1]:3001", 403),
        ("http://[::1", 403),
        ("null", 403),
        ("file://", 403),
        ("", 403),
        ("https://", 403),
    ],
)
def test_only_allowed_origins_connect(origin: str | None, status: int) -> None:
    service = Service(
        "--allow-origin=https://good.example",
        "--allow-origin=http://good.example:3000",
        "--allow-origin=http://[::1]:3000",
    )
    assert ask(service, request(Origin=origin))[0] == status


def test_the_default_port_of_the_host_is_that_of_the_page() -> None:
    service = Service("--allow-origin=https://other.example")
    assert ask(service, request(Host="a.example", Origin="https://a.example"))[0] == 101
    assert ask(service, request(Host="a.example:443", Origin="https://a.example"))[0] == 101
    assert ask(service, request(Host="a.example:443", Origin="http://a.example"))[0] == 403
    assert ask(service, request(Host="a.example:99999", Origin="http://a.example"))[0] == 403


def test_the_host_of_an_absolute_target_counts_instead() -> None:
    """RFC 9112, 3.2.2."""
    service = Service("--allow-origin=https://other.example")
    data = request("ws://a.example/echo", Host="b.example", Origin="http://a.example")
    assert ask(service, data)[0] == 101
    data = request("ws://a.example/echo", Host="b.example", Origin="http://b.example")
    assert ask(service, data)[0] == 403


def test_the_null_origin_can_be_allowed() -> None:
    service = Service("--allow-origin=null")
    assert ask(service, request(Origin="null"))[0] == 101
    assert ask(service, request(Origin="https://evil.example"))[0] == 403


@pytest.mark.parametrize(
    "text",
    [
        "example.com",
        "https://a/b",
        "https://a?b",
        "https://",
        "*",
        "https://a/",
        "https://*.a",
        "https://a b",
        "https://a:b",
        "https://a:99999",
    ],
)
def test_an_invalid_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes an origin"):
        canonicalOrigin(text)


# Room


def test_over_max_connections_is_answered_503() -> None:
    service = Service("--max-connections=2")
    first = service.open()
    service.open()
    status, headers, body = ask(service, request())
    assert (status, headers["retry-after"]) == (503, "5")
    assert "taken" in body
    first.finish()
    assert ask(service, request())[0] == 101


def test_a_refused_handshake_is_logged(service: Service, log: Any) -> None:
    client = service.connect(IPv6Address("TCP", "::1", 7))
    client.send(request(X="\x1b[31m"))
    assert log.lines() == ["[::1]:7 refused: 400 a header has a control byte"]


def test_max_connections_per_address_limits_an_address(log: Any) -> None:
    service = Service("--max-connections-per-address=2")
    first = service.open()
    service.open()
    client = service.connect()
    client.send(request())
    status, headers, body = answer(client)
    assert (status, headers["retry-after"]) == (503, "5")
    assert body == "all connections of this address are taken\n"
    assert "refused: 503 all connections of this address are taken" in log.lines()[-1]
    # Other addresses are not affected.
    assert service.connect(IPv4Address("TCP", "127.0.0.2", 1)).open()
    first.finish()
    assert client.open()
    # The count is forgotten with the last connection.
    for each in service.clients:
        each.finish()
    assert service.connections._perNetwork == {}


def test_max_connections_per_address_counts_an_ipv6_network_as_one() -> None:
    service = Service("--max-connections-per-address=1")

    def status(host: str) -> int:
        client = service.connect(IPv6Address("TCP", host, 1))
        client.send(request())
        return answer(client)[0]

    assert status("2001:db8::1") == 101
    assert status("2001:db8::ffff:0:0:1") == 503
    assert status("2001:db8:0:1::1") == 101
    assert status("::ffff:192.0.2.1") == 101
    assert status("::ffff:c000:201") == 503
    assert status("::ffff:192.0.2.2") == 101


def test_max_connections_per_address_counts_the_client_behind_a_proxy() -> None:
    service = Service("--max-connections-per-address=1", "--trusted-proxy=127.0.0.0/8")

    def status(client: str) -> int:
        return ask(service, request(X_Forwarded_For=client))[0]

    assert status("192.0.2.1") == 101
    assert status("192.0.2.2") == 101
    assert status("192.0.2.1, 127.0.0.9") == 503
    assert status("6.6.6.6, 192.0.2.1") == 503


def test_max_connections_per_address_does_not_count_unix_sockets() -> None:
    service = Service("--max-connections-per-address=1")
    for _ in range(3):
        service.connect(UNIXAddress(b"/run/x")).open()


def test_max_connections_per_address_does_not_count_a_failed_handshake() -> None:
    service = Service("--max-connections-per-address=1")
    for _ in range(3):
        assert ask(service, request(Sec_WebSocket_Key="x"))[0] == 400
    assert service.open()
