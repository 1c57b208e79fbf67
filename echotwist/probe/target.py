"""What is probed: a URL, and how to get there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import idna
from OpenSSL import SSL, crypto
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

HTTP1 = (b"http/1.1",)
"""What is offered by ALPN: the Upgrade is HTTP/1.1's."""

_PORTS = {"ws": 80, "wss": 443}

_OURS = {
    *("host", "upgrade", "connection", "content-length", "transfer-encoding"),
    *("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"),
    "sec-websocket-protocol",
}
"""Headers that the probe sends itself, to see what becomes of them."""


class BadTarget(ValueError):
    """The URL, a header, a proxy or a file is none; the text says why."""


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)
    """`user:password`."""


def parseProxy(url: str) -> Proxy:
    """`http://user:password@host:port`. Raises BadTarget."""
    parts, port = _split(url, "a proxy")
    if parts.scheme != "http" or parts.path not in ("", "/") or parts.query:
        raise BadTarget(f"a proxy is http://[USER:PASSWORD@]HOST:PORT, not {_shown(url)}")
    credentials = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(_ascii(parts.hostname), port or 8080, credentials)


def parseHeader(text: str) -> tuple[str, str]:
    """`Name: value`. Raises BadTarget."""
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.fullmatch(name):
        raise BadTarget("a header is NAME: VALUE")
    if not value.isprintable() or not value.isascii():
        raise BadTarget(f"the value of the header {name} must be printable ASCII")
    if name.lower() in _OURS:
        raise BadTarget(f"the header {name} is the probe's own")
    return name, value


@dataclass(frozen=True)
class Target:
    """A URL of a WebSocket, and how to get there."""

    url: str
    """As it is shown: without credentials."""

    host: str
    port: int
    isSecure: bool
    path: str
    """With its query."""

    headers: tuple[tuple[str, str], ...] = ()
    proxy: Proxy | None = None
    caFile: str | None = None
    """PEM; whom to trust instead of the authorities of this machine."""

    isInsecure: bool = False
    """Whether any certificate is taken."""

    @classmethod
    def parse(cls, url: str, **options: Any) -> "Target":
        """`options` are the fields from `headers` on. Raises BadTarget."""
        parts, port = _split(url, "a URL")
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in _PORTS:
            raise BadTarget(f"a WebSocket's URL begins with ws:// or wss://, not {_shown(url)}")
        if parts.username is not None:
            raise BadTarget("no credentials in the URL: give them as --header 'Authorization: …'")
        if not url.isprintable():
            raise BadTarget(f"{_shown(url)} has what does not print")
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        port = port or _PORTS[scheme]
        host = _ascii(parts.hostname)
        shown = f"{scheme}://{_bracketed(host)}{'' if port == _PORTS[scheme] else f':{port}'}{path}"
        target = cls(shown, host, port, scheme == "wss", path, **options)
        if target.isSecure:
            target.trust()  # A file that cannot be read is told now.
        return target

    @property
    def authority(self) -> str:
        """What Host says."""
        isUsual = self.port == _PORTS[self._scheme]
        return self.bracketed if isUsual else f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host, as it stands before a port."""
        return _bracketed(self.host)

    @property
    def _scheme(self) -> str:
        return "wss" if self.isSecure else "ws"

    def beside(self, name: str) -> str:
        """The path of another resource of the same service, which may be below a prefix."""
        return self.path.partition("?")[0].rpartition("/")[0] + "/" + name

    def trust(self, protocols: Sequence[bytes] = HTTP1) -> Any:
        """Makes the TLS of a connection, for `startTLS`; the `protocols` are offered by ALPN.
        Raises BadTarget."""
        if self.isInsecure:
            return self.untrusting(protocols)
        root = platformTrust() if self.caFile is None else _authorities(self.caFile)
        return optionsForClientTLS(self.host, root, acceptableProtocols=list(protocols))

    def untrusting(self, protocols: Sequence[bytes] = HTTP1) -> Any:
        """As `trust`, but any certificate is taken."""
        return _Untrusting(self.host, protocols)


def targetOf(
    url: str,
    headers: Mapping[str, str] | None = None,
    proxy: str | None = None,
    cacert: str | None = None,
    insecure: bool = False,
) -> Target:
    """From what a user gives. Raises BadTarget."""
    if headers is not None and not isinstance(headers, Mapping):
        raise BadTarget("headers are a mapping of names to values")
    return Target.parse(
        url,
        headers=tuple(parseHeader(f"{name}: {value}") for name, value in (headers or {}).items()),
        proxy=None if proxy is None else parseProxy(proxy),
        caFile=cacert,
        isInsecure=insecure,
    )


@implementer(IOpenSSLClientConnectionCreator)
class _Untrusting:
    def __init__(self, host: str, protocols: Sequence[bytes]) -> None:
        self._host = host
        self._protocols = protocols

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos(list(self._protocols))
        connection = SSL.Connection(context, None)
        if not isIPAddress(self._host) and not isIPv6Address(self._host):
            connection.set_tlsext_host_name(self._host.encode())
        return connection


def _authorities(path: str) -> Any:
    try:
        pem = _CERTIFICATE.findall(Path(path).read_bytes())
    except OSError as error:
        raise BadTarget(f"cannot read {path}: {error.strerror}") from None
    if not pem:
        raise BadTarget(f"{path} has no certificates in PEM")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(each) for each in pem])
    except (crypto.Error, ValueError) as error:
        raise BadTarget(f"{path} has a certificate that cannot be read") from error


def _split(url: str, what: str) -> tuple[Any, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # Its words may have a part of the password.
        raise BadTarget(f"{_shown(url)} is not {what}: its host or port is none") from None
    if port == 0:
        raise BadTarget(f"{_shown(url)} is not {what}: nothing listens on port 0")
    if not parts.hostname:
        raise BadTarget(f"{_shown(url)} is not {what}: it names no host")
    if parts.fragment:
        raise BadTarget(f"{_shown(url)}: a fragment is nothing that a server gets")
    return parts, port


def _bracketed(host: str) -> str:
    """RFC 3986, 3.2.2."""
    return f"[{host}]" if ":" in host else host


def _ascii(host: str) -> str:
    """The name of a host as DNS has it. Raises BadTarget."""
    try:
        # IDNA 2008, as browsers have it: Python's own codec is of 2003, for which straße.de is
        # strasse.de, another name. It does for ASCII, in which others have underscores.
        name: bytes = host.encode("idna") if host.isascii() else idna.encode(host, uts46=True)
        return name.decode()
    except UnicodeError:
        raise BadTarget(f"{host[:100]!r} is no name of a host") from None


def _shown(url: str) -> str:
    """Without credentials."""
    return repr(re.sub(r"^(\w+://)?.*@", r"\1…@", url)[:200])
