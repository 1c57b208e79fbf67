"""The message log: one line for each event, bounded under load.

    #1 127.0.0.1:40312 connected
    #1 127.0.0.1:40312 text, 5 bytes: 'hello'
    #1 127.0.0.1:40312 binary, 3 bytes: 00 ff 7f
    #1 127.0.0.1:40312 received: ping, FIN, masked, payload length 0   (with --log-frames)
    #1 127.0.0.1:40312 closed: 1000 'bye'
    and in this second 81,234 messages (10,154,250 bytes), 2 connected, 2 closed, ...

The first `rate` lines of a second are shown. Further events are counted, exactly, and reported in
one line at the end of the second. So a person who clicks Send sees every line, while a flood fills
no disk and costs a comparison and some additions a message. `totals` counts everything since the
start.

What a client wrote is never logged raw: `repr()` escapes everything that does not print, which is
every control byte, newline, terminal escape and bidirectional override.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from echotwist.observe.totals import Totals

TEXT_PREVIEW = 64
"""Characters of a text message that a line shows. The line then fits most terminals."""

BINARY_PREVIEW = 16
"""Bytes of a binary message that a line shows, as many as in a line of hexdump."""

DROP_REASONS = (
    "its place was needed for another",
    "no header of the PROXY protocol",
    "half a header of the PROXY protocol",
    "its answers were not read",
    "its script at /lab had no 101",
)
"""Why connections are dropped. /metrics has a series for each from the start, because Prometheus's
rate() misses the event that creates a series."""

LONGEST_HEADER = 14
"""Bytes of a frame's header: two, a length of eight, and the mask (RFC 6455, 5.2)."""

_BITS = {0x80: "FIN", 0x40: "RSV1", 0x20: "RSV2", 0x10: "RSV3"}
_OPCODES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
"""RFC 6455, 5.2."""

_ENCODING = sys.__stdout__.encoding if sys.__stdout__ else "utf-8"


class Connection(Protocol):
    """What the journal needs to know about a connection."""

    number: int
    """Counted since the start of the process."""

    address: str
    """The peer, as an address and a port."""


