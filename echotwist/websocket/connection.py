"""A WebSocket connection: Autobahn's protocol, bounded, kept alive, and ended in order.

RFC 6455 in one paragraph: after the handshake both sides send frames. A message is a text
or binary frame, or several: the first has the type, the others are continuations, the last
has the FIN bit. Between them either side may send control frames: ping, which wants a pong,
and close, which wants a close, after which the server ends the connection. A client masks
what it sends; text is UTF-8.

Autobahn does all of that and calls `onMessage`, which a subclass answers: see `echo`. What this
module adds is that a connection costs what `limits` says and no more, whatever its client does:

- A message is collected in one buffer, and refused as soon as it is known to be too large.
- A client that does not read is not read: while more than 64 KiB wait for it, Twisted pauses
  its transport. So a connection buffers at most that, and the answer to one read.
- What was received is worked off in slices, in turn with all others; see `turns`.
- It has one timer at a time: for the next ping, for the answer to it, or for the end of the close.
  Timeouts fire on lack of progress, not on slowness.
- After a close or an error, what still arrives is discarded.

A connection belongs to the reactor, or to a loop of the fast path that it was lent to; see `Owner`.

Autobahn judges frames. The opening handshake, which `upgrade` has vetted, a close frame that is in
order, and the end are done here, because Autobahn's own take a third of what a handshake cost; most
of that was for debug lines that are not shown. Autobahn's own timers are off: they count whole
seconds only (txaio 26.6.1). Of its private methods `_fail_connection` is replaced, and
`_connectionMade` called, once for all connections; each says why.
"""

from base64 import b64encode
from collections.abc import Callable, Hashable, Sequence
from enum import Enum, auto
from functools import cached_property
from hashlib import sha1
from typing import Any, NamedTuple

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from echotwist import __version__
from echotwist.fastpath.lending import FastPath
from echotwist.limits import SMALL_FRAGMENT
from echotwist.websocket.connections import Connections
from echotwist.websocket.deflate import Accept, Deflate, Deflation
from echotwist.websocket.framelog import FrameLog
from echotwist.websocket.keepalive import Keepalive, received
from echotwist.wire.context import Context
from echotwist.wire.deadline import Deadline
from echotwist.wire.gate import OVER_BUDGET, WAITS, WRITE_BLOCKED, ReadGate
from echotwist.wire.transport import (
    delivery,
    isHalfClosed,
    linger,
    lose,
    resumeTls,
    send,
    unacknowledged,
    unsent,
    writeUnsent,
)
from echotwist.wire.turns import PIECE

# IANA has registered it since, as Bad Gateway; Autobahn refuses it (26.10.2,
# websocket/protocol.py, `onCloseFrame`).
WebSocketServerProtocol.CLOSE_STATUS_CODES_ALLOWED.append(1014)

GOING_AWAY = 1001
INVALID_PAYLOAD = 1007
MESSAGE_TOO_BIG = 1009
TRY_AGAIN_LATER = 1013
"""Close codes, RFC 6455, 7.4.1, and 1013 of IANA's registry. Autobahn sends the others."""

FEED = 1024
"""Bytes that Autobahn is given at a time, but for a frame that is larger."""

_NOT_READ = (1006, "not read to the end")
"""What the log has of a connection that ended before its echo, or the close, was delivered."""

