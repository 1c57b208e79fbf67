"""Where clients reach a port: the URL, or the path of a Unix socket."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

PROXY_PREFIX = "haproxy:"
"""Precedes an endpoint on which a proxy speaks the PROXY protocol; see `proxy`."""


@dataclass(frozen=True)
class Location:
    """Where clients reach what the operator called `description`."""

    description: str
    authority: str | None = None
    """The host and port of a URL that answers, or None for a Unix socket."""

    path: str | None = None
    """Of a Unix socket."""

    remark: str = ""

    @property
    def isProxied(self) -> bool:
        """Whether clients come through a proxy that says so; see `proxy`."""
        return self.description.startswith(PROXY_PREFIX)

    @property
    def scheme(self) -> str:
        return "http" + "s" * self.description.removeprefix(PROXY_PREFIX).startswith("ssl:")


def locate(description: str, address: Any, isDual: Callable[[], bool]) -> Location:
    """Where clients reach `address`. `isDual` says whether IPv4 clients reach `::`.

    The host is `localhost` only where that answers on both families: a browser may try `::1`
    first, and another service may listen there.
    """
    match address:
        case IPv4Address(host="0.0.0.0", port=number):
            return Location(description, f"127.0.0.1:{number}", None, " (on all IPv4 addresses)")
        case IPv6Address(host="::", port=number) if isDual():
            return Location(description, f"localhost:{number}")
        case IPv6Address(host="::", port=number):
            return Location(description, f"[::1]:{number}", None, " (on all IPv6 addresses)")
        case IPv4Address(host=host, port=number):
            return Location(description, f"{host}:{number}")
        case IPv6Address(host=host, port=number):
            return Location(description, f"[{host}]:{number}")
        case UNIXAddress(name=bytes(name)):
            return Location(description, None, os.fsdecode(name))
    return Location(description)


def isDualStack(listening: socket.socket) -> bool:
    """Whether IPv4 clients reach a socket that is bound to `::`."""
    return not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
