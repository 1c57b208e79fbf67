"""A connection of the probe: all that happens on it, and when.

A client library would do here: it would hide what the probe is about, the bytes of the 101, masks,
fragments, and by what TCP ended.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    take,
)

PATIENCE = 15.0
"""Seconds for a connection, an answer, or an echo. Proxies that hold back an answer, and servers
far away, take a few."""

GRACE = 2.0
"""Seconds; see `echoOf`."""

MOST_HEAD = 256 << 10
"""Bytes of the head of an answer."""

MOST_WAITING = 64 << 20
"""Bytes that have come and nobody has asked for; then the connection is not read. Four times the
largest message of the probe."""

_OVERHEAD = 300
"""Bytes of memory that a frame takes beside its payload."""

_MESSAGE = {TEXT, BINARY, CONTINUATION}

_RTT = 68
"""Where `tcpi_rtt`, in microseconds, is in Linux's `struct tcp_info`."""


class Late(Exception):
    """It did not come in time."""


@dataclass(frozen=True)
class End:
    """How a connection ended, as its client sees it."""

    time: float
    """Seconds of the reactor's clock."""

    how: str
    """`close` (a close frame), `fin`, `rst`; over TLS `closeNotify`, or `eof`, without one: Twisted
    does not tell a FIN from a reset there; `broken`, an alert, or no TLS, or no WebSocket; or
    `late`: it did not end when it was asked to."""

    code: int | None = None
    """Of the close frame; None if it had none."""

    reason: str = ""
    """Of the close frame; or what is broken."""

    def words(self) -> str:
        if self.how == "close":
            code = "no code" if self.code is None else f"{self.code}"
            return f"a close frame with {code}" + (f" ({self.reason!r})" if self.reason else "")
        if self.how == "broken":
            return f"an error: {self.reason}"
        return _HOW[self.how]


_HOW = {
    "fin": "a FIN",
    "closeNotify": "TLS's close_notify",
    "eof": "an end without TLS's close_notify",
    "rst": "a reset",
    "late": "no end",
}


