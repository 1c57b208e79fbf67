"""An answer over HTTP that is sent a piece at a time, for up to an hour.

It takes the connection from the channel as a WebSocket does, because a channel has deadlines, is
dropped when its place is needed, and keeps what the client asks next. So it has a place among the
connections, and ends with them in a drain; and it is the last answer on its connection.

    GET /lab/sse ──► render() writes the head ──► a piece ──► pause ──► a piece ──► … ──► FIN
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from echotwist.http.answer import Refused
from echotwist.http.channel import Request
from echotwist.limits import LAB_ANSWER
from echotwist.websocket.connections import Connections
from echotwist.wire.context import Context
from echotwist.wire.deadline import Deadline
from echotwist.wire.gate import ReadGate
from echotwist.wire.peer import nameOf
from echotwist.wire.transport import delivery, linger, lose, send, unsent

Pieces = Iterator[tuple[bytes, float]]
"""Each with the seconds until the next, or until `wake`. A piece is made when it is sent, so that a
time stamp in it is right. It may be empty."""


def answerAtLength(
    request: Request,
    context: Context,
    connections: Connections,
    pieces: Pieces,
    farewell: Callable[[str], bytes],
    among: set[Any] | None = None,
) -> bytes | int:
    """Answer with `pieces`. If the answer is ended before these are, `farewell` says why. While it
    lasts it is one of those in `among`."""
    site: Any = request.site
    _, network = site.clientOf(request)
    if (why := connections.unavailable(network)) is not None:
        refusal = site.refusal(request, Refused(503, why, Retry_After="5"))
        refused: bytes = refusal.render(request)
        return refused
    if request.method == b"HEAD":
        return b""
    request.setHeader("Connection", "close")
    request.write(b"")  # The head.
    isChunked = bool(request.chunked)  # Not in HTTP/1.0.
    answer = LongAnswer(context, connections, network, pieces, farewell, isChunked)
    answer.among = among
    request.channel.handOver(answer, request.channel.clearLineBuffer())
    return NOT_DONE_YET


@implementer(IHalfCloseableProtocol, IPushProducer)
class LongAnswer(ReadGate, Protocol):
    """One answer, behind its head."""

    transport: Any  # Every one of Twisted's can do more than ITransport says.

    among: set[Any] | None = None

    _pause: IDelayedCall | None = None
    """Until the next piece."""

    _stall: Deadline | None = None
    """Is there while the client does not read."""

    _end: IDelayedCall | Deadline | None = None
    """Of its time; later, of the lingering close."""

    _isInTurn = False
    _isEnding = False

    def __init__(
        self,
        context: Context,
        connections: Connections,
        network: Hashable,
        pieces: Pieces,
        farewell: Callable[[str], bytes],
        isChunked: bool,
    ) -> None:
        self.network = network
        self._context = context
        self._connections = connections
        self._pieces = pieces
        self._farewell = farewell
        self._isChunked = isChunked

    def connectionMade(self) -> None:
        self._connections.hold(self)
        if self.among is not None:
            self.among.add(self)
        self.transport.registerProducer(self, True)
        self._end = self._context.reactor.callLater(LAB_ANSWER, self._expire)
        self.takeTurn()

    def dataReceived(self, data: bytes) -> None:
        """There is no answer to what the client asks behind this request; the head says so."""

    # Pieces. They take turns, for there may be as many answers as connections.

    def wake(self) -> None:
        """There may be a next piece before its time."""
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
            self._due()

    def _due(self) -> None:
        self._pause = None
        self._go()

    def _go(self) -> None:
        if self._pause is None and self._stall is None and not self._isInTurn:
            self._isInTurn = True
            self._context.turns.wait(self)

    def takeTurn(self) -> None:
        self._isInTurn = False
        if self._stall is not None or self._isEnding:
            return
        turns = self._context.turns
        end = turns.sliceEnd()
        some, seconds = [], 0.0
        while not seconds:
            found = next(self._pieces, None)
            if found is None:
                break
            piece, seconds = found
            some.append(piece)
            if turns.clock() >= end:
                break
        if any(some):
            self._write(b"".join(some))
        if found is None:
            self._finish()
        elif seconds:
            self._pause = self._context.reactor.callLater(seconds, self._due)
        else:
            self._go()

    def _write(self, piece: bytes) -> None:
        send(self.transport, b"%x\r\n%b\r\n" % (len(piece), piece) if self._isChunked else piece)
        self._context.budget.account(self)

    def pauseProducing(self) -> None:
        if self._stall is None:  # Twisted repeats this on every write.
            context = self._context
            timeout, moved = context.limits.closeTimeout, delivery(self.transport)
            self._stall = Deadline(context.reactor, timeout, moved, self._stalled)

    def resumeProducing(self) -> None:
        if self._stall is not None and self._stall.active():
            self._stall.cancel()
        self._stall = None
        self._context.budget.account(self)
        self._go()

    def _stalled(self) -> None:
        name = nameOf(self.transport.getPeer())
        self._context.journal.dropped(name, "its answers were not read")
        self.abort()

    def stopProducing(self) -> None:
        """The connection is gone."""

    # The memory budget.

    def buffered(self) -> int:
        return unsent(self.transport)

    def endOverBudget(self) -> None:
        self.abort()

    # The end.

    def _expire(self) -> None:
        self._cutShort(f"an answer lasts {LAB_ANSWER:,.0f} s")

    def goAway(self) -> None:
        self._cutShort("the server is going away")

    def _cutShort(self, why: str) -> None:
        if self._isEnding:
            return
        if farewell := self._farewell(why):
            self._write(farewell)
        self._finish(isWhole=bool(farewell))

    def _finish(self, *, isWhole: bool = True) -> None:
        """End; without a last chunk if that would have a part taken for the whole (RFC 9112, 8)."""
        if self._isEnding:
            return
        self._stop()
        if self._isChunked and isWhole:
            send(self.transport, b"0\r\n\r\n")
        context = self._context
        self._end = linger(self.transport, context.reactor, context.limits.closeTimeout)

    def _stop(self) -> None:
        self._isEnding = True
        if self.among is not None:
            self.among.discard(self)
        for timer in (self._pause, self._stall, self._end):
            if timer is not None and timer.active():
                timer.cancel()

    def abort(self) -> None:
        self._stop()
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The client has said FIN, and so has left: one that waits for such an answer says none. If
        this went on, only the next write would show whether anybody still reads."""
        self._finish(isWhole=False)
        lose(self.transport)

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop()
        self._context.budget.forget(self)
        self._connections.release(self)
