"""The handshake as HTTP sees it: vets the request to upgrade, then hands the connection over.

Twisted has parsed the request, and Autobahn would parse it again, by other rules: it splits
headers at \\x85 and \\x1c as well as at newlines, takes a non-breaking space in the target for
a space, and never sees that a header came twice (autobahn/websocket/protocol.py, 26.10.2,
parseHttpHeader; autobahn/twisted/resource.py, WebSocketResource.render). So everything a handshake
needs (RFC 6455, 4.2.1) is vetted here, where the request is still what the client sent, and the
connection gets what passed: the key, the subprotocol and the offers of compression. Nothing else of
the client's text reaches it. So a header that nobody here reads may have any bytes that HTTP
allows: RFC 9110, 5.5 has those from 0x80 on opaque, and browsers and CDNs do send them.
"""

import re
from collections.abc import Collection, Hashable
from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.web.server import NOT_DONE_YET

from echotwist.http.answer import Exact, Refused
from echotwist.http.channel import Request, elements
from echotwist.http.usual import UsualRequest
from echotwist.websocket import deflate
from echotwist.websocket.connection import Connection, ConnectionFactory, Handshake

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = rf'{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|"{_TOKEN}"))?'
_EXTENSION = re.compile(rf"({_TOKEN})(?:[ \t]*;[ \t]*{_PARAMETER})*")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Not allowed in any header (RFC 9110, 5.5)."""

_NOT_PRINTABLE_ASCII = re.compile(rb"[^\x20-\x7e]")

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::(\d{1,5}))?")
_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]+)(?::(\d{0,5}))?")
"""A host, and a port, which may be missing or empty (RFC 3986, 3.2)."""


# A 426 names the protocol in Upgrade, and Upgrade in Connection (RFC 9110, 7.8 and 15.5.22).
_VERSION = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}


class UpgradeResource(Exact):
    """Upgrades requests to connections of `factory`. `allowedOrigins` empty lets every page
    connect."""

    isUsual = True
    """Whether all its connections are the same, so that a `UsualRequest`, which has no query, is
    enough to make one."""

    def __init__(self, factory: ConnectionFactory, allowedOrigins: Collection[str]) -> None:
        super().__init__()
        self._factory = factory
        self._allowedOrigins = frozenset(allowedOrigins)

    def render_GET(self, request: Request) -> bytes | int:
        site: Any = request.site  # A `site.HttpSite`, whose module imports this one.
        name, network = site.clientOf(request)
        try:
            handshake = self._vet(request)
            if (why := self._factory.connections.unavailable(network)) is not None:
                raise Refused(503, why, Retry_After="5")
            connection = self.connectionFor(request)
        except Refused as refused:
            answer: bytes = site.refusal(request, refused).render(request)
            return answer
        channel: Any = request.channel
        self._upgrade(channel, connection, name, network, handshake, channel.clearLineBuffer())
        return NOT_DONE_YET

    def connectionFor(self, request: Request) -> Connection:
        """The connection that serves this request, which is vetted. May raise Refused."""
        return self._factory.buildProtocol(None)

    def upgradeUsual(
        self, channel: Any, name: str, network: Hashable, request: UsualRequest
    ) -> bool:
        """As `render_GET` for such a request. Returns False if it would refuse."""
        headers = request.headers

        def values(name: str) -> list[str]:
            return [headers[name]] if name in headers else []

        host = HOST.fullmatch(headers.get("host", ""))
        if host is None or self._factory.connections.unavailable(network) is not None:
            return False
        try:
            handshake = self._agree(
                host,
                headers.get("sec-websocket-key", ""),
                headers.get("origin"),
                values("sec-websocket-protocol"),
                values("sec-websocket-extensions"),
            )
        except Refused:
            return False
        connection = self._factory.buildProtocol(None)
        self._upgrade(channel, connection, name, network, handshake, request.early)
        return True

    def _upgrade(
        self,
        channel: Any,
        connection: Connection,
        name: str,
        network: Hashable,
        handshake: Handshake,
        early: bytes,
    ) -> None:
        connection.address = name
        if network is not None:
            connection.network = network
        connection.handshake = handshake
        channel.upgrade(connection, early)

    def _vet(self, request: Request) -> Handshake:
        """Raises Refused."""
        headers = request.requestHeaders

        def values(name: str) -> list[str]:
            raw = headers.getRawHeaders(name.encode(), [])
            if not all(map(bytes.isascii, raw)):
                raise Refused(400, f"the {name} header has a non-ASCII byte")
            return [value.decode("ascii") for value in raw]

        def one(name: str) -> str:
            match values(name):
                case [value]:
                    return value
                case []:
                    raise Refused(400, f"the {name} header is missing")
                case _:
                    raise Refused(400, f"the {name} header came twice")

        def tokens(name: str) -> list[str]:  # Request.tokens() takes any byte.
            return elements(map(str.lower, values(name)))

        if request.method != b"GET" or "websocket" not in tokens("Upgrade"):
            raise Refused(
                426,
                "this is a WebSocket endpoint: connect to it with a WebSocket client, "
                "such as new WebSocket(url) in a browser",
                **_VERSION,
            )
        texts = [text for name, raw in headers.getAllRawHeaders() for text in (name, *raw)]
        if _CONTROL.search(b"".join(texts)):
            raise Refused(400, "a header has a control byte")
        if _NOT_PRINTABLE_ASCII.search(request.uri):
            raise Refused(400, "the target has a control or non-ASCII byte")
        if request.clientproto != b"HTTP/1.1":
            raise Refused(400, "an upgrade takes HTTP/1.1")
        host = HOST.fullmatch(one("Host"))
        if host is None:
            raise Refused(400, "the Host header is malformed")
        if request.authority is not None:  # It replaces Host (RFC 9112, 3.2.2); the site vetted it.
            host = HOST.fullmatch(request.authority.decode("ascii"))
            assert host is not None
        if "upgrade" not in tokens("Connection"):
            raise Refused(400, "the Connection header does not say Upgrade")
        if one("Sec-WebSocket-Version") != "13":
            raise Refused(426, "only version 13 is spoken here", **_VERSION)
        return self._agree(
            host,
            one("Sec-WebSocket-Key"),
            one("Origin") if values("Origin") else None,
            values("Sec-WebSocket-Protocol"),
            values("Sec-WebSocket-Extensions"),
        )

    def _agree(
        self,
        host: re.Match[str],
        key: str,
        origin: str | None,
        subprotocols: list[str],
        extensions: list[str],
    ) -> Handshake:
        """What follows from these headers, of a request that is right otherwise. Raises Refused."""
        if _KEY.fullmatch(key) is None:
            raise Refused(400, "the Sec-WebSocket-Key is not 16 bytes in base64")
        if origin is not None and not self._allows(origin, host[1], host[2]):
            raise Refused(403, "the Origin is not allowed here")
        return Handshake(key, _subprotocol(subprotocols), deflateOffers(extensions))

    def _allows(self, origin: str, host: str, port: str | None) -> bool:
        """Whether a page of `origin` may connect (RFC 6455, 10.2): the operator allowed it, or the
        page came from the address that it connects to."""
        if not self._allowedOrigins:
            return True
        try:
            its = canonicalOrigin(origin)
            scheme = its.partition("://")[0]
            # Behind a proxy that terminates TLS, only the page knows the scheme.
            return its in self._allowedOrigins or its == canonicalOrigin(
                f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"
            )
        except ValueError:
            return origin == "null" and origin in self._allowedOrigins


def canonicalOrigin(text: str) -> str:
    """`text` as RFC 6454 compares origins: in lower case, always with a port.

    Raises ValueError if it is no origin; `null` is none.
    """
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or int(match[3] or 0) > 65535:
        raise ValueError("takes an origin such as https://example.com or http://localhost:3000")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}:{int(port) if port else _PORTS.get(scheme)}"


def _subprotocol(headers: list[str]) -> str | None:
    """The subprotocol to speak: the first that the client offers, since an echo speaks all of them,
    and a browser that asked for one hangs up if it gets none. None without an offer. Raises
    Refused."""
    if not headers:
        return None
    offered = elements(headers)
    isOnce = len(set(offered)) == len(offered)
    if not (offered and isOnce and all(re.fullmatch(_TOKEN, name) for name in offered)):
        raise Refused(400, "the Sec-WebSocket-Protocol header is malformed")
    return offered[0]


def deflateOffers(values: list[str]) -> list[PerMessageDeflateOffer]:
    """The offers of permessage-deflate that can be accepted.

    Raises Refused for anything but a list of extensions (RFC 6455, 9.1).
    """
    offers = []
    for extension in elements(values):
        if (match := _EXTENSION.fullmatch(extension)) is None:
            raise Refused(400, "the Sec-WebSocket-Extensions header is malformed")
        if match[1].lower() != deflate.NAME:
            continue
        _, *parameters = (part.strip(" \t") for part in extension.split(";"))
        given: dict[str, list[str | None]] = {}
        for parameter in parameters:
            key, equals, value = parameter.partition("=")
            given.setdefault(key.strip(" \t").lower(), []).append(
                value.strip(' \t"') if equals else None
            )
        if offer := deflate.understood(given):
            offers.append(offer)
    return offers