class Ended(Exception):
    """The connection is at its end."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


@dataclass(frozen=True)
class Arrived:
    """A frame, and when its last byte came, in seconds of the reactor's clock."""

    time: float
    frame: Frame


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class Connection(Protocol):
    """One connection to a target. `reactor` is its clock; `lost` is called with it once it is no
    more."""

    def __init__(self, reactor: Any, lost: Callable[["Connection"], object]) -> None:
        self.reactor = reactor
        self.socket: Any = None
        self.opened = 0.0
        """When the 101 came."""

        self.end: End | None = None
        self.heard = 0.0
        """When the last frame came that was no close frame; before it, when the 101 did."""

        self._lost = lost
        self._buffer = bytearray()
        self._frames: deque[Arrived] = deque()
        self._waiting = self._start = 0
        self._isOpen = self._isPaused = self._isTls = self._isSecured = self._hasSaidClose = False
        self._waiter: Deferred[None] | None = None
        self._unanswered: bytes | None = None
        self._isFull = False

    # What Twisted calls.

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.socket = transport.getHandle()
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)

    def handshakeCompleted(self) -> None:
        self._isSecured = True
        self._wake()

    def dataReceived(self, data: bytes) -> None:
        if self._isOpen and self.end is not None:
            return  # Whatever comes behind its end is nothing that counts.
        now = self.reactor.seconds()
        self._buffer += data
        if self._isOpen:
            self._parse(now)
        waiting = len(self._buffer) + self._waiting
        if waiting > MOST_WAITING and not self._isPaused:
            self._isPaused = True
            self._transport.pauseProducing()
        self._wake()

    def pauseProducing(self) -> None:
        """The other end does not read: its pings are not answered, or pongs would pile up here."""
        self._isFull = True

    def resumeProducing(self) -> None:
        """It reads again, and gets one pong, for the last of its pings (RFC 6455, 5.5.3)."""
        self._isFull = False
        payload, self._unanswered = self._unanswered, None
        if payload is not None:
            self.send(PONG, payload)

    def stopProducing(self) -> None:
        pass

    def readConnectionLost(self) -> None:
        self._ends("fin")
        self._transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self._lost(self)
        if self._isTls and (not self._isSecured or isinstance(reason.value, SSL.Error)):
            self._ends("broken", None, whyTls(reason))
        elif self._isTls:
            self._ends("closeNotify" if self._isNotified() else "eof")
        else:
            self._ends("fin" if reason.check(ConnectionDone) else "rst")

    # What is asked of it.

    async def startTls(self, options: Any) -> None:
        """Raises Ended, whose `reason` says why TLS failed, and Late."""
        self._isTls = True
        self._transport.startTLS(options)
        deadline = self.reactor.seconds() + PATIENCE
        while not self._isSecured:
            await self._wait(deadline)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def head(self, deadline: float) -> bytes:
        """The head of an answer, with the empty line at its end. Raises Ended and Late."""
        while (at := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MOST_HEAD:
                self._ends("broken", None, "the head of the answer does not end")
            await self._wait(deadline)
        head = bytes(self._buffer[: at + 4])
        del self._buffer[: at + 4]
        return head

    @property
    def hasMore(self) -> bool:
        """Whether something has come that was not taken."""
        return bool(self._buffer)

    async def more(self, deadline: float) -> bytes:
        """What has come, at least a byte. Raises Ended and Late."""
        while not self._buffer:
            await self._wait(deadline)
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def open(self) -> None:
        """From now on it is a WebSocket."""
        self._isOpen = True
        self.opened = self.heard = self.reactor.seconds()
        self._parse(self.opened)

    async def frame(self, deadline: float) -> Arrived:
        """The next frame that is no ping. Raises Ended and Late."""
        while not self._frames:
            await self._wait(deadline)
        arrived = self._frames.popleft()
        self._waiting -= len(arrived.frame.payload) + _OVERHEAD
        if self._isPaused and self._waiting < MOST_WAITING // 2:
            self._isPaused = False
            self._transport.resumeProducing()
        return arrived

    async def message(self, deadline: float) -> tuple[float, int, bytes, int]:
        """The next message: when it was whole, its opcode, its payload as it was sent (deflated,
        if it was), and the number of its frames. Other frames are passed over. Raises Ended and
        Late."""
        opcode, pieces, size = 0, list[bytes](), 0
        while True:
            arrived = await self.frame(deadline)
            found = arrived.frame
            if found.opcode not in _MESSAGE:
                continue
            if found.opcode != CONTINUATION:
                opcode = found.opcode | found.rsv << 4
            pieces.append(found.payload)
            size += len(found.payload) + _OVERHEAD
            if size > MOST_WAITING:
                raise Ended(self._ends("broken", None, "a message does not end"))
            if found.fin:
                return arrived.time, opcode, b"".join(pieces), len(pieces)

    async def echoOf(self, opcode: int, payload: bytes, deadline: float) -> tuple[int, bytes]:
        """The opcode and the payload of what comes back. Some servers say something of their own
        first: if another message comes, the right one has GRACE seconds more, before it counts.
        Raises Ended and Late."""
        first: tuple[int, bytes] | None = None
        try:
            while True:
                _, found, echo, _ = await self.message(deadline)
                if (found, echo) == (opcode, payload):
                    return found, echo
                if first is None:
                    first = found, echo
                    deadline = min(deadline, self.reactor.seconds() + GRACE)
        except (Ended, Late):
            if first is None:
                raise
            return first

    async def pong(self, payload: bytes, deadline: float) -> float:
        """When the pong with this payload came; other frames are passed over. Raises Ended and
        Late."""
        while True:
            arrived = await self.frame(deadline)
            if arrived.frame.opcode == PONG and arrived.frame.payload == payload:
                return arrived.time

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        """Send a frame. Returns its mask."""
        mask = os.urandom(4)
        self.write(frame(opcode, payload, fin=fin, rsv=rsv, mask=mask))
        return mask

    async def close(self, code: int, reason: str = "") -> End:
        """Say close, and wait for the end."""
        if self.end is None:
            self._hasSaidClose = True
            self.send(CLOSE, code.to_bytes(2, "big") + reason.encode())
        try:
            deadline = self.reactor.seconds() + PATIENCE
            while True:
                await self.frame(deadline)
        except Late:
            self.abort()
            return End(self.reactor.seconds(), "late")
        except Ended as ended:
            return ended.end

    def abort(self) -> None:
        """End it at once; nothing is told to anybody."""
        self._transport.abortConnection()

    def tcpRoundTrip(self) -> float | None:
        """TCP's own estimate, in seconds; None where the kernel does not tell."""
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return float(struct.unpack_from("I", info, _RTT)[0]) / 1e6
        except (AttributeError, OSError, struct.error):
            return None

    # Its own.

    @property
    def _transport(self) -> Any:
        return self.transport

    def _isNotified(self) -> bool:
        handle = self._transport.getHandle()
        return bool(handle.get_shutdown() & SSL.RECEIVED_SHUTDOWN)

    def _parse(self, now: float) -> None:
        try:
            while self.end is None and (taken := take(self._buffer, self._start)) is not None:
                found, self._start = taken
                self._took(Arrived(now, found))
        except ValueError as error:
            self._ends("broken", None, str(error))
        del self._buffer[: self._start]
        self._start = 0

    def _took(self, arrived: Arrived) -> None:
        found = arrived.frame
        if found.opcode != CLOSE:
            self.heard = arrived.time
        if found.opcode == PING:
            if self._isFull:
                self._unanswered = found.payload
            else:
                self.send(PONG, found.payload)
            return
        if found.opcode == CLOSE:
            code = int.from_bytes(found.payload[:2], "big") if found.payload else None
            if not self._hasSaidClose:
                self._hasSaidClose = True
                self.send(CLOSE, found.payload[:2])
            self._ends("close", code, found.payload[2:].decode("utf-8", "replace"))
            return
        self._waiting += len(found.payload) + _OVERHEAD
        self._frames.append(arrived)

    def _ends(self, how: str, code: int | None = None, reason: str = "") -> End:
        """Only the first counts."""
        end = self.end = self.end or End(self.reactor.seconds(), how, code, reason)
        self._wake()
        return end

    async def _wait(self, deadline: float) -> None:
        """Until something has come. Raises Ended and Late."""
        if self.end is not None:
            raise Ended(self.end)
        left = deadline - self.reactor.seconds()
        if left <= 0:
            raise Late
        waiter = self._waiter = Deferred()
        timer = self.reactor.callLater(left, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer.active():
                timer.cancel()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


def whyTls(failure: Failure) -> str:
    """Why TLS failed, as OpenSSL or the check of the certificate's name says it."""
    error = failure.value
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        words = ", ".join(each[2] for each in error.args[0])
        # What OpenSSL takes for a version of TLS is the beginning of another protocol.
        isPlain = "wrong version number" in words
        return f"this port does not speak TLS ({words}): try ws://" if isPlain else words
    if type(error).__name__ == "VerificationError":
        return "the certificate is for another name"
    return "the connection ended" if isinstance(error, ConnectionDone) else str(error)
