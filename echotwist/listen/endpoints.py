"""The endpoint descriptions that --listen and --admin accept, in Twisted's syntax.

    tcp:8080:interface=127.0.0.1
    haproxy:ssl:8443:privateKey=key.pem:certKey=chain.pem

This does not use Twisted's `serverFromString` (26.10, twisted/internet/endpoints.py). That accepts
whatever a plugin adds, such as its own `tls:` with any cipher that OpenSSL knows, and so a TLS that
nobody here vouches for. Its errors are those of int() and TypeError. Its Unix sockets are open to
every user of the machine, and its backlog is 50.
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

from echotwist.limits import BACKLOG, parseCount
from echotwist.listen.activation import activatedEndpoint
from echotwist.listen.certificate import Certificate
from echotwist.listen.location import PROXY_PREFIX
from echotwist.listen.tls import TlsEndpoint

MAX_UNIX_PATH = 107
"""Bytes of the path of a Unix socket: sun_path in unix(7), less its final NUL."""


def endpointOf(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint that `description` describes, without regard to a `haproxy:` before it.

    Raises ValueError, with a message for the operator.
    """
    kind, *_ = description.removeprefix(PROXY_PREFIX).split(":", 1)
    if kind not in _KINDS:
        *most, last = (f"{name}:" for name in _KINDS)
        tls = "; TLS is ssl:" if kind == "tls" else ""
        raise ValueError(
            f"must begin with {', '.join(most)} or {last}, such as tcp:8080, "
            f"or with {PROXY_PREFIX} before one of these{tls}"
        )
    make, example = _KINDS[kind]
    return make(reactor, **_parseValues(description.removeprefix(PROXY_PREFIX), make, example))


def _parseValues(
    description: str, make: Callable[..., IStreamServerEndpoint], example: str
) -> dict[str, Any]:
    """The arguments for `make`."""
    (kind, *positional), named = parseArguments(description)
    names = list(signature(make).parameters)[1:]
    if "=" in description and re.search(r"=[0-9A-Fa-f:]*::", description):
        raise ValueError(
            r"write a colon in a value as \:, as in 'tcp:8080:interface=\:\:1', quoted for a shell"
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
            values[name] = _PARSERS.get(name, _parseText)(text)
        except ValueError as e:
            raise ValueError(f"{name}={text!r}: {e}") from e
    if names[0] not in values:
        raise ValueError(f"needs the {names[0]}, as in {example}")
    return values


def parsePort(text: str) -> int:
    """Parse a TCP port; 0 stands for any free one. Raises ValueError."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ValueError("takes a port from 0 to 65535")
    return int(text)


def _parseText(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _parseInterface(text: str) -> str:
    """Parse an address. `localhost` is the only name accepted, since it needs no resolver (RFC
    6761, 6.3). Other names may change their meaning, or fail to resolve."""
    if text in ("", "localhost"):
        return "127.0.0.1" if text else ""
    try:
        ipaddress.ip_address(text)
    except ValueError as e:
        raise ValueError(r"takes an address, such as 127.0.0.1 or \:\:1") from e
    return text


def _parseBacklog(text: str) -> int:
    if not 1 <= (number := parseCount(text)) < 1 << 31:
        raise ValueError("takes a whole number of at least 1, such as 1024")
    return number


def _parsePath(text: str) -> str:
    if not text:
        raise ValueError("takes a path, such as /run/echotwist.sock")
    if len(os.fsencode(text)) > MAX_UNIX_PATH:
        raise ValueError(f"takes a path of at most {MAX_UNIX_PATH} bytes")
    return text


def _parseMode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError("takes a mode such as 660")
    return int(text, 8)


def _parseFlag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("takes 0 or 1")
    return text == "1"


def _parseDomain(text: str) -> str:
    if text not in ("INET", "INET6", "UNIX"):
        raise ValueError("takes INET, INET6 or UNIX")
    return text


def _parseSslmethod(text: str) -> str:
    raise ValueError("is not supported: TLS 1.2 and 1.3 are spoken")


_PARSERS: dict[str, Callable[[str], Any]] = {
    "port": parsePort,
    "interface": _parseInterface,
    "backlog": _parseBacklog,
    "sslmethod": _parseSslmethod,
    "address": _parsePath,
    "mode": _parseMode,
    "lockfile": _parseFlag,
    "domain": _parseDomain,
    "index": parseCount,
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
    tcp = TCP4ServerEndpoint(reactor, port, backlog, interface)
    return TlsEndpoint(reactor, tcp, Certificate(reactor, privateKey, chain, dhParameters))


def _unix(
    reactor: Any, address: str, mode: int = 0o660, backlog: int = BACKLOG, lockfile: bool = True
) -> IStreamServerEndpoint:
    # Not open to every user: with --trusted-proxy=unix, whoever connects can claim any address.
    return UNIXServerEndpoint(reactor, address, backlog, mode, lockfile)


def _systemd(
    reactor: Any, domain: str, index: int | None = None, name: str | None = None
) -> IStreamServerEndpoint:
    if (index is None) == (name is None):
        raise ValueError("systemd: needs either index= or name=")
    which = f"index={index}" if name is None else f"name={quoteStringArgument(name)}"
    return activatedEndpoint(reactor, f"systemd:domain={domain}:{which}")


# The order of their parameters is that of Twisted's positional arguments.
_KINDS: dict[str, tuple[Callable[..., IStreamServerEndpoint], str]] = {
    "tcp": (_tcp, "tcp:8080"),
    "tcp6": (_tcp6, "tcp6:8080"),
    "ssl": (_ssl, "ssl:8443:privateKey=key.pem:certKey=chain.pem"),
    "unix": (_unix, "unix:/run/echotwist.sock"),
    "systemd": (_systemd, "systemd:domain=INET6:index=0"),
}


def parseArguments(description: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The positional and the named arguments of an endpoint description.

    The same as Twisted's private `_parse` (26.10, twisted/internet/endpoints.py); a test compares
    them. Raises ValueError for a backslash at the end.
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
