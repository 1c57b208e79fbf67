"""The formats of a trace: JSON, a live stream, HAR, and lines of text.

Each is a generator of small pieces, because others would wait while a whole trace is written at
once. What a client or a script wrote is escaped in all of them.
"""

import codecs
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any

from echotwist import __version__
from echotwist.lab.answer import dateTime
from echotwist.lab.frames import CLOSE, TEXT
from echotwist.lab.observer import SHOWN, Frame
from echotwist.lab.redaction import Header
from echotwist.lab.trace import Event, Trace
from echotwist.limits import MAX_HEADERS
from echotwist.observe.journal import frameWords, preview
from echotwist.websocket.deflate import NAME as DEFLATE

_RSV1 = 4
"""Says that a message is compressed (RFC 7692, 6)."""

_STATUS = re.compile(r"(HTTP/\d\.\d) (\d{3}) ?(.*)")
_NEWLINE = re.compile(r"\r?\n")

_encode = json.JSONEncoder(separators=(",", ":")).encode


# JSON, whose schema is docs/trace.schema.json, and the same event by event.


def asJson(trace: Trace) -> Iterator[bytes]:
    """The facts, and the events in their order."""
    events = trace.after(-1)
    return _document(_facts(trace), "events", (_members(trace, event) for event in events), "}")


def asEvents(trace: Trace, number: int) -> Iterator[bytes | None]:
    """Server-sent events: `trace`, with the facts so far; each event behind `number`, when it
    happens; and `end`, with all facts. None if there is nothing new.

    What a reader has not got yet is nowhere but in the trace, which is bounded. One that is too
    slow misses what the trace leaves out, as the numbers show.
    """
    yield _serverSent("trace", _facts(trace))
    ended = None
    while ended is None:
        ended, events, number = trace.ended, trace.after(number), trace.count - 1
        for event in events:
            yield _serverSent(event.kind, _members(trace, event), event.number)
        if trace.count - 1 == number and ended is None:
            if not events:
                yield b":\n\n"  # LAB_HEARTBEAT has passed.
            yield None
    yield _serverSent("end", _facts(trace), trace.count)


def _serverSent(kind: str, data: dict[str, Any], number: int | None = None) -> bytes:
    line = "" if number is None else f"id: {number}\n"
    return f"{line}event: {kind}\ndata: {_encode(data)}\n\n".encode()


def _document(
    whole: dict[str, Any], name: str, members: Iterable[dict[str, Any]], end: str
) -> Iterator[bytes]:
    """`whole` as JSON, with an array of this `name` before its `end`."""
    yield f'{_encode(whole).removesuffix(end)},"{name}":['.encode()
    comma = ""
    for member in members:
        yield f"{comma}\n{_encode(member)}".encode()
        comma = ","
    yield f"]{end}\n".encode()


def _facts(trace: Trace) -> dict[str, Any]:
    facts = trace.facts
    return {
        "accepted": dateTime(trace.began),
        "peer": facts.get("peer"),
        "client": facts.get("client"),
        "proxies": list(facts.get("proxies", ())),
        "tls": facts.get("tls"),
        "subprotocol": facts.get("subprotocol"),
        "extensions": facts.get("extensions"),
        "declined": list(facts.get("declined", ())),
        "case": facts.get("case"),
        "verdict": facts.get("verdict"),
        "ended": trace.ended,
        "leftOut": trace.leftOut,
    }


def _members(trace: Trace, event: Event) -> dict[str, Any]:
    number, time, kind, what = event
    members = {"number": number, "time": time, "type": kind}
    match kind:
        case "requested":
            first, headers = what
            members["line"] = first.decode("latin-1")
            members["headers"] = [_header(header) for header in headers]
        case "opened":
            members["head"] = what.decode("latin-1")
        case "read" | "wrote":
            members["size"] = what
        case "frameReceived" | "frameSent":
            members |= _frame(trace, what)
        case _:
            members |= what
    return members


def _header(header: Header) -> dict[str, Any]:
    name = header.name.decode("latin-1")
    if header.value is None:
        return {"name": name, "value": None, "redacted": header.size}
    return {"name": name, "value": header.value.decode("latin-1")}


def _frame(trace: Trace, frame: Frame) -> dict[str, Any]:
    members: dict[str, Any] = {
        "fin": frame.fin,
        "rsv": frame.rsv,
        "opcode": frame.opcode,
        "length": frame.length,
        "mask": None if frame.mask is None else frame.mask.hex(),
        "data": frame.payload.hex(),
    }
    if frame.opcode == CLOSE:
        members["code"], members["reason"] = _closing(frame)
    elif (text := _text(trace, frame)) is not None:
        members["text"] = text
    return members


# Payloads, of which only the beginning is there.


