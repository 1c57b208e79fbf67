"""/trace/ID: what the server saw of a connection.

    GET /trace/ID                                     JSON; docs/trace.schema.json is its schema
    GET /trace/ID?format=text                         lines in the words of RFC 6455
    GET /trace/ID?format=har                          what Chrome's developer tools import
    GET /trace/ID?format=events                       a live stream of server-sent events
    GET /trace/ID, with Accept: text/event-stream     the same, as an EventSource asks for it

Any page may read it: the ID is the secret.
"""

from collections.abc import Iterator

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as TwistedRequest

from echotwist.http.answer import Answer
from echotwist.http.channel import Request
from echotwist.lab.answer import Open, argumentsOf
from echotwist.lab.longanswer import answerAtLength
from echotwist.lab.trace import Trace, Traces
from echotwist.lab.traceformats import asEvents, asHar, asJson, asText
from echotwist.limits import LAB_HEARTBEAT, LAB_TRACE_READERS
from echotwist.websocket.connections import Connections
from echotwist.wire.context import Context

_MISSING = Answer(404, "there is no trace with this ID, or no more")
_BAD_FORMAT = Answer(400, "the format is json, text, har or events")
_CROWDED = Answer(503, f"{LAB_TRACE_READERS} are reading this trace already", {"Retry-After": "5"})

_FORMATS = {"json": asJson, "text": asText, "har": asHar}
_EVENTS = "events"
_TYPES = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "har": "application/json",
    _EVENTS: "text/event-stream",
}


class Missing(Open):
    """What is there for an ID that no trace has."""

    def getChild(self, path: bytes, request: TwistedRequest) -> Resource:
        return Missing()

    def render_GET(self, request: Request) -> bytes | int:
        return _MISSING.render(request)


class TraceResource(Missing):
    """/trace; its children are the traces."""

    def __init__(self, traces: Traces, connections: Connections) -> None:
        super().__init__()
        self._traces = traces
        self._connections = connections

    def getChild(self, path: bytes, request: TwistedRequest) -> Resource:
        trace = self._traces.get(path.decode("latin-1"))
        if trace is None:
            return Missing()
        return OneTrace(trace, self._traces.context, self._connections)


class OneTrace(Missing):
    """/trace/ID."""

    def __init__(self, trace: Trace, context: Context, connections: Connections) -> None:
        super().__init__()
        self._trace = trace
        self._context = context
        self._connections = connections

    def render_GET(self, request: Request) -> bytes | int:
        kind = _formatOf(request)
        if kind not in _TYPES:
            return _BAD_FORMAT.render(request)
        if len(self._trace.readers) >= LAB_TRACE_READERS:
            return _CROWDED.render(request)
        request.setHeader("Content-Type", _TYPES[kind])
        if kind == "har":
            request.setHeader("Content-Disposition", 'attachment; filename="trace.har"')
        if kind != _EVENTS:
            return self._write(request, _FORMATS[kind](self._trace))
        number = _lastEventOf(request)
        if self._trace.ended is not None and number >= self._trace.count:
            # An EventSource has had the end, and connects again all the same; this stops it.
            request.setResponseCode(204)
            request.finish()
            return NOT_DONE_YET
        request.setHeader("X-Accel-Buffering", "no")  # Else nginx would buffer it.
        return self._write(request, asEvents(self._trace, number))

    def _write(self, request: Request, pieces: Iterator[bytes | None]) -> bytes | int:
        return answerAtLength(
            request,
            self._context,
            self._connections,
            ((piece or b"", LAB_HEARTBEAT if piece is None else 0.0) for piece in pieces),
            lambda why: b"",  # An EventSource comes again, and what is half is no JSON.
            self._trace.readers,
        )


def _formatOf(request: Request) -> str:
    """The format that the request asks for."""
    if given := argumentsOf(request).get("format"):
        return given[-1].decode("latin-1")
    accepts = request.requestHeaders.getRawHeaders(b"Accept", [])
    isStream = any(b"text/event-stream" in value.lower() for value in accepts)
    return _EVENTS if isStream else "json"


def _lastEventOf(request: Request) -> int:
    """The number of the last event that the client has had; -1 if it has had none."""
    value = request.getHeader(b"Last-Event-ID") or b""
    return int(value) if value.isdigit() and len(value) < 16 else -1
