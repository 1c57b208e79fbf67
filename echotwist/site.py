"""The URLs of the service, and what HTTP is allowed to do here.

    /  /websockets.html     the page, and its style and script beside it
    /echo                   the WebSocket endpoint (`upgrade`)
    /healthz  /readyz       200 while alive; readyz 503 as soon as the service drains

And of --admin, where it listens to the operator: /metrics (`metrics`), /healthz, /readyz.

Twisted's HTTPChannel would take a body of any size and write it to disk, and it would wait
for ever for a client that sends a byte a minute (26.10, H:836 and H:2356). `Channel` takes
no body and gives each request a deadline.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import CACHED, HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from twisted.web.static import File, getTypeAndEncoding
from zope.interface import implementer

from echotwist import __version__
from echotwist.answer import NOTHING, Answer, Exact
from echotwist.closing import linger, unsent
from echotwist.forwarded import TrustedProxies
from echotwist.limits import HEADER, OPERATORS, OVERFLOW
from echotwist.peer import nameOf
from echotwist.protocol import EchoFactory
from echotwist.upgrade import EchoResource

RESOURCES = Path(__file__).with_name("resources")

PAGE = "websockets.html"

_ABSOLUTE = re.compile(rb"https?://[^/]*/?", re.IGNORECASE)

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def makeRoot(
    factory: EchoFactory, allowedOrigins: Collection[str], proxies: TrustedProxies
) -> Resource:
    """The whole URL map."""
    root = Exact()
    root.putChild(b"", Asset(RESOURCES / PAGE))
    # By name: what an editor leaves beside them is nobody's business.
    for name in (PAGE, "websockets.css", "websockets.js", "echotwist.svg"):
        root.putChild(name.encode(), Asset(RESOURCES / name))
    root.putChild(b"echo", EchoResource(factory, allowedOrigins, proxies))
    root.putChild(b"healthz", Answer(200, "ok"))
    root.putChild(b"readyz", Readiness(factory))
    return root


def makeAdminRoot(metrics: Resource, readiness: Resource) -> Resource:
    """The URL map of --admin."""
    root = Exact()
    root.putChild(b"metrics", metrics)
    root.putChild(b"healthz", Answer(200, "ok"))
    root.putChild(b"readyz", readiness)
    return root


class Asset(File):
    """A file of the page, served from memory.

    `File` opens its file for each request, and keeps it open while the client does not read:
    a second descriptor for a connection, and without one left a traceback for each request.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._body = path.read_bytes()
        self._etag = b'"%s"' % hashlib.sha256(self._body).hexdigest()[:16].encode()
        self._type, _ = getTypeAndEncoding(
            path.name, self.contentTypes, self.contentEncodings, self.defaultType
        )

    def getChild(self, path: bytes, request: Request) -> Resource:
        return NOTHING

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("Content-Type", self._type)
        request.setHeader("Content-Length", str(len(self._body)))
        request.setHeader("Cache-Control", "no-cache")
        request.setHeader("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        request.setHeader("Referrer-Policy", "no-referrer")
        # An ETag is exact where the times of files from a wheel are not.
        isKnown = request.setETag(self._etag) is CACHED
        return b"" if isKnown or request.method == b"HEAD" else self._body

    render_HEAD = render_GET


class Readiness(Exact):
    """`/readyz`: whether a load balancer should send clients here."""

    def __init__(self, factory: EchoFactory) -> None:
        super().__init__()
        self._factory = factory

    def render(self, request: Request) -> bytes:
        if self._factory.draining:
            return Answer(503, "draining").render(request)
        return Answer(200, "ready").render(request)


@implementer(IHalfCloseableProtocol)
class Channel(HTTPChannel):
    """One HTTP connection."""

    site: "EchoSite"
    transport: Any  # Every one of Twisted's can do more than ITransport says.

    isAnswered = False
    """Whether it has had an answer, or gets no other than it has."""

    _deadline: IDelayedCall | None = None
    _isStopped = False
    _headers = 0
    """Bytes that the headers of the request that is coming take."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        if not self.site.isFull():
            self._setDeadline()
            return
        # Twisted would accept until the process has no descriptor left.
        self.site.factory.journal.dropped(nameOf(self.transport.getPeer()), "too many connections")
        if isinstance(self.transport, ProtocolWrapper):
            self.transport.abortConnection()
        else:
            # Now: Twisted accepts a hundred at a time, and aborts them only afterwards.
            self.transport.connectionLost(Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        """The client does not read. So no further request is answered, of those that are here.

        Twisted pauses the network only while no request is answered, and here each is answered
        at once: a client that sent requests for ever and read nothing took 400 MB in 25 s.
        """
        self.paused = True  # LineReceiver's.
        super().pauseProducing()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        # HTTPChannel's, which its own resumeProducing sets; the requests below look at it.
        self.paused = self._waitingForTransport = False
        self.dataReceived(b"")  # What is here; it may pause again, or upgrade.
        if not (self.paused or self._isStopped) and self.transport is not None:
            super().resumeProducing()

    def readConnectionLost(self) -> None:
        """The client has said FIN. Twisted would drop the answer that it waits for."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The answer is out; `loseConnection` says what happens until the client has followed."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.transport is not None:  # It is not upgraded.
            self.site.factory.budget.account(self)

    def holding(self) -> int:
        # LineReceiver has no public way to ask (twisted/protocols/basic.py, 26.10).
        return self._headers + len(self._buffer) + unsent(self.transport)

    def stopReading(self) -> None:
        self._isStopped = True
        self.transport.pauseProducing()

    def resumeReading(self) -> None:
        self._isStopped = False
        if not self.paused:
            self.transport.resumeProducing()

    def refuse(self) -> None:
        if unsent(self.transport) or self.isAnswered:
            # Behind what the client does not read, or has been told, there is nothing to say.
            self.transport.abortConnection()
            return
        self.site.factory.journal.refused(
            nameOf(self.transport.getPeer()), 503, "too much is waiting here for all clients"
        )
        self.requests.clear()
        self._refuse(b"503 Service Unavailable")

    def lineReceived(self, line: bytes) -> None:
        self._headers += HEADER + len(line)
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        match name.lower().strip(), value.strip():
            case (b"content-length", length) if length != b"0":
                return self._refuse(b"413 Content Too Large" if length.isdigit() else _BAD)
            case (b"transfer-encoding", _):
                return self._refuse(b"413 Content Too Large")
        good: bool = super().headerReceived(line)
        return good

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(_BAD)

    def _refuse(self, status: bytes) -> bool:
        self.transport.write(
            b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
        )
        self.loseConnection()
        return False

    def requestDone(self, request: Request) -> None:
        self.isAnswered = True
        self._headers = 0
        self._setDeadline()
        super().requestDone(request)

    def loseConnection(self) -> None:
        """What is written goes out; what is not yet looked at, or still arrives, is discarded."""
        self.isAnswered = True
        self.clearLineBuffer()
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self._clearDeadline()
        self._deadline = linger(
            self.transport, self.site.reactor, self.site.factory.limits.closeTimeout
        )

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
        took = self.site.reactor.seconds() - self._begun
        self.site.factory.journal.totals.handshakes.observe(took)

    def _setDeadline(self) -> None:
        self._clearDeadline()
        self._begun = self.site.reactor.seconds()
        self._deadline = self.site.reactor.callLater(
            self.site.factory.limits.handshakeTimeout, self._late
        )

    def _late(self) -> None:
        # A browser that keeps the connection for its next request is told so; a client that
        # has not finished its first has had its time.
        if self.isAnswered:
            self.loseConnection()
        else:
            self.transport.abortConnection()

    def _clearDeadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _forget(self) -> None:
        self._clearDeadline()
        self.site.channels.discard(self)
        self.site.factory.budget.forget(self)


_BAD = b"400 Bad Request"


class EchoSite(Site):
    """The HTTP server. `channels` are the connections that are not upgraded."""

    protocol = Channel  # type: ignore[assignment]  # Twisted's own default would speak HTTP/2.
    noisy = False
    reactor: IReactorTime

    def __init__(self, factory: EchoFactory, root: Resource) -> None:
        # No idle timeout: Twisted's starts anew with every byte.
        super().__init__(root, timeout=None, reactor=factory.reactor)
        self.factory = factory
        self.channels: set[Channel] = set()

    def isFull(self) -> bool:
        """Whether no further connection can be answered, not even with 503."""
        most = self.factory.limits.maxConnections + OVERFLOW
        return len(self.channels) + len(self.factory.connections) > most

    def getResourceFor(self, request: Request) -> IResource:
        request.setHeader("Server", f"echotwist/{__version__}")
        request.setHeader("X-Content-Type-Options", "nosniff")
        if request.method not in (b"GET", b"HEAD"):
            return Answer(405, "only GET and HEAD are answered", {"Allow": "GET, HEAD"})
        # The absolute form of a target (RFC 9112, 3.2.2).
        if (absolute := _ABSOLUTE.match(request.path)) is not None:
            path = request.path[absolute.end() :]
            request.postpath = [unquote(segment) for segment in path.split(b"/")]
        # RFC 9112, 3.2. An upgrade says so itself, and logs it.
        hosts = request.requestHeaders.getRawHeaders(b"Host", [])
        isNew = request.clientproto == b"HTTP/1.1"
        if isNew and len(hosts) != 1 and request.postpath != [b"echo"]:
            return Answer(400, "a request has one Host header")
        found: IResource = super().getResourceFor(request)
        return found

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def log(self, request: object) -> None:
        """Not a line a request: the journal tells what matters, and is bounded."""


class AdminSite(EchoSite):
    """For operators: there is place for them also when there is none for clients."""

    def isFull(self) -> bool:
        return len(self.channels) > OPERATORS
