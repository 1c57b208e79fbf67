"""The client behind a proxy that speaks HTTP, which is the peer of the connection.

    X-Forwarded-For: 203.0.113.7, 10.0.0.5
    Forwarded: for=203.0.113.7;proto=https, for="[2001:db8::5]:8443"

Each proxy adds its own peer at the right end, and passes on whatever stood there before: a client
may have invented the left. So the lists are read from the right. An entry counts only if the proxy
that wrote it is trusted, and the walk ends at the first address that is not trusted: the client.

A proxy that writes one of the two headers passes on the other as the client sent it, and we do not
know which one it writes. nginx and HAProxy have to be told, uvicorn knows only the first. Here
both must name the same client if both are there; otherwise the log has the peer. So a client can
hide behind its proxy, but never choose its address. An option to name the header would give
operators who set it the same, and the others a forged address.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from echotwist.wire.peer import Address, addressOf, parseAddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Trusts every peer on a Unix socket, as nginx's `set_real_ip_from unix:` does."""

HOPS = 32
"""Entries of a list that are read at most. No request comes through more proxies, and 16 KB of
trusted addresses, from a client in a trusted network, would cost 65 ms."""

_PORT = r"(?::(?:\d{1,5}|_[\w.-]+))?"
_ZONE = r"(?:%[^\[\]]*)?"  # It may be anything, and means nothing on this machine.
# RFC 7239, 6; in X-Forwarded-For also an IPv6 address without brackets.
_NODE = re.compile(
    rf"\[([0-9A-Fa-f:.]+){_ZONE}\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]+){_ZONE}", re.ASCII
)
# RFC 7239, 4; many proxies leave out the quotes that a port or brackets want. Possessive
# quantifiers (*+) do not backtrack, so that the time is linear in whatever a client sends.
_PAIR = r"""([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([^ \t",;\\]+|"(?:[^"\\]|\\.)*+")[ \t]*+"""
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rf"[ \t]*+(?:{_PAIR})?+(?:;[ \t]*+(?:{_PAIR})?+)*+")


class TrustedProxies:
    """The proxies whose headers count: `trusted` are networks, and UNIX."""

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
            # Several headers with one name are one list (RFC 9110, 5.3).
            if raw := headers.getRawHeaders(name):
                found.add(self._walk(entries(b",".join(raw).decode("latin-1"))))
        return found.pop() if len(found) == 1 else None

    def _walk(self, entries: Iterable[str]) -> Address | None:
        """The last address that a trusted proxy vouches for; `entries` come from the right."""
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

    Raises ValueError, with a message for the operator, also for a network with host bits:
    10.0.0.1/8 may be meant to trust one machine, or sixteen million.
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
        # Mapped peers are compared as IPv4 addresses.
        return ipaddress.ip_network((mapped.ipv4_mapped, network.prefixlen - 96))
    return network


def _address(node: str) -> Address | None:
    """The address of a node, without its port and zone; None if it has none."""
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    try:
        return parseAddress(match[1] or match[2] or match[3])
    except ValueError:
        return None


def _entries(header: str) -> Iterator[str]:
    """The entries of X-Forwarded-For, from the right."""
    return (entry.strip(" \t") for entry in reversed(header.rsplit(",", HOPS)))


def _elements(header: str) -> Iterator[str]:
    """The `for` of each element of Forwarded, from the right; empty for an element without one.

    From the right, because a quote that a client left open would swallow what the proxy added.
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
