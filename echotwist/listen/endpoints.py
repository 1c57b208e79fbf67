"""The endpoints that --listen and --admin take, in Twisted's words.

    tcp:8080:interface=127.0.0.1
    haproxy:ssl:8443:privateKey=key.pem:certKey=chain.pem

Not Twisted's serverFromString (twisted/internet/endpoints.py, 26.10). That takes whatever a plugin
adds, such as its own `tls:`, with any cipher that OpenSSL knows: what is not in this list might
speak a TLS that nobody here vouches for. It says of a mistake what int() and TypeError say. Its
Unix sockets are open to everybody on the machine, and 50 connections may wait to be accepted.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from inspect import signature
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    quoteStringArgument,
)
from twisted.internet.interfaces import IStreamServerEndpoint

from echotwist.limits import BACKLOG, count
from echotwist.listen.activation import inherited
from echotwist.listen.certificate import Certificate
from echotwist.listen.tls import TlsEndpoint

PROXIED = "haproxy:"
"""Stands before an endpoint on which a proxy speaks the PROXY protocol."""

LONGEST_PATH = 107
"""Bytes of the path of a Unix socket (unix(7), sun_path, with the NUL that ends it)."""


def endpointOf(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint that `description` says; behind `haproxy:` the one that stands there.

    Raises ValueError, with a line for the operator.
    """
    kind, *_ = description.removeprefix(PROXIED).split(":", 1)
    if kind not in _KINDS:
        *most, last = (f"{name}:" for name in _KINDS)
        tls = "; TLS is ssl:" if kind == "tls" else ""
        raise ValueError(
            f"begins with {', '.join(most)} or {last}, such as tcp:8080, "
            f"or with {PROXIED} before one of these{tls}"
        )
    make, example = _KINDS[kind]
    return make(reactor, **_values(description.removeprefix(PROXIED), make, example))


def _values(
    description: str, make: Callable[..., IStreamServerEndpoint], example: str
) -> dict[str, Any]:
    """What `make` is to be called with."""
    (kind, *positional), named = arguments(description)
    names = list(signature(make).parameters)[1:]
    if "=" in description and re.search(r"=[0-9A-Fa-f:]*::", description):
        raise ValueError(
            r"a colon in a value is written \:, as in 'tcp:8080:interface=\:\:1', "
            "which a shell wants in quotes"
        )
    if len(positional) > len(names):
        raise ValueError(f"{kind}: takes only {', '.join(names)}")
    values: dict[str, Any] = {}
    for name, text in [*zip(names, positional, strict=False), *named]:
        if name not in names:
            raise ValueError(f"{kind}: takes no {name}=, only {', '.join(names)}")
        if name in values:
            raise ValueError(f"{kind}: has {name} twice")
        try:
            values[name] = _PARSERS.get(name, _text)(text)
        except ValueError as e:
            raise ValueError(f"{name}={text!r}: {e}") from e
    if names[0] not in values:
        raise ValueError(f"wants the {names[0]}, as in {example}")
    return values


