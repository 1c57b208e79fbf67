"""The echo: what comes in goes out.

RFC 6455 in one paragraph: after the handshake both sides send frames. A message is a text
or binary frame, or several: the first has the type, the others are continuations, the last
has the FIN bit. Between them either side may send control frames: ping, which wants a pong,
and close, which wants a close, after which the server ends the connection. A client masks
what it sends; text is UTF-8.

Autobahn does all of that and calls `onMessage`. What this module adds is that a connection
costs what `limits` says and no more, whatever its client does:

- A message is collected in one buffer, and refused as soon as it is known to be too large.
- A client that does not read is not read: while more than 64 KiB wait for it, Twisted pauses
  its transport. So at most that and the echo of one read are held.
- One timer at a time: until a silence calls for a ping, for the answer to it, or for the end of
  the close. Whatever waits for a client, what ends its connection is that nothing moves.
- After a close or an error, what still arrives is discarded.

Autobahn's own timers are off: they count whole seconds only (txaio 26.6.1). Of its private
methods two are replaced, `_fail_connection` and `_closeConnection`, and two are called,
`_connectionMade` and `_parseExtensionsHeader`; each says why.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from echotwist import __version__
from echotwist.fastpath.lending import FastPath
from echotwist.limits import FRAGMENT, Limits
from echotwist.observe.journal import Journal
from echotwist.websocket import deflate
from echotwist.wire.budget import Budget
from echotwist.wire.transport import (
    Deadline,
    delivery,
    isAtRest,
    isEnding,
    isPlain,
    linger,
    send,
    unsent,
    waiting,
)

# Registered since, by IANA, as Bad Gateway; Autobahn 26.10.2 refuses it (P:812).
WebSocketServerProtocol.CLOSE_STATUS_CODES_ALLOWED.append(1014)

GOING_AWAY = 1001
INVALID_PAYLOAD = 1007
MESSAGE_TOO_BIG = 1009
TRY_AGAIN_LATER = 1013
"""Close codes, RFC 6455, 7.4.1, and 1013 of IANA's registry. The others are Autobahn's to send."""


_PLAIN = (0x81, 0x82)
"""The first byte of a text or binary message in one frame, not compressed (RFC 6455, 5.2)."""

_COMPRESSED = (0xC1, 0xC2)
"""The same, compressed (RFC 7692, 6.1)."""

_NOT_READ = (1006, "not read to the end")
"""What the log has of a connection that ended before its echo, or the close, was delivered."""

_SPENT = (
    "_transport_details",
    "_wskey",
    "http_response_data",
    "send_queue",
    "websocket_extensions",
    "websocket_protocols",
)
"""What Autobahn keeps of the handshake, and a queue for chopped writes: 1 KB a connection."""


@dataclass(frozen=True)
class Handshake:
    """What a request to upgrade asks for, when it is vetted."""

    key: str
    subprotocol: str | None
    extensions: str
    """Offers of permessage-deflate, as a header has them; empty if there is none."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class EchoProtocol(WebSocketServerProtocol):
    """One WebSocket connection."""

    factory: "EchoFactory"
    transport: Any  # Every one of Twisted's can do more than ITransport says.

    # Autobahn's words are not wanted: some quote the client, and nothing limits how many there
    # are. The journal says what happened.
    log = make_logger(level="critical")

    number = 0
    address = "unknown"
    network: Hashable = None
    """What counts as its client, if --max-connections-per-address limits that."""

    opened = 0.0
    """When, in seconds of the reactor's clock."""

    handshake: Handshake
    websocket_version = 13

    _message: bytes | bytearray = b""
    _isStopped = False
    _isFull = False
    _wireLeft: int
    _smallLeft: int
    _failure: tuple[int, str] | None = None
    _heard = 0.0
    _timer: IDelayedCall | Deadline | None = None
    _out: list[bytes] | None = None

    _known: tuple[int, ...] = ()
    """First bytes of the frames that need no judgement."""

    _deflate: deflate.Deflate | None = None
    """What compresses, if it compresses each message for itself."""

    _isLendable = False
    _isLent = False
    _onReturn: Callable[[], None] | None = None

    def connectionMade(self) -> None:
        """Autobahn's asks TLS for a channel id that nobody wants here, and raises when the PROXY
        protocol is between (26.10.2, autobahn/twisted/util.py)."""
        self.peer = self.address
        self._connectionMade()
        self._shakeHands(self.handshake)

    def _shakeHands(self, handshake: Handshake) -> None:
        """Answer the request. Autobahn's `processHandshake` would read it again, which `upgrade`
        has done, by other rules; it would then set these, and go on so (26.10.2, P:3284)."""
        del self.handshake
        self._wskey = handshake.key
        self.websocket_protocols = [handshake.subprotocol or ""]
        self.websocket_extensions = self._parseExtensionsHeader(handshake.extensions)
        self._heard = self.factory.reactor.seconds()
        self._out = []
        self.succeedHandshake(handshake.subprotocol)
        # RFC 6455, 4.2.2: "websocket", which strict clients compare. Autobahn has no option for it
        # (26.10.2, autobahn/websocket/protocol.py, succeedHandshake); what its answer begins with
        # is no client's text.
        self._out[0] = self._out[0].replace(b"Upgrade: WebSocket", b"Upgrade: websocket", 1)
        self._flush()

    def onOpen(self) -> None:
        self._forgetDefaults()
        self.transport.registerProducer(self, True)
        if self.factory.fastPath is not None:
            if self._perMessageCompress is None:
                self._known = _PLAIN
                self._isLendable = isPlain(self.transport)
            elif self._perMessageCompress.isForgetful:
                self._known = _COMPRESSED
                self._deflate = self._perMessageCompress
        self.factory.opened(self)
        if self.factory.limits.pingInterval:
            self._watch()

    def _forgetDefaults(self) -> None:
        """Keep only what is this connection's own.

        Autobahn gives each connection more than forty attributes (26.10.2, P:1107 and P:2888).
        Those that are None or False now are read from the class as well, and a smaller dict
        is made for the others: 1.5 KB a connection.
        """
        kind, kept = type(self), {}
        for name, value in vars(self).items():
            if value is None or value is False:
                if getattr(kind, name, self) is not value:
                    setattr(kind, name, value)
            elif name not in _SPENT:
                kept[name] = value
        self.__dict__ = kept

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.journal.message(self, payload, isBinary)
        self.sendMessage(payload, isBinary)

    # Collecting a message. Autobahn's own collection keeps a list with an entry for every read
    # and every fragment, and counts neither: small segments made 350 MB of 16.

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._message = bytearray()
        limits = self.factory.limits
        # The first frame of a message says whether it is compressed (RFC 7692, 6.1).
        self._wireLeft = limits.wireMessage if self.current_frame.rsv else limits.maxMessage
        self._smallLeft = limits.smallFragments

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        frame = self.current_frame
        self._wireLeft -= length
        isAlone = frame.fin and frame.opcode != 0
        if length < FRAGMENT and not isAlone:
            self._smallLeft -= FRAGMENT - length
        if self._wireLeft < 0:
            self._tooBig()
        elif self._smallLeft < 0:
            self._fail_connection(
                MESSAGE_TOO_BIG, f"a message has too many fragments under {FRAGMENT} bytes"
            )

    def onMessageFrameData(self, payload: bytes) -> None:
        if len(self._message) + len(payload) > self.factory.limits.maxMessage:
            self._tooBig()
        else:
            self._message += payload  # A bytearray, since it has begun.

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        payload, self._message = bytes(self._message), b""
        # After our own close no data may follow (RFC 6455, 5.5.1), so nothing is echoed.
        if self.state == self.STATE_OPEN:
            self.onMessage(payload, self.message_is_binary)

    def _tooBig(self) -> None:
        self._fail_connection(
            MESSAGE_TOO_BIG, f"a message may have {self.factory.limits.maxMessage} bytes"
        )

    # A client that does not read, which Twisted finds out, is not read.

    def pauseProducing(self) -> None:
        if not self._isFull:  # Twisted says it again with each write.
            self._isFull = True
            self.factory.journal.totals.pauses += 1
            self._watchForEnd()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._isFull = False
        if not self.factory.limits.pingInterval and self.state == self.STATE_OPEN:
            self._clearTimer()  # _watchForEnd()'s.
        if not self._isStopped:
            self.transport.resumeProducing()
        self.factory.budget.account(self)

    def stopProducing(self) -> None:
        """The connection is gone."""

    def _watchForEnd(self) -> None:
        """Without pings, who does not read is waited for without end, as the operator wants; but
        not after it has said that it sends no more. What is not read does not tell."""
        if not self.factory.limits.pingInterval and self.state == self.STATE_OPEN:
            self._setDeadline(delivery(self.transport), self._mayEnd)

    def _mayEnd(self) -> None:
        if isEnding(self.transport):
            self._cut()
        else:
            self._watchForEnd()

    # Nor are those that hold most, when all hold too much.

    def holding(self) -> int:
        held = len(self._message) + len(self.data) + unsent(self.transport)
        if self._perMessageCompress is not None:
            held += self._perMessageCompress.held
        return held

    def stopReading(self) -> None:
        assert not self._isLent
        self._isStopped = True
        self.transport.pauseProducing()

    def resumeReading(self) -> None:
        self._isStopped = False
        if not self.transport.producerPaused:
            self.transport.resumeProducing()

    def refuse(self) -> None:
        assert not self._isLent
        self._failure = (TRY_AGAIN_LATER, "too much is waiting here for all clients together")
        if unsent(self.transport):
            # A close frame would wait behind what the client does not read.
            self.transport.abortConnection()
        else:
            self._fail_connection(*self._failure)

    # Liveness.

    def dataReceived(self, data: bytes) -> None:
        fastPath = self.factory.fastPath
        if fastPath is not None and data[0] in self._known and self._isBetweenMessages():
            if self._deflate is not None:
                data = self._echoedCompressed(fastPath, self._deflate, data)
            elif not self._isLendable:
                data = self._echoed(fastPath, data)
            elif isAtRest(self.transport) and not self.factory.draining:
                self.transport.pauseProducing()
                self._clearTimer()  # The loop keeps it alive.
                self.factory.budget.forget(self)
                assert not self._isLent
                self._isLent = True
                fastPath.lend(self, data)
                return
        if data:
            self._read(data)
        self.factory.budget.account(self)

    def _read(self, data: bytes) -> None:
        if self.state == self.STATE_CLOSED:
            return  # Autobahn would keep it.
        self._heard = self.factory.reactor.seconds()
        self._out = []
        self.data += data
        self.consumeData()
        self._flush()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's way to the transport. What one read gives rise to goes out in one piece."""
        if self._out is None:
            self.transport.write(data)
        else:
            self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, None
        if out:
            send(self.transport, b"".join(out))

    def _watch(self) -> None:
        """Ping when the client has been silent for the interval.

        Not simply every interval: a client that sends is known to live, and the testsuite takes
        a ping in the midst of a case for the end of it.
        """
        interval = self.factory.limits.pingInterval
        # Not below 0: the reactor's clock is the wall's, and may be set back.
        silence = max(self.factory.reactor.seconds() - self._heard, 0)
        # Not for what a sum of floats lacks, which may be too little to move any clock.
        if interval - silence > 1e-6:
            self._setTimer(interval - silence, self._watch)
            return
        before = waiting(self.transport)
        self.sendPing()
        self._awaitPong(self._heard, before, self.factory.limits.pingTimeout)

    def _awaitPong(self, heard: float, before: int, left: float) -> None:
        # In steps of the interval: whoever has answered may be due for the next ping. In two at
        # least, each a timer of its own: if the process was stopped, one of them was too short.
        limits = self.factory.limits
        step = min(left, limits.pingInterval, limits.pingTimeout / 2)
        self._setTimer(step, self._pongDue, heard, before, left - step)

    def _pongDue(self, heard: float, before: int, left: float) -> None:
        """A pong cannot overtake a long message, in either direction. So what counts is that
        something moved since the ping: a byte was received, or some of what was waiting for the
        client `before` it was acknowledged. There are `left` seconds for that, and then a turn of
        the reactor: when a process goes on that was stopped (SIGSTOP, a virtual machine that was
        paused), its timers are due before what the kernel has got meanwhile is read."""
        if self._heard != heard or self._isStopped:  # What is not read cannot be heard.
            self._watch()
        elif left > 0:
            self._awaitPong(heard, before, left)
        elif left == 0:
            self._setTimer(0, self._pongDue, heard, before, -1)
        elif (now := waiting(self.transport)) < before:
            self._awaitPong(heard, now, self.factory.limits.pingTimeout)
        else:
            self._unanswered()

    # The fast path. While the connection is lent, nothing here touches its transport.

    def _isBetweenMessages(self) -> bool:
        return (
            self.state == self.STATE_OPEN
            and not self.data
            and self.current_frame is None
            and not self.inside_message
        )

    def _echoed(self, fastPath: FastPath, data: bytes) -> bytes:
        """Echo what is plain at the beginning of `data`. Returns the rest."""
        if (found := fastPath.echoed(data)) is None:
            return data
        echo, used = found
        if used:
            self._heard = self.factory.reactor.seconds()
            send(self.transport, echo)
        return data[used:]

    def _echoedCompressed(
        self, fastPath: FastPath, compressor: deflate.Deflate, data: bytes
    ) -> bytes:
        """Echo the compressed messages at the beginning of `data`, each in a whole frame. Returns
        the rest, and with it what is wrong with one: Autobahn judges."""
        most = self.factory.limits.maxMessage
        echoes = []
        while (found := fastPath.compressed(data)) is not None:
            isBinary, payload, used = found
            message = compressor.inflated(payload, most)
            if message is None or not (isBinary or _isUtf8(message)):
                break
            self.factory.journal.message(self, message, isBinary)
            echo = compressor.deflated(message)
            echoes += [_head(_COMPRESSED[isBinary], len(echo)), echo]
            data = data[used:]
        if echoes:
            self._heard = self.factory.reactor.seconds()
            send(self.transport, b"".join(echoes))
        return data

    def _whenReturned(self, call: Callable[[], None], atOnce: bool) -> None:
        """Whoever wants to do something to the transport, and not in answer to it, does it so."""
        if self._isLent and self.factory.fastPath is not None:
            self._onReturn = call
            self.factory.fastPath.recall(self, atOnce)
        else:
            call()

    def returned(self, why: str, unjudged: bytes, unsent: bytes, isInside: bool) -> None:
        """Back from the fast path; see `Loop.reports`."""
        self._isLent = False
        onReturn, self._onReturn = self._onReturn, None
        self.transport.resumeProducing()
        if unsent:
            self.transport.write(unsent)
        if why == "lost":
            self.transport.abortConnection()
        elif why == "unanswered":
            self._unanswered()
        elif isInside and why == "recalled":
            # At once, or because nothing more has come of the frame.
            self._cut()
        elif isInside:
            # No close frame fits inside a frame, so this is a drop.
            if why == "not UTF-8":
                self._failure = (INVALID_PAYLOAD, "invalid UTF-8 in a frame half echoed")
            self.dropConnection()
        else:
            if self.factory.limits.pingInterval and onReturn is None:
                self._heard = self.factory.reactor.seconds()
                self._watch()
            if unjudged:
                self._read(unjudged)
        self.factory.budget.account(self)
        if onReturn is not None:
            onReturn()

    # Ending.

    def goAway(self) -> None:
        """Ask the client to leave, with 1001; the answer, or a deadline, ends the connection."""
        if self.state == self.STATE_OPEN and self._onReturn is None:
            self._awaitClose()
            self._whenReturned(self._sayGoingAway, atOnce=False)

    def _sayGoingAway(self) -> None:
        if self.state == self.STATE_OPEN:
            self._awaitClose()
            # sendClose() refuses 1001 (26.10.2, P:2323).
            self.sendCloseFrame(code=GOING_AWAY, reasonUtf8=b"server going away")

    def _awaitClose(self) -> None:
        """Wait for the client's close as long as something moves: it must read its echo before
        that, and cannot answer before the end of the message that it is sending."""
        delivered, heard = delivery(self.transport), self._heard

        def moved() -> bool:
            nonlocal heard
            before, heard = heard, self._heard
            isHeard = heard != before and (bool(self.data) or self.inside_message)
            return delivered() or isHeard

        self._setDeadline(moved, self._closeIsLate)

    def _closeIsLate(self) -> None:
        if self._isLent and self.factory.fastPath is not None:
            # Inside a frame. It is returned if nothing more has come of that.
            self._awaitClose()
            self.factory.fastPath.recall(self, atOnce=False)
        else:
            self._cut()

    def abort(self) -> None:
        """Drop it, at once."""
        self._whenReturned(self._cut, atOnce=True)

    def _cut(self) -> None:
        """Drop it. That is no clean end while something waits for the client."""
        if self._failure is None and waiting(self.transport):
            self._failure = _NOT_READ
        self.transport.abortConnection()

    def _unanswered(self) -> None:
        self._failure = (1006, "ping not answered")
        self.transport.abortConnection()

    def _fail_connection(self, code: int, reason: str) -> None:  # type: ignore[override]
        """Say what was wrong, and end in order.

        Autobahn knows two ways (26.10.2, P:995). `failByDrop=True` stops parsing at once, but
        aborts: echoes that are not flushed are lost. `False` says close and goes on parsing,
        past what it could not parse. Here parsing stops, because the option is True, and the
        end is ours. This is where all errors come through.
        """
        if self.state == self.STATE_OPEN:
            self._failure = (code, reason)
            self.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123])
        self.failedByMe = True
        self.dropConnection()

    def _closeConnection(self, abort: bool = False) -> None:
        """What `dropConnection` does to the transport.

        Autobahn aborts when the client has answered our close (P:819), which resets the
        connection under what the client has not read yet.
        """
        self._clearTimer()
        self._flush()
        self._message, self.data = b"", b""  # Half a message is not kept meanwhile.
        if self._perMessageCompress is not None:
            self._perMessageCompress.forget()
        timeout = self.factory.limits.closeTimeout
        self._timer = linger(self.transport, self.factory.reactor, timeout, self._cut)

    def readConnectionLost(self) -> None:
        """The client has said FIN. What it asked for before that still goes out."""
        if self.state != self.STATE_CLOSED:
            self.dropConnection()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._failure is not None:
            code, reason = self._failure
        elif not wasClean:
            code, reason = 1006, "no closing handshake"
        elif unsent(self.transport):
            code, reason = _NOT_READ
        self.factory.journal.closed(self, code, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._clearTimer()
        try:
            super().connectionLost(reason)
        finally:
            self.factory.closed(self)
            # Autobahn lets it hold this connection: a circle, and with it half a message or a
            # zlib window, that would stay until Python happens to look for circles.
            self.is_closed.addCallback(lambda _: None)

    def _setTimer(self, delay: float, call: Any, *args: Any) -> None:
        self._clearTimer()
        self._timer = self.factory.reactor.callLater(delay, call, *args)

    def _setDeadline(self, moved: Callable[[], bool], late: Callable[[], None]) -> None:
        self._clearTimer()
        timeout = self.factory.limits.closeTimeout
        self._timer = Deadline(self.factory.reactor, timeout, moved, late)

    def _clearTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _isUtf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _head(first: int, size: int) -> bytes:
    """The header of a frame of a server (RFC 6455, 5.2)."""
    if size < 126:
        return bytes([first, size])
    if size < 65536:
        return bytes([first, 126]) + size.to_bytes(2, "big")
    return bytes([first, 127]) + size.to_bytes(8, "big")


class EchoFactory(WebSocketServerFactory):
    """Makes the connections, and knows those that are open."""

    noisy = False

    reactor: IReactorTime

    def __init__(
        self,
        limits: Limits,
        journal: Journal,
        reactor: IReactorTime,
        fastPath: FastPath | None = None,
        compression: bool = True,
        contextTakeover: bool = False,
        numbers: Iterator[int] | None = None,
    ) -> None:
        """`numbers` are those of the connections."""
        super().__init__(server=f"echotwist/{__version__}", reactor=reactor)
        self.limits = limits
        self.journal = journal
        self.fastPath = fastPath
        # The loops of the fast path have the other half.
        most = limits.heldBudget // 2 if fastPath is not None else limits.heldBudget
        self.budget = Budget(most, limits.closeTimeout, reactor)
        self.connections: set[EchoProtocol] = set()
        self._perNetwork: Counter[Hashable] = Counter()
        self.draining = False
        self._numbers = numbers or itertools.count(1)
        self._emptied: Deferred[None] | None = None
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,  # It redirects wherever a client says.
            failByDrop=True,  # See EchoProtocol._fail_connection.
            echoCloseCodeReason=True,
            # Ours is exact; this stops zlib while it inflates.
            maxMessagePayloadSize=limits.wireMessage,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            perMessageCompressionAccept=(
                deflate.accept(contextTakeover) if compression else lambda offers: None
            ),
        )
        self.protocol = self._configured()

    def _configured(self) -> type[EchoProtocol]:
        """EchoProtocol with the options as attributes of the class.

        Autobahn copies each of them to every connection, and formats them all for a debug line
        that is not shown: two thirds of a handshake (26.10.2, P:1117).
        """
        options = {name: getattr(self, name) for name in EchoProtocol.CONFIG_ATTRS}
        accept = staticmethod(options["perMessageCompressionAccept"])
        return type(
            "EchoProtocol",
            (EchoProtocol,),
            {**options, "perMessageCompressionAccept": accept, "CONFIG_ATTRS": []},
        )

    def unavailable(self, network: Hashable = None) -> str | None:
        """Why there is no place for a further connection of the client that `network` stands for,
        or None if there is."""
        if self.draining:
            return "the server is going away"
        if len(self.connections) >= self.limits.maxConnections:
            return "all connections are taken"
        most = self.limits.maxConnectionsPerAddress
        if network is not None and self._perNetwork[network] >= most:
            return "all connections of this address are taken"
        return None

    def opened(self, connection: EchoProtocol) -> None:
        if connection.network is not None:
            self._perNetwork[connection.network] += 1
        connection.number = next(self._numbers)
        connection.opened = self.reactor.seconds()
        self.connections.add(connection)
        self.journal.connected(connection)

    def closed(self, connection: EchoProtocol) -> None:
        if connection.network is not None and connection in self.connections:
            self._perNetwork[connection.network] -= 1
            if not self._perNetwork[connection.network]:
                del self._perNetwork[connection.network]
        self.connections.discard(connection)
        self.budget.forget(connection)
        self.journal.totals.lifetimes.observe(self.reactor.seconds() - connection.opened)
        if self._emptied is not None and not self.connections:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def drain(self) -> "Deferred[None]":
        """Take no further connection. Fires when all that are open have gone."""
        self.draining = True
        if not self.connections:
            return succeed(None)
        self._emptied = Deferred()
        return self._emptied

    def abortAll(self) -> None:
        """Drop all that are open, at once."""
        for connection in list(self.connections):
            connection.abort()
