"""A WebSocket client for the cases of the lab: bytes in, bytes out.

It echoes every message, as a client under test does, and keeps all rules that the cases are about,
but for the one that `breaks` names; what it does instead stands where it asks for that rule. It
reads RFC 6455 and RFC 7692 for itself, without a look at the service's code.
"""

import random
import zlib
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1

from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    masked,
)
from echotwist.testing.raw import KEY, request
from support.deflate import deflated

HEAD = 1 << 18
"""Bytes that the head of the answer may have."""

FRAGMENTS = 200_000
PINGS = 100
"""Pings that come together, of which each is answered; of more only the last (RFC 6455, 5.5.3)."""

WAIT = 10.0
"""Seconds to wait for the answer to the handshake, and for the end of TCP after a close."""

SILENCE = 20.0
"""Seconds without anything before a ping, and then for the answer to it."""

SUBPROTOCOLS = ("one", "two")

CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
"""Close codes that may be sent (RFC 6455, 7.4, and IANA's registry)."""


class Failed(Exception):
    """The connection is failed with this close code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Dead(Exception):
    """The client hangs, or has crashed, and keeps its socket."""


class LabClient:
    """Give it what the server sends, and the time; send what it gives back, and end its side of TCP
    once it `wantsToClose`."""

    def __init__(
        self, breaks: str = "", *, offersDeflate: bool = True, most: int = 4 << 20
    ) -> None:
        """A message may have `most` bytes."""
        self.isBroken = False
        """Whether it had an occasion to break the rule."""

        self.wantsToClose = False
        self._breaks = breaks
        self._offersDeflate = offersDeflate
        self._most = most
        self._now = 0.0
        self._deadline: float | None = None
        self._random = random.Random(1)
        self._data = bytearray()
        self._out: list[bytes] = []
        self._pings: list[bytes] = []
        self._pingCount = 0
        self._isOpen = self._isDead = self._hasClosed = self._isPinging = False
        self._isDeflated = self._keepsWindow = False
        self._bits = 15
        self._inflator = zlib.decompressobj(wbits=-15)
        self._first: Frame | None = None
        """The first frame of a message that has not ended."""

        self._fragments: list[bytes] = []
        self._size = 0

    def _keeps(self, rule: str) -> bool:
        if rule != self._breaks:
            return True
        self.isBroken = True
        return False

    # What happens. All of these return what the client sends then.

    def request(self, target: str) -> bytes:
        self._deadline = WAIT if self._keeps("patience") else 1.0
        extensions = "permessage-deflate; client_max_window_bits" if self._offersDeflate else None
        return request(
            target,
            Sec_WebSocket_Extensions=extensions,
            Sec_WebSocket_Protocol=", ".join(SUBPROTOCOLS),
        )

    def receive(self, data: bytes) -> bytes:
        """The server has sent this."""
        self._data += data
        return self._sent(self._work)

    def finished(self) -> bytes:
        """The server has ended its side of TCP."""
        return self._sent(self._finish)

    def tick(self, now: float) -> bytes:
        """So many seconds have passed since the request."""
        self._now = now
        return self._sent(self._wait)

    def _sent(self, act: Callable[[], None]) -> bytes:
        if self._isDead or self.wantsToClose:
            return b""
        try:
            act()
        except Failed as e:
            self._fail(e.code)
        except Dead:
            self._isDead = True
        self._answerPings()
        out, self._out = b"".join(self._out), []
        return out

    def _work(self) -> None:
        if not self._isOpen:
            self._shakeHands()
        if self._isOpen:
            if not self._hasClosed:
                self._deadline, self._isPinging = self._now + SILENCE, False
            self._takeFrames()

    def _finish(self) -> None:
        isHalf = self._isOpen and not self._hasClosed and len(self._data) > 2
        if isHalf and not self._keeps("half"):
            self._send(TEXT, bytes(self._data[2:]))
        self.wantsToClose = self._keeps("tcp")

    def _wait(self) -> None:
        if self._deadline is None or self._now < self._deadline:
            return
        self._deadline = None
        if not self._isOpen:
            self.wantsToClose = self._keeps("handshake timeout")
        elif self._hasClosed:
            self.wantsToClose = self._keeps("tcp")
        elif self._isPinging:
            self._fail(1011)
        elif self._keeps("keepalive"):
            self._send(PING, b"there?")
            self._deadline, self._isPinging = self._now + SILENCE, True

    def _fail(self, code: int) -> None:
        self._close(code.to_bytes(2, "big"))

    def _close(self, payload: bytes) -> None:
        self._answerPings()
        self._send(CLOSE, payload)
        self._hasClosed = True
        self._deadline = self._now + WAIT

    def _send(self, opcode: int, payload: bytes) -> None:
        mask = self._random.randbytes(4) if self._keeps("fresh masks") else MASK
        if opcode in (TEXT, BINARY) and not self._keeps("own length"):
            size = (0x80 | 127).to_bytes(1, "big") + len(payload).to_bytes(8, "big")
            self._out.append(bytes([0x80 | opcode]) + size + mask + masked(payload, mask))
        elif self._isDeflated and len(payload) > self._most:
            self._out.append(frame(opcode, deflated(payload), rsv=4, mask=mask))
        else:
            self._out.append(frame(opcode, payload, mask=mask))

    # The handshake (RFC 6455, 4.1).

    def _shakeHands(self) -> None:
        data = bytes(self._data)
        end = data.find(b"\r\n\r\n")
        if end < 0 and b"\n\n" in data and self._keeps("lf"):
            data = data.replace(b"\n", b"\r\n")
            end = data.find(b"\r\n\r\n")
        if (end if end >= 0 else len(data)) > HEAD and self._keeps("limit"):
            self._refuse()
        elif end < 0:
            if not self._keeps("one read"):
                raise Dead
        elif not self._accepts(data[:end].decode("latin-1").split("\r\n")):
            self._refuse()
        else:
            self._isOpen = True
            self._data = bytearray(data[end + 4 :])
            if self._data and not self._keeps("early"):
                self._data.clear()

    def _refuse(self) -> None:
        self.wantsToClose = True

    def _accepts(self, lines: list[str]) -> bool:
        status, *fields = lines
        if not status.startswith("HTTP/") and not self._keeps("garbage"):
            raise Dead
        if "\0" in status and not self._keeps("nul in the reason"):
            raise Dead
        version, _, rest = status.partition(" ")
        if "\0" in status or (version != "HTTP/1.1" and self._keeps("version")):
            return False
        if not rest.startswith("101 "):
            if self._keeps("status"):
                return False
            self._send(PING, b"")  # It believes that it is open.
        headers: dict[str, list[str]] = {}
        name = ""
        for field in fields:
            if field.startswith(" "):
                if not self._keeps("fold"):
                    raise Dead
                headers[name][-1] += field
                continue
            name, _, value = field.partition(":")
            name = name.lower()
            headers.setdefault(name, []).append(value.strip())
        if len(headers.get("set-cookie", [])) > 1 and not self._keeps("cookies"):
            return False
        return self._agrees(headers)

    def _agrees(self, headers: dict[str, list[str]]) -> bool:
        digest = sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()

        def said(name: str) -> list[str]:
            return [value.lower() for value in headers.get(name, [])]

        for rule, isRight in [
            ("upgrade", said("upgrade") == ["websocket"]),
            ("connection", said("connection") == ["upgrade"]),
            ("accept", headers.get("sec-websocket-accept") == [b64encode(digest).decode()]),
        ]:
            if not isRight and self._keeps(rule) and self._keeps("status"):
                return False
        subprotocols = headers.get("sec-websocket-protocol", [])
        if not subprotocols and not self._keeps("no subprotocol"):
            raise Dead
        isOffered = len(subprotocols) < 2 and set(subprotocols) <= set(SUBPROTOCOLS)
        if not isOffered and self._keeps("subprotocol"):
            return False
        extensions = ",".join(headers.get("sec-websocket-extensions", []))
        return not extensions or self._agreesTo(extensions.split(","))

    def _agreesTo(self, extensions: list[str]) -> bool:
        for extension in extensions:
            name, *parameters = (part.strip() for part in extension.split(";"))
            given = dict(parameter.partition("=")[::2] for parameter in parameters)
            known = {"server_no_context_takeover", "client_no_context_takeover"}
            known |= {"server_max_window_bits", "client_max_window_bits"}
            bits = given.get("server_max_window_bits", "15")
            isRight = (
                self._offersDeflate
                and name == "permessage-deflate"
                and len(extensions) == 1
                and len(given) == len(parameters)
                and given.keys() <= known
                and bits in map(str, range(8, 16))
            )
            if not isRight:
                return not self._keeps("extension")
            self._isDeflated = True
            self._bits = int(bits)
            self._keepsWindow = "server_no_context_takeover" not in given
        isSmall = self._bits < 15 or not self._keepsWindow
        if isSmall and not self._keeps("window"):
            self._bits, self._keepsWindow = 15, True
        self._inflator = zlib.decompressobj(wbits=-self._bits)
        return True

    # Frames (RFC 6455, 5.2).

    def _takeFrames(self) -> None:
        at = 0
        try:
            while (found := self._next(at)) is not None:
                each, at = found
                if not self._hasClosed or not self._keeps("after close"):
                    self._frame(each)
            if at < len(self._data) and not self._keeps("partial"):
                raise Failed(1002)
        finally:
            del self._data[:at]

    def _next(self, at: int) -> tuple[Frame, int] | None:
        """The frame that begins there, and its end; None if a part of it is missing."""
        data = self._data
        if self._hasClosed and self._breaks != "after close":
            data.clear()
        if len(data) < at + 2:
            return None
        fin, rsv, opcode = bool(data[at] & 0x80), data[at] >> 4 & 7, data[at] & 15
        isMasked, size = bool(data[at + 1] & 0x80), data[at + 1] & 0x7F
        at += 2
        extended = {126: 2, 127: 8}.get(size, 0)
        if len(data) < at + extended:
            return None
        if extended:
            size = int.from_bytes(data[at : at + extended], "big")
            at += extended
        if size >> 63:
            self._demand("top bit")
            size = 0
        elif size < {2: 126, 8: 1 << 16}.get(extended, 0):
            self._demand("length")
        if isMasked:
            self._demand("mask")
        isAgreed = self._isDeflated or (rsv == 4 and not self._keeps("agreement"))
        if rsv and not (rsv == 4 and isAgreed and opcode in (TEXT, BINARY)):
            self._demand("rsv")
            rsv = 0
        if opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            self._demand("opcode")
        if opcode & 8 and (size > 125 or not fin):
            self._demand("control")
        if size > self._most:
            self._demand("limit", 1009)
        mask = bytes(data[at : at + 4]) if isMasked else bytes(4)
        at += 4 * isMasked
        if len(data) < at + size:
            return None
        payload = masked(bytes(data[at : at + size]), mask)
        return Frame(opcode, payload, fin, rsv), at + size

    def _demand(self, rule: str, code: int = 1002) -> None:
        """A rule is broken by the server: fail, unless that is the one that this client ignores."""
        if self._keeps(rule):
            raise Failed(code)

    def _frame(self, each: Frame) -> None:
        match each.opcode:
            case 8:
                self._closeFrame(each.payload)
            case 9:
                if self._first is not None and not self._keeps("ping between"):
                    raise Failed(1002)
                self._pings.append(each.payload)
                self._pingCount += 1
                if self._pingCount > 1000 and not self._keeps("pings"):
                    raise Dead
            case 10:
                if not self._isPinging and not self._keeps("pong unasked"):
                    raise Failed(1002)
            case opcode if opcode < 8:
                self._fragment(each)

    def _answerPings(self) -> None:
        pings, self._pings = self._pings, []
        if len(pings) > PINGS:
            pings = pings[-1:]
        if len(pings) > 1 and not self._keeps("pong order"):
            pings.pop()
        for payload in pings:
            self._send(PONG, payload if self._keeps("pong") else payload[:20])

    def _closeFrame(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else None
        if self._first is not None and not self._keeps("close inside"):
            raise Failed(1002)
        if len(payload) == 1:
            self._demand("close body")
            payload = b""
        elif code is not None:
            if code not in CODES:
                self._demand("close code")
            if code > 1011 and not self._keeps("known codes"):
                raise Failed(1002)
            if len(payload) > 124 and not self._keeps("long reason"):
                raise Failed(1002)
            if not _isUtf8(payload[2:]):
                self._demand("close reason", 1007)
        if self._keeps("close"):
            self._close(payload[:2])
        else:
            self.wantsToClose = True

    # Messages (RFC 6455, 5.4 and 5.6).

    def _fragment(self, each: Frame) -> None:
        isFirst = each.opcode != CONTINUATION
        if isFirst == (self._first is not None):
            self._demand("continuation")
            isFirst = True
        if isFirst:
            self._first, self._fragments, self._size = each, [], 0
        first = self._first
        assert first is not None
        self._fragments.append(each.payload)
        self._size += len(each.payload)
        if self._size > self._most or len(self._fragments) > FRAGMENTS:
            self._demand("limit", 1009)
        if len(self._fragments) > 1000 and not self._keeps("fragments"):
            raise Dead
        if not isFirst and not each.payload and not self._keeps("empty fragment"):
            raise Failed(1002)
        isText = first.opcode not in (BINARY, CONTINUATION) and not first.rsv
        if isText and not _isUtf8(each.payload) and not self._keeps("utf8 at the end"):
            raise Failed(1007)
        if each.fin:
            self._first = None
            self._message(first, b"".join(self._fragments))

    def _message(self, first: Frame, payload: bytes) -> None:
        if first.rsv and self._keeps("inflate"):
            payload = self._inflate(payload)
        elif self._isDeflated and not first.rsv and not self._keeps("plain"):
            raise Failed(1007)
        isBinary = first.opcode == BINARY
        if not isBinary and not _isUtf8(payload):
            self._demand("utf8", 1007)
        if not payload and not self._keeps("empty"):
            return
        if payload.startswith(b"\xef\xbb\xbf") and not self._keeps("bom"):
            payload = payload[3:]
        if b"\0" in payload and not self._keeps("nul"):
            payload = payload[: payload.index(b"\0")]
        if len(payload) > 0x7FFF and not self._keeps("16 bits"):
            raise Failed(1002)
        if len(payload) > 1 << 20 and not self._keeps("large"):
            payload = payload[: 1 << 20]
        self._answerPings()
        self._send(BINARY if isBinary else TEXT, payload)

    def _inflate(self, payload: bytes) -> bytes:
        """RFC 7692, 7.2.2. Byte by byte, if the window is small: within one call zlib looks back
        further (1.3.1)."""
        if payload == b"\0" and not self._keeps("empty, deflated"):
            raise Failed(1007)
        if not payload[0] >> 1 & 3 and payload != b"\0" and not self._keeps("stored blocks"):
            raise Failed(1007)
        if not self._keepsWindow:
            self._inflator = zlib.decompressobj(wbits=-self._bits)
        rest = payload + b"\0\0\xff\xff"
        message: list[bytes] = []
        size = 0
        try:
            while rest:
                step = 1 if self._bits < 15 else len(rest)
                message.append(self._inflator.decompress(rest[:step], self._most + 1))
                size += len(message[-1])
                if size > self._most and self._keeps("limit"):
                    raise Failed(1009)
                rest = self._inflator.unconsumed_tail + self._inflator.unused_data + rest[step:]
                if self._inflator.eof:
                    self._inflator = zlib.decompressobj(wbits=-self._bits)
                    if not self._keeps("last block"):
                        raise Failed(1007)
        except zlib.error:
            self._demand("whole deflate data", 1007)
        return b"".join(message)


def _isUtf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