def _closing(frame: Frame) -> tuple[int | None, str]:
    """The code and the reason of a close frame."""
    code = int.from_bytes(frame.payload[:2]) if len(frame.payload) > 1 else None
    return code, frame.payload[2:].decode("utf-8", "backslashreplace")


def _plain(trace: Trace, frame: Frame) -> bytes | None:
    """The payload of a frame that begins a message, inflated if it is compressed. None if that is
    not possible: most often because it takes the messages before it (RFC 7692, 7.1.1)."""
    if not _isCompressed(trace, frame):
        return frame.payload
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame.payload, SHOWN)
    except zlib.error:
        return None


def _isCompressed(trace: Trace, frame: Frame) -> bool:
    return bool(frame.rsv & _RSV1) and DEFLATE in (trace.facts.get("extensions") or "")


def _text(trace: Trace, frame: Frame) -> str | None:
    """The text of a text frame. None if it is no UTF-8, or cannot be inflated; or if the frame is
    of another type: what a continuation continues is not known."""
    if frame.opcode != TEXT or (plain := _plain(trace, frame)) is None:
        return None
    isWhole = frame.fin and frame.length == len(frame.payload) and plain is frame.payload
    try:
        # A character may be cut at the end.
        return codecs.getincrementaldecoder("utf-8")().decode(plain, final=isWhole)
    except UnicodeDecodeError:
        return None


# HAR 1.2, with what Chrome adds to it.


def asHar(trace: Trace) -> Iterator[bytes]:
    """What the network panel of Chrome's developer tools imports, with the client's eyes.

    Its own exports have whole messages, which a trace has not: here a message is a frame, and its
    data the beginning of the payload. It is text for a text frame, and base64 for any other, which
    is how the panel takes apart a binary message; also for a text frame that is no UTF-8.
    """
    events = trace.after(-1)
    request = next((event for event in events if event.kind == "requested"), None)
    response = next((event for event in events if event.kind == "opened"), None)
    first, headers = request.what if request else (b"", [])
    method, target, version = (*first.decode("latin-1").split(" "), "", "", "")[:3]
    head = response.what.decode("latin-1") if response else ""
    requestTime = request.time / 1000 if request else 0
    responseTime = response.time / 1000 if response else requestTime
    endTime = max(responseTime, events[-1].time / 1000) if events else 0
    timings = {"send": 0, "wait": responseTime - requestTime, "receive": endTime - responseTime}
    entry = {
        "startedDateTime": dateTime(trace.began + requestTime / 1000),
        "time": endTime - requestTime,
        "request": {
            "method": method,
            "url": _url(trace, target, headers),
            "httpVersion": version,
            "cookies": [],
            "headers": [
                {"name": header.name.decode("latin-1"), "value": _value(header)}
                for header in headers
            ],
            "queryString": [],  # Chrome takes it from the URL.
            "headersSize": -1,
            "bodySize": 0,
        },
        "response": _harResponse(head),
        "cache": {},
        "timings": timings,
        "comment": f"data is of the first {SHOWN} bytes of a frame",
        "_resourceType": "websocket",
    }
    creator = {"name": "echotwist", "version": __version__}
    whole = {"log": {"version": "1.2", "creator": creator, "pages": [], "entries": [entry]}}
    messages = (
        _harMessage(trace, event)
        for event in events
        if event.kind in ("frameReceived", "frameSent")
    )
    return _document(whole, "_webSocketMessages", messages, "}]}}")


def _harResponse(head: str) -> dict[str, Any]:
    first, *lines = _NEWLINE.split(head.rstrip("\r\n"))
    status = _STATUS.match(first)
    # A script may have more than anybody reads, and they are one piece.
    pairs = [line.partition(":") for line in lines[:MAX_HEADERS]]
    return {
        "status": int(status[2]) if status else 0,
        "statusText": status[3] if status else first,
        "httpVersion": status[1] if status else "",
        "cookies": [],
        "headers": [{"name": name, "value": value.strip()} for name, _, value in pairs],
        "content": {"size": 0, "mimeType": "x-unknown"},
        "redirectURL": "",
        "headersSize": len(head),
        "bodySize": -1,
    }


def _harMessage(trace: Trace, event: Event) -> dict[str, Any]:
    frame = event.what
    data = _text(trace, frame)
    if data is None:
        data = b64encode(_plain(trace, frame) or frame.payload).decode()
    return {
        "type": "send" if event.kind == "frameReceived" else "receive",
        "time": trace.began + event.time / 1_000_000,
        "opcode": frame.opcode,
        "data": data,
    }


def _url(trace: Trace, target: str, headers: Iterable[Header]) -> str:
    """Of the request. Whether a proxy has taken away TLS, the server does not know."""
    if not target.startswith("/"):
        return target
    hosts = (header.value for header in headers if header.name.lower() == b"host")
    host = next(hosts, None) or b"unknown"
    return f"{'wss' if trace.facts.get('tls') else 'ws'}://{host.decode('latin-1')}{target}"