_TOO_MUCH = (TRY_AGAIN_LATER, "too much is waiting here for all clients together")
"""How a connection ends that buffers the most when memory is short."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""

_CLOSE = 0x88
"""The first byte of a close frame (RFC 6455, 5.2)."""


class Owner(Enum):
    """Who may touch a connection's transport.

    REACTOR --lend--> LOOP --recall--> RECALLED
       ^                |                 |
       +----returned----+-----------------+
    """

    REACTOR = auto()
    """Autobahn serves it."""

    LOOP = auto()
    """A loop of the fast path serves it, and returns it when it has had enough."""

    RECALLED = auto()
    """A loop still serves it. The reactor has asked for it, to do `_onReturn`."""


_NEXT = {
    Owner.REACTOR: {Owner.LOOP},
    Owner.LOOP: {Owner.RECALLED, Owner.REACTOR},
    Owner.RECALLED: {Owner.RECALLED, Owner.REACTOR},
}


class Handshake(NamedTuple):
    """What a request to upgrade asks for, after `upgrade` has vetted it."""

    key: str
    subprotocol: str | None
    offers: Sequence[PerMessageDeflateOffer]
    """Of permessage-deflate, those that can be accepted."""


# mypy compares bases only where there are several; Autobahn's own do not agree (26.10.2).
@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(ReadGate, WebSocketServerProtocol):  # type: ignore[misc]
    """One WebSocket connection. Subclasses implement `onMessage`."""

    context: Context
    connections: Connections
    fastPath: FastPath | None
    keepalive: Keepalive | None
    """None if the operator wants no pings."""

    replyBeginning: bytes
    """The response to each handshake, as far as it is always the same. `ConnectionFactory` sets
    these five on the class, and what Autobahn gives a connection at first."""

    transport: Any  # Every one of Twisted's can do more than ITransport says.

    # Autobahn's log lines quote the client, and nothing limits how many there are. The journal
    # says what happened.
    log = make_logger(level="critical")

    number = 0
    address = "unknown"
    network: Hashable = None
    """The client that --max-connections-per-address counts; None if it counts none."""

    opened = 0.0
    """When, in seconds of the reactor's clock."""

    heard = 0.0
    """When anything was last received, in seconds of the reactor's clock."""

    handshake: Handshake
    websocket_version = 13
    perMessageCompressionAccept: Any
    websocket_protocol_in_use: str | None = None

    connected = 1  # BaseProtocol's.

    _owner = Owner.REACTOR
    _onReturn: Callable[[], None] | None = None
    _message: bytes | bytearray = b""
    _wireLeft: int
    _smallLeft: int
    _failure: tuple[int, str] | None = None
    _isMessageCompressed: bool  # Autobahn's: the message that came last.
    _timer: IDelayedCall | Deadline | None = None
    _out: list[bytes] | None = None

    utf8validator: Any = cached_property(lambda self: Utf8Validator())
    """Autobahn's. The fast path takes most of the text, so that most connections need none."""

    _left: bytes = b""
    """What is not given to Autobahn yet. It may be nothing, if a message is being inflated or
    deflated."""

    _deflation: Deflation | None = None
    """An echo on its way."""

    _afterwards: Callable[[], None] | None = None
    """To be called once nothing is left."""

    def __init__(self) -> None:
        """Autobahn's makes two Deferreds and more, which nobody here waits for (26.10.2,
        websocket/protocol.py, `WebSocketProtocol.__init__`)."""

    def makeConnection(self, transport: Any) -> None:
        """Answer the request, and open."""
        self.transport = transport
        lines = [self.replyBeginning, *self._agreed(self.handshake), b"\r\n"]
        del self.handshake
        self.heard = self.context.reactor.seconds()
        self.state = self.STATE_OPEN
        self._out = lines
        self.onOpen()
        self._flush()

    def _agreed(self, handshake: Handshake) -> list[bytes]:
        """The headers of the answer that are not always the same. The subprotocol and the
        compression are in use from now on.

        Autobahn's `processHandshake` would parse the request again, by other rules than `upgrade`,
        and its `succeedHandshake` says "WebSocket" where RFC 6455, 4.2.2 has "websocket", which
        strict clients compare (26.10.2, websocket/protocol.py).
        """
        lines = []
        if handshake.subprotocol is not None:
            self.websocket_protocol_in_use = handshake.subprotocol
            lines.append(b"Sec-WebSocket-Protocol: %b\r\n" % handshake.subprotocol.encode())
        digest = sha1(handshake.key.encode() + _GUID, usedforsecurity=False).digest()
        lines.append(b"Sec-WebSocket-Accept: %b\r\n" % b64encode(digest))
        if handshake.offers and (accepted := self.perMessageCompressionAccept(handshake.offers)):
            self._perMessageCompress = Deflate.create_from_offer_accept(True, accepted)
            extension = accepted.get_extension_string().encode()
            lines.append(b"Sec-WebSocket-Extensions: %b\r\n" % extension)
        return lines

    def onOpen(self) -> None:
        self.transport.registerProducer(self, True)
        self.connections.add(self)
        if self.keepalive is not None:
            self.keepalive.watch(self)

    # Reading. What one slice gives rise to goes out in one piece.

    def dataReceived(self, data: bytes) -> None:
        if data:
            self._read(data)
        self.context.budget.account(self)

    def _read(self, data: bytes) -> None:
        if self.state == self.STATE_CLOSED:
            return  # Autobahn would keep it.
        if self.hasLeft:
            self._left += data  # TLS gives what it has, also after it was paused.
        elif self.context.turns.admits(len(data)):
            self._work(data)
        else:
            self.waitForTurn(data)

    def _work(self, data: bytes) -> None:
        """Work on `data` for a slice."""
        self.heard = self.context.reactor.seconds()
        if data[0] == _CLOSE and self._answersClose(data):
            return
        self._out = []
        if (at := len(data)) <= FEED:
            self.data += data
        else:
            at = self._feed(data, 0)
        # Most often that is one frame, with a header and a payload, and needs no clock.
        isMore = self.processData()
        if isMore and self.state != self.STATE_CLOSED and self._deflation is None:
            isMore = self.processData()
        if isMore or at < len(data) or self._isAmid():
            self._workOn(data, at)
        self._flush()

    def _answersClose(self, data: bytes) -> bool:
        """Answer a close frame that is in order, if `data` is one and nothing else. Returns False
        if it is anything else, for Autobahn, whose `onCloseFrame` would do the same (26.10.2,
        websocket/protocol.py)."""
        size = len(data) - 6
        if not (0 <= size < 126 and data[1] == 0x80 | size and self.isBetweenMessages()):
            return False
        mask = data[2:6] * (size // 4 + 1)
        payload = (int.from_bytes(data[6:]) ^ int.from_bytes(mask[:size])).to_bytes(size)
        code = reason = None
        if size:
            code = int.from_bytes(payload[:2])
            if size == 1 or not (code in self.CLOSE_STATUS_CODES_ALLOWED or 3000 <= code < 5000):
                return False
        if size > 2:
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                return False
        self.wasClean = True
        self.remoteCloseCode, self.remoteCloseReason = code, reason
        send(self.transport, bytes((_CLOSE, size)) + payload)
        self.dropConnection()
        return True

    def _workOn(self, data: bytes, at: int) -> None:
        """Have Autobahn judge `data`, which it has up to `at`, until the slice ends."""
        turns, end = self.context.turns, 0.0
        while self.state != self.STATE_CLOSED:
            if self._deflation is not None:
                self._deflate(self._deflation)
            elif self._isInflating():
                self._inflate()
            elif self.processData():
                if self.current_frame is not None:
                    continue  # It has seen the header of a frame, and not its payload.
            elif not self._isAmid():
                if at == len(data):
                    return
                at = self._feed(data, at)  # A large frame has ended, or a small one is not whole.
            end = end or turns.sliceEnd(isNew=False)
            if turns.clock() < end or self.state == self.STATE_CLOSED:
                continue
            if self.data or at < len(data) or self._isAmid():
                left, self.data = self.data + data[at:], b""
                self.waitForTurn(left)
                return

    def _feed(self, data: bytes, at: int) -> int:
        """Give Autobahn what is next of `data`. Returns what then is `at`. It is not all of it,
        because Autobahn copies all that it has for each frame."""
        if len(data) - at <= FEED:
            self.data += data[at:]
            return len(data)
        piece = data[at : at + max(FEED, self._frameSize(data, at))]
        self.data += piece
        return at + len(piece)

    def _frameSize(self, data: bytes, at: int) -> int:
        """Bytes of the frame at `at`, or of what is missing of the current one, for a frame that is
        large: that is given whole."""
        if self.current_frame is not None:
            missing: int = self.current_frame.length - self.current_frame_masker.pointer()
            return missing
        # RFC 6455, 5.2. Part of a header may be with Autobahn already; then this is wrong, and the
        # frame is not given whole.
        match data[at + 1] & 0x7F:
            case 126:
                return 8 + int.from_bytes(data[at + 2 : at + 4], "big")
            case 127:
                return 14 + int.from_bytes(data[at + 2 : at + 10], "big")
            case short:
                return 6 + short

    def _isAmid(self) -> bool:
        """Whether a message is being inflated or deflated."""
        return self._deflation is not None or self._isInflating()

    def _isInflating(self) -> bool:
        return self._perMessageCompress is not None and self._perMessageCompress.isMore

    def waitForTurn(self, left: bytes) -> None:
        """Work on what is `left` later, and read nothing until then."""
        self._left, self.hasLeft = left, True
        if not self.isPausedFor(WAITS):
            self.pauseReading(WAITS)
        self.context.turns.wait(self, len(left))

    def takeTurn(self) -> None:
        if self.hasLeft and self.isPausedFor(WRITE_BLOCKED):
            self.forgetPause(WAITS)  # resumeProducing() has it wait again.
        elif self.hasLeft:
            left = self._left
            self._forgetLeft()
            if self._isAmid():
                self.heard = self.context.reactor.seconds()
                self._out = []
                self._workOn(left, 0)
                self._flush()
                self.context.budget.account(self)
            else:
                self.goOnWith(left)
        if not self.hasLeft:
            self._goOn()

    def goOnWith(self, left: bytes) -> None:
        """Work on what was received before, as if it came now."""
        self.dataReceived(left)

    def _goOn(self) -> None:
        """Nothing is left, so it is read again, unless it has ended or is lent."""
        if self._owner is not Owner.REACTOR:
            self.forgetPause(WAITS)
        elif self.isPausedFor(WAITS):
            self.resumeReading(WAITS)
        afterwards, self._afterwards = self._afterwards, None
        if afterwards is not None:
            self._whenReturned(afterwards, atOnce=False)  # It may be lent by now.

    def _forgetLeft(self) -> None:
        self._left, self.hasLeft = b"", False

    def _inflate(self) -> None:
        """Go on as Autobahn's `processData` would have, if the piece before had been all (26.10.2,
        websocket/protocol.py)."""
        if self.onFrameData(b"") is False or self._isAmid():
            return
        if self.current_frame_masker.pointer() == self.current_frame.length:
            self.onFrameEnd()

    def onFrameEnd(self) -> bool | None:
        if self._isInflating():
            return False  # `processData` goes no further; see _inflate().
        ended: bool | None = super().onFrameEnd()
        return ended

    def sendInTurn(self, payload: bytes, isBinary: bool) -> None:
        """As `sendMessage`, but compressed only if the last message was, as the loops do, too; many
        clients leave small messages uncompressed, and Autobahn would compress all (26.10.2,
        websocket/protocol.py, `sendMessage`). And a large message is deflated in pieces: until it
        is sent, no frame is looked at, and nothing else may be sent but pings."""
        if not self._isMessageCompressed or len(payload) <= PIECE:
            self.sendMessage(payload, isBinary, doNotCompress=not self._isMessageCompressed)
        else:
            deflate: Any = self._perMessageCompress
            self._deflation = Deflation(deflate, payload, isBinary)

    def _deflate(self, deflation: Deflation) -> None:
        if (payload := deflation.step()) is not None:
            self._deflation = None
            self.sendFrame(opcode=2 if deflation.isBinary else 1, payload=payload, rsv=4)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's way to the transport."""
        if self._out is None:
            self.transport.write(data)
        else:
            self._out.append(data)

    def _flush(self) -> None:
        out = vars(self).pop("_out", None)
        if out:
            send(self.transport, b"".join(out))

    def isBetweenMessages(self) -> bool:
        return (
            self.state == self.STATE_OPEN
            and not self.data
            and self.current_frame is None
            and not self.inside_message
            and not self.hasLeft
        )

    # Collecting a message. Autobahn's own collection keeps a list with an entry for every read
    # and every fragment, and counts neither: 16 MB in small segments made 350 MB.

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._message = bytearray()
        limits = self.context.limits
        # The first frame of a message says whether it is compressed (RFC 7692, 6.1).
        self._wireLeft = limits.maxWirePayload if self.current_frame.rsv else limits.maxMessage
        self._smallLeft = limits.fragmentAllowance

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        frame = self.current_frame
        self._wireLeft -= length
        isAlone = frame.fin and frame.opcode != 0
        if length < SMALL_FRAGMENT and not isAlone:
            self._smallLeft -= SMALL_FRAGMENT - length
        if self._wireLeft < 0:
            self._tooBig()
        elif self._smallLeft < 0:
            self._fail_connection(
                MESSAGE_TOO_BIG, f"a message has too many fragments under {SMALL_FRAGMENT} bytes"
            )

    def onMessageFrameData(self, payload: bytes) -> None:
        if len(self._message) + len(payload) > self.context.limits.maxMessage:
            self._tooBig()
        else:
            self._message += payload  # A bytearray, since it has begun.

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        payload, self._message = bytes(self._message), b""
        # After our own close no data may follow (RFC 6455, 5.5.1), so nothing is answered.
        if self.state == self.STATE_OPEN:
            self.onMessage(payload, self.message_is_binary)

    def _tooBig(self) -> None:
        self._fail_connection(
            MESSAGE_TOO_BIG, f"a message may have {self.context.limits.maxMessage} bytes"
        )

    # Backpressure: Twisted finds out that a client does not read, and then it is not read.

    def pauseProducing(self) -> None:
        if not self.isPausedFor(WRITE_BLOCKED):  # Twisted repeats this on every write.
            self.context.journal.totals.pauses += 1
            self._watchForHalfClose()
        self.pauseReading(WRITE_BLOCKED)

    def resumeProducing(self) -> None:
        if self.keepalive is None and self.state == self.STATE_OPEN:
            self._clearTimer()  # _watchForHalfClose()'s.
        if self.hasLeft and not self.isPausedFor(WAITS):
            self.waitForTurn(self._left)
        self.resumeReading(WRITE_BLOCKED)
        self.context.budget.account(self)

    def stopProducing(self) -> None:
        """The connection is gone."""

    def _watchForHalfClose(self) -> None:
        """Without pings, a client that does not read may stay for ever, if the operator wants
        that, but not once it has sent FIN, which a paused transport does not see."""
        if self.keepalive is None and self.state == self.STATE_OPEN:
            self._setDeadline(delivery(self.transport), self._endIfHalfClosed)

    def _endIfHalfClosed(self) -> None:
        if isHalfClosed(self.transport):
            self._cut()
        else:
            self._watchForHalfClose()

    def isHeld(self) -> bool:
        """Whether it is not read for a reason that its client has nothing to do with."""
        return self.isPausedFor(OVER_BUDGET | WAITS)

    # The memory budget.

    def buffered(self) -> int:
        size = len(self._message) + len(self.data) + len(self._left) + unsent(self.transport)
        if self._perMessageCompress is not None:
            size += self._perMessageCompress.buffered
        if self._deflation is not None:
            size += self._deflation.buffered
        return size

    def endOverBudget(self) -> None:
        assert self._owner is Owner.REACTOR
        self._failure = _TOO_MUCH
        if unsent(self.transport):
            # A close frame would wait behind what the client does not read.
            self._abort()
        else:
            self._fail_connection(*self._failure)

    # The fast path. While the connection is lent, nothing here touches its transport.

    def _handTo(self, owner: Owner) -> None:
        assert owner in _NEXT[self._owner], (self._owner, owner)
        self._owner = owner

    @property
    def isLent(self) -> bool:
        return self._owner is not Owner.REACTOR

    def lend(self, fastPath: FastPath, data: bytes) -> None:
        """Have `fastPath` serve it, from `data` on."""
        deflate = None
        if self._perMessageCompress is not None:
            deflate = self._perMessageCompress.parameters
        self.transport.pauseProducing()
        self._clearTimer()  # The loop keeps it alive.
        vars(self).pop("utf8validator", None)
        # The budget may have paused it while something was left.
        self.context.budget.forget(self)
        self.forgetPause(OVER_BUDGET)
        self._handTo(Owner.LOOP)
        fastPath.lend(self, data, deflate)

    def _whenReturned(self, call: Callable[[], None], atOnce: bool) -> None:
        """Call it once the reactor owns the connection: now, or after a recall. Everything that
        touches the transport, and does not answer what was just read, goes this way."""
        if self._owner is Owner.REACTOR or self.fastPath is None:
            call()
        else:
            self._handTo(Owner.RECALLED)
            self._onReturn = call
            self.fastPath.recall(self, atOnce)

    def returned(
        self, why: str, begun: bytes, small: int, unjudged: bytes, unsent: bytes, isInside: bool
    ) -> None:
        """Back from the fast path; see `Loop.takeEvents`."""
        self._handTo(Owner.REACTOR)
        onReturn, self._onReturn = self._onReturn, None
        self.transport.resumeProducing()
        if unsent:
            writeUnsent(self.transport, unsent)
        if why == "lost":
            self._abort()
        elif why == "unanswered":
            self.dropUnanswered()
        elif isInside and why == "recalled":
            # At once, or because nothing more has come of the frame.
            self._cut()
        elif isInside and why == "full":
            self._failure = _TOO_MUCH
            self._abort()
        elif isInside:
            # No close frame fits inside a frame, so this is a drop.
            if why == "not UTF-8":
                self._failure = (INVALID_PAYLOAD, "invalid UTF-8 in a frame half echoed")
            self.dropConnection()
        else:
            if self.keepalive is not None and onReturn is None:
                self.heard = self.context.reactor.seconds()
                self.keepalive.watch(self)
            if begun:
                self._work(begun)  # Now: it sets what is left for small fragments.
                self._smallLeft = self.context.limits.fragmentAllowance - small
            if unjudged:
                self._read(unjudged)
        self.context.budget.account(self)
        if onReturn is not None:
            onReturn()
        # Last: what it brings may have the connection lent again.
        resumeTls(self.transport)

    # Ending.

    def goAway(self) -> None:
        """Ask the client to leave, with 1001; the answer, or a deadline, ends the connection."""
        if self.state == self.STATE_OPEN and self._owner is not Owner.RECALLED:
            self._awaitClose()
            self._whenReturned(self._sayGoingAway, atOnce=False)

    def _sayGoingAway(self) -> None:
        if self.hasLeft:
            self._afterwards = self._sayGoingAway
        elif self.state == self.STATE_OPEN:
            self._awaitClose()
            # sendClose() refuses 1001 (26.10.2, websocket/protocol.py).
            self.sendCloseFrame(code=GOING_AWAY, reasonUtf8=b"server going away")

    def _awaitClose(self) -> None:
        """Wait for the client's close as long as something moves: it has to read its echo before
        that, and cannot answer before the end of the message that it is sending. Nor is it to blame
        while it waits for its turn."""
        delivered, came = delivery(self.transport), received(self)

        def moved() -> bool:
            nonlocal came
            before, came = came, received(self)
            isAmid = bool(self.data) or self.inside_message or self.hasLeft
            return delivered() or (came != before and isAmid) or self.isPausedFor(WAITS)

        self._setDeadline(moved, self._closeExpired)

    def _closeExpired(self) -> None:
        if self._owner is Owner.RECALLED and self.fastPath is not None:
            # Inside a frame. The loop returns it if nothing more of that has come.
            self._awaitClose()
            self.fastPath.recall(self, atOnce=False)
        else:
            self._cut()

    def abort(self) -> None:
        """Drop it, at once."""
        self._whenReturned(self._cut, atOnce=True)

    def _cut(self) -> None:
        """Drop it. That is no clean end while something waits for the client."""
        if self._failure is None and unacknowledged(self.transport):
            self._failure = _NOT_READ
        self._abort()

    def _abort(self) -> None:
        """Have the transport end in the reactor's next iteration. Until then nothing is worked on,
        or lent: a loop would go on with a descriptor that is another client's by then."""
        self._forgetLeft()
        self._afterwards = None
        self.forgetPause(WAITS)
        self.transport.abortConnection()

    def dropUnanswered(self) -> None:
        """Drop a client that has not answered a ping."""
        self._failure = (1006, "ping not answered")
        self._abort()

    def _fail_connection(self, code: int, reason: str) -> None:  # type: ignore[override]
        """Say what was wrong, and end in order. All errors come through here.

        Autobahn knows two ways (26.10.2, websocket/protocol.py, `_fail_connection`).
        `failByDrop=True` stops parsing at once, but aborts: echoes that are not flushed are lost.
        `False` says close and goes on parsing, past what it could not parse. Here parsing stops,
        because the option is True, and the end is ours.
        """
        if self.state == self.STATE_OPEN:
            self._failure = (code, reason)
            self.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123])
        self.failedByMe = True
        self.dropConnection()

    def dropConnection(self, abort: bool = False) -> None:
        """End in order, unless it has ended.

        Autobahn aborts when the client has answered our close (26.10.2, websocket/protocol.py,
        `onCloseFrame`), which resets the connection under what the client has not read yet.
        """
        if self.state == self.STATE_CLOSED:
            return
        self.state = self.STATE_CLOSED
        self._clearTimer()
        self._flush()
        self._discard()  # Half a message is not kept meanwhile.
        self.forgetPause(WRITE_BLOCKED | WAITS)  # linger() reads, to discard what arrives.
        timeout = self.context.limits.closeTimeout
        self._timer = linger(self.transport, self.context.reactor, timeout, self._cut)

    def _discard(self) -> None:
        """Forget what has come, and is not answered."""
        self._message, self.data = b"", b""
        self._forgetLeft()
        self._deflation = None
        if self._perMessageCompress is not None:
            self._perMessageCompress.forget()

    def readConnectionLost(self) -> None:
        """The client has said FIN. What it asked for before that still goes out."""
        self.dropConnection()
        lose(self.transport)

    def writeConnectionLost(self) -> None:
        pass

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._failure is not None:
            code, reason = self._failure
        elif not wasClean:
            code, reason = 1006, "no closing handshake"
        elif unsent(self.transport):
            code, reason = _NOT_READ
        self.context.journal.closed(self, code, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Autobahn's formats several debug lines that are not shown, one of them with a traceback,
        and cancels timers that are not set (26.10.2, twisted/websocket.py, and
        websocket/protocol.py, `_connectionLost`)."""
        self._clearTimer()
        self._forgetLeft()
        self.forgetPause(WAITS)
        self._deflation = self._afterwards = None
        self.state = self.STATE_CLOSED
        try:
            self.onClose(self.wasClean, self.remoteCloseCode, self.remoteCloseReason)
        finally:
            self.context.budget.forget(self)
            self.connections.remove(self)

    # The timer: for keepalive, or for an end.

    def setTimer(self, delay: float, call: Any, *arguments: Any) -> None:
        self._clearTimer()
        self._timer = self.context.reactor.callLater(delay, call, *arguments)

    def _setDeadline(self, moved: Callable[[], bool], expired: Callable[[], None]) -> None:
        self._clearTimer()
        timeout = self.context.limits.closeTimeout
        self._timer = Deadline(self.context.reactor, timeout, moved, expired)

    def _clearTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class ConnectionFactory(WebSocketServerFactory):
    """Makes connections of one kind, a subclass of `Connection`."""

    noisy = False

    def __init__(
        self,
        kind: type[Connection],
        context: Context,
        connections: Connections,
        fastPath: FastPath | None,
        accept: Accept,
    ) -> None:
        """`accept` is one of `deflate`'s."""
        super().__init__(server=f"echotwist/{__version__}", reactor=context.reactor)
        self.connections = connections
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,  # It redirects wherever a client says.
            failByDrop=True,  # See Connection._fail_connection.
            echoCloseCodeReason=True,
            # Ours is exact; this stops zlib while it inflates.
            maxMessagePayloadSize=context.limits.maxWirePayload,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            perMessageCompressionAccept=accept,
        )
        self.protocol: Any = type(
            kind.__name__,
            (FrameLog, kind) if context.journal.logsFrames else (kind,),
            {
                **self._beginning(),
                "context": context,
                "connections": connections,
                "fastPath": fastPath,
                "keepalive": (
                    Keepalive(context, context.limits.pingInterval)
                    if context.limits.pingInterval
                    else None
                ),
                "replyBeginning": (
                    "HTTP/1.1 101 Switching Protocols\r\n"
                    f"Server: {self.server}\r\n"
                    "Upgrade: websocket\r\n"
                    "Connection: Upgrade\r\n"
                ).encode(),
            },
        )

    def buildProtocol(self, addr: object) -> Connection:
        connection: Connection = self.protocol()
        return connection

    def _beginning(self) -> dict[str, Any]:
        """What Autobahn gives each connection at first, as attributes of the class.

        Its `_connectionMade` sets more than eighty, half of them options, and formats the latter
        for a debug line that is not shown: most of a handshake, and 2 KB a connection (26.10.2,
        websocket/protocol.py). Here it does so once, for all.
        """
        model: Any = WebSocketServerProtocol()
        own = set(vars(model))
        model.factory = self
        WebSocketProtocol._connectionMade(model)
        shared = {name: value for name, value in vars(model).items() if name not in own}
        # One that is called on each connection, one that connections cannot share, and one for
        # chopped writes, which need a way to the transport that is not used here.
        accept = staticmethod(shared.pop("perMessageCompressionAccept"))
        del shared["utf8validator"], shared["send_queue"]
        return {
            **shared,
            "perMessageCompressionAccept": accept,
            "current_frame": None,
            "inside_message": False,
        }
