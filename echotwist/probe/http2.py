"""A WebSocket over HTTP/2 (RFC 8441), as browsers open one where the path offers it.

Here the library h2 does for a client: the probe wants to know whether it works, and by what step it
does not, rather than what the bytes are.
"""

import os
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error

from echotwist.paths.head import Headers, replacing
from echotwist.paths.measured import Http2
from echotwist.probe.connection import PATIENCE, Connection, Ended, Late
from echotwist.probe.dialer import AGENT, Dialer, NotReached
from echotwist.testing.frames import CLOSE, CONTINUATION, TEXT, frame, take

MOST = 256 << 10
"""Bytes that may come: some settings, a head and an echo take a thousand."""

_MESSAGE = b"over HTTP/2"

_STREAM = 1
"""The first of a client (RFC 9113, 5.1.1)."""


class _Failed(Exception):
    """There is no such WebSocket; the text says why."""


async def measure(near: Dialer) -> Http2:
    """Try it, for PATIENCE seconds once there is a connection."""
    found: Http2 = {
        "alpn": None,
        "connectProtocol": None,
        "status": None,
        "echoed": False,
        "why": "",
    }
    try:
        await _try(near, found)
    except _Failed as failed:
        found["why"] = str(failed)
    return found


async def _try(near: Dialer, found: Http2) -> None:
    """Fill in `found`. Raises _Failed."""
    if not near.target.isSecure:
        # A client that knows could speak it over plain TCP, too (RFC 9113, 3.3); no browser does.
        raise _Failed("HTTP/2 is tried over TLS only")
    try:
        connection = (await near.reach(protocols=[b"h2"])).connection
    except NotReached as error:
        # Without a protocol in common, a server sends an alert, or answers nothing by ALPN.
        raise _Failed(f"no connection for h2 alone: {error.stage}: {error}") from None
    try:
        transport: Any = connection.transport
        alpn = transport.getHandle().get_alpn_proto_negotiated().decode("latin-1")
        found["alpn"] = alpn or None
        if alpn != "h2":
            raise _Failed("h2 is not negotiated: it was offered, and the answer was nothing")
        session = _Session(connection)
        found["connectProtocol"] = await session.offersConnect()
        if not found["connectProtocol"]:
            raise _Failed("h2 without SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, 3)")
        status = found["status"] = await session.connect(_headers(near))
        if not 200 <= status < 300:
            raise _Failed(f"the extended CONNECT is answered {status}")
        echo = await session.echo(_MESSAGE)
        found["echoed"] = echo == _MESSAGE
        if not found["echoed"]:
            raise _Failed(f"another message came: {len(echo):,} bytes")
        await session.close()
    finally:
        connection.abort()


def _headers(near: Dialer) -> Headers:
    """Of an extended CONNECT (RFC 8441, 4 and 5)."""
    target = near.target
    usual = [
        ("user-agent", AGENT),
        ("origin", f"https://{target.authority}"),
        ("sec-websocket-version", "13"),
    ]
    return [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", target.path),
        (":authority", target.authority),
        *replacing(usual, list(target.headers)),
    ]


class _Session:
    """A connection of HTTP/2, the only stream of which becomes a WebSocket. What is asked of it
    raises _Failed, also when PATIENCE is at its end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._deadline = connection.reactor.seconds() + PATIENCE
        self._received = 0
        self._hasSettings = False
        self._status: int | None = None
        self._data = bytearray()
        self._pieces: list[bytes] = []
        self._message: bytes | None = None
        self._end = ""

    async def offersConnect(self) -> bool:
        """Whether the server takes an extended CONNECT, as it says first of all (RFC 9113, 3.4)."""
        self._h2.initiate_connection()
        await self._until(lambda: self._hasSettings, "SETTINGS")
        return bool(self._h2.remote_settings.enable_connect_protocol)

    async def connect(self, headers: Headers) -> int:
        """The status that it is answered with."""
        # h2 raises if something is asked of what has ended.
        await self._until(lambda: not self._end, "extended CONNECT")
        try:
            self._h2.send_headers(_STREAM, headers)
        except H2Error as error:  # Such as a TE of --header's.
            raise _Failed(f"HTTP/2 forbids what was to be sent: {error}") from None
        await self._until(lambda: self._status is not None, "answer to CONNECT")
        assert self._status is not None
        return self._status

    async def echo(self, text: bytes) -> bytes:
        """The first message that comes after this one was sent."""
        await self._send(TEXT, text)
        await self._until(lambda: self._message is not None, "echo")
        assert self._message is not None
        return self._message

    async def close(self) -> None:
        """In order, if the server lets it."""
        try:
            await self._send(CLOSE, (1000).to_bytes(2, "big"))
            await self._until(lambda: bool(self._end), "close")
        except _Failed:
            pass  # It has echoed, which is what was asked.

    async def _send(self, opcode: int, payload: bytes) -> None:
        data = frame(opcode, payload, mask=os.urandom(4))
        # A server may begin with no window at all (RFC 9113, 6.5.2).
        window = self._h2.local_flow_control_window
        await self._until(lambda: not self._end and window(_STREAM) >= len(data), "room to send")
        self._h2.send_data(_STREAM, data)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        self._connection.write(self._h2.data_to_send())
        while not holds():
            if self._end:
                raise _Failed(f"no {what}: {self._end}")
            try:
                data = await self._connection.more(self._deadline)
            except Late:
                raise _Failed(f"no {what} in {PATIENCE:.0f} s") from None
            except Ended as ended:
                raise _Failed(f"no {what}, but {ended.end.words()}") from None
            self._received += len(data)
            if self._received > MOST:
                raise _Failed(f"no {what}, but more than {MOST:,} bytes")
            try:
                for event in self._h2.receive_data(data):
                    self._took(event)
            except (H2Error, ValueError) as error:
                raise _Failed(f"no {what}, but what is not in order: {error}") from None
            self._connection.write(self._h2.data_to_send())

    def _took(self, event: Event) -> None:
        """Raises ValueError for what is no status, or no frame."""
        match event:
            case RemoteSettingsChanged():
                self._hasSettings = True
            case ResponseReceived():
                self._status = int(dict(event.headers or [])[b":status"])
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, _STREAM)
                self._data += event.data or b""
                self._parse()
            case StreamEnded():
                self._end = self._end or "the stream was ended"
            case StreamReset() | ConnectionTerminated():
                what = "the stream was reset" if isinstance(event, StreamReset) else "GOAWAY came"
                code = getattr(event.error_code, "name", event.error_code)
                self._end = self._end or f"{what}, with {code}"

    def _parse(self) -> None:
        while (taken := take(self._data)) is not None:
            found, size = taken
            del self._data[:size]
            if found.opcode == CLOSE:
                self._end = "a close frame came"
            elif found.opcode in (TEXT, CONTINUATION):
                self._pieces.append(found.payload)
                if found.fin:
                    self._message = b"".join(self._pieces)
