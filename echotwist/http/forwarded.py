"""Who is calling, when the peer of a connection is a proxy that speaks HTTP.

    X-Forwarded-For: 203.0.113.7, 10.0.0.5
    Forwarded: for=203.0.113.7;proto=https, for="[2001:db8::5]:8443"

Each proxy adds its own peer at the right end, and passes on whatever stood there before: the
left may be a client's invention. So the lists are read from the right, an entry is believed
only if the one who wrote it is trusted, and the walk ends at the first who is not: the client.

A proxy that writes one of the two headers passes on the other as the client sent it, and nobody
here knows which one it writes. nginx and HAProxy have to be told, uvicorn knows only the first.
Here both must name the same client if both are there, and else the peer stays: a client can then
hide behind its proxy, but never choose its address. An option to name the header would give the
same to operators who set it, and a forged address to those who did not.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from echotwist.wire.peer import Address, addressOf, parsed

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Whoever reaches a Unix socket, as nginx's `set_real_ip_from unix:` trusts them."""

HOPS = 32
"""Trusted entries that a list is read through. No request comes through more proxies, and 16 KB
of them, from a client in a trusted network, would cost 65 ms."""

_PORT = r"(?::(?:\d{1,5}|_[\w.-]+))?"
_ZONE = r"(?:%[^\[\]]*)?"  # It may be anything, and says nothing on this machine.
# RFC 7239, 6; in X-Forwarded-For also an IPv6 address without brackets.
_NODE = re.compile(
    rf"\[([0-9A-Fa-f:.]+){_ZONE}\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]+){_ZONE}", re.ASCII
)
# RFC 7239, 4; many leave out the quotes where a port or brackets want them. What is possessive
# (*+) cannot backtrack: time is linear, whatever is sent.
_PAIR = r"""([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([^ \t",;\\]+|"(?:[^"\\]|\\.)*+")[ \t]*+"""
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rf"[ \t]*+(?:{_PAIR})?+(?:;[ \t]*+(?:{_PAIR})?+)*+")


class TrustedProxies:
    """The proxies that are believed: `trusted` are networks, and UNIX."""

    def __init__(self, trusted: Collection[Network | str]) -> None:
        self._isUnixTrusted = UNIX in trusted
        self._networks = [network for network in trusted if not isinstance(network, str)]

    def clientOf(self, peer: IAddress | None, headers: Headers) -> Address | None:
        """The client that the headers name, or None if that is `peer` itself."""
        if not self._trustsPeer(peer):
            return None
        found = set()
        entries: Callable[[str], Iterable[str]]
        for name, entries in ((b"X-Forwarded-For", _entries), (b"Forwarded", _elements)):
            # Several headers of a name are one list (RFC 9110, 5.3).
            if raw := headers.getRawHeaders(name):
                found.add(self._walk(entries(b",".join(raw).decode("latin-1"))))
        return found.pop() if len(found) == 1 else None

    def _walk(self, entries: Iterable[str]) -> Address | None:
        """The last one who is known by the word of a trusted proxy; `entries` from the right."""
        client = None
        for entry in entries:
            address = _address(entry)
            if address is None:  # `unknown`, a name that hides one, or no node at all.
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _trustsPeer(self, peer: IAddress | None) -> bool:
        if isinstance(peer, UNIXAddress):
            return self._isUnixTrusted
        address = addressOf(peer) if self._networks else None
        return address is not None and self._trusts(address)


def trustedProxy(text: str) -> Network | str:
    """The network, or UNIX, that `text` stands for. An address is a network of one.

    Raises ValueError, with a message for the operator, also for a network with bits of a host:
    who writes 10.0.0.1/8 may want to trust one machine or sixteen million.
    """
    if text == UNIX:
        return UNIX
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("takes a network such as 10.0.0.0/8, an address, or unix") from None
    host = ipaddress.ip_address(text.partition("/")[0])
    if "/" in text and host != network.network_address:
        raise ValueError(f"takes {network} for the network, or {host} for the one address")
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        # Peers are compared as the IPv4 addresses that they are.
        return ipaddress.ip_network((mapped.ipv4_mapped, network.prefixlen - 96))
    return network


def _address(node: str) -> Address | None:
    """The address of a node, without its port and zone; None if it has none."""
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    try:
        return parsed(match[1] or match[2] or match[3])
    except ValueError:
        return None


def _entries(header: str) -> Iterator[str]:
    """The entries of X-Forwarded-For, from the right."""
    return (entry.strip(" \t") for entry in reversed(header.rsplit(",", HOPS)))


def _elements(header: str) -> Iterator[str]:
    """What each element of Forwarded says in `for`, from the right; empty if it says nothing.

    From the right, because a quote that a client left open would take in what the proxy added.
    """
    pieces = header.rsplit(",", HOPS)
    while pieces:
        element = pieces.pop()
        while element.count('"') % 2 and pieces:  # A comma in quotes.
            element = f"{pieces.pop()},{element}"
        nodes = []
        if _ELEMENT.fullmatch(element):
            nodes = [value for name, value in _PAIRS.findall(element) if name.lower() == "for"]
        # Never twice (RFC 7239, 4).
        yield nodes[0].removeprefix('"').removesuffix('"') if len(nodes) == 1 else ""
