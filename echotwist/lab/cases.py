"""The catalogue: what a server can do wrong, and what a client must do then.

The client under test behaves as one of the Autobahn testsuite: it connects, and echoes every
message with its type until the connection ends. So a script first sends a message and waits for its
echo, so that a client that never answers, or leaves early, does not pass. Then comes what the case
is about; and after it a ping and one more message, which only a client that went on answers.

The scripts are in the language of `steps`. Frames in them are those of a server, as RFC 6455, 5.2
has them: not masked.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Behavior(StrEnum):
    """The words of the Autobahn testsuite, from the best to the worst."""

    OK = "OK"
    NON_STRICT = "NON-STRICT"
    """It may, and should do otherwise."""

    INFORMATIONAL = "INFORMATIONAL"
    """What matters cannot be seen from here, or no rule says what is right."""

    WRONG_CODE = "WRONG CODE"
    """Only of the closing handshake."""

    UNCLEAN = "UNCLEAN"
    """TCP, or the closing handshake, was not ended as it should be."""

    FAILED = "FAILED"


# Messages.

KEPT = 4096
"""Bytes of a message up to which it is compared by its payload."""


@dataclass(frozen=True)
class Message:
    """A message that a client may send. One of more than KEPT bytes has no payload here: it is what
    `fill` sends, or not."""

    payload: bytes
    size: int
    isBinary: bool = False
    isFilling: bool = False

    def __str__(self) -> str:
        size = "1 byte" if self.size == 1 else f"{self.size:,} bytes"
        return f"a {'binary message' if self.isBinary else 'text'} of {size}"


def text(payload: str) -> Message:
    encoded = payload.encode()
    return Message(encoded, len(encoded))


def filled(size: int, isBinary: bool = False) -> Message:
    """What `fill` sends."""
    if size > KEPT:
        return Message(b"", size, isBinary, isFilling=True)
    return Message((b"0123456789abcdef" * (size // 16 + 1))[:size], size, isBinary)


HELLO = text("hello")
"""The first message of most scripts."""

LATER = text("later")
"""The last one. A ping of the same payload comes before it."""


PATIENCE = 5.0
"""Seconds: two round trips of 2 s, and some to spare. A client that does right is judged as soon as
it has, and does not wait for this."""


# What a client must do. Several of these, in a tuple, are alternatives.


@dataclass(frozen=True)
class Refuse:
    """Fail the handshake: end TCP, and send nothing (RFC 6455, 4.1)."""

    mayStay: bool = False
    """Whether the answer is one after which HTTP has another request on the same connection."""


@dataclass(frozen=True)
class Fail:
    """Fail the connection (RFC 6455, 7.1.7)."""

    codes: tuple[int, ...]
    """Close codes that are right."""

    after: tuple[Message, ...] = (HELLO,)
    """Echoes that come before that."""

    answers: tuple[int | None, ...] = ()
    """Close codes that take what is broken for a close in order, and answer it."""

    best: Behavior = Behavior.OK
    note: str = ""
    """Why it is not OK at best."""


@dataclass(frozen=True)
class Deliver:
    """Echo these messages, and answer these pings, before the last echo."""

    messages: tuple[Message, ...]
    pongs: tuple[bytes, ...] = ()
    best: Behavior = Behavior.OK
    note: str = ""
    """Why it is not OK at best."""


@dataclass(frozen=True)
class MaskFreshly:
    """Echo these messages in frames with masks of their own (RFC 6455, 5.3)."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class AnswerClose:
    """Answer the server's close with one of these codes (None is no code), and take nothing that
    comes with it for a message."""

    codes: tuple[int | None, ...]
    after: tuple[Message, ...] = (HELLO,)
    best: Behavior = Behavior.OK
    note: str = ""
    """Why it is not OK at best."""


@dataclass(frozen=True)
class Report:
    """Tell the user. All that can be seen from here is that a client ends its side of TCP when the
    server does, and takes nothing for a message."""

    what: str
    """As the subject of "cannot be seen"."""

    after: tuple[Message, ...] = (HELLO,)


@dataclass(frozen=True)
class EndTcp:
    """End TCP so many seconds after its own close at the latest. No rule says how many: RFC 6455,
    7.1.1 has "a reasonable amount of time"."""

    seconds: float
    isAnswer: bool = False
    """Whether its close may answer the server's."""


@dataclass(frozen=True)
class GiveUp:
    """Give up waiting for the answer to the handshake."""