def _value(header: Header) -> str:
    return f"({_size(header.size)})" if header.value is None else header.value.decode("latin-1")


def _size(count: int) -> str:
    return f"{count:,} byte{'s' * (count != 1)}"


# Text, in the words of RFC 6455.

_HOW = {
    "close": "with a close frame",
    "fin": "with FIN",
    "rst": "with RST",
    "drop": "by dropping the connection",
}
_OF_THE_CLIENT = {"requested", "read", "frameReceived", "finReceived"}
_TCP = {
    "fin": "TCP has ended in order",
    "eof": "TLS has ended without close_notify",
    "rst": "RST",
    "us": "has dropped the connection",
}


def asText(trace: Trace) -> Iterator[bytes]:
    """A line for each event: milliseconds since accept, whose doing it was, and what."""
    facts, events = _facts(trace), trace.after(-1)
    yield _lines(*_introduction(facts), "")
    isWhole = True
    for index, event in enumerate(events):
        if isWhole and event.number != index:
            isWhole = False
            yield _lines("(from here on, not everything was kept)")
        first, *others = _words(trace, event.kind, event.what)
        yield _lines(
            f"{event.time / 1000:14,.3f}  {_who(event):6}  {first}",
            *(f"{'':24}{other}" for other in others),
        )
    yield _lines("", *_conclusion(facts))


def _lines(*lines: str) -> bytes:
    """Lines that are safe for a terminal: whatever does not print is escaped."""
    return "".join(f"{line if line.isprintable() else _escaped(line)}\n" for line in lines).encode()


def _escaped(line: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def _introduction(facts: dict[str, Any]) -> Iterator[str]:
    yield f"accepted {facts['accepted']} from {facts['peer'] or 'unknown'}"
    if facts["client"]:
        yield f"client: {facts['client']}, says {', '.join(facts['proxies']) or 'a proxy'}"
    if tls := facts["tls"]:
        yield f"TLS: {tls['version']}, {tls['cipher']}, server name: {tls['serverName'] or 'none'}"
    yield f"subprotocol: {facts['subprotocol'] or 'none'}"
    yield f"extensions: {facts['extensions'] or 'none'}"
    for declined in facts["declined"]:
        yield f"declined: {declined['offer']}: {declined['why']}"
    if facts["case"]:
        yield f"case: {facts['case']}"


def _conclusion(facts: dict[str, Any]) -> Iterator[str]:
    for kind, count in facts["leftOut"].items():
        if count:
            yield f"left out: {count:,} {kind}"
    if ended := facts["ended"]:
        yield f"the {ended['by']} began the end, {_HOW[ended['how']]}"
    else:
        yield "the connection is open"
    if verdict := facts["verdict"]:
        yield f"verdict: {verdict['behavior']}, {verdict['why']}"


def _who(event: Event) -> str:
    if event.kind == "lost":
        return "server" if event.what["how"] == "us" else "client"
    return "client" if event.kind in _OF_THE_CLIENT else "server"


def _words(trace: Trace, kind: str, what: Any) -> Iterable[str]:
    """One or more lines."""
    match kind:
        case "requested":
            first, headers = what
            lines = (f"{each.name.decode('latin-1')}: {_value(each)}" for each in headers)
            return [first.decode("latin-1"), *lines]
        case "opened":
            return _NEWLINE.split(what.decode("latin-1").rstrip("\r\n"))
        case "read" | "wrote":
            return [f"{kind} {_size(what)}"]
        case "frameReceived" | "frameSent":
            return [_frameWords(trace, what)]
        case "bytesSent":
            data = bytes.fromhex(what["data"])
            return [f"bytes of the script: {preview(data, True, len(data))}"]
        case "refused":
            return [f"refuses this with {what['code']}: {what['reason']}"]
        case "scriptEnded":
            return ["the script has ended"]
        case "finReceived" | "finSent":
            return ["FIN"]
        case _:
            return [_TCP[what["how"]]]


def _frameWords(trace: Trace, frame: Frame) -> str:
    first = frame.fin << 7 | frame.rsv << 4 | frame.opcode
    words = frameWords(first, frame.mask is not None, frame.length)
    if frame.mask is not None:
        words += f", masking-key {frame.mask.hex()}"
    if not frame.payload:
        return words
    code, reason = _closing(frame)
    if frame.opcode == CLOSE and code is not None:
        return f"{words}: {code} {reason!r}"
    if (text := _text(trace, frame)) is not None:
        return f"{words}: {text!r}{' ...' * (frame.length > len(frame.payload))}"
    return f"{words}: {preview(frame.payload, True, frame.length)}"
