"""The address of a peer, in one spelling wherever it is logged or compared.

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


def parseAddress(host: str) -> Address:
    """The address that `host` spells, in whichever way. Raises ValueError if it spells none."""
    address = ipaddress.ip_address(host)
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def addressOf(peer: IAddress | None) -> Address | None:
    """The IP address of a peer; None if it has none, as on a Unix socket."""
    if isinstance(peer, IPv4Address | IPv6Address):
        with suppress(ValueError):
            return parseAddress(peer.host)
    return None


def networkOf(address: Address) -> Hashable:
    """What --max-connections-per-address counts as one client: an IPv4 address, or an IPv6 /64, in
    which a client has 2^64 addresses (RFC 4291, 2.5.1)."""
    return address if address.version == 4 else int(address) >> 64


def nameOf(peer: IAddress | None) -> str:
    """A peer in a log line: `127.0.0.1:40312`, `[::1]:40312` or `unix`."""
    if isinstance(peer, UNIXAddress):
        return "unix"
    if isinstance(peer, IPv4Address):  # In the spelling of the kernel, or of `proxy`.
        return f"{peer.host}:{peer.port}"
    if isinstance(peer, IPv6Address):
        mapped = peer.host.removeprefix("::ffff:")
        # The kernel's spelling of a mapped address. To parse it would take 10 µs.
        if "." in mapped and mapped is not peer.host:
            return f"{mapped}:{peer.port}"
        address = addressOf(peer)
        if address is not None:
            host = str(address) if address.version == 4 else f"[{address}]"
            return f"{host}:{peer.port}"
    return "unknown"
