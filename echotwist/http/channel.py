"""What HTTP is allowed to do here: one connection, from accept to the upgrade or the end.

Twisted's HTTPChannel would take a body of any size and write it to disk, and it would wait for
ever for a client that sends a byte a minute (twisted/web/http.py, 26.10: Request.gotLength and
HTTPChannel.dataReceived). `Channel` takes no body and gives each request a deadline.

And it never refuses in silence. HTTPChannel answers 400 to whatever it does not understand, and
waits for what will never be a request: a TLS handshake, say. Here each gets the status that HTTP
has for it, why in words, a line in the log, and a count.
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

from echotwist.http.answer import lastWords
from echotwist.limits import HEADER, HEADERS, HEADERS_BYTES, TARGET
from echotwist.wire.deadline import Deadline
from echotwist.wire.gate import WRITE_BLOCKED, ReadGate
from echotwist.wire.peer import nameOf
from echotwist.wire.transport import delivery, linger, lowest, unsent

_TCHAR = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r\n]")
"""What a request begins with: a method (RFC 9110, 5.6.2), or an empty line (RFC 9112, 2.2)."""


class Request(TwistedRequest):
    """One request."""

    channel: Any
    site: Any

    authority: bytes | None = None
    """The host, with its port if it has one, of a target in absolute form (RFC 9112, 3.2.2)."""

    def process(self) -> None:
        if self.path != b"*":
            super().process()
            return
        # Twisted answers it by itself, in its own name (twisted/web/server.py, 26.10,
        # Request._handleStar).
        self.site = self.channel.site
        self.prepath, self.postpath = [], [b"*"]
        self.setHeader("Date", datetimeToString())
        self.render(self.site.getResourceFor(self))

    def tokens(self, name: str) -> list[str]:
        """The elements of a header that is a list, in lower case."""
        values = self.requestHeaders.getRawHeaders(name.encode(), [])
        return elements(value.decode("latin-1").lower() for value in values)


def elements(values: Iterable[str]) -> list[str]:
    """The elements of a list. Several headers of a name are one list (RFC 9110, 5.3), and empty
    elements do not count (5.6.1.2)."""
    return [
        element for value in values for part in value.split(",") if (element := part.strip(" \t"))
    ]


@implementer(IHalfCloseableProtocol)
class Channel(ReadGate, HTTPChannel):
    """One HTTP connection."""

    site: Any  # A `site.HttpSite`, whose module imports this one.
    transport: Any  # Every one of Twisted's can do more than ITransport says.

    # What is too long has a status of its own, below.
    totalHeadersSize = TARGET + HEADERS_BYTES + 1024
    MAX_LENGTH = max(TARGET, HEADERS_BYTES)
    maxHeaders = HEADERS + 1

    isAnswered = False
    """Whether it has had an answer, or gets no other than it has."""

    _deadline: IDelayedCall | Deadline | None = None
    _hasSent = False
    """Whether a byte has come."""

    _isAnswering = False
    """Whether a request is whole, and its answer is not."""

    _isEnding = False

    _isFirst = True
    """Whether the next line is the first of a request."""

    _isHead = False
    _count = 0
    _size = 0
    """Headers of the request that is coming, and bytes in their lines."""

    _kept = 0
    """Bytes that it takes, as far as it has come."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.makeRoom()
        self.site.channels[self] = None
        self._setDeadline()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        super().connectionLost(reason)

    def evict(self) -> None:
        """End at once, for a connection that comes and finds no place."""
        self._drop("its place was needed for another")
        # TLS and the PROXY protocol have nothing to add.
        self.transport.abortConnection()
        # Now: Twisted accepts a hundred at a time, and aborts only afterwards.
        lowest(self.transport).connectionLost(Failure(ConnectionAborted()))

    def _drop(self, why: str) -> None:
        self.site.context.journal.dropped(nameOf(self.transport.getPeer()), why)

    def pauseProducing(self) -> None:
        """The client does not read. So no further request is answered, of those that are here.

        Twisted pauses the network only while no request is answered, and here each is answered
        at once: a client that sent requests for ever and read nothing took 400 MB in 25 s.
        """
        self.paused = True  # LineReceiver's.
        super().pauseProducing()
        self.pauseReading(WRITE_BLOCKED)

    def resumeProducing(self) -> None:
        # HTTPChannel's own would resume also what the budget has paused.
        self.paused = self._waitingForTransport = False
        self.resumeReading(WRITE_BLOCKED)
        self.dataReceived(b"")  # What is here; it may pause again, or upgrade.

    def readConnectionLost(self) -> None:
        """The client has said FIN. Twisted would drop the answer that it waits for."""
        if self._isAnswering and not self._isEnding:
            self.persistent = 0  # requestDone() ends it.
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The answer is out; `loseConnection` says what happens until the client has followed."""

    def dataReceived(self, data: bytes) -> None:
        self._hasSent = self._hasSent or bool(data)
        if self._isFirst and not self.isAnswered:
            why = _noRequest(self._buffer + data)
            if why is not None:
                self._refuse(400, why)
                return
        super().dataReceived(data)
        if self.transport is None:  # It is upgraded.
            return
        # LineReceiver has no public way to ask (twisted/protocols/basic.py, 26.10).
        end = self._buffer.find(b"\n")
        if end >= 0 and self._buffer[end - 1 : end] != b"\r":
            self._bareLf()
        self.site.context.budget.account(self)

    def buffered(self) -> int:
        return self._kept + len(self._buffer) + unsent(self.transport)

    def endOverBudget(self) -> None:
        if unsent(self.transport) or self.isAnswered or self._isAnswering:
            # Behind what the client does not read, or has been told, there is nothing to say.
            self.transport.abortConnection()
            return
        self.requests.clear()
        self._refuse(503, "too much is waiting here for all clients")

    def lineReceived(self, line: bytes) -> None:
        self._kept += HEADER + len(line)
        if b"\n" in line:
            self._bareLf()
        elif self._isFirst:
            self._isFirst = not line  # An empty one may come before.
            self._isHead = line.startswith(b"HEAD ")
            super().lineReceived(line)
        else:
            self._count += 1
            self._size += len(line)
            if self._size > HEADERS_BYTES or self._count > HEADERS + 1:  # And an empty line.
                self._tooManyHeaders()
            else:
                super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name != name.rstrip(b" \t"):
            # RFC 9112, 5.1: whoever ignores the space sees another header than we.
            return self._refuse(400, "a header has a space before its colon")
        match name.lower(), value.strip():
            case (b"content-length", length) if length != b"0":
                if not length.isdigit():
                    return self._refuse(400, "the Content-Length is no number")
                return self._refuse(413, "no body is taken here")
            case (b"transfer-encoding", _):
                return self._refuse(413, "no body is taken here")
        good: bool = super().headerReceived(line)
        return good

    def lineLengthExceeded(self, line: bytes) -> None:
        if self._isFirst:
            self._refuse(414, f"a request line has at most {TARGET:,} bytes")
        else:
            self._tooManyHeaders()

    def _tooManyHeaders(self) -> None:
        self._refuse(431, f"headers are at most {HEADERS}, with {HEADERS_BYTES:,} bytes")

    def _bareLf(self) -> None:
        self._refuse(400, "a line ends without CR, with LF alone")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What HTTPChannel does with all that it does not understand (twisted/web/http.py, 26.10).
        It would say nothing but 400, and leave no trace."""
        self._refuse(400, "the request is malformed")

    def _refuse(self, status: int, why: str) -> bool:
        self.site.context.journal.refused(nameOf(self.transport.getPeer()), status, why)
        self.transport.write(lastWords(status, why, self._isHead))
        self.loseConnection()
        return False

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection stays open behind the answer.

        Twisted's looks at the first Connection header alone, and splits that at spaces (26.10), so
        that a client which says `close, TE` waits for a FIN in vain (RFC 9112, 9.6).
        """
        if version != b"HTTP/1.1":
            return False
        if "close" in request.tokens("Connection"):
            request.setHeader("Connection", "close")
            return False
        return True

    def allContentReceived(self) -> None:
        """The request is whole, and was in time. Its answer may take some, as /metrics of workers
        does."""
        self._isAnswering = True
        self._clearDeadline()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        if self._isEnding:  # Nothing is sent any more.
            self.requests.clear()
            return
        self._isAnswering = False
        self.isAnswered = self._isFirst = True
        self._count = self._size = self._kept = 0
        # It has asked something; those that have not are the first to make room.
        self.site.channels[self] = self.site.channels.pop(self)
        self._setDeadline()
        super().requestDone(request)

    def loseConnection(self) -> None:
        """What is written goes out; what is not yet looked at, or still arrives, is discarded."""
        self.isAnswered = self._isEnding = True
        self.clearLineBuffer()
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self._clearDeadline()
        context = self.site.context
        self.forgetPauses()
        self._deadline = linger(self.transport, context.reactor, context.limits.closeTimeout)

    def upgrade(self, protocol: IProtocol) -> None:
        """Leave the connection to `protocol`, and to it what the client sent behind its request.

        What autobahn.twisted.resource.WebSocketResource does, and more: that keeps this channel
        as the producer, loses the bytes behind the request and cancels no timer.
        """
        early = self.clearLineBuffer()
        transport, self.transport = self.transport, None
        transport.unregisterProducer()
        transport.resumeProducing()  # It may be this channel that paused it.
        self._forget()
        self.requests.clear()
        if isinstance(transport, ProtocolWrapper):  # TLS or the PROXY protocol
            transport.wrappedProtocol = protocol
        else:
            transport.protocol = protocol
        protocol.makeConnection(transport)
        if early:
            protocol.dataReceived(early)
        took = self.site.context.reactor.seconds() - self._begun
        self.site.context.journal.totals.handshakes.observe(took)

    def _setDeadline(self) -> None:
        self._clearDeadline()
        self._begun = self.site.context.reactor.seconds()
        self._deadline = self.site.context.reactor.callLater(
            self.site.context.limits.handshakeTimeout, self._late
        )

    def _late(self) -> None:
        if not self._hasSent:
            # A spare connection of a browser, say. There is nothing to tell, and nothing to
            # protect from a reset; the log is for clients that tried. TLS or the PROXY protocol
            # may have something that has come.
            if late := getattr(self.transport, "lateness", None):
                self._drop(late)
            self.transport.abortConnection()
        elif self.paused:
            # There are requests, but the client does not read the answers, or slowly. As long as
            # it does, it has its time.
            timeout = self.site.context.limits.closeTimeout
            moved = delivery(self.transport)
            self._deadline = Deadline(self.site.context.reactor, timeout, moved, self._stalled)
        elif self._isFirst and not self._buffer:
            self.loseConnection()  # It was kept for another request, which did not come.
        else:
            self._refuse(408, "the request did not come in time")

    def _stalled(self) -> None:
        if self.paused:
            self._drop("its answers were not read")
            self.transport.abortConnection()
        else:
            self._late()

    def _clearDeadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _forget(self) -> None:
        self._clearDeadline()
        self.site.channels.pop(self, None)
        self.site.context.budget.forget(self)


def _noRequest(data: bytes) -> str | None:
    """Why `data` begins no request; None if it may."""
    if data[:1] == b"\x16":  # A handshake record (RFC 8446, 5.1).
        return "this port speaks plain HTTP, not TLS"
    if data.startswith((b"PROXY ", b"\r\n\r\n\0")):
        return "this port takes no PROXY protocol; a haproxy: endpoint does"
    if data and _TCHAR.match(data) is None:
        return "this is no HTTP request"
    return None