@dataclass(frozen=True)
class NoticeSilence:
    """Find out by pings of its own that the server is gone, and leave, within so many seconds."""

    seconds: float


@dataclass(frozen=True)
class BackOff:
    """Wait longer each time before it connects again (RFC 6455, 7.2.3)."""


Must = (
    Refuse
    | Fail
    | Deliver
    | MaskFreshly
    | AnswerClose
    | Report
    | EndTcp
    | GiveUp
    | NoticeSilence
    | BackOff
)


@dataclass(frozen=True)
class Case:
    """One thing that a server does, right or wrong."""

    id: str
    title: str
    """What the server does, as a sentence without its subject: `masks a frame`."""

    script: str
    """As the query of /lab has it."""

    must: Must | tuple[Must, ...]
    """What a client must do."""

    source: str
    """The section that says so."""

    seen: str = ""
    """Where a client was seen to do otherwise: issues, advisories."""

    needs: str = ""
    """An extension that the client must offer, or there is nothing to be seen; or `subprotocol`."""

    patience: float = PATIENCE
    """Seconds for which the client may do nothing before it is judged, or before a step stops
    waiting for a message."""

    best: Behavior = Behavior.OK
    """The verdict on a client that does right, as far as can be seen."""

    worst: Behavior = Behavior.FAILED
    """The verdict on one that does wrong in the way that the case is about."""

    @property
    def musts(self) -> tuple[Must, ...]:
        """The alternatives."""
        return self.must if isinstance(self.must, tuple) else (self.must,)

    @property
    def violation(self) -> bytes | None:
        """The broken frame of its script, or several that are broken together. None if what it
        breaks is not done by one `frame=`, or if it breaks nothing."""
        found = re.findall(r"(?:^|&)frame=([0-9a-fA-F]+)", self.script)
        isBroken = any(isinstance(must, Fail) for must in self.musts)
        if not isBroken or len(found) != 1 or "flood=" in self.script:
            return None
        return bytes.fromhex(found[0])


_INFORMATIONAL, _NON_STRICT = Behavior.INFORMATIONAL, Behavior.NON_STRICT
_UNCLEAN = Behavior.UNCLEAN

_HELD = "hold=100ms"
"""Before a broken handshake: a client that leaves before the answer has not judged it."""

_HELLO = "send=hello&ignore=1"
_LATER = "ping=later&send=later"

_MEMORY = "what it kept in memory cannot be seen"


def _opening(
    id: str,
    title: str,
    steps: str,
    source: str = "RFC 6455, 4.1",
    seen: str = "",
    *,
    must: Must | tuple[Must, ...] = Refuse(),
    needs: str = "",
    patience: float = PATIENCE,
    worst: Behavior = Behavior.FAILED,
) -> Case:
    """A handshake that a client must refuse. The message behind it is for those who do not."""
    script = f"{_HELD}&{steps}"
    return Case(id, title, script, must, source, seen, needs, patience, worst=worst)


def _status(id: str, status: str, header: str, seen: str = "") -> Case:
    code = status.partition(" ")[0]
    return Case(
        id,
        f"answers {status}",
        f"{_HELD}&status={code}" + (f"&header={header}" if header else ""),
        Report(f"whether it reports the {code}", after=()),
        "RFC 6455, 4.1",
        seen,
        best=_INFORMATIONAL,
    )


def _broken(
    id: str, title: str, frame: str, source: str, *codes: int, seen: str = "", needs: str = ""
) -> Case:
    """A frame, or several, at which a client must fail the connection."""
    script = f"{_HELLO}&frame={frame}&{_LATER}"
    return Case(id, title, script, Fail(codes or (1002,)), source, seen, needs)


def _wasteful(id: str, title: str, header: str, size: int) -> Case:
    """A text whose length is not in the fewest bytes, which is forbidden to the server alone."""
    note = "a length has the fewest bytes that it takes (RFC 6455, 5.2)"
    message = text("a" * size)
    taken = Deliver((HELLO, message, LATER), (LATER.payload,), best=_NON_STRICT, note=note)
    case = _broken(id, title, header + message.payload.hex(), "RFC 6455, 5.2", seen="WebKit")
    return replace(case, must=(*case.musts, taken), worst=_NON_STRICT)


