"""Who is calling, by the word of trusted proxies: what they say, and what clients cannot."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.memory import Client, Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.web.http_headers import Headers

from echotwist.http.forwarded import HOPS, TrustedProxies, trustedProxy
from echotwist.listen.proxy import ProxyFactory
from echotwist.testing.frames import TEXT, Frame, text
from echotwist.testing.raw import request

PROXY = IPv4Address("TCP", "10.0.0.1", 40000)

TRUSTED = ["10.0.0.0/8", "2001:db8:a::/48"]


def clientOf(
    *values: str,
    header: str = "X-Forwarded-For",
    peer: Any = PROXY,
    trusted: Any = TRUSTED,
    **others: str,
) -> str | None:
    headers = Headers({name.replace("_", "-"): [value] for name, value in others.items()})
    for value in values:
        headers.addRawHeader(header.encode(), value.encode("latin-1"))
    client = TrustedProxies([trustedProxy(cidr) for cidr in trusted]).clientOf(peer, headers)
    return None if client is None else str(client)


# Walking


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        # What stands further left was sent by the client.
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.2, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.0.0.2,10.0.0.3", "203.0.113.7"),
        ("203.0.113.7, 2001:db8:a::1", "203.0.113.7"),
        # All are trusted: the leftmost counts.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # The nearest hop's entry is unusable: the peer counts.
        ("203.0.113.7, unknown", None),
        ("203.0.113.7,", None),
        ("203.0.113.7, unix:", None),
        ("", None),
        (",", None),
        # An entry further left is unusable: the last usable one counts.
        ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
        ("6.6.6.6, , 10.0.0.2", "10.0.0.2"),
        (",".join(["6.6.6.6"] * 10_000), "6.6.6.6"),
        ("6.6.6.6," * 10_000 + "203.0.113.7", "203.0.113.7"),
        ("6.6.6.6," + ",".join(["10.0.0.2"] * HOPS), "6.6.6.6"),
        # No client is behind that many proxies.
        ("6.6.6.6," + ",".join(["10.0.0.2"] * (HOPS + 1)), "10.0.0.2"),
    ],
)
def test_the_client_is_the_first_untrusted_address_from_the_right(
    header: str, client: str | None
) -> None:
    assert clientOf(header) == client
    elements = ", ".join(f'for="{node.strip()}"' for node in header.split(","))
    assert clientOf(elements, header="Forwarded") == client


def test_repeated_forwarding_headers_are_one_list() -> None:
    assert clientOf("6.6.6.6", "203.0.113.7, 10.0.0.3", "10.0.0.2") == "203.0.113.7"
    assert clientOf("for=6.6.6.6", 'for="[2001:db8::7]"', header="forwarded") == "2001:db8::7"


@pytest.mark.parametrize(
    ("peer", "trusted", "isBelieved"),
    [
        (PROXY, [], False),
        (PROXY, ["10.0.0.1"], True),
        (PROXY, ["10.0.0.2", "192.0.2.0/24", "unix", "::/0"], False),
        (PROXY, ["0.0.0.0/0"], True),
        (IPv6Address("TCP", "::ffff:10.0.0.1", 1), ["10.0.0.0/8"], True),
        (IPv6Address("TCP", "::ffff:a00:1", 1), ["10.0.0.0/8"], True),
        (IPv6Address("TCP", "::ffff:10.0.0.1", 1), ["::ffff:10.0.0.0/104"], True),
        (IPv6Address("TCP", "::ffff:11.0.0.1", 1), ["::ffff:10.0.0.0/104"], False),
        (IPv6Address("TCP", "2001:db8::1", 1), ["2001:db8::/32"], True),
        (IPv6Address("TCP", "2001:db9::1", 1), ["2001:db8::/32", "0.0.0.0/0"], False),
        (IPv6Address("TCP", "fe80::1%eth0", 1), ["fe80::/64"], True),
        (UNIXAddress(b"/run/x"), ["unix"], True),
        (UNIXAddress(None), ["unix"], True),
        (UNIXAddress(b"/run/x"), ["0.0.0.0/0", "::/0"], False),
        (None, ["unix", "0.0.0.0/0"], False),
        (IPv4Address("TCP", "no address", 1), ["unix", "0.0.0.0/0"], False),
    ],
)
def test_only_trusted_peers_are_believed(peer: Any, trusted: list[str], isBelieved: bool) -> None:
    client = clientOf("203.0.113.7", peer=peer, trusted=trusted)
    assert client == ("203.0.113.7" if isBelieved else None)


@pytest.mark.parametrize(
    ("other", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ('for="203.0.113.7:80";proto=https, for=10.0.0.3', "203.0.113.7"),
        ("for=6.6.6.6", None),
        ("for=unknown", None),
        ("", None),
        ("\x1b", None),
    ],
)
def test_forwarded_and_x_forwarded_for_must_name_the_same_client(
    other: str, client: str | None
) -> None:
    """The proxy wrote one of the two; the client may have sent the other."""
    assert clientOf("203.0.113.7, 10.0.0.2", Forwarded=other) == client


# Nodes


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("203.0.113.7:40312", "203.0.113.7"),
        ("203.0.113.7:_hidden", "203.0.113.7"),
        ("2001:DB8::0007", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:cb00:7107]:1", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:1", "fe80::1"),
        ("fe80::1%\x1b[31m", None),
        ("fe80::1%\x85", "fe80::1"),
        *(
            (node, None)
            for node in (
                "unknown",
                "_id",
                "_SEVKISEK:80",
                "localhost",
                "203.0.113",
                "203.0.113.007",
                "203.0.113.256",
                "203.0.113.7:",
                "203.0.113.7:123456",
                "203.0.113.7:x",
                "203.0.113.7/8",
                "203.0.113.7 6.6.6.6",
                "203.0.113.7;6.6.6.6",
                "203.0.113.7\x85",
                "203.0.113.7\xa0",
                "203.0.113.\xb2",
                "203.0.113.7%eth0]",
                "[203.0.113.7",
                "2001:db8::7]",
                "[]",
                "[]:80",
                "[::1]x",
                ":::",
                "1::2::3",
                "3405803783",
                "0xcb007107",
                "1" * 16_000,
                "1:" * 8_000,
                "\x1b[31m",
                "\x00",
            )
        ),
    ],
)
def test_a_forwarded_node_is_an_address_or_nothing(node: str, address: str | None) -> None:
    assert clientOf(f"6.6.6.6, {node}") == address
    assert clientOf(f'for=6.6.6.6, for="{node}"', header="Forwarded") == address


@pytest.mark.parametrize(
    ("element", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("FOR=203.0.113.7", "203.0.113.7"),
        ("by=10.0.0.1;for=203.0.113.7;host=a;proto=https", "203.0.113.7"),
        ('for="203.0.113.7"; proto=https ;', "203.0.113.7"),
        (';;host="a, b";for=203.0.113.7', "203.0.113.7"),
        ('for=203.0.113.7;host="a, for=6.6.6.6;x=b"', "203.0.113.7"),
        (r'for=203.0.113.7;host="\\"', "203.0.113.7"),
        # Against the RFC, but seen in the wild.
        ("for=203.0.113.7:80", "203.0.113.7"),
        ("for=[2001:db8::7]", "2001:db8::7"),
        ("for=2001:db8::7", "2001:db8::7"),
        # These are not reliable.
        ("203.0.113.7", None),
        ("by=203.0.113.7", None),
        ("for=", None),
        ('for=""', None),
        ("for =203.0.113.7", None),
        ("for= 203.0.113.7", None),
        ("for=203.0.113.7;for=6.6.6.6", None),
        ('for="203.0.113.7', None),
        ('for=203.0.113.7"', None),
        ("for='203.0.113.7'", None),
        (r'for="203.0.113.\7"', None),
        ("for=203.0.113.7 for=6.6.6.6", None),
        ("xfor=203.0.113.7", None),
        ('x="for=203.0.113.7"', None),
        ("for=203.0.113.7;=", None),
        ("\x85for=203.0.113.7", None),
    ],
)
def test_an_element_of_forwarded_follows_the_grammar_of_rfc_7239(
    element: str, client: str | None
) -> None:
    assert clientOf(element, header="Forwarded") == client
    assert clientOf(f"for=6.6.6.6,{element}", header="Forwarded") == client


SEPARATORS = st.text(st.sampled_from('for=6.;,"\\ \t[]:%_\x0b\x1c\x85\xa0é'), max_size=30)


@given(SEPARATORS)
@example('for=6.6.6.6, for="')
@example('for="\\')
def test_a_client_cannot_forge_the_forwarded_header_of_its_proxy(sent: str) -> None:
    assert clientOf(f"{sent}, 203.0.113.7") == "203.0.113.7"
    for element in (
        "for=203.0.113.7",
        'for="203.0.113.7:80"',
        'proto="https";for=203.0.113.7;host="a"',
    ):
        assert clientOf(f"{sent}, {element}", header="Forwarded") == "203.0.113.7"
        assert clientOf(sent, element, header="Forwarded") == "203.0.113.7"


@given(sent=SEPARATORS, host=SEPARATORS)
@example(sent='for=6.6.6.6;x="', host='";y="')
@example(sent="", host='a", for=6.6.6.6;x="')
@example(sent="", host=", for=6.6.6.6")
def test_a_quoted_host_in_forwarded_cannot_forge_a_client(sent: str, host: str) -> None:
    """At worst, a Host with a quote hides the client; such a Host is answered 400."""
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    client = clientOf(f'{sent}, for=203.0.113.7;host="{quoted}"', header="Forwarded")
    assert client in (("203.0.113.7", None) if '"' in host else ("203.0.113.7",))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_forwarded_header_raises(one: bytes, other: bytes) -> None:
    headers = Headers({b"X-Forwarded-For": [one], b"Forwarded": [other, one]})
    TrustedProxies([ip_network("10.0.0.0/8")]).clientOf(PROXY, headers)


# The option


@pytest.mark.parametrize(
    ("cidr", "network"),
    [
        ("10.0.0.0/8", ip_network("10.0.0.0/8")),
        ("10.0.0.1", ip_network("10.0.0.1/32")),
        ("10.0.0.1/32", ip_network("10.0.0.1/32")),
        ("2001:db8::/32", ip_network("2001:db8::/32")),
        ("::1", ip_network("::1/128")),
        ("::/0", ip_network("::/0")),
        ("::ffff:10.0.0.0/104", ip_network("10.0.0.0/8")),
        ("unix", "unix"),
    ],
)
def test_a_trusted_proxy_may_be_a_network(cidr: str, network: Any) -> None:
    assert trustedProxy(cidr) == network


@pytest.mark.parametrize(
    "cidr", ["", "x", "*", "unix:", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "fe80::/x", "a.example"]
)
def test_a_trusted_proxy_that_is_no_network_is_refused(cidr: str) -> None:
    with pytest.raises(ValueError, match="takes a network such as"):
        trustedProxy(cidr)


def test_a_network_with_host_bits_is_refused_and_both_readings_shown() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8 .*, or 10\.0\.0\.1 "):
        trustedProxy("10.0.0.1/8")


# The service


def connected(service: Service, peer: Any, headers: bytes) -> Client:
    client = service.connect(peer)
    client.send(request().replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n\r\n"))
    return client


def test_the_log_names_the_forwarded_client(log: Any) -> None:
    service = Service("--trusted-proxy=10.0.0.0/8")
    client = connected(service, PROXY, b"X-Forwarded-For: 6.6.6.6, 203.0.113.7")
    assert client.received().startswith(b"HTTP/1.1 101 ")
    client.send(text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]
    connected(service, PROXY, b"Forwarded: for=203.0.113.8\r\nOrigin: a\r\nOrigin: b")
    connected(service, PROXY, b"X-Forwarded-For: 2001:0DB8:0::7")
    assert log.lines() == [
        "#1 203.0.113.7 connected",
        "#1 203.0.113.7 text, 1 bytes: 'x'",
        "203.0.113.8 refused: 400 the Origin header came twice",
        "#2 2001:db8::7 connected",
    ]


@pytest.mark.parametrize("arguments", [[], ["--trusted-proxy=192.0.2.0/24"]])
def test_a_forged_forwarded_header_changes_nothing(arguments: list[str], log: Any) -> None:
    connected(Service(*arguments), PROXY, b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6")
    assert log.lines() == ["#1 10.0.0.1:40000 connected"]


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        (b"X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 203.0.113.7", "#1 203.0.113.7 connected"),
        # Obsolete folding is a space to Twisted.
        (b"X-Forwarded-For: 6.6.6.6,\r\n 203.0.113.7", "#1 203.0.113.7 connected"),
        (b"X-Forwarded-For: 203.0.113.7\r\n 6.6.6.6", "#1 10.0.0.1:40000 connected"),
        (
            b"X-Forwarded-For : 6.6.6.6",
            "10.0.0.1:40000 refused: 400 a header has a space before its colon",
        ),
        (b"X_Forwarded_For: 6.6.6.6", "#1 10.0.0.1:40000 connected"),
        (b"X-Forwarded-For: " + b"6.6.6.6," * 1800 + b"203.0.113.7", "#1 203.0.113.7 connected"),
        (
            b"X-Forwarded-For: " + b"6.6.6.6," * 3000 + b"203.0.113.7",
            "10.0.0.1:40000 refused: 431 headers are at most 500, with 16,896 bytes",
        ),
        (b"X-Y: a\x85X-Forwarded-For: 6.6.6.6", "#1 10.0.0.1:40000 connected"),
        (
            b"X-Forwarded-For: 203.0.113.7\r\nX-Y: \x1b[31m",
            "203.0.113.7 refused: 400 a header has a control byte",
        ),
        (
            b"X-Forwarded-For: 6.6.6.6\x1c, 203.0.113.7\x1b[31m",
            "10.0.0.1:40000 refused: 400 a header has a control byte",
        ),
    ],
)
def test_malformed_forwarded_headers_name_nobody_else(headers: bytes, line: str, log: Any) -> None:
    connected(Service("--trusted-proxy=10.0.0.0/8"), PROXY, headers)
    assert log.lines() == [line]


def test_a_proxy_on_a_unix_socket_may_be_trusted(log: Any) -> None:
    connected(Service("--trusted-proxy=unix"), UNIXAddress(None), b"X-Forwarded-For: 203.0.113.7")
    connected(Service(), UNIXAddress(None), b"X-Forwarded-For: 203.0.113.7")
    assert log.lines() == ["#1 203.0.113.7 connected", "#1 unix connected"]


def test_the_peer_that_is_trusted_is_the_one_of_the_proxy_protocol(log: Any) -> None:
    """With a TCP balancer before an HTTP proxy, the address of the balancer does not matter."""
    for trusted in ("10.0.0.0/8", "127.0.0.1"):
        service: Any = Service(f"--trusted-proxy={trusted}")
        service.site = ProxyFactory(service.site, service.context.journal)
        client = service.connect()
        client.send(
            b"PROXY TCP4 10.0.0.1 192.0.2.8 1234 80\r\n" + request(X_Forwarded_For="203.0.113.7")
        )
    assert log.lines() == ["#1 203.0.113.7 connected", "#1 10.0.0.1:1234 connected"]
