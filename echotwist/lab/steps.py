"""The steps of a script, and how the query of a URL becomes one.

    ws://host/lab?hold=2s&send=hello&frame=83026869&close=1002,broken

STEPS is the one table: it drives the parser, its errors, `/lab` without an upgrade, and the manual.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

from echotwist.lab.cases import CASES, Case
from echotwist.limits import (
    LAB_HEADER_BYTES,
    LAB_HEADERS,
    LAB_HOLD,
    LAB_LEAST,
    LAB_PAYLOAD,
    LAB_REPETITIONS,
    LAB_SEGMENT,
    LAB_STEP,
    LAB_STEPS,
    LAB_VISIT,
    parseCount,
    parseSeconds,
    parseSize,
)


class Phase(Enum):
    """When a step has its effect."""

    OPENING = "before the 101"
    ACTION = "a step"
    SETTING = "from here on"
    SCRIPT = "the script as a whole"


class BadStep(ValueError):
    """A step that does not exist, or whose value is wrong. `step` is its name, printable and
    bounded."""

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(problem)
        self.step = step
        self.problem = problem


@dataclass(frozen=True)
class StepKind:
    """A row of the table."""

    name: str
    phase: Phase
    syntax: str
    """As in the manual: `send=TEXT`. In brackets is what may be left out."""

    cap: str
    """What it may be at most; empty if nothing needs a cap."""

    meaning: str
    example: str
    parse: Callable[[str | None], Any]
    """Makes a value of the text behind the `=`, percent-decoded to text as latin-1, one character a
    byte; None without a `=`. Raises ValueError, in words that follow the name of the step."""


@dataclass(frozen=True)
class Step:
    kind: StepKind
    value: Any

    @property
    def name(self) -> str:
        return self.kind.name


@dataclass(frozen=True)
class Script:
    """What a URL asks for."""

    opening: tuple[Step, ...] = ()
    """In their order, those before the 101."""

    body: tuple[Step, ...] = ()
    """In their order, those after it."""

    case: Case | None = None
    """The case that this is the script of, and that is judged."""

    trace: str | None = None
    """The ID under which the client wants to read what the server saw."""


# Values. A value is bytes in the URL; text must be UTF-8.


def _text(value: str | None) -> bytes:
    payload = _bytes(value)
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise ValueError("takes UTF-8; send-hex and frame take any bytes") from None
    return payload


def _bytes(value: str | None) -> bytes:
    return (value or "").encode("latin-1")


def _control(value: str | None) -> bytes:
    payload = _text(value)
    if len(payload) > 125:
        raise ValueError("takes at most 125 bytes (RFC 6455, 5.5); frame takes any")
    return payload


def _hex(value: str | None) -> bytes:
    try:
        return bytes.fromhex(value or "")
    except ValueError:
        raise ValueError("takes bytes in hexadecimal, such as 8102686a") from None


def _someHex(value: str | None) -> bytes:
    payload = _hex(value)
    if not payload:
        raise ValueError("takes at least one byte in hexadecimal, such as 8900")
    return payload


def _seconds(most: float = LAB_STEP, least: float = 0) -> Callable[[str | None], float]:
    def parse(value: str | None) -> float:
        seconds = parseSeconds(value or "")
        if seconds > most:
            raise ValueError(f"takes at most {most:g}s")
        if seconds < least:
            raise ValueError(f"takes at least {least * 1000:g}ms")
        return seconds

    return parse


def _size(most: int) -> Callable[[str | None], int]:
    def parse(value: str | None) -> int:
        size = parseSize(value or "")
        if size > most:
            raise ValueError(f"takes at most {most:,} bytes")
        return size

    return parse


def _count(most: int) -> Callable[[str | None], int]:
    def parse(value: str | None) -> int:
        count = parseCount(value or "")
        if not 1 <= count <= most:
            raise ValueError(f"takes a whole number from 1 to {most:,}")
        return count

    return parse


def _countOrSeconds(value: str | None) -> int | float:
    """An int counts messages, a float is seconds."""
    if re.fullmatch(r"\d+", value or "", re.ASCII):
        return _count(LAB_REPETITIONS)(value)
    try:
        return float(_seconds()(value))
    except ValueError as e:
        raise ValueError(
            f"takes a number of messages, or {str(e).removeprefix('takes ')}"
        ) from None


def _oneOf(*words: str) -> Callable[[str | None], str]:
    def parse(value: str | None) -> str:
        if value not in words:
            raise ValueError(f"takes {' or '.join(words)}")
        return value

    return parse


def _noOrSeconds(*words: str, least: float = 0) -> Callable[[str | None], str | float]:
    """A word, or seconds."""

    def parse(value: str | None) -> str | float:
        if value in words:
            return value
        try:
            return _seconds(least=least)(value)
        except ValueError:
            raise ValueError(f"takes {', '.join(words)} or a time such as 2s") from None

    return parse


def _nothing(value: str | None) -> None:
    if value is not None:
        raise ValueError("takes no value")


def _status(value: str | None) -> int:
    if re.fullmatch("[345][0-9][0-9]", value or "", re.ASCII) is None:
        raise ValueError("takes an HTTP status from 300 to 599")
    return int(value or "")


_FORBIDDEN = {b"set-cookie", b"set-cookie2", b"clear-site-data", b"strict-transport-security"}
_FORBIDDEN |= {b"alt-svc", b"nel", b"report-to", b"public-key-pins", b"reporting-endpoints"}
"""Headers by which a page could change what a browser keeps about this host: it obeys them in the
answer to a WebSocket that any page may open."""


def _header(value: str | None) -> tuple[bytes, bytes]:
    name, colon, rest = _bytes(value).partition(b":")
    if not (name and colon) or re.search(rb"[\r\n]", name):
        raise ValueError("takes Name:Value")
    if name.strip().lower() in _FORBIDDEN:
        raise ValueError("takes no header by which a browser would keep something about this host")
    # A proxy may take what is behind an empty line for the answer to somebody else.
    if re.search(rb"[\r\n](?![ \t])", rest.replace(b"\r\n", b"\n")):
        raise ValueError(
            "takes one header; a line that goes on begins with a space (RFC 9112, 5.2)"
        )
    return name, rest


def _headers(value: str | None) -> tuple[int, int]:
    count, comma, size = (value or "").partition(",")
    many = _count(LAB_HEADERS)(count)
    each = _size(LAB_HEADER_BYTES)(size) if comma else 1
    if many * each > LAB_HEADER_BYTES:
        raise ValueError(f"takes at most {LAB_HEADER_BYTES:,} bytes together")
    return many, each


def _line(value: str | None) -> bytes:
    """Of a header, or the first of a response."""
    line = _bytes(value)
    if re.search(rb"[\r\n]", line):
        raise ValueError("takes one line")
    return line


def _close(value: str | None) -> tuple[int | None, bytes]:
    if value is None:
        return None, b""
    code, _, reason = value.partition(",")
    if re.fullmatch(r"\d{1,5}", code, re.ASCII) is None or int(code) > 65535:
        raise ValueError("takes CODE or CODE,REASON, with a code from 0 to 65535")
    payload = _text(reason)
    if len(payload) > 123:
        raise ValueError("takes a reason of at most 123 bytes (RFC 6455, 5.5); frame takes any")
    return int(code), payload


def _case(value: str | None) -> Case:
    found = CASES.get(value or "")
    if found is None:
        raise ValueError("takes the ID of a case; GET /lab/cases lists them")
    return found


def _violation(value: str | None) -> bytes:
    violation = _case(value).violation
    if violation is None:
        raise ValueError("takes a case with a broken frame; this one has none")
    return violation


def _traceId(value: str | None) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{22,64}", value or "", re.ASCII) is None:
        raise ValueError("takes 22 to 64 characters of base64url, chosen at random")
    return value or ""


_TIME = f"{LAB_STEP:g}s"
_O, _A, _S, _W = Phase.OPENING, Phase.ACTION, Phase.SETTING, Phase.SCRIPT

STEPS = {
    kind.name: kind
    for kind in [
        StepKind("status", _O, "status=CODE", "300 to 599",
                 "answer with this HTTP status instead of 101, and end the connection",
                 "status=503&header=Retry-After:5", _status),
        StepKind("garbage", _O, "garbage", "",
                 "answer with what is no HTTP, and leave the connection open",
                 "garbage", _nothing),
        StepKind("hold", _O, "hold=TIME", f"{LAB_HOLD:g}s",
                 "answer only after this time", "hold=2s", _seconds(LAB_HOLD)),
        StepKind("split", _O, "split=N", f"{LAB_SEGMENT >> 10}k",
                 "send the 101 in pieces of N bytes, each in a segment", "split=1",
                 _size(LAB_SEGMENT)),
        StepKind("coalesce", _O, "coalesce", "",
                 "send the 101 and what follows in one segment", "coalesce&send=hello", _nothing),
        StepKind("accept", _O, "accept=wrong|none|twice", "",
                 "a Sec-WebSocket-Accept that is wrong, missing, or there twice",
                 "accept=wrong", _oneOf("wrong", "none", "twice")),
        StepKind("omit", _O, "omit=upgrade|connection", "",
                 "leave out this header", "omit=upgrade", _oneOf("upgrade", "connection")),
        StepKind("subprotocol", _O, "subprotocol=NAME|none|twice", "",
                 "agree to this subprotocol, offered or not; to none; or say the agreed one twice",
                 "subprotocol=not-offered", _line),
        StepKind("extension", _O, "extension=TEXT|none", "",
                 "this Sec-WebSocket-Extensions, instead of what is agreed; or agree to none",
                 "extension=permessage-deflate;%20server_max_window_bits=16", _line),
        StepKind("header", _O, "header=Name:Value", "",
                 "one more header; may be given several times", "header=X-Lab:%20yes", _header),
        StepKind("headers", _O, "headers=N[,SIZE]",
                 f"{LAB_HEADERS:,}, and {LAB_HEADER_BYTES >> 20}M together",
                 "N more headers, with values of SIZE bytes", "headers=1000", _headers),
        StepKind("cookies", _O, "cookies=N", "1,000",
                 "N headers Set-Cookie, for /lab and one second", "cookies=50", _count(1000)),
        StepKind("status-line", _O, "status-line=TEXT", "",
                 "this first line", "status-line=HTTP/1.0%20101%20Switching%20Protocols", _line),
        StepKind("newline", _O, "newline=lf", "",
                 "end the lines of the 101 with LF alone", "newline=lf", _oneOf("lf")),
        StepKind("cut", _O, "cut=fin|rst", "",
                 "end TCP in the middle of the 101", "cut=fin", _oneOf("fin", "rst")),
        StepKind("accepts", _O, "accepts=N", "1,000",
                 "refuse a client with 503 that was let in N times with this URL, until it has "
                 f"stayed away for {LAB_VISIT:g}s", "accepts=1&drop=fin", _count(1000)),
        StepKind("send", _A, "send=TEXT", "", "send a text message", "send=hello", _text),
        StepKind("send-hex", _A, "send-hex=HEX", "",
                 "send a binary message", "send-hex=00ff", _hex),
        StepKind("fill", _A, "fill=SIZE", f"{LAB_PAYLOAD >> 20}M",
                 "send a message of this size, of the digits 0 to f again and again; a text, "
                 "unless `as` says binary", "fill=1M", _size(LAB_PAYLOAD)),
        StepKind("ping", _A, "ping[=TEXT]", "125 bytes", "send a ping", "ping=are%20you%20there",
                 _control),
        StepKind("frame", _A, "frame=HEX", "", "send these bytes as they are", "frame=83026869",
                 _someHex),
        StepKind("flood", _A, "flood=HEX", f"{LAB_PAYLOAD >> 20}M, and 10s",
                 "send these bytes again and again", "flood=8900", _someHex),
        StepKind("echo", _A, "echo=N|TIME", f"{LAB_REPETITIONS:,}, {_TIME}",
                 "echo so many messages, or for so long; then go on", "echo=3", _countOrSeconds),
        StepKind("ignore", _A, "ignore=N|TIME", f"{LAB_REPETITIONS:,}, {_TIME}",
                 "read so many messages, or for so long, and say nothing", "ignore=2s",
                 _countOrSeconds),
        StepKind("stall", _A, "stall=TIME", _TIME, "do not read for so long", "stall=2s",
                 _seconds()),
        StepKind("wait", _A, "wait=TIME", _TIME,
                 "do nothing for so long; what the client sends is kept", "wait=2s", _seconds()),
        StepKind("close", _A, "close[=CODE[,REASON]]", "0 to 65535",
                 "send a close frame, also with a code that none may have",
                 "close=1006,never%20sent", _close),
        StepKind("drop", _A, "drop=fin|rst", "",
                 "end TCP without a close frame, in order or by a reset", "drop=rst",
                 _oneOf("fin", "rst")),
        StepKind("hang", _A, "hang", _TIME,
                 "answer nothing any more: no message, ping or close", "hang", _nothing),
        StepKind("violate", _A, "violate=ID", "",
                 "send the broken frame of this case", "violate=F01", _violation),
        StepKind("delay", _S, "delay=TIME", _TIME,
                 "send each message so much later", "delay=500ms", _seconds()),
        StepKind("jitter", _S, "jitter=TIME", _TIME,
                 "and by up to so much more, at random, still in order", "jitter=100ms",
                 _seconds()),
        StepKind("rate", _S, "rate=SIZE", "1G", "send at most so many bytes a second", "rate=10k",
                 _size(1 << 30)),
        StepKind("fragment", _S, "fragment=N", f"{LAB_PAYLOAD >> 20}M",
                 "send messages in fragments of N bytes", "fragment=10", _size(LAB_PAYLOAD)),
        StepKind("chop", _S, "chop=N", f"{LAB_SEGMENT >> 10}k",
                 "write N bytes at a time, each in a segment", "chop=1", _size(LAB_SEGMENT)),
        StepKind("interleave", _S, "interleave", "",
                 "send a ping between two fragments", "fragment=3&interleave", _nothing),
        StepKind("as", _S, "as=text|binary", "",
                 "send messages as this type", "as=binary", _oneOf("text", "binary")),
        StepKind("compress", _S, "compress=always|never|bomb", "",
                 "compress each message, or none, if permessage-deflate is agreed; bomb: instead "
                 "of each message, 64 MB of spaces deflated to 64 KB", "compress=always",
                 _oneOf("always", "never", "bomb")),
        StepKind("push", _S, "push=TIME", _TIME,
                 "send a message each time this has passed, beside what else is sent", "push=1s",
                 _seconds(least=LAB_LEAST)),
        StepKind("pong", _S, "pong=no|TIME", _TIME,
                 "answer no ping, or so much later", "pong=no", _noOrSeconds("no")),
        StepKind("keepalive", _S, "keepalive=no|TIME", _TIME,
                 "send no pings to a silent client, or after so long", "keepalive=5s",
                 _noOrSeconds("no", least=LAB_LEAST)),
        StepKind("reply-close", _S, "reply-close=no|TIME|chatter|open", _TIME,
                 "do not answer a close, answer it so much later, send messages instead, or leave "
                 "TCP open after the closing handshake",
                 "reply-close=no", _noOrSeconds("no", "chatter", "open")),
        StepKind("case", _W, "case=ID", "", "the script of this case, with a verdict", "case=F01",
                 _case),
        StepKind("trace", _W, "trace=ID", "22 to 64 characters of base64url",
                 "keep what the server sees, to be read at /trace/ID",
                 "trace=Zm9yIHlvdXIgZXllcyBvbmx5", _traceId),
    ]
}  # fmt: skip
"""All steps, by their names."""


_FITTING = {
    "status": {"status", "hold", "header"},
    "garbage": {"garbage", "hold"},
    "coalesce": set(STEPS) - {"split", "cut"},
}
"""What may stand beside a step before the 101."""


def parse(query: bytes) -> Script:
    """The script in the query of a URL. Raises BadStep."""
    opening: list[Step] = []
    body: list[Step] = []
    whole: dict[str, Any] = {}
    parts = [part for part in query.split(b"&") if part]
    if len(parts) > LAB_STEPS:
        raise BadStep("", f"a script has at most {LAB_STEPS:,} steps")
    for part in parts:
        step = _step(part)
        match step.kind.phase:
            case Phase.OPENING:
                if any(other.kind.phase is Phase.ACTION for other in body):
                    raise BadStep(step.name, "is done before the 101, so it comes before the steps")
                if step.name != "header" and any(other.name == step.name for other in opening):
                    raise BadStep(step.name, "may be given once")
                opening.append(step)
            case Phase.SCRIPT:
                if step.name in whole:
                    raise BadStep(step.name, "may be given once")
                whole[step.name] = step.value
            case _:
                body.append(step)
    names = {step.name for step in opening}
    for first, fitting in _FITTING.items():
        if first in names and (others := names - fitting):
            raise BadStep(min(others), f"does not go with {first}")
    case: Case | None = whole.get("case")
    if case is not None:
        if opening or body:
            raise BadStep("case", "runs alone; violate=ID is one broken frame among other steps")
        script = parse(case.script.encode())
        opening, body = list(script.opening), list(script.body)
    return Script(tuple(opening), tuple(body), case, whole.get("trace"))


def _step(part: bytes) -> Step:
    raw, equals, text = part.partition(b"=")
    name = unquote_to_bytes(raw).decode("ascii", "backslashreplace")
    name = name.encode("unicode_escape").decode()[:40]
    kind = STEPS.get(name)
    if kind is None:
        raise BadStep(name, "is no step")
    value = unquote_to_bytes(text).decode("latin-1") if equals else None
    try:
        return Step(kind, kind.parse(value))
    except ValueError as e:
        raise BadStep(name, str(e)) from None