def _delivered(
    id: str,
    title: str,
    script: str,
    source: str,
    *messages: Message,
    pongs: tuple[bytes, ...] = (),
    seen: str = "",
    needs: str = "",
) -> Case:
    """Something right that a client must take for what it is. LATER is sent, too."""
    must = Deliver((*messages, LATER), pongs)
    return Case(id, title, f"{script}&send=later", must, source, seen, needs)


def _badClose(
    id: str, title: str, frame: str, source: str, code: int, *answers: int | None, seen: str = ""
) -> Case:
    """A close frame at which a client must fail the connection."""
    must = Fail((code,), answers=(*answers, 1000))
    return Case(id, title, f"{_HELLO}&frame={frame}", must, source, seen)


def _handshake() -> Iterator[Case]:
    hello = "send=hello"
    note = "a server does not say this twice (RFC 6455, 11.3)"
    twice = (Refuse(), Deliver((HELLO,), best=_NON_STRICT, note=note))
    yield _opening(
        "H01",
        "answers with a wrong Sec-WebSocket-Accept",
        f"accept=wrong&{hello}",
        seen="WPT, WebKit",
    )
    yield _opening(
        "H02", "answers without Sec-WebSocket-Accept", f"accept=none&{hello}", seen="WPT, WebKit"
    )
    yield _opening(
        "H03",
        "answers with Sec-WebSocket-Accept twice",
        f"accept=twice&{hello}",
        "RFC 6455, 11.3.3",
        seen="WPT, WebKit",
        must=twice,
        worst=_NON_STRICT,
    )
    yield _opening("H04", "answers without Upgrade", f"omit=upgrade&{hello}")
    yield _opening("H05", "answers without Connection", f"omit=connection&{hello}")
    yield _opening(
        "H06",
        "answers with `Upgrade: websockets`",
        f"omit=upgrade&header=Upgrade:%20websockets&{hello}",
    )
    yield _opening(
        "H07",
        "answers 200, with a body that looks like a frame",
        f"status-line=HTTP/1.1%20200%20OK&header=Content-Length:%207&{hello}",
        seen="WebKit",
        must=Refuse(mayStay=True),
    )
    yield _status(
        "H08", "301 and names another place", "Location:%20/lab%3fclose=1000", "websocat#109"
    )
    yield _status("H09", "401 and wants credentials", "WWW-Authenticate:%20Basic%20realm=lab")
    yield _status("H10", "403", "")
    yield _status("H11", "404", "")
    yield _status("H12", "426 and names a version", "Sec-WebSocket-Version:%2013")
    yield _status("H13", "429 and names a time", "Retry-After:%201")
    yield _status("H14", "503 and names a time", "Retry-After:%201")
    yield _opening(
        "H15", "answers with what is no HTTP", "garbage", seen="WPT `invalid`", worst=_UNCLEAN
    )
    yield _opening(
        "H16",
        "answers 101 with HTTP/1.0",
        f"status-line=HTTP/1.0%20101%20Switching%20Protocols&{hello}",
        "RFC 9110, 15.2",
        must=(
            Refuse(),
            Deliver((HELLO,), best=_NON_STRICT, note="HTTP/1.0 has no 101 (RFC 9110, 15.2)"),
        ),
        worst=_NON_STRICT,
    )
    tolerable = (Refuse(), Deliver((HELLO,)))
    yield _opening(
        "H17",
        "ends the lines of the 101 with LF alone",
        f"newline=lf&{hello}",
        "RFC 9112, 2.2",
        seen="WebKit",
        must=tolerable,
        worst=_UNCLEAN,
    )
    yield _opening(
        "H18",
        "has a NUL in the reason of the 101",
        f"status-line=HTTP/1.1%20101%20Switching%00Protocols&{hello}",
        "RFC 9112, 4",
        seen="WebKit",
        must=tolerable,
        worst=_UNCLEAN,
    )
    yield _opening(
        "H19",
        "folds a header of the 101 in the obsolete way",
        f"header=X-Folded:%20one%0d%0a%20two&{hello}",
        "RFC 9112, 5.2",
        seen="WebKit",
        must=tolerable,
        worst=_UNCLEAN,
    )
    yield Case(
        "H20",
        "sends the 101 and the first frame in one segment",
        f"coalesce&{hello}",
        Deliver((HELLO,)),
        "RFC 6455, 4.1",
        "websocket-sharp#669, netty#1331, websocketpp#32, faye-websocket-node#73, "
        "esp-protocols#396",
    )
    yield Case(
        "H21", "sends the 101 byte by byte", f"split=1&{hello}", Deliver((HELLO,)), "RFC 6455, 4.1"
    )
    yield Case("H22", "answers after 2 s", f"hold=2s&{hello}", Deliver((HELLO,)), "RFC 6455, 4.1")
    yield Case(
        "H23",
        "does not answer for 60 s",
        f"hold=60s&{hello}",
        GiveUp(),
        "RFC 6455, 4.1, which has no limit",
        "WPT `sleep_10`",
        worst=_INFORMATIONAL,
    )
    yield _opening("H24", "agrees to a subprotocol that nobody offered", f"subprotocol=lab&{hello}")
    yield Case(
        "H25",
        "agrees to none of the subprotocols offered",
        f"{_HELD}&subprotocol=none&{hello}",
        (Deliver((HELLO,)), Refuse()),
        "RFC 6455, 4.2.2; browsers refuse",
        "playwright#33425",
        needs="subprotocol",
        worst=_UNCLEAN,
    )
    yield _opening(
        "H26",
        "names the subprotocol twice",
        f"subprotocol=twice&{hello}",
        "RFC 6455, 11.3.4",
        must=twice,
        needs="subprotocol",
        worst=_NON_STRICT,
    )
    yield _opening("H27", "agrees to an extension that nobody offered", f"extension=x-lab&{hello}")
    yield from (
        _opening(
            id,
            title,
            f"extension={extension.replace(' ', '%20')}&{hello}",
            source,
            seen=seen,
            needs="permessage-deflate",
        )
        for id, title, extension, source, seen in [
            (
                "H28",
                "agrees to a window of 16 bits",
                "permessage-deflate; server_max_window_bits=16",
                "RFC 7692, 7",
                "undici CVE-2026-2229",
            ),
            (
                "H29",
                "agrees to permessage-deflate with an unknown parameter",
                "permessage-deflate; lab=1",
                "RFC 7692, 7",
                "",
            ),
            (
                "H30",
                "agrees to permessage-deflate twice",
                "permessage-deflate, permessage-deflate",
                "RFC 6455, 4.1",
                "",
            ),
            (
                "H31",
                "agrees to a parameter of permessage-deflate twice",
                "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
                "RFC 7692, 7",
                "",
            ),
        ]
    )
    bounded = (Refuse(), Deliver((HELLO,), best=_INFORMATIONAL, note=_MEMORY))
    yield _opening(
        "H32",
        "has 100,000 headers",
        f"headers=100000&{hello}",
        "RFC 6455, 10.4",
        seen="tungstenite CVE-2023-43669 (its mirror)",
        must=bounded,
        worst=_INFORMATIONAL,
    )
    yield _opening(
        "H33",
        "has a header of 1 MB",
        f"headers=1,1M&{hello}",
        "RFC 6455, 10.4",
        seen="tungstenite CVE-2023-43669 (its mirror)",
        must=bounded,
        worst=_INFORMATIONAL,
    )
    yield Case("H34", "sets 50 cookies", f"cookies=50&{hello}", Deliver((HELLO,)), "RFC 6455, 4.1")
    yield _opening(
        "H35",
        "agrees to a window of 7 bits",
        f"extension=permessage-deflate;%20server_max_window_bits=7&{hello}",
        "RFC 7692, 7",
        needs="permessage-deflate",
    )


