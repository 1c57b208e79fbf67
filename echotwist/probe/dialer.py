"""Opens connections to a target: TCP, a proxy, TLS, and then a WebSocket or a plain answer."""

import os
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from echotwist import __version__
from echotwist.paths.head import Head, Headers, replacing
from echotwist.probe.connection import PATIENCE, Connection, Ended, Late
from echotwist.probe.target import HTTP1, Target

DEFLATE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
"""What is offered: without context takeover each message stands alone, as a check of one must."""

MOST_BODY = 4 << 20
"""Bytes of an answer that is no upgrade; a trace has up to a megabyte."""

AGENT = f"echotwist-probe/{__version__}"

_LENGTH = re.compile(r"[0-9]{1,9}")

_LAST = b"0\r\n\r\n"
"""The end of a chunked body that has no trailers."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class NotReached(Exception):
    """There is no connection: `stage` is `dns`, `tcp`, `proxy` or `tls`, and the text says why."""

    def __init__(self, stage: str, why: str) -> None:
        super().__init__(why)
        self.stage = stage


@dataclass(frozen=True)
class Upgrade:
    """A handshake: what was sent, and what came."""

    connection: Connection
    request: Head
    response: Head
    deflates: bool
    """Whether compression is agreed on."""

    duration: float
    """Seconds from the request to the answer."""


class Refused(Exception):
    """The answer is no 101 that a client must take (RFC 6455, 4.1). `response` is None if there was
    none; the text says why."""

    def __init__(self, why: str, request: Head, response: Head | None = None) -> None:
        super().__init__(why)
        self.request = request
        self.response = response
        self.body = b""


@dataclass
class Reached:
    """How a connection came about: seconds of each stage."""

    connection: Connection
    address: str = ""
    took: dict[str, float] = field(default_factory=dict)


class Dialer:
    """Everything that one probe opens. `reactor` is its clock, too."""

    def __init__(self, reactor: Any, target: Target) -> None:
        self.reactor = reactor
        self.target = target
        self._all: set[Connection] = set()

    def abortAll(self) -> None:
        for connection in list(self._all):
            connection.abort()

    async def reach(
        self, *, isTrusting: bool = False, protocols: Sequence[bytes] = HTTP1
    ) -> Reached:
        """TCP, the proxy, TLS with these `protocols`; `isTrusting`: with any certificate. Raises
        NotReached."""
        target, proxy = self.target, self.target.proxy
        began = self.reactor.seconds()
        host, port = (target.host, target.port) if proxy is None else (proxy.host, proxy.port)
        reached = Reached(await self._connect(host, port, "tcp" if proxy is None else "proxy"))
        transport: Any = reached.connection.transport
        peer = transport.getPeer()
        reached.address = f"{peer.host}:{peer.port}"
        reached.took["tcp"] = self.reactor.seconds() - began
        try:
            if proxy is not None:
                await self._tunnel(reached.connection, proxy.credentials)
                reached.took["proxy"] = self.reactor.seconds() - began - sum(reached.took.values())
            if target.isSecure:
                secure = target.untrusting if isTrusting else target.trust
                await self._secure(reached.connection, secure(protocols))
                reached.took["tls"] = self.reactor.seconds() - began - sum(reached.took.values())
        except BaseException:
            reached.connection.abort()
            raise
        return reached

    async def _secure(self, connection: Connection, options: Any) -> None:
        """TLS. Raises NotReached."""
        try:
            await connection.startTls(options)
        except (Ended, Late) as error:
            why = error.end.reason or error.end.how if isinstance(error, Ended) else "no answer"
            raise NotReached("tls", why) from None

    async def upgrade(
        self, path: str, *, deflate: bool = False, more: Headers | None = None
    ) -> Upgrade:
        """A WebSocket; `more` are headers beside those that each has. Raises NotReached and
        Refused."""
        connection = (await self.reach()).connection
        key = b64encode(os.urandom(16))
        request = self._request(path, deflate=deflate, key=key, more=more)
        sent = Head.parse(request)
        began = self.reactor.seconds()
        connection.write(request)
        try:
            response = await _final(connection, began + PATIENCE)
            if (why := _whyNot(sent, response, key)) is not None:
                refused = Refused(why, sent, response)
                refused.body = await self._body(connection, response)
                raise refused
        except Late:
            connection.abort()
            raise Refused(f"no answer in {PATIENCE:.0f} s", sent) from None
        except Ended as ended:
            connection.abort()  # Its end may be that it sends, and never ends its head.
            raise Refused(f"no answer, but {ended.end.words()}", sent) from None
        except BaseException:
            connection.abort()
            raise
        connection.open()
        extensions = response.get("sec-websocket-extensions") or ""
        return Upgrade(
            connection,
            sent,
            response,
            extensions.lower().startswith("permessage-deflate"),
            self.reactor.seconds() - began,
        )

    async def get(self, path: str) -> tuple[Head, bytes]:
        """A plain answer, and its body. Raises NotReached and Refused."""
        connection = (await self.reach()).connection
        usual = [("Host", self.target.authority), ("Connection", "close")]
        request = _written(f"GET {path} HTTP/1.1", [*usual, *self.target.headers])
        connection.write(request)
        try:
            head = await _final(connection, self.reactor.seconds() + PATIENCE)
            return head, await self._body(connection, head)
        except Late:
            raise Refused(f"no answer in {PATIENCE:.0f} s", Head.parse(request)) from None
        except Ended as ended:
            raise Refused(f"no answer, but {ended.end.words()}", Head.parse(request)) from None
        finally:
            connection.abort()

    async def _connect(self, host: str, port: int, stage: str) -> Connection:
        def build() -> Connection:
            connection = Connection(self.reactor, self._all.discard)
            self._all.add(connection)
            return connection

        endpoint = HostnameEndpoint(self.reactor, host, port, timeout=PATIENCE)
        connecting = endpoint.connect(Factory.forProtocol(build))

        def cancel(connected: Deferred[Any]) -> None:
            # Twisted's error would be that the name is unknown, or another that is none of ours.
            connected.errback(CancelledError())
            connecting.cancel()

        def tell(result: Any) -> None:
            if not connected.called:
                connected.callback(result)

        connected: Deferred[Any] = Deferred(cancel)
        connecting.addBoth(tell)
        try:
            # The endpoint's own timeout does not count the lookup of the name.
            made: Connection = await connected.addTimeout(2 * PATIENCE, self.reactor)
        except CancelledError:
            raise
        except Exception as error:  # Whatever a resolver and a socket raise.
            isUnknown = type(error).__name__ == "DNSLookupError"
            raise NotReached("dns" if isUnknown else stage, _words(error)) from error
        return made

    async def _tunnel(self, connection: Connection, credentials: str | None) -> None:
        """CONNECT (RFC 9110, 9.3.6). Raises NotReached."""
        authority = f"{self.target.bracketed}:{self.target.port}"
        headers = [("Host", authority)]
        if credentials is not None:
            encoded = b64encode(credentials.encode()).decode()
            headers.append(("Proxy-Authorization", f"Basic {encoded}"))
        connection.write(_written(f"CONNECT {authority} HTTP/1.1", headers))
        try:
            head = Head.parse(await connection.head(self.reactor.seconds() + PATIENCE))
            if not 200 <= head.status < 300:
                raise NotReached("proxy", f"the proxy answers CONNECT with {head.line!r}")
            if connection.hasMore:
                # Taken for the server's, it would be believed as if TLS had brought it.
                raise NotReached("proxy", "the proxy sends more behind its answer to CONNECT")
        except Late:
            raise NotReached("proxy", f"no answer to CONNECT in {PATIENCE:.0f} s") from None
        except Ended as ended:
            raise NotReached("proxy", f"no answer to CONNECT, but {ended.end.words()}") from None

    def _request(self, path: str, *, deflate: bool, key: bytes, more: Headers | None) -> bytes:
        target = self.target
        scheme = "https" if target.isSecure else "http"
        given = replacing(list(target.headers), more or [])
        usual = [
            ("Host", target.authority),
            ("User-Agent", AGENT),
            ("Origin", f"{scheme}://{target.authority}"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key.decode()),
            ("Sec-WebSocket-Version", "13"),
            *([("Sec-WebSocket-Extensions", DEFLATE)] if deflate else []),
        ]
        # A user may have an Origin, or a User-Agent, of his own.
        return _written(f"GET {path} HTTP/1.1", replacing(usual, given))

    async def _body(self, connection: Connection, head: Head) -> bytes:
        """As much of it as comes in time, up to MOST_BODY."""
        deadline = self.reactor.seconds() + PATIENCE
        length = head.get("content-length") or ""
        least = int(length) if _LENGTH.fullmatch(length) else MOST_BODY
        if head.status in (204, 304):
            least = 0
        isChunked = head.has("transfer-encoding", "chunked")
        raw = bytearray()
        try:
            while len(raw) < min(least, MOST_BODY) and not (isChunked and raw.endswith(_LAST)):
                raw += await connection.more(deadline)
        except (Ended, Late):
            pass  # It is what has come, as for any client.
        finally:
            connection.abort()
        return _dechunked(bytes(raw)) if isChunked else bytes(raw)


def _written(line: str, headers: Headers) -> bytes:
    """The head of a request."""
    lines = [line, *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _final(connection: Connection, deadline: float) -> Head:
    """The head of the answer, behind those of interim ones (RFC 9110, 15.2). Raises Ended and
    Late."""
    while True:
        head = Head.parse(await connection.head(deadline))
        if not 100 <= head.status < 200 or head.status == 101:
            return head


def _whyNot(request: Head, response: Head, key: bytes) -> str | None:
    """Why a client must not take this answer; None if it is a 101 in order (RFC 6455, 4.1)."""
    if response.status != 101:
        return f"the answer is {response.line!r}" if response.line else "the answer is no HTTP"
    if (response.get("upgrade") or "").lower() != "websocket":
        return "the 101 has no Upgrade: websocket"
    if not response.has("connection", "upgrade"):
        return "the 101 has no Connection: Upgrade"
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if response.get("sec-websocket-accept") != accept:
        return "the Sec-WebSocket-Accept of the 101 does not belong to the key"
    for what, header in (
        ("an extension", "sec-websocket-extensions"),
        ("a subprotocol", "sec-websocket-protocol"),
    ):
        if not _names(response.get(header)) <= _names(request.get(header)):
            return f"the 101 has {what} that was not offered"
    return None


def _names(value: str | None) -> set[str]:
    """Of extensions or subprotocols, without their parameters."""
    names = {each.partition(";")[0].strip().lower() for each in (value or "").split(",")}
    return names - {""}


_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})(?:;[^\r\n]*)?\r\n")


def _dechunked(raw: bytes) -> bytes:
    """RFC 9112, 7.1; as much as is there."""
    pieces, at = [], 0
    while (size := _CHUNK.match(raw, at)) is not None:
        end = size.end() + int(size[1], 16)
        pieces.append(raw[size.end() : end])
        at = end + len(b"\r\n")
    return b"".join(pieces)


def _words(error: Exception) -> str:
    """What Twisted says of a failed connection, in short."""
    number = getattr(error, "osError", None)
    if isinstance(number, int):
        return os.strerror(number).lower()
    return {
        "DNSLookupError": "the name has no address",
        "TimeoutError": f"no connection in {PATIENCE:.0f} s",
        "ConnectionRefusedError": "connection refused",
    }.get(type(error).__name__, str(error) or type(error).__name__)
