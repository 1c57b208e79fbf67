"""A connection at /lab: it does what its script says, and then echoes.

It is a `Connection` like that of /echo, with the same limits, and never on the fast path. Autobahn
parses what the client sends. What goes out does not go through Autobahn, which would refuse most of
what is asked for here: all of it is put into one `Output`, in order. A `Runner` runs the script.

At most 64 KiB wait for a step of the script, or for the client to read; then it is not read.
"""

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from echotwist.lab.frames import CLOSE, PONG, Part, Shape, header, partOf
from echotwist.lab.judge import Judge, Verdict
from echotwist.lab.observer import HEAD, SHOWN, Frame, Observer
from echotwist.lab.output import Output
from echotwist.lab.runner import OVERHEAD, Runner
from echotwist.lab.steps import Script
from echotwist.limits import LAB_HOLD, LAB_LIFETIME
from echotwist.observe.journal import LONGEST_HEADER
from echotwist.websocket.connection import TRY_AGAIN_LATER, Connection
from echotwist.websocket.keepalive import Keepalive
from echotwist.wire.gate import OVER_BUDGET, STALLED, WAITS, WRITE_BLOCKED
from echotwist.wire.transport import delivery, isHalfClosed, lowest, send, tlsOf

HELD = 64 << 10
"""Bytes that may wait."""

LOOK = 10.0
"""Seconds between two looks whether a client that is not read has left."""