def _frames() -> Iterator[Case]:
    yield _broken("F01", "masks a frame", "818537fa213d7f9f4d5158", "RFC 6455, 5.1")
    yield Case(
        "F02",
        "sets RSV1, though no extension is agreed",
        f"extension=none&{_HELLO}&frame=c10568656c6c6f&{_LATER}",
        Fail((1002,)),
        "RFC 6455, 5.2",
        "ws#1238",
    )
    yield _broken("F03", "sets RSV2", "a10568656c6c6f", "RFC 6455, 5.2", seen="ws#1238")
    yield _broken("F04", "sets RSV3", "910568656c6c6f", "RFC 6455, 5.2", seen="ws#1238")
    for number, opcode in enumerate((3, 4, 5, 6, 7, 11, 12, 13, 14, 15), 5):
        kind = "control" if opcode & 8 else "data"
        yield _broken(
            f"F{number:02}",
            f"sends a {kind} frame with the reserved opcode {opcode}",
            f"8{opcode:x}0568656c6c6f",
            "RFC 6455, 5.2",
        )
    aspnet = "aspnet/WebSockets#16"
    yield _broken(
        "F15", "sends a ping in fragments", "090368656c80026c6f", "RFC 6455, 5.5", seen=aspnet
    )
    yield _broken(
        "F16", "sends a ping of 126 bytes", "897e007e" + "61" * 126, "RFC 6455, 5.5", seen=aspnet
    )
    yield _broken("F17", "sends a continuation of nothing", "800568656c6c6f", "RFC 6455, 5.4")
    yield _broken(
        "F18",
        "begins a message inside another",
        "010368656c810568656c6c6f",
        "RFC 6455, 5.4",
    )
    yield _wasteful("F19", "writes a length of 125 in 16 bits", "817e007d", 125)
    yield _wasteful("F20", "writes a length of 126 in 64 bits", "817f000000000000007e", 126)
    yield _wasteful("F21", "writes a length of 5 in 64 bits", "817f0000000000000005", 5)
    yield _broken("F22", "sets the top bit of a length", "827f8000000000000000", "RFC 6455, 5.2")
    reserved = "what it reserved for the rest"
    yield Case(
        "F23",
        "declares 2^62 bytes, and sends a hundred a second",
        f"{_HELLO}&rate=100&frame=827f4000000000000000{'00' * 300}&drop=fin",
        (Fail((1009,)), Report(reserved)),
        "RFC 6455, 10.4",
        "undici CVE-2026-1528, gorilla CVE-2020-27813",
        worst=_INFORMATIONAL,
    )
    yield Case(
        "F24",
        "declares 1 GiB, and sends nothing of it",
        f"{_HELLO}&frame=827f0000000040000000&wait=4s&drop=fin",
        (Fail((1009,)), Report(reserved)),
        "RFC 6455, 10.4",
        "rust-websocket CVE-2022-35922",
        worst=_INFORMATIONAL,
    )
    for id, title, frame in [
        ("F25", "sends a text with a byte that UTF-8 does not have", "810768656c6c6f20ff"),
        ("F26", "sends a text that is invalid where two fragments meet", "010268c3800128"),
        ("F27", "sends a text that ends inside a character", "81036869c3"),
        ("F28", "sends a text with a surrogate", "8103eda080"),
        ("F29", "sends a text with an overlong encoding", "8102c0af"),
        ("F30", "sends a text with a character above U+10FFFF", "8104f4908080"),
    ]:
        yield _broken(id, title, frame, "RFC 6455, 8.1", 1007)
    yield _delivered(
        "F31",
        "cuts a character in two fragments",
        "frame=010268c38002a921",
        "RFC 6455, 8.1",
        text("hé!"),
    )
    yield _delivered(
        "F32",
        "sends a ping between two fragments",
        "frame=010377656c89076265747765656e8004636f6d65",
        "RFC 6455, 5.4",
        text("welcome"),
        pongs=(b"between",),
        seen="embedded-websocket#31, netty PR 14122, websocket-kit PR 114",
    )
    yield _delivered(
        "F33",
        "sends a ping of 125 bytes",
        f"{_HELLO}&ping={'p' * 125}",
        "RFC 6455, 5.5.3",
        HELLO,
        pongs=(b"p" * 125,),
        seen="netxduo PR 411",
    )
    yield _delivered(
        "F34",
        "sends three pings at once",
        f"{_HELLO}&frame=89036f6e65890374776f89057468726565",
        "RFC 6455, 5.5.3",
        HELLO,
        pongs=(b"one", b"two", b"three"),
        seen="netxduo PR 411",
    )
    yield _delivered(
        "F35",
        "sends a pong that nobody asked for",
        f"{_HELLO}&frame=8a06756e61736b64",
        "RFC 6455, 5.5.3",
        HELLO,
    )
    yield _delivered("F36", "sends an empty text", "send=", "RFC 6455, 5.6", text(""))
    yield _delivered(
        "F37", "sends an empty binary message", "send-hex=", "RFC 6455, 5.6", filled(0, True)
    )
    sizes = (125, 126, 65535, 65536)
    yield _delivered(
        "F38",
        "sends messages of 125, 126, 65,535 and 65,536 bytes",
        "&".join(f"fill={size}" for size in sizes),
        "RFC 6455, 5.2",
        *map(filled, sizes),
    )
    yield _delivered(
        "F39",
        "begins a text with a byte order mark",
        "send=%ef%bb%bfhello",
        "RFC 6455, 5.6",
        text("\ufeffhello"),
    )
    yield _delivered(
        "F40",
        "sends NUL and U+FFFF in a text",
        "send=a%00b%ef%bf%bfc",
        "RFC 6455, 5.6",
        text("a\0b\uffffc"),
    )
    yield _delivered(
        "F41",
        "sends empty fragments between others",
        "frame=010368656c0000000080026c6f",
        "RFC 6455, 5.4",
        HELLO,
    )
    yield Case(
        "F42",
        "sends a message in 100,000 fragments of one byte",
        f"{_HELLO}&fragment=1&fill=100000",
        (Deliver((HELLO, filled(100_000))), Fail((1008, 1009))),
        "RFC 6455, 5.4",
        "ws CVE-2026-48779, undici CVE-2026-9675",
    )
    yield Case(
        "F43",
        "sends a message that does not end",
        f"{_HELLO}&frame=010161&flood=007d{'61' * 125}&close=1000",
        (Fail((1008, 1009)), AnswerClose((1000,), best=_INFORMATIONAL, note=_MEMORY)),
        "RFC 6455, 10.4",
        "curl CVE-2026-11586",
        worst=_INFORMATIONAL,
    )
    yield Case(
        "F44",
        "sends pings without a pause",
        f"{_HELLO}&flood=897d{'70' * 125}&send=later",
        (Deliver((HELLO, LATER), best=_INFORMATIONAL, note=_MEMORY), Fail((1008, 1009))),
        "RFC 6455, 5.5.3",
        "curl CVE-2026-11586",
        best=_INFORMATIONAL,
    )
    yield _delivered(
        "F45",
        "sends byte by byte, with a ping between two fragments",
        "chop=1&frame=010568656c6c6f89036e6f77800620776f726c64",
        "RFC 6455, 5.4",
        text("hello world"),
        pongs=(b"now",),
    )
    yield Case(
        "F46",
        "sends a message of 16 MiB",
        f"{_HELLO}&fill=16M",
        (Deliver((HELLO, filled(16 << 20))), Fail((1009,))),
        "RFC 6455, 10.4",
    )
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    yield Case(
        "F47",
        "looks at the masks of the client",
        "&".join(f"send={word}" for word in words),
        MaskFreshly(tuple(map(text, words))),
        "RFC 6455, 5.3",
        "curl CVE-2025-10148",
    )
    yield _delivered(
        "F48",
        "looks at the frames of the client",
        "send=gr%c3%bc%c3%9fe&fill=125&fill=126&as=binary&fill=65535&fill=65536&as=text",
        "RFC 6455, 5.2",
        text("grüße"),
        filled(125),
        filled(126),
        filled(65535, True),
        filled(65536, True),
    )