class Journal:
    """Shows at most `rate` lines a second (0: none)."""

    onSecondEnd: Callable[[], None] | None = None
    """Called at the end of a second, to `count` messages that were echoed outside the reactor since
    the last call. These include no message that was shown."""

    def __init__(
        self,
        rate: int,
        reactor: IReactorTime,
        log: Logger | None = None,
        logsFrames: bool = False,
    ) -> None:
        self.logsFrames = logsFrames
        """Whether to call `frame`. Callers check this first, since frames are many."""
        self._rate = self._linesLeft = rate
        self._reactor = reactor
        self._log = log or Logger(namespace="echotwist")
        self._secondTimer: IDelayedCall | None = None
        self._unshown: Counter[str] = Counter()
        self._unshownBytes = 0
        self.totals = Totals()

    def connected(self, connection: Connection) -> None:
        self.totals.accepted += 1
        self._logOrCount("connected", "#{number} {peer} connected", connection)

    def message(
        self, connection: Connection, payload: bytes, isBinary: bool, size: int | None = None
    ) -> None:
        """A whole message was received. `size` is its bytes if `payload` is only its beginning."""
        if size is None:
            size = len(payload)
        if not self._linesLeft:
            self.count(*((0, 0, 1, size) if isBinary else (1, size, 0, 0)))
            return
        if isBinary:
            self.totals.binaries += 1
            self.totals.binaryBytes += size
        else:
            self.totals.texts += 1
            self.totals.textBytes += size
        self._logOrCount(
            "message",
            "#{number} {peer} {type}, {size:,} bytes: {preview}",
            connection,
            type="binary" if isBinary else "text",
            size=size,
            preview=preview(payload, isBinary, size),
        )

    @property
    def isShowing(self) -> bool:
        """Whether the next message will be shown, rather than only counted."""
        return self._linesLeft > 0

    def count(self, texts: int, textBytes: int, binaries: int, binaryBytes: int) -> None:
        """Count whole messages, and the bytes of their payloads, without showing them."""
        totals = self.totals
        totals.texts += texts
        totals.textBytes += textBytes
        totals.binaries += binaries
        totals.binaryBytes += binaryBytes
        if self._rate:
            self._unshown["message"] += texts + binaries
            self._unshownBytes += textBytes + binaryBytes

    def closed(self, connection: Connection, code: int | None, reason: str | None) -> None:
        """A connection is gone. `code` is that of the close frame that ended it; None if the frame
        carried no code, 1006 if there was no close frame."""
        self.totals.closed[code] += 1
        self._logOrCount(
            "closed",
            f"#{{number}} {{peer}} closed: {'no code' if code is None else '{code}'} {{reason}}",
            connection,
            code=code,
            reason=_printable(reason or ""),
        )

    def refused(self, peer: str, status: int, reason: str) -> None:
        """A request was refused with the HTTP `status`. `reason` never quotes the client."""
        self.totals.refused[status, reason] += 1
        self._logOrCount(
            "refused", "{peer} refused: {status} {reason}", peer=peer, status=status, reason=reason
        )

    def dropped(self, peer: str, why: str) -> None:
        """A connection was dropped without an answer, before a handshake. `why` never quotes the
        client."""
        self.totals.dropped[why] += 1
        self._logOrCount("dropped", "{peer} dropped: {why}", peer=peer, why=why)

    def frame(self, connection: Connection, header: bytes, *, isSent: bool) -> None:
        """A frame that begins with `header` was received or sent. It is not counted."""
        if self._linesLeft:
            self._logOrCount(
                "frame",
                "#{number} {peer} {direction}: {header}",
                connection,
                direction="sent" if isSent else "received",
                header=headerWords(header),
            )

    def flush(self) -> None:
        """Report what was counted, as at the end of a second."""
        if self._secondTimer is not None:
            self._secondTimer.cancel()
            self._secondTimer = None
        self._logSummary()

    def _logOrCount(
        self, kind: str, format: str, connection: Connection | None = None, **values: Any
    ) -> None:
        if not self._linesLeft:
            if self._rate:
                self._unshown[kind] += 1
            return
        self._linesLeft -= 1
        if self._secondTimer is None:
            self._secondTimer = self._reactor.callLater(1, self._endSecond)
        if connection is not None:
            values.update(number=connection.number, peer=connection.address)
        self._log.info(format, event=kind, **values)

    def _endSecond(self) -> None:
        # A second begins with its first line, so an idle service has no timer.
        self._secondTimer = None
        self._linesLeft = self._rate
        if self._logSummary():
            self._secondTimer = self._reactor.callLater(1, self._endSecond)

    def _logSummary(self) -> bool:
        """Log what was counted. Returns False if nothing was."""
        if self.onSecondEnd is not None and self._rate:
            self.onSecondEnd()
        if not self._unshown.total():
            return False
        kinds = ("connected", "closed", "refused", "dropped")
        self._log.info(
            "and in this second {messages:,} messages ({bytes:,} bytes), "
            "{connected:,} connected, {closed:,} closed, {refused:,} refused, {dropped:,} dropped",
            event="summary",
            messages=self._unshown["message"],
            bytes=self._unshownBytes,
            **{kind: self._unshown[kind] for kind in kinds},
        )
        self._unshown.clear()
        self._unshownBytes = 0
        return True


def headerWords(header: bytes) -> str:
    """The header of a frame (RFC 6455, 5.2), such as `text, FIN, masked, payload length 5`. What
    is missing of it, in a frame that was refused before it had arrived, is left out."""
    first, second = header[:2]
    size: int | None = second & 127
    if bytesOfSize := {126: 2, 127: 8}.get(second & 127, 0):
        isWhole = len(header) >= 2 + bytesOfSize
        size = int.from_bytes(header[2 : 2 + bytesOfSize], "big") if isWhole else None
    return frameWords(first, bool(second & 128), size)


def frameWords(first: int, isMasked: bool, size: int | None) -> str:
    """The same for a header that has been parsed: its first byte, and the size of its payload in
    bytes, if that is known."""
    opcode = first & 15
    words = [_OPCODES.get(opcode, f"reserved opcode {opcode:#x}")]
    words += [name for bit, name in _BITS.items() if first & bit]
    if isMasked:
        words.append("masked")
    if size is not None:
        words.append(f"payload length {size:,}")
    return ", ".join(words)


def preview(payload: bytes, isBinary: bool, size: int) -> str:
    """The beginning of a message of `size` bytes, in printable characters."""
    if isBinary:
        beginning = payload[:BINARY_PREVIEW]
        return beginning.hex(" ") + " ..." * (size > len(beginning))
    # UTF-8 takes at most four bytes a character. One that is cut at the end is left out.
    text = payload[: (TEXT_PREVIEW + 1) * 4].decode("utf-8", "ignore")
    shown = _printable(text[:TEXT_PREVIEW])
    return shown + "..." * (len(text) > TEXT_PREVIEW or size > len(payload))


def _printable(text: str) -> str:
    """`text` in quotes, with escapes for characters that do not print or that the standard output
    cannot encode. Without these escapes, such a character would cost the whole line."""
    return repr(text).encode(_ENCODING, "backslashreplace").decode(_ENCODING)
