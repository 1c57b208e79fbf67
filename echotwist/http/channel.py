"""What HTTP is allowed to do here: one connection, from accept to the upgrade or the end.

Twisted's HTTPChannel would take a body of any size and write it to disk, and wait for ever for a
client that sends a byte a minute (26.10, web/http.py, `Request.gotLength` and
`HTTPChannel.dataReceived`). `Channel` takes no body, but for a resource that says of how many bytes
(`HttpSite.mostBody`), and gives each request a deadline.

Nor does it refuse in silence. HTTPChannel responds with 400 to whatever it does not understand, and
waits for what will never be a request, such as a TLS handshake. Here each gets the status that HTTP
has for it, a reason in words, a line in the log, and a count.
"""

import re
from collections.abc import Iterable
from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.server import Request as TwistedRequest
from zope.interface import implementer

from echotwist.http.answer import finalResponse
from echotwist.limits import HEADER_OVERHEAD, MAX_HEADER_BYTES, MAX_HEADERS, MAX_REQUEST_LINE
from echotwist.wire.deadline import Deadline
from echotwist.wire.gate import OVER_BUDGET, WAITS, WRITE_BLOCKED, ReadGate
from echotwist.wire.peer import nameOf
from echotwist.wire.transport import delivery, linger, lowest, unsent

_TCHAR = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r\n]")
"""A request begins with one: of a method (RFC 9110, 5.6.2), or of an empty line (RFC 9112,
2.2)."""