def _compression() -> Iterator[Case]:
    deflate = "permessage-deflate"
    hello = "f248cdc9c90700"  # "Hello" (RFC 7692, 7.2.3.1).
    yield _delivered(
        "C01",
        "sends a message that is not compressed",
        "compress=never&send=hello",
        "RFC 7692, 6.1",
        HELLO,
        seen="nginx-clojure#163",
        needs=deflate,
    )
    yield _delivered(
        "C02",
        "sends a message that is compressed",
        f"frame=c107{hello}",
        "RFC 7692, 7.2.3.1",
        text("Hello"),
        needs=deflate,
    )
    java = "Java-WebSocket PR 1232"
    yield Case(
        "C03",
        "compresses a message, though that is not agreed",
        f"extension=none&{_HELLO}&frame=c107{hello}&{_LATER}",
        Fail((1002,)),
        "RFC 6455, 5.2",
        java,
    )
    yield _broken(
        "C04",
        "sets RSV1 on a continuation",
        "4103f248cdc004c9c90700",
        "RFC 7692, 6.1",
        seen=java,
        needs=deflate,
    )
    yield _broken(
        "C05", "sets RSV1 on a ping", "c90568656c6c6f", "RFC 7692, 6.1", seen=java, needs=deflate
    )
    yield _broken(
        "C06",
        "sends a compressed message with a broken block",
        "c103ffffff",
        "RFC 7692, 7.2.2",
        1007,
        1002,
        seen="undici GHSA-3wwx-pv8p-q78v",
        needs=deflate,
    )
    yield Case(
        "C07",
        "sends 64 KB that inflate to 64 MB",
        f"{_HELLO}&compress=bomb&send=bomb&compress=never&send=later",
        (
            Fail((1009,)),
            Deliver((HELLO, LATER), best=_INFORMATIONAL, note="it dropped the one between them"),
        ),
        "RFC 6455, 10.4",
        "undici CVE-2026-1526, websockets CVE-2018-1000518",
        deflate,
        patience=10.0,
        worst=_INFORMATIONAL,
    )
    yield _delivered(
        "C08",
        "sends a compressed message in fragments, and a ping between them",
        "frame=4103f248cd89076265747765656e8004c9c90700",
        "RFC 7692, 6.1",
        text("Hello"),
        pongs=(b"between",),
        seen="wsproto#205",
        needs=deflate,
    )
    yield _delivered(
        "C09",
        "ends a compressed message with a last block, and sends another",
        f"frame=c108f348cdc9c9070000c107{hello}",
        "RFC 7692, 7.2.3.4",
        text("Hello"),
        text("Hello"),
        seen="Bun#34105, Beast#923, ws#1669",
        needs=deflate,
    )
    yield _delivered(
        "C10",
        "sends an empty message, compressed to one byte",
        "frame=c10100",
        "RFC 7692, 7.2.3.6",
        text(""),
        needs=deflate,
    )
    promised = "it used a window that the server had promised to do without"
    forgets = f"extension={deflate};%20server_no_context_takeover;%20client_no_context_takeover"
    yield Case(
        "C11",
        "keeps its window, though it agreed to forget it",
        f"{forgets}&compress=always&send=hello&ignore=1&frame=c105f200110000&compress=never"
        f"&{_LATER}",
        (
            Fail((1007, 1002)),
            Deliver((HELLO, text("Hello"), LATER), best=_NON_STRICT, note=promised),
        ),
        "RFC 7692, 7.1.1.1",
        needs=deflate,
        worst=_NON_STRICT,
    )
    yield _delivered(
        "C12",
        "compresses a message in stored, fixed and dynamic blocks",
        "frame=c164000800f7ff73746f7265642c20000000ffff4acbac484dd15100000000ffff4c8bdb014030"
        "0c4557b90398c036d104a54d681535bdc797dff3206570558adeb5d846c15abc9bd1253b14bd9d984a5c"
        "326c97f4e9405705dbd0809ef34f9083c89b2a6e00",
        "RFC 7692, 7.2.2",
        text(
            "stored, fixed, and dynamic: the quick brown fox jumps over the lazy dog, and the lazy "
            "dog sleeps on "
        ),
        needs=deflate,
    )
    smaller = f"{forgets};%20server_max_window_bits=9"
    yield Case(
        "C13",
        "uses a larger window than it agreed to",
        f"{smaller}&{_HELLO}&frame=c114ca4b4d4dc949d51d05a360140c7b9007ceed0000&{_LATER}",
        (
            Fail((1007, 1002)),
            Deliver(
                (HELLO, text("needle" + "-" * 1000 + "needle"), LATER),
                best=_NON_STRICT,
                note=promised,
            ),
        ),
        "RFC 7692, 7.1.2.1",
        needs=deflate,
        worst=_NON_STRICT,
    )
    yield _broken(
        "C14",
        "sends a compressed text that is not UTF-8",
        "c109ca48cdc9c957f80f00",
        "RFC 6455, 8.1",
        1007,
        needs=deflate,
    )


