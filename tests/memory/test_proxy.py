"""The PROXY protocol: whom a proxy speaks for, and what it may not say."""

import struct
from typing import Any

import pytest
from support.memory import Client, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from echotwist.listen.proxy import Malformed, ProxyFactory, split
from echotwist.testing.frames import TEXT, Frame, text
from echotwist.testing.raw import request
from echotwist.wire.peer import nameOf

pytestmark = pytest.mark.usefixtures("way")

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

V2_TCP4 = SIGNATURE + b"\x21\x11" + struct.pack("!H4B4BHH", 12, 192, 0, 2, 7, 1, 2, 3, 4, 1234, 80)
V2_TCP6 = (
    SIGNATURE
    + b"\x21\x21"
    + struct.pack("!H16s16sHH", 36, b"\x20\x01" + bytes(13) + b"\1", bytes(16), 5, 6)
)
V2_UNIX = SIGNATURE + b"\x21\x31" + struct.pack("!H108s108s", 216, b"/a", b"/b")
V2_LOCAL = SIGNATURE + b"\x20\x00\x00\x00"

GOOD = [
    (b"PROXY TCP4 192.0.2.7 1.2.3.4 1234 80\r\n", IPv4Address("TCP", "192.0.2.7", 1234)),
    (b"PROXY TCP6 2001:db8::1 ::1 1234 80\r\n", IPv6Address("TCP", "2001:db8::1", 1234)),
    (b"PROXY TCP6 fe80::1%\x1b[31m ::1 1 2\r\n", IPv6Address("TCP", "fe80::1", 1)),
    (b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 1 2\r\n", IPv6Address("TCP", "2001:db8::1", 1)),
    (b"PROXY TCP6 0:0:0:0:0:ffff:7f00:1 ::1 1 2\r\n", IPv4Address("TCP", "127.0.0.1", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (V2_TCP4, IPv4Address("TCP", "192.0.2.7", 1234)),
    (V2_TCP6, IPv6Address("TCP", "2001::1", 5)),
    (V2_LOCAL, None),
    (V2_UNIX, None),
]

BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY TCP4 a\x1b[31m\nb 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 010.0.0.1 1.2.3.4 1 80\r\n",
    b"PROXY TCP4 203.0.113.7\x85 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 1.2.3.4 -5 80\r\n",
    b"PROXY TCP4 203.0.113.7 1.2.3.4 65536 80\r\n",
    b"PROXY TCP4 203.0.113.7 1.2.3.4 x 80\r\n",
    b"PROXY TCP4 ::1 1.2.3.4 1 80\r\n",
    b"PROXY TCP6 ::x ::1 1 80\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 1 2 3 4\r\n",
    b"PROXY " + b"x" * 200,
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    SIGNATURE + b"\x31\x11\x00\x00",
    SIGNATURE + b"\x21\x11\x00\x01x",
    # No client needs these, and no budget counts them.
    SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 100,
]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_proxy_protocol_header_names_the_client(header: bytes, client: Any) -> None:
    assert split(header + b"rest") == (client, b"rest")
    for end in range(len(header)):
        assert split(header[:end]) is None


@pytest.mark.parametrize("header", BAD)
def test_an_invalid_proxy_protocol_header_is_refused(header: bytes) -> None:
    with pytest.raises(Malformed):
        split(header)


class Behind(Client):
    """A client behind a proxy."""

    def __init__(self, service: Service) -> None:
        behind: Any = service
        site, behind.site = service.site, ProxyFactory(service.site, service.context.journal)
        super().__init__(service)
        service.site = site


@pytest.mark.parametrize(("header", "client"), GOOD)
@pytest.mark.parametrize("segment", [None, 1])
def test_the_log_has_the_client_of_the_proxy_protocol(
    service: Service, log: Any, header: bytes, client: Any, segment: int | None
) -> None:
    behind = Behind(service)
    behind.send(header + request() + text("x"), segment)
    assert behind.received().endswith(b"\x81\x01x")
    behind.send(text("y"))
    assert behind.frames() == [Frame(TEXT, b"y")]
    assert log.lines()[0] == f"#1 {nameOf(client) if client else '127.0.0.1:40000'} connected"


@pytest.mark.parametrize("header", BAD)
def test_a_connection_without_a_proxy_protocol_header_is_dropped(
    service: Service, log: Any, header: bytes
) -> None:
    behind = Behind(service)
    behind.send(header)
    service.run()
    assert behind.socket.closed
    assert behind.received() == b""
    assert service.site.channels == {}
    assert log.lines() == ["127.0.0.1:40000 dropped: no header of the PROXY protocol"]
    service.advance(1)
    assert service.timers() == 0


def test_a_proxy_protocol_header_has_the_handshake_timeout(service: Service) -> None:
    behind = Behind(service)
    behind.send(b"PROXY TCP4 ")
    service.advance(10.1)
    assert behind.socket.closed


HALVES = [b"P", b"PROXY TCP4 192.0.2.7 ", V2_TCP4[:5], V2_TCP4[:-1]]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("end", ["silence", "FIN", "RST"])
def test_half_a_proxy_protocol_header_is_logged_once(
    service: Service, log: Any, half: bytes, end: str
) -> None:
    behind = Behind(service)
    behind.send(half)
    match end:
        case "silence":
            service.advance(10.1)
        case "FIN":
            behind.finish()
        case "RST":
            behind.transport.connectionLost(Failure(ConnectionLost()))
    service.advance(20)
    assert behind.received() == b""
    assert log.lines() == ["127.0.0.1:40000 dropped: half a header of the PROXY protocol"]
    assert service.context.journal.totals.dropped == {"half a header of the PROXY protocol": 1}
    assert service.timers() == 0


@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("sent", [b"", V2_LOCAL, b"PROXY UNKNOWN\r\n", V2_TCP4])
def test_a_load_balancers_probe_with_proxy_protocol_leaves_no_line(
    service: Service, log: Any, sent: bytes, end: str
) -> None:
    behind = Behind(service)
    behind.send(sent)
    if end == "FIN":
        behind.finish()
    else:
        behind.transport.connectionLost(Failure(ConnectionLost()))
    service.advance(20)
    assert log.lines() == []
    assert service.timers() == 0


def test_a_half_close_behind_the_proxy_protocol_costs_no_echo(service: Service) -> None:
    behind = Behind(service)
    behind.socket.window = 300
    behind.send(V2_LOCAL + request() + text("x" * 50_000))
    behind.finish()
    assert not behind.socket.closed
    behind.socket.window = float("inf")
    service.run()
    assert behind.received().endswith(b"x" * 50_000)
    assert behind.socket.closed


def test_the_haproxy_endpoint_speaks_the_proxy_protocol() -> None:
    service = Service("--listen=haproxy:tcp:1")
    service.echo.privilegedStartService()
    (server,) = service.reactor.tcpServers
    assert isinstance(server[1], ProxyFactory)