class LabConnection(Connection):
    """One connection at /lab. Whoever makes it sets `script`, and may set the two below it."""

    script: Script
    observers: Sequence[Observer] = ()
    judge: Judge | None = None
    """One of the observers."""

    judged: Callable[[Verdict], object] | None = None
    """Is given the verdict when the connection is gone."""

    output: Output
    shape: Shape
    runner: Runner

    pong: str | float | None = None
    """`no`, or seconds by which pongs are late."""

    replyClose: str | float | None = None
    """As the step says."""

    status: int | None = None
    """With which it was refused, as the script says."""

    _lifetime: IDelayedCall | None = None
    _early = b""
    """What came before the 101."""

    _corked: Iterator[bytes] | None = None
    """The 101, until something follows it."""

    _begun = b""
    """Of the frame that Autobahn is looking at, until it has accepted that."""

    _shown = b""
    """The beginning of its payload."""

    _isMute = False
    """Whether it answers nothing any more."""

    _isEnding = False
    """Whether what it says now is the last, and does not wait."""

    _isClosing = False
    """Whether the client has said close."""

    _hasFin = False
    _pongTimer: IDelayedCall | None = None
    _looking: IDelayedCall | None = None
    """Until it is next looked at whether the client has left."""

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.heard = self.context.reactor.seconds()
        self.output = Output(self.context, transport, self._wrote, self.balance)
        self.shape = Shape()
        self._pongs: deque[tuple[float, bytes]] = deque()
        transport.registerProducer(self, True)
        self.connections.hold(self)
        self._lifetime = self.context.reactor.callLater(LAB_LIFETIME, self.abort)
        self._look()
        self.runner = Runner(self, self.script, self.judge)
        self.runner.start()

    def _look(self) -> None:
        """A transport that is not read does not see that the client has left, and a script may not
        read for hours. So look, from time to time; it has LAB_HOLD then, as if the FIN was read."""
        assert self._lifetime is not None
        isUnread = not self._hasFin and self.isPausedFor(STALLED | WRITE_BLOCKED)
        if isUnread and isHalfClosed(self.transport):
            self._lifetime.reset(LAB_HOLD)
        elif self._lifetime.active():  # TLS may have ended it, as it was looked at.
            self._looking = self.context.reactor.callLater(LOOK, self._look)

    def tell(self, what: str, *arguments: Any) -> None:
        """Tell all observers; see `Observer` for what."""
        for observer in self.observers:
            getattr(observer, what)(*arguments)
        self.runner.noticed()

    # The answer to the handshake.

    def agree(self, extension: bytes | None) -> bytes:
        """The right answer, without the empty line at its end. `extension` is what the script says
        instead of what is agreed: a client that believes it compresses by that."""
        lines = [self.replyBeginning, *self._agreed(self.handshake)]
        del self.handshake
        deflate = self._perMessageCompress
        if extension is not None and deflate is not None:
            words = {word.strip(b" \t") for word in extension.split(b";")}
            if b"permessage-deflate" in words:
                deflate.client_no_context_takeover = b"client_no_context_takeover" in words
            else:
                self._perMessageCompress = None
        return b"".join(lines)

    def respond(self, pieces: Iterable[bytes]) -> "Deferred[None]":
        """Send an answer. Fires when it is with the transport."""
        return self.output.put(self._noted(pieces), OVERHEAD)

    def cork(self, response: Iterable[bytes]) -> None:
        """Send this answer in one with what follows it."""
        self._corked = self._noted(response)

    def uncork(self) -> None:
        """Nothing follows for now."""
        if self._corked is not None:
            self.put([])

    def _noted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """`pieces` of a response, of which observers are told after the last."""
        beginning = b""
        for piece in pieces:
            beginning += piece[: HEAD - len(beginning)]
            yield piece
        self.tell("opened", beginning)

    def open(self) -> None:
        """Be open: the answer was a 101, or is on its way."""
        self.state = self.STATE_OPEN
        self.connections.admit(self)
        if self.keepalive is not None:
            self.keepalive.watch(self)
        if self.isPausedFor(STALLED):
            self.resumeReading(STALLED)
        early, self._early = self._early, b""
        self.goOnWith(early)

    # What goes out.

    def send(self, payload: bytes, opcode: int, isCompressed: bool = False) -> "Deferred[None]":
        """Send a message. Fires when it is with the transport."""
        return self.sendParts(partOf(payload), len(payload), opcode, isCompressed, len(payload))

    def sendParts(
        self, part: Part, size: int, opcode: int, isCompressed: bool = False, memory: int = 0
    ) -> "Deferred[None]":
        """The same for a payload of `size` bytes, of which `part` gives parts, and which takes
        `memory` bytes while it waits."""
        deflate = self._perMessageCompress
        frames = self.shape.frames(part, size, opcode, isCompressed, deflate)
        return self.put(self._told(frames), memory + OVERHEAD, isMessage=True)

    def sendControl(self, opcode: int, payload: bytes) -> "Deferred[None]":
        return self.put(self._told([header(opcode, len(payload)) + payload]))

    def putClose(self, code: int | None, reason: bytes) -> "Deferred[None]":
        """A close frame, also behind another one; Autobahn sends but one."""
        body = b"" if code is None else code.to_bytes(2, "big") + reason
        return self.sendControl(CLOSE, body)

    def put(
        self, pieces: Iterable[bytes], size: int = OVERHEAD, isMessage: bool = False
    ) -> "Deferred[None]":
        """Send `pieces`; see `Output.put`."""
        if self._corked is not None:
            corked, self._corked = self._corked, None
            pieces = chain(corked, pieces)  # Which the output gathers.
            isMessage = False  # It would hold back the 101 for `delay`, and longer than `hold` may.
        sent = self.output.put(pieces, size, isMessage)
        self.balance()
        return sent

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's way to the transport, of single control frames."""
        if self._isEnding:
            self.tell("frameSent", _seen(data)[0])
            self._wrote(data)
            send(self.transport, data)
        else:
            self.put(self._told([data], isLogged=True))

    def _told(self, pieces: Iterable[bytes], isLogged: bool = False) -> Iterator[bytes]:
        """`pieces`, of which observers and --log-frames are told when a frame begins. What Autobahn
        sends is logged already."""
        logs = self.context.journal.logsFrames and not isLogged
        left = 0  # Bytes of a frame's payload in the pieces to come.
        for piece in pieces:
            if (self.observers or logs) and piece and not left:
                frame, size = _seen(piece)
                self.tell("frameSent", frame)
                if logs:
                    self.context.journal.frame(self, piece[:LONGEST_HEADER], isSent=True)
                left = frame.length - (len(piece) - size)
            elif piece and left:
                left -= len(piece)
            yield piece

    def _wrote(self, data: bytes) -> None:
        self.tell("wrote", data)

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        self.heard = self.context.reactor.seconds()
        self.tell("read", data)
        if self.state == self.STATE_CLOSED:
            return
        if self.state == self.STATE_CONNECTING:
            if self._isMute:
                return  # It will never be open.
            self._early += data
            if len(self._early) > HELD:
                self.pauseReading(STALLED)
            self.context.budget.account(self)
            return
        self.goOnWith(data)

    def goOnWith(self, left: bytes) -> None:
        super().dataReceived(left)  # Observers have been told.

    def processData(self) -> bool:
        if self.current_frame is None:
            self._begun = bytes(self.data[:LONGEST_HEADER])
        isMore: bool = super().processData()
        self._begun = b""
        return isMore

    def onFrameBegin(self) -> None:
        self._begun = self._shown = b""
        super().onFrameBegin()

    def onFrameData(self, payload: bytes) -> bool | None:
        if len(self._shown) < SHOWN:
            self._shown += payload[: SHOWN - len(self._shown)]
        went: bool | None = super().onFrameData(payload)
        return went

    def onFrameEnd(self) -> bool | None:
        if not self._isInflating():
            frame = self.current_frame
            mask: Any = frame.mask  # Bytes; Autobahn's annotation says str (26.10.2).
            seen = Frame(frame.fin, frame.rsv, frame.opcode, frame.length, mask, self._shown)
            self.tell("frameReceived", seen)
        return super().onFrameEnd()

    def onMessageEnd(self) -> None:
        self.tell("messageReceived", bytes(self._message), self.message_is_binary)
        super().onMessageEnd()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.context.journal.message(self, payload, isBinary)
        if not (self._isClosing or self._isMute):
            self.runner.message(payload, isBinary, self._isMessageCompressed)
            self.balance()

    def onPing(self, payload: bytes) -> None:
        self.tell("pingReceived", payload)
        if not self.maySayClose() or self.pong == "no":
            return
        if isinstance(self.pong, float):
            self._pongs.append((self.context.reactor.seconds() + self.pong, payload))
            self._waitForPong()
            self.balance()
        else:
            self.sendControl(PONG, payload)

    def _waitForPong(self) -> None:
        if self._pongs and (self._pongTimer is None or not self._pongTimer.active()):
            delay = max(self._pongs[0][0] - self.context.reactor.seconds(), 0)
            self._pongTimer = self.context.reactor.callLater(delay, self._sendPong)

    def _sendPong(self) -> None:
        if not self.maySayClose():
            self._pongs.clear()
            return
        _, payload = self._pongs.popleft()
        self.sendControl(PONG, payload)
        self._waitForPong()

    def onPong(self, payload: bytes) -> None:
        self.tell("pongReceived", payload)

    # Backpressure. That the client does not read stops the output; that too much waits, the input.

    def _kept(self) -> int:
        """Bytes that wait for the script."""
        return self.runner.kept + OVERHEAD * len(self._pongs)

    def _waiting(self) -> int:
        return self._kept() + self.output.waiting

    def isBehind(self) -> bool:
        """Whether too much waits."""
        return self._waiting() > HELD

    def isBlocked(self) -> bool:
        """Whether something waits for the client to read."""
        return bool(self.output.waiting) and not self.output.isPacing

    def balance(self) -> None:
        """Read the client, or do not, by what waits."""
        if self.state == self.STATE_CLOSED:
            return
        isBehind = self.isBehind()
        # After a FIN there is nothing to stop, and going on would be a FIN again.
        if isBehind and not (self._hasFin or self.isPausedFor(WRITE_BLOCKED)):
            super().pauseProducing()
        elif not isBehind and self.isPausedFor(WRITE_BLOCKED):
            super().resumeProducing()
        self.context.budget.account(self)

    def pauseProducing(self) -> None:
        self.output.pause()
        if self.state == self.STATE_CONNECTING:
            # No ping finds out yet that the client does not read.
            self._setDeadline(delivery(self.transport), self.abort)

    def resumeProducing(self) -> None:
        if self.state == self.STATE_CONNECTING:
            self._clearTimer()
        self.output.resume()
        self.balance()

    def buffered(self) -> int:
        return super().buffered() + self._waiting() + len(self._early)

    # Keeping it alive. What the script does not let through is no fault of the client's.

    def isHeld(self) -> bool:
        isPacing = self.output.isPacing or (self._isClosing and not self.output.waiting)
        isKept = self._kept() > HELD
        return super().isHeld() or self.isPausedFor(STALLED) or isPacing or isKept

    def sendPing(self, payload: bytes | None = None) -> None:
        # Pings may come faster than its rate. What the script keeps does not hold them up: to who
        # has left, they bring about a reset.
        if self.maySayClose() and self.output.waiting <= HELD:
            super().sendPing(payload)

    def keepAlive(self, interval: float | None) -> None:
        """Ping the client once it has been silent for so many seconds; None: never."""
        self.keepalive = None if interval is None else Keepalive(self.context, interval)
        if self.state != self.STATE_OPEN:
            return  # The timer is that of the end.
        self._clearTimer()
        if self.keepalive is not None:
            self.keepalive.watch(self)

    def hang(self) -> None:
        """Answer nothing any more. The client's frames are still looked at."""
        self._isMute = True
        self.keepAlive(None)

    # The end.

    def maySayClose(self) -> bool:
        """Whether a frame would be in order."""
        return bool(self.state == self.STATE_OPEN and not (self._isMute or self._isClosing))

    def awaitClose(self) -> None:
        """Wait for the client's close, as any connection does that has said close."""
        self._readOn()
        self._awaitClose()

    def reset(self) -> None:
        """Drop it with a reset, whatever was read."""
        below = lowest(self.transport)
        # socket(7), SO_LINGER.
        below.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _answersClose(self, data: bytes) -> bool:
        return False  # Observers want frames, and scripts answer for themselves.

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        self.tell("closeReceived", code, reasonRaw or b"")
        if self._isClosing or self._isMute:
            return None
        isAnswer = self.state != self.STATE_OPEN
        if isAnswer and self.replyClose != "open":
            ended: bool | None = super().onCloseFrame(code, reasonRaw)
            return ended
        self._isClosing = True
        if isAnswer:
            self._clearTimer()  # It was waiting for this.

        def answer() -> None:
            if self.replyClose != "open":
                self._isEnding = True
                super(LabConnection, self).onCloseFrame(code, reasonRaw)
            elif not isAnswer:
                self.putClose(code, reasonRaw or b"")

        self.runner.answerClose(answer, self.replyClose)
        return None

    def _fail_connection(self, code: int, reason: str) -> None:  # type: ignore[override]
        if len(self._begun) > 1:
            self.tell("frameReceived", _seen(self._begun)[0])
            self._begun = b""
        if self._isMute:
            self._becomeDeaf(code, reason)
            return
        self.tell("refused", code, reason)
        self.uncork()
        isAmid = self.output.isAmid
        self._end()
        if isAmid:  # No close frame fits inside a frame.
            self._failure, self.failedByMe = (code, reason), True
            self.dropConnection()
        else:
            super()._fail_connection(code, reason)

    def _becomeDeaf(self, code: int, reason: str) -> None:
        """The client has broken a rule, and is not told: look at nothing more, and keep nothing."""
        if code == TRY_AGAIN_LATER:
            self.abort()
        else:
            self.tell("refused", code, reason)
            self._failure, self.state = (code, reason), self.STATE_CLOSED
            self._discard()
            self._readOn()

    def _readOn(self) -> None:
        """Read, so that an answer and the end are seen."""
        self.forgetPause(WRITE_BLOCKED | STALLED | WAITS | OVER_BUDGET)
        self.transport.resumeProducing()

    def _end(self) -> None:
        """What is said from now on is said at once, and is the last."""
        self._isEnding = True
        self.runner.stop()
        self.output.close()
        self._pongs.clear()
        self._corked, self._early = None, b""
        if self._pongTimer is not None and self._pongTimer.active():
            self._pongTimer.cancel()

    def goAway(self) -> None:
        if self.maySayClose():
            self.uncork()
            if not self.output.isAmid:
                self._end()
                self._readOn()
                super().goAway()
                return
        isOver = self.state == self.STATE_CLOSED and not self._isMute
        if not (isOver or (self.state == self.STATE_CLOSING and not self._isClosing)):
            self.abort()

    def dropConnection(self, abort: bool = False) -> None:
        if self.state != self.STATE_CLOSED:
            self._end()
            super().dropConnection(abort)
            self.tell("finSent")

    def readConnectionLost(self) -> None:
        if not self._hasFin:
            self._hasFin = True
            self.tell("finReceived")
        if self.maySayClose() and self.output.waiting:
            # What the client asked for before that still goes out; not for ever, it may be gone.
            assert self._lifetime is not None
            self.keepAlive(None)
            self._lifetime.reset(LAB_HOLD)
            self.runner.answerClose(super().readConnectionLost, None)
        else:
            super().readConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        if self._lifetime is not None and self._lifetime.active():
            self._lifetime.cancel()
        if self._looking is not None and self._looking.active():
            self._looking.cancel()
        self.tell("lost", self._howLost(reason))
        super().connectionLost(reason)
        if self.judge is not None and self.judged is not None:
            self.judged(self.judge.verdict())

    def _howLost(self, reason: Failure) -> str:
        """See `Observer.lost`."""
        if self._hasFin:
            return "fin"
        tls = tlsOf(self.transport)
        below = reason if tls is None else tls.lostBelow
        if tls is not None and below.check(ConnectionDone):
            return "eof"
        return "us" if below.check(ConnectionAborted, ConnectionDone) else "rst"

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.number:
            super().onClose(wasClean, code, reason)
        elif self.status is not None:
            self.context.journal.refused(self.address, self.status, "as its script at /lab says")
        else:
            self.context.journal.dropped(self.address, "its script at /lab had no 101")


def _seen(beginning: bytes) -> tuple[Frame, int]:
    """The frame that begins so, as observers see it, and the size of its header. Of a frame of a
    client there may be the header alone, or a part of it."""
    first, second, rest = beginning[0], beginning[1], beginning[2:]
    size = second & 0x7F
    extended = {126: 2, 127: 8}.get(size, 0)
    if extended:
        size = int.from_bytes(rest[:extended], "big")
    masked = 4 if second & 0x80 else 0
    mask = rest[extended : extended + masked] if masked else None
    payload = b"" if masked else rest[extended : extended + SHOWN]
    frame = Frame(bool(first & 0x80), first >> 4 & 7, first & 15, size, mask, payload[:size])
    return frame, 2 + extended + masked
