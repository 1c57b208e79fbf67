"""Who is at the other end: one spelling of an address, wherever it is logged or compared.

An IPv4 client of a socket that serves both families comes as `::ffff:192.0.2.1`, and a proxy may
write that as `0:0:0:0:0:ffff:c000:201`. Both are `192.0.2.1` here, and every other IPv6 address is
spelled as RFC 5952 has it.
"""

import ipaddress
from collections.abc import Hashable
from contextlib import suppress

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parsed(host: str) -> Address:
    """The address that `host` spells, in any way. Raises ValueError if it is none."""
    address = ipaddress.ip_address(host)
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def addressOf(peer: IAddress | None) -> Address | None:
    """The IP address of a peer; None if it has none, as on a Unix socket."""
    if isinstance(peer, IPv4Address | IPv6Address):
        with suppress(ValueError):
            return parsed(peer.host)
    return None


def networkOf(address: Address) -> Hashable:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, of which a
    client has 2^64 (RFC 4291, 2.5.1)."""
    return address if address.version == 4 else int(address) >> 64


def nameOf(peer: IAddress | None) -> str:
    """A peer in a log line: `127.0.0.1:40312`, `[::1]:40312` or `unix`."""
    if isinstance(peer, UNIXAddress):
        return "unix"
    if isinstance(peer, IPv4Address):  # The kernel, or `proxy`, has spelled it.
        return f"{peer.host}:{peer.port}"
    if isinstance(peer, IPv6Address):
        mapped = peer.host.removeprefix("::ffff:")
        if (
            "." in mapped and mapped is not peer.host
        ):  # As the kernel spells it; parsing takes 10 us.
            return f"{mapped}:{peer.port}"
        address = addressOf(peer)
        if address is not None:
            host = str(address) if address.version == 4 else f"[{address}]"
            return f"{host}:{peer.port}"
    return "unknown"