def _closing() -> Iterator[Case]:
    # A client under test never closes by itself, so something broken makes it. Before that there is
    # a second for one that is tried by hand.
    provoked = f"{_HELLO}&ignore=1s&frame=8300"
    late = EndTcp(35.0)
    yield Case(
        "X01",
        "does not answer the close",
        f"reply-close=no&{provoked}",
        late,
        "RFC 6455, 7.1.1",
        "vert.x#5592, websocket-client#592",
        patience=36.0,
        worst=Behavior.UNCLEAN,
    )
    yield Case(
        "X02",
        "sends messages instead of answering the close",
        f"reply-close=chatter&{provoked}",
        late,
        "RFC 6455, 7.1.1",
        "aiohttp#1002",
        patience=36.0,
        worst=Behavior.UNCLEAN,
    )
    yield Case(
        "X03",
        "leaves TCP open after the closing handshake",
        f"reply-close=open&{_HELLO}&close=1000",
        replace(late, isAnswer=True),
        "RFC 6455, 7.1.1",
        "websockets#1487",
        patience=36.0,
        worst=Behavior.UNCLEAN,
    )
    reported = Report("whether it reports 1006")
    lost = "okhttp#6333, jest-websocket-mock#168"
    half = f"{_HELLO}&frame=81056865&drop=fin"
    cut = replace(reported, after=())
    for id, title, script, must, worst in [
        ("X04", "ends TCP without a close", f"{_HELLO}&drop=fin", reported, Behavior.UNCLEAN),
        ("X05", "resets TCP", f"{_HELLO}&drop=rst", reported, _INFORMATIONAL),
        ("X06", "ends TCP in the middle of a frame", half, reported, Behavior.FAILED),
        ("X07", "ends TCP in the middle of the 101", f"{_HELD}&cut=fin", cut, Behavior.UNCLEAN),
    ]:
        yield Case(
            id, title, script, must, "RFC 6455, 7.1.5", lost, best=_INFORMATIONAL, worst=worst
        )
    yield Case(
        "X08",
        "says close without a code",
        f"{_HELLO}&close",
        AnswerClose((None, 1000)),
        "RFC 6455, 5.5.1",
    )
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1015, 2999, 5000), 9):
        yield _badClose(
            f"X{number:02}",
            f"says close with {code}",
            f"8802{code:04x}",
            "RFC 6455, 7.4",
            1002,
            code,
            seen="WebKit",
        )
    for number, code in enumerate((1012, 1014, 3000, 4999), 17):
        yield Case(
            f"X{number}",
            f"says close with {code}",
            f"{_HELLO}&close={code}",
            AnswerClose((code,)),
            "RFC 6455, 7.4.2" if code >= 3000 else "RFC 6455, 7.4, and the registry of IANA",
        )
    yield _badClose(
        "X21", "says close with a body of one byte", "880103", "RFC 6455, 5.5.1", 1002, None
    )
    yield _badClose(
        "X22", "says close with a reason that is not UTF-8", "880403e8c328", "RFC 6455, 8.1", 1007
    )
    yield Case(
        "X23",
        "says close with a reason of 123 bytes",
        f"{_HELLO}&close=1000,{'r' * 123}",
        AnswerClose((1000,)),
        "RFC 6455, 5.5.1",
    )
    yield _badClose(
        "X24",
        "says close with a reason of 124 bytes",
        "887e007e03e8" + "72" * 124,
        "RFC 6455, 5.5",
        1002,
    )
    yield Case(
        "X25",
        "sends a message after its close",
        f"{_HELLO}&close=1000&send=late",
        AnswerClose((1000,)),
        "RFC 6455, 5.5.1",
    )
    yield Case(
        "X26",
        "says close twice",
        f"{_HELLO}&close=1000&frame=880203e9",
        AnswerClose((1000,)),
        "RFC 6455, 5.5.1",
    )
    yield Case(
        "X27",
        "answers nothing any more",
        f"{_HELLO}&hang",
        NoticeSilence(60.0),
        "RFC 6455, 5.5.2, which demands nothing",
        "nodetool PR 4592",
        patience=61.0,
        worst=_INFORMATIONAL,
    )
    yield Case(
        "X28",
        "does not read for 2 s what answers 16 MiB",
        f"{_HELLO}&fill=16M&stall=2s&send=later",
        (
            Deliver((HELLO, filled(16 << 20), LATER), best=_INFORMATIONAL, note=_MEMORY),
            Fail((1009,), best=_INFORMATIONAL, note="it had nothing to wait with"),
        ),
        "RFC 6455, 10.4",
        "WPT",
        best=_INFORMATIONAL,
    )
    yield Case(
        "X29",
        "says close inside a message in fragments",
        f"{_HELLO}&frame=010368656c&close=1000",
        AnswerClose((1000,)),
        "RFC 6455, 5.5.1",
    )
    yield Case(
        "X30",
        "accepts once, then refuses with 503",
        f"accepts=1&{_HELLO}&drop=fin",
        BackOff(),
        "RFC 6455, 7.2.3",
        "playwright#34913",
        best=_INFORMATIONAL,
        worst=_NON_STRICT,
    )


def _byId(cases: Iterable[Case]) -> dict[str, Case]:
    listed = list(cases)
    found = {case.id: case for case in listed}
    assert len(found) == len(listed), "an ID is there twice"
    return found


CASES: dict[str, Case] = _byId(
    case for part in (_frames, _compression, _closing, _handshake) for case in part()
)
"""By their IDs. Those of the handshake come last: harnesses of clients that were written for the
Autobahn testsuite may stop at the first handshake that fails."""