def port(text: str) -> int:
    """Raises ValueError."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ValueError("takes a port from 0 to 65535")
    return int(text)


def _text(text: str) -> str:
    if not text:
        raise ValueError("takes something")
    return text


def _interface(text: str) -> str:
    """An address. Of names it knows one, for which it need not ask (RFC 6761, 6.3): what a name
    stands for tomorrow, or where nobody answers, is no place to listen on."""
    if text in ("", "localhost"):
        return "127.0.0.1" if text else ""
    try:
        ipaddress.ip_address(text)
    except ValueError as e:
        raise ValueError(r"takes an address, such as 127.0.0.1 or \:\:1") from e
    return text


def _backlog(text: str) -> int:
    if not 1 <= (number := count(text)) < 1 << 31:
        raise ValueError("takes a whole number from 1 on, such as 1024")
    return number


def _path(text: str) -> str:
    if not text:
        raise ValueError("takes a path, such as /run/echotwist.sock")
    if len(os.fsencode(text)) > LONGEST_PATH:
        raise ValueError(f"takes a path of at most {LONGEST_PATH} bytes")
    return text


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError("takes a mode such as 660")
    return int(text, 8)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("takes 0 or 1")
    return text == "1"


def _domain(text: str) -> str:
    if text not in ("INET", "INET6", "UNIX"):
        raise ValueError("takes INET, INET6 or UNIX")
    return text


def _sslmethod(text: str) -> str:
    raise ValueError("is not taken: TLS 1.2 and 1.3 are spoken")


_PARSERS: dict[str, Callable[[str], Any]] = {
    "port": port,
    "interface": _interface,
    "backlog": _backlog,
    "sslmethod": _sslmethod,
    "address": _path,
    "mode": _mode,
    "lockfile": _flag,
    "domain": _domain,
    "index": count,
}


def _tcp(
    reactor: Any, port: int, interface: str = "", backlog: int = BACKLOG
) -> IStreamServerEndpoint:
    return TCP4ServerEndpoint(reactor, port, backlog, interface)


def _tcp6(
    reactor: Any, port: int, backlog: int = BACKLOG, interface: str = "::"
) -> IStreamServerEndpoint:
    if not isIPv6Address(interface):
        raise ValueError(r"interface= takes an IPv6 address in tcp6:, such as \:\:1")
    return TCP6ServerEndpoint(reactor, port, backlog, interface)


def _ssl(
    reactor: Any,
    port: int,
    privateKey: str = "server.pem",
    certKey: str | None = None,
    sslmethod: None = None,
    interface: str = "",
    backlog: int = BACKLOG,
    extraCertChain: str | None = None,
    dhParameters: str | None = None,
) -> TlsEndpoint:
    chain = [certKey or privateKey, *([extraCertChain] if extraCertChain else [])]
    below = TCP4ServerEndpoint(reactor, port, backlog, interface)
    return TlsEndpoint(below, Certificate(reactor, privateKey, chain, dhParameters))


def _unix(
    reactor: Any, address: str, mode: int = 0o660, backlog: int = BACKLOG, lockfile: bool = True
) -> IStreamServerEndpoint:
    # Not for everybody on the machine: with --trusted-proxy=unix whoever connects is believed.
    return UNIXServerEndpoint(reactor, address, backlog, mode, lockfile)


def _systemd(
    reactor: Any, domain: str, index: int | None = None, name: str | None = None
) -> IStreamServerEndpoint:
    if (index is None) == (name is None):
        raise ValueError("systemd: wants either index= or name=")
    which = f"index={index}" if name is None else f"name={quoteStringArgument(name)}"
    return inherited(reactor, f"systemd:domain={domain}:{which}")


# Their parameters stand in the order in which Twisted takes them without a name.
_KINDS: dict[str, tuple[Callable[..., IStreamServerEndpoint], str]] = {
    "tcp": (_tcp, "tcp:8080"),
    "tcp6": (_tcp6, "tcp6:8080"),
    "ssl": (_ssl, "ssl:8443:privateKey=key.pem:certKey=chain.pem"),
    "unix": (_unix, "unix:/run/echotwist.sock"),
    "systemd": (_systemd, "systemd:domain=INET6:index=0"),
}


def arguments(description: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The positional and the named arguments of an endpoint description.

    As twisted.internet.endpoints._parse does it, which is private; a test compares them. Raises
    ValueError for a backslash at the end, which escapes nothing.
    """
    if re.fullmatch(r"(?s)(?:[^\\]|\\.)*", description) is None:
        raise ValueError("ends with a \\ that escapes nothing")
    positional, named = [], []
    for text in re.findall(r"(?s)(?:^|:)((?:[^:\\]|\\.)*)", description):
        match = re.fullmatch(r"(?s)((?:[^=\\]|\\.)*)=(.*)", text)
        if match is None:
            positional.append(_unescaped(text))
        else:
            named.append((_unescaped(match[1]), _unescaped(match[2])))
    return positional, named


def _unescaped(text: str) -> str:
    return re.sub(r"(?s)\\(.)", r"\1", text)