class Request(TwistedRequest):
    """One request."""

    channel: Any
    site: Any

    authority: bytes | None = None
    """The host, with its port if it has one, of a target in absolute form (RFC 9112, 3.2.2)."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.headerLines: list[bytes] = []
        """Its headers as they came: `requestHeaders` has neither their order nor the spelling of
        their names. A line that was folded (RFC 9112, 5.2) is one here."""

    def process(self) -> None:
        if self.path != b"*":
            super().process()
            return
        # Twisted would answer itself, with its own Server header (26.10, web/server.py,
        # `Request._handleStar`).
        self.site = self.channel.site
        self.prepath, self.postpath = [], [b"*"]
        self.setHeader("Date", datetimeToString())
        self.render(self.site.getResourceFor(self))

    def tokens(self, name: str) -> list[str]:
        """The elements of a header that is a list, in lower case."""
        values = self.requestHeaders.getRawHeaders(name.encode(), [])
        return elements(value.decode("latin-1").lower() for value in values)


def elements(values: Iterable[str]) -> list[str]:
    """The elements of a list header. Several headers with one name are one list (RFC 9110, 5.3),
    and empty elements do not count (5.6.1.2)."""
    return [
        element for value in values for part in value.split(",") if (element := part.strip(" \t"))
    ]


@implementer(IHalfCloseableProtocol)
class Channel(ReadGate, HTTPChannel):
    """One HTTP connection."""

    site: Any  # A `site.HttpSite`, whose module imports this one.
    transport: Any  # Every one of Twisted's can do more than ITransport says.

    # Above these come `lineLengthExceeded` and others, which respond with the right status.
    totalHeadersSize = MAX_REQUEST_LINE + MAX_HEADER_BYTES + 1024
    MAX_LENGTH = max(MAX_REQUEST_LINE, MAX_HEADER_BYTES)
    maxHeaders = MAX_HEADERS + 1

    isAnswered = False
    """Whether it was sent a response, or will never get one."""

    _deadline: IDelayedCall | Deadline | None = None
    _hasReceived = False
    """Whether a byte has arrived."""

    _isAnswering = False
    """Whether a request is complete, and its response is not."""

    _isEnding = False

    _sliceEnd = 0.0
    """When others have their turn; see `turns`."""

    begun = 0.0
    """When it was accepted, or the last answer was out, in seconds of the reactor's clock."""

    _isFirst = True
    """Whether the next line is the first of a request."""

    _isHead = False
    _first = b""
    """The first line of the request that is arriving."""

    _headerCount = 0
    _headerBytes = 0
    """Headers of the request that is arriving, and bytes in their lines."""

    _buffered = 0
    """Bytes of memory that the request takes so far."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.makeRoom()
        self.site.channels[self] = None
        self.begun = self.site.context.reactor.seconds()
        self._setDeadline()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        super().connectionLost(reason)

    def evict(self) -> None:
        """End at once, to make room for a new connection."""
        self._drop("its place was needed for another")
        # First, so that TLS and the PROXY protocol log nothing of their own.
        self.transport.abortConnection()
        # Free its descriptor now: Twisted accepts a hundred at a time, and aborts only afterwards.
        lowest(self.transport).connectionLost(Failure(ConnectionAborted()))

    def _drop(self, why: str) -> None:
        self.site.context.journal.dropped(nameOf(self.transport.getPeer()), why)

    def pauseProducing(self) -> None:
        """Backpressure: a client that does not read gets no further response, not even to the
        requests that have arrived.

        Twisted pauses the transport only between requests, and here each is answered at once: a
        client that sent requests for ever and read nothing took 400 MB in 25 s.
        """
        self.paused = True  # LineReceiver's.
        super().pauseProducing()
        self.pauseReading(WRITE_BLOCKED)

    def resumeProducing(self) -> None:
        # HTTPChannel's, which its own resumeProducing sets; the requests below look at it.
        self.paused = self._waitingForTransport = False
        self.forgetPause(WRITE_BLOCKED)
        if self.isPausedFor(WAITS):
            self.paused = True  # For that reason alone, now.
            return
        self.dataReceived(b"")  # Requests that have arrived; this may pause again, or upgrade.
        isPaused = self.paused or self.isPausedFor(OVER_BUDGET)
        if not isPaused and self.transport is not None:
            super().resumeProducing()  # Not while a response is under way.

    def _waitForTurn(self) -> None:
        """Go on with the lines that have arrived later, and read nothing until then."""
        self.paused = True  # LineReceiver's.
        self.pauseReading(WAITS)
        self.site.context.turns.wait(self, len(self._buffer))

    @property
    def hasLeft(self) -> bool:
        return bool(self.paused and self._buffer)

    def takeTurn(self) -> None:
        if not self.isPausedFor(WAITS):
            return  # It has ended.
        self.forgetPause(WAITS)
        if not self.isPausedFor(WRITE_BLOCKED):
            self.resumeProducing()

    def readConnectionLost(self) -> None:
        """The client has said FIN. Twisted would drop the response that it waits for."""
        if self._isAnswering and not self._isEnding:
            self.persistent = 0  # requestDone() ends it.
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The response is out; see `loseConnection` for what happens until the client's FIN."""

    def dataReceived(self, data: bytes) -> None:
        if not self._hasReceived and self.site.upgradeUsual(self, data):
            return
        self._hasReceived = self._hasReceived or bool(data)
        if self._isFirst and not self.isAnswered:
            why = _whyNoRequest(self._buffer + data)
            if why is not None:
                self._refuse(400, why)
                return
        self._sliceEnd = self.site.context.turns.sliceEnd()
        super().dataReceived(data)
        if self.transport is None:  # It is upgraded.
            return
        # LineReceiver has no public way to ask (26.10, protocols/basic.py).
        end = self._buffer.find(b"\n") if self.line_mode else -1
        if end >= 0 and self._buffer[end - 1 : end] != b"\r":
            self._bareLf()
        self.site.context.budget.account(self)

    def buffered(self) -> int:
        return self._buffered + len(self._buffer) + unsent(self.transport)

    def endOverBudget(self) -> None:
        if unsent(self.transport) or self.isAnswered or self._isAnswering:
            # A response would wait behind one that the client has not read.
            self.transport.abortConnection()
            return
        self.requests.clear()
        self._refuse(503, "too much is waiting here for all clients")

    def lineReceived(self, line: bytes) -> None:
        self._takeLine(line)
        # While a request is answered, HTTPChannel keeps what comes behind it.
        isMore = self._buffer and self.line_mode and not self.paused
        if isMore and self.site.context.turns.clock() >= self._sliceEnd:
            self._waitForTurn()

    def _takeLine(self, line: bytes) -> None:
        # The line as it came, and what Twisted makes of it.
        self._buffered += HEADER_OVERHEAD + 2 * len(line)
        if b"\n" in line:
            self._bareLf()
        elif self._isFirst:
            self._isFirst = not line  # Empty lines may come before it.
            self._isHead = line.startswith(b"HEAD ")
            self._first = line
            super().lineReceived(line)
        else:
            self._headerCount += 1
            self._headerBytes += len(line)
            if (
                self._headerBytes > MAX_HEADER_BYTES or self._headerCount > MAX_HEADERS + 1
            ):  # And an empty line.
                self._tooManyHeaders()
            else:
                super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name != name.rstrip(b" \t"):
            # RFC 9112, 5.1: a proxy that ignores the space would see another header than we do.
            return self._refuse(400, "a header has a space before its colon")
        match name.lower(), value.strip():
            case (b"content-length", length) if length != b"0":
                if not length.isdigit():
                    return self._refuse(400, "the Content-Length is no number")
                most = self._mostBody()
                if not most:
                    return self._refuse(413, "no body is taken here")
                if len(length) > 15 or int(length) > most:
                    return self._refuse(413, f"a body has at most {most:,} bytes here")
            case (b"transfer-encoding", _):
                if self._mostBody():
                    return self._refuse(411, "a body needs a Content-Length here")
                return self._refuse(413, "no body is taken here")
        good: bool = super().headerReceived(line)
        if good:
            self.requests[-1].headerLines.append(line)
        return good

    def _mostBody(self) -> int:
        method, target, _ = self._first.split(b" ", 2)  # Twisted has taken it for a request line.
        most: int = self.site.mostBody(method, target.partition(b"?")[0])
        return most

    def rawDataReceived(self, data: bytes) -> None:
        self._buffered += len(data)  # Of a body, or behind a request that is being answered.
        super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        if self._isFirst:
            self._refuse(414, f"a request line has at most {MAX_REQUEST_LINE:,} bytes")
        else:
            self._tooManyHeaders()

    def _tooManyHeaders(self) -> None:
        self._refuse(431, f"headers are at most {MAX_HEADERS}, with {MAX_HEADER_BYTES:,} bytes")

    def _bareLf(self) -> None:
        self._refuse(400, "a line ends without CR, with LF alone")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """HTTPChannel calls this for whatever it does not understand (26.10, web/http.py). Its own
        says 400 and nothing else, and leaves no trace."""
        self._refuse(400, "the request is malformed")

    def _refuse(self, status: int, why: str) -> bool:
        self.site.context.journal.refused(nameOf(self.transport.getPeer()), status, why)
        self.transport.write(finalResponse(status, why, self._isHead))
        self.loseConnection()
        return False

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection stays open after the response.

        Twisted looks at the first Connection header alone, and splits that at spaces (26.10,
        web/http.py), so that a client that says `close, TE` waits for a FIN in vain (RFC 9112,
        9.6).
        """
        if version != b"HTTP/1.1":
            return False
        if "close" in request.tokens("Connection"):
            request.setHeader("Connection", "close")
            return False
        return True

    def allContentReceived(self) -> None:
        """The request is complete, and was in time. The response may take some, as /metrics of
        workers does."""
        self._isAnswering = True
        self._clearDeadline()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        if self._isEnding:  # The client gets nothing more.
            self.requests.clear()
            return
        self._isAnswering = False
        self.isAnswered = self._isFirst = True
        self._headerCount = self._headerBytes = self._buffered = 0
        # Now it has been silent for the shortest time, and is the last to make room.
        self.site.channels[self] = self.site.channels.pop(self)
        self.begun = self.site.context.reactor.seconds()
        self._setDeadline()
        super().requestDone(request)
        if self.isPausedFor(OVER_BUDGET) and not self._isEnding:
            self.transport.pauseProducing()  # HTTPChannel's has just resumed it.

    def loseConnection(self) -> None:
        """Send what is written; discard what has not been parsed, or still arrives."""
        self.isAnswered = self._isEnding = True
        self.clearLineBuffer()
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self._clearDeadline()
        context = self.site.context
        self.forgetPause(WRITE_BLOCKED | WAITS)  # linger() reads, to discard what arrives.
        self._deadline = linger(self.transport, context.reactor, context.limits.closeTimeout)

    def upgrade(self, protocol: IProtocol, early: bytes) -> None:
        """Hand the connection to `protocol`, which answers with 101."""
        self.handOver(protocol, early)
        took = self.site.context.reactor.seconds() - self.begun
        self.site.context.journal.totals.handshakes.observe(took)

    def handOver(self, protocol: IProtocol, early: bytes) -> None:
        """Hand the connection to `protocol`, with what the client sent behind its request. The
        response is no concern of this channel any more.

        Autobahn's own does less (26.10.2, twisted/resource.py, `WebSocketResource`): it keeps this
        channel as the producer, loses the bytes behind the request, and cancels no timer.
        """
        transport, self.transport = self.transport, None
        transport.unregisterProducer()
        transport.resumeProducing()  # This channel may have paused it.
        self._forget()
        self.requests.clear()
        if isinstance(transport, ProtocolWrapper):  # TLS or the PROXY protocol
            transport.wrappedProtocol = protocol
        else:
            transport.protocol = protocol
        protocol.makeConnection(transport)
        if early:
            protocol.dataReceived(early)

    def _setDeadline(self) -> None:
        self._clearDeadline()
        self._deadline = self.site.context.reactor.callLater(
            self.site.context.limits.handshakeTimeout, self._expired
        )

    def _expired(self) -> None:
        if not self._hasReceived:
            # A browser's spare connection, say. A reset destroys nothing, and the log is for
            # clients that tried. TLS or the PROXY protocol may have received something.
            if late := getattr(self.transport, "whyLate", None):
                self._drop(late)
            self.transport.abortConnection()
        elif self.isPausedFor(WAITS):
            self._setDeadline()  # It cannot be faster than its turns.
        elif self.paused:
            # It has sent requests, and does not read the responses, or reads slowly. As long as
            # something moves, it may go on.
            timeout = self.site.context.limits.closeTimeout
            moved = delivery(self.transport)
            self._deadline = Deadline(self.site.context.reactor, timeout, moved, self._stalled)
        elif self._isFirst and not self._buffer:
            self.loseConnection()  # Keep-alive: no further request came.
        else:
            self._refuse(408, "the request did not come in time")

    def _stalled(self) -> None:
        if self.paused:
            self._drop("its answers were not read")
            self.transport.abortConnection()
        else:
            self._expired()

    def _clearDeadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _forget(self) -> None:
        self._clearDeadline()
        self.forgetPause(WAITS)
        self.site.channels.pop(self, None)
        self.site.context.budget.forget(self)


def _whyNoRequest(data: bytes) -> str | None:
    """Why `data` cannot be the start of a request; None if it can."""
    if data[:1] == b"\x16":  # A handshake record (RFC 8446, 5.1).
        return "this port speaks plain HTTP, not TLS"
    if data.startswith((b"PROXY ", b"\r\n\r\n\0")):
        return "this port takes no PROXY protocol; a haproxy: endpoint does"
    if data and _TCHAR.match(data) is None:
        return "this is no HTTP request"
    return None
