"""Beside the WebSocket: what a plain request on the same path through the proxies shows.

    /lab/inspect    the request as it arrived here
    /lab/sse        server-sent events, one a second
    /lab/stream     a chunked answer, at so many bytes a second

If events and lines come one by one, and a WebSocket does not, the proxy breaks WebSockets; if they
come all at once, it buffers.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET

from echotwist.http.channel import Request
from echotwist.lab.answer import (
    BadParameter,
    Open,
    Parameter,
    dateTime,
    parametersOf,
    refuseParameter,
)
from echotwist.lab.longanswer import Pieces, answerAtLength
from echotwist.lab.redaction import Header, headersOf
from echotwist.lab.trace import Tls
from echotwist.limits import (
    LAB_INTERVAL,
    LAB_PAYLOAD,
    LAB_RATE,
    LAB_REPETITIONS,
    LAB_STEP,
    parseCount,
    parseSeconds,
    parseSize,
)
from echotwist.websocket.connections import Connections
from echotwist.wire.context import Context
from echotwist.wire.peer import nameOf
from echotwist.wire.transport import tlsOf

RETRY = 1000
"""Milliseconds after which an EventSource connects anew."""

_LINE = 64
"""Bytes of a line of /lab/stream; more, if more than one of them were due in a tick."""

_TICK = 0.05
"""Seconds between two lines, if they are longer."""


def inspected(request: Request) -> dict[str, Any]:
    """The request as it arrived, for JSON, but for the headers that `redaction` hides. Bytes are
    one character each."""
    site: Any = request.site
    peer = request.getClientAddress()
    client, _ = site.clientOf(request)
    return {
        "method": request.method.decode("latin-1"),
        "target": request.uri.decode("latin-1"),
        "version": request.clientproto.decode("latin-1"),
        "peer": nameOf(peer),
        "client": client,
        "tls": tlsFacts(request),
        "headers": [_shown(header) for header in headersOf(request.headerLines)],
    }


def _shown(header: Header) -> list[str]:
    value = header.value
    text = f"{header.size:,} bytes, not shown" if value is None else value.decode("latin-1")
    return [header.name.decode("latin-1"), text]


def tlsFacts(request: Request) -> Tls | None:
    """None without TLS, or where a proxy has ended it."""
    tls = tlsOf(request.channel.transport)
    if tls is None:
        return None
    connection: Any = tls.getHandle()  # pyOpenSSL's.
    name = connection.get_servername()
    return {
        "version": connection.get_protocol_version_name(),
        "cipher": connection.get_cipher_name(),
        "serverName": None if name is None else name.decode("latin-1"),
    }


def _within(parse: Callable[[str], Any], least: float, most: float) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        value = parse(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return parsed


class Lasting(Open, ABC):
    """A resource whose answer lasts. Subclasses say of what it is made."""

    parameters: dict[str, Parameter]
    contentType: str

    def __init__(self, context: Context, connections: Connections) -> None:
        super().__init__()
        self._context = context
        self._connections = connections

    def render_GET(self, request: Request) -> bytes | int:
        try:
            values = parametersOf(request, self.parameters)
        except BadParameter as bad:
            return refuseParameter(request, bad)
        request.setHeader("Content-Type", self.contentType)
        pieces = self.pieces(request, self._context.reactor, **values)
        if pieces is None:
            # Not b"", for which Twisted adds a Content-Length (RFC 9110, 8.6).
            request.setResponseCode(204, b"No Content")
            request.write(b"")
            request.finish()
            return NOT_DONE_YET
        return answerAtLength(request, self._context, self._connections, pieces, self.farewell)

    @abstractmethod
    def pieces(self, request: Request, reactor: IReactorTime, **values: Any) -> Pieces | None:
        """What is sent; None if there is nothing left to send."""

    @abstractmethod
    def farewell(self, why: str) -> bytes:
        """What is sent last if the answer is ended before that, and `why`."""


class ServerSentEvents(Lasting):
    """`/lab/sse`: an event at once, and one each `interval` (WHATWG HTML, 9.2)."""

    contentType = "text/event-stream"
    parameters = {
        "interval": Parameter(
            f"a time from {LAB_INTERVAL * 1000:.0f}ms to {LAB_STEP:.0f}s",
            _within(parseSeconds, LAB_INTERVAL, LAB_STEP),
            1.0,
        ),
        "count": Parameter(
            f"a whole number from 1 to {LAB_REPETITIONS:,}", _within(parseCount, 1, LAB_REPETITIONS)
        ),
    }

    def pieces(self, request: Request, reactor: IReactorTime, **values: Any) -> Pieces | None:
        """An EventSource comes back with the ID of the last event, and gets those behind it. After
        the last, 204 has it stay away."""
        last = request.getHeader("Last-Event-ID") or ""
        first = int(last) + 1 if re.fullmatch(r"\d{1,9}", last, re.ASCII) else 1
        most = values["count"] or float("inf")
        return None if first > most else _events(reactor, values["interval"], first, most)

    def farewell(self, why: str) -> bytes:
        return f"event: end\ndata: {json.dumps({'why': why})}\n\n".encode()


def _events(reactor: IReactorTime, interval: float, first: int, most: float) -> Pieces:
    began = reactor.seconds()
    number = first
    beginning = f"retry: {RETRY}\n"
    while number <= most:
        now = reactor.seconds()
        data = {"number": number, "seconds": round(now - began, 3), "sent": dateTime(now)}
        event = f"{beginning}id: {number}\ndata: {json.dumps(data)}\n\n"
        yield event.encode(), interval if number < most else 0
        number += 1
        beginning = ""


class Stream(Lasting):
    """`/lab/stream`: lines, each with the time at which it was sent."""

    contentType = "text/plain; charset=utf-8"
    parameters = {
        "rate": Parameter(
            f"bytes a second, from 1 to {LAB_RATE >> 20}M", _within(parseSize, 1, LAB_RATE), 1 << 10
        ),
        "size": Parameter(
            f"a size of at most {LAB_PAYLOAD >> 20}M", _within(parseSize, 1, LAB_PAYLOAD), 10 << 10
        ),
    }

    def pieces(self, request: Request, reactor: IReactorTime, **values: Any) -> Pieces:
        return _lines(reactor, values["rate"], values["size"])

    def farewell(self, why: str) -> bytes:
        return f"ended: {why}\n".encode()


def _lines(reactor: IReactorTime, rate: int, size: int) -> Pieces:
    began = reactor.seconds()
    number = 0
    length = max(_LINE, int(rate * _TICK))
    while size:
        number += 1
        now = reactor.seconds()
        line = f"{number} {now - began:.3f} s {dateTime(now)} ".encode()
        some = min(length, size)
        size -= some
        yield line[: some - 1].ljust(some - 1, b".") + b"\n", some / rate if size else 0
