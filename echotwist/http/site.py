"""The URLs of the service, and the HTTP server that finds them.

    /  /websockets.html     the page, and its style and scripts beside it
    /workbench.html         the workbench; its own are in /workbench/
    /echo                   the WebSocket endpoint (`upgrade`)
    /healthz  /readyz       200 while alive; readyz 503 as soon as the service drains, healthz
                            when a thread hangs

And of --admin, for the operator: /metrics (`metrics`), /healthz, /readyz.
"""

import gzip
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.interfaces import IAddress
from twisted.web.http import CACHED
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from twisted.web.static import File, getTypeAndEncoding

from echotwist.fastpath.lending import FastPath
from echotwist.http.answer import NOT_FOUND, SERVER, Answer, Exact, Refused
from echotwist.http.channel import Channel, Request
from echotwist.http.forwarded import TrustedProxies
from echotwist.http.upgrade import HOST, UpgradeResource
from echotwist.http.usual import parse, segmentOf
from echotwist.limits import ADMIN_CONNECTIONS, OVERFLOW_CONNECTIONS
from echotwist.websocket.connections import Connections
from echotwist.wire.context import Context
from echotwist.wire.peer import Address, addressOf, nameOf, networkOf

RESOURCES = Path(__file__).parents[1] / "resources"

PAGE = "websockets.html"

# By name, so that a backup file that an editor leaves there is not served.
FILES = (
    *(PAGE, "websockets.css", "websockets.js", "log.js", "closing.js", "echotwist.svg"),
    "direction.js",
    "workbench.html",
)
OF_THE_WORKBENCH = (
    *("workbench.css", "main.js", "history.js", "connection.js", "connections.js", "composer.js"),
    "unanswered.js",
    *("timeline.js", "grid.js", "detail.js", "json.js", "bytes.js", "export.js", "session.js"),
    *("link.js", "tabs.js", "time.js", "element.js", "lab.js", "cases.js", "server.js", "trace.js"),
    *("clock.js", "handshake.js", "lookout.js", "odd.js", "traceview.js", "words.js"),
    *("latency.js", "chart.js", "snippets.js", "steps.js", "runner.js"),
    *("path.js", "pathprobe.js", "pathreport.js", "dialer.js", "farend.js"),
    *("pathhandshake.js", "pathidle.js", "pathbytes.js", "pathsizes.js", "pathflow.js"),
    *("sleeper.js", "sleeperworker.js"),
)

_ABSOLUTE = re.compile(rb"(?:http|ws)s?://([^/]+)(/.*)?", re.IGNORECASE | re.DOTALL)
"""A target in absolute form (RFC 9112, 3.2.2): the host, and the path, which may be missing."""

ALLOW = "GET, HEAD, OPTIONS"

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def makeRoot(echo: Resource, health: Resource, readiness: Resource) -> Resource:
    """The whole URL map."""
    root = Exact()
    root.putChild(b"", Asset(RESOURCES / PAGE))
    for name in FILES:
        root.putChild(name.encode(), Asset(RESOURCES / name))
    workbench = Answer(404, "there is nothing here; the workbench is /workbench.html")
    for name in OF_THE_WORKBENCH:
        workbench.putChild(name.encode(), Asset(RESOURCES / "workbench" / name))
    root.putChild(b"workbench", workbench)
    root.putChild(b"echo", echo)
    root.putChild(b"healthz", health)
    root.putChild(b"readyz", readiness)
    return root


def makeAdminRoot(metrics: Resource, health: Resource, readiness: Resource) -> Resource:
    """The URL map of --admin."""
    root = Exact()
    root.putChild(b"metrics", metrics)
    root.putChild(b"healthz", health)
    root.putChild(b"readyz", readiness)
    return root


class Asset(File):
    """A file of the page, served from memory.

    `File` opens its file for each request, and keeps it open while the client does not read. That
    is a second descriptor for the connection; when none is left, each request logs a traceback.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._body = path.read_bytes()
        self._hash = hashlib.sha256(self._body).hexdigest()[:16]
        self._type, _ = getTypeAndEncoding(
            path.name, self.contentTypes, self.contentEncodings, self.defaultType
        )

    @cached_property
    def _gzipped(self) -> bytes:
        return gzip.compress(self._body, mtime=0)

    def getChild(self, path: bytes, request: Request) -> Resource:
        return NOT_FOUND

    def render_GET(self, request: Request) -> bytes:
        isGzipped = "gzip" in request.tokens("Accept-Encoding")
        body = self._gzipped if isGzipped else self._body
        if isGzipped:
            request.setHeader("Content-Encoding", "gzip")
        request.setHeader("Vary", "Accept-Encoding")
        request.setHeader("Content-Type", self._type)
        request.setHeader("Content-Length", str(len(body)))
        request.setHeader("Cache-Control", "no-cache")
        request.setHeader("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        request.setHeader("Referrer-Policy", "no-referrer")
        # An ETag is exact where the times of files from a wheel are not. It is of these very bytes
        # (RFC 9110, 8.8.3.3).
        etag = f'"{self._hash}{"-gzip" * isGzipped}"'
        isKnown = request.setETag(etag.encode()) is CACHED
        return b"" if isKnown or request.method == b"HEAD" else body

    render_HEAD = render_GET


class Health(Exact):
    """`/healthz`: whether the process is alive. An answer says that the reactor turns; the threads
    of the fast path are asked."""

    def __init__(self, fastPath: FastPath | None) -> None:
        super().__init__()
        self._fastPath = fastPath

    def render(self, request: Request) -> bytes:
        if self._fastPath is not None and (hanging := self._fastPath.hanging()):
            return Answer(503, f"thread {hanging[0]} of the fast path hangs").render(request)
        return Answer(200, "ok").render(request)


class Readiness(Exact):
    """`/readyz`: whether a load balancer should send clients here."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def render(self, request: Request) -> bytes:
        if self._connections.draining:
            return Answer(503, "draining").render(request)
        return Answer(200, "ready").render(request)


class HttpSite(Site, ABC):
    """The HTTP server.

    `channels` are the connections that are not upgraded; those that have been silent for longest
    come first.
    """

    protocol = Channel  # type: ignore[assignment]  # Twisted's own default would speak HTTP/2.
    noisy = False

    def __init__(self, context: Context, root: Resource, proxies: TrustedProxies) -> None:
        # No idle timeout: Twisted's starts anew with every byte.
        super().__init__(
            root,
            requestFactory=Request,
            parsePOSTFormSubmission=False,
            timeout=None,
            reactor=context.reactor,
        )
        self.context = context
        self.channels: dict[Channel, None] = {}
        self._proxies = proxies

    def makeRoom(self) -> None:
        """Make room for a new connection. Twisted would accept until no descriptor is left."""
        if self.isAtCapacity():
            next(iter(self.channels)).evict()

    @abstractmethod
    def isAtCapacity(self) -> bool:
        """Whether no further connection can be answered, not even with 503."""

    def upgradeUsual(self, channel: Channel, data: bytes) -> bool:
        """Upgrade the connection if `data` is a usual request that the tree has an UpgradeResource
        for. Returns False if not, or if that would refuse it."""
        segment = segmentOf(data)
        found = None if segment is None else self.resource.children.get(segment)
        if not (isinstance(found, UpgradeResource) and found.isUsual):
            return False
        if (request := parse(data)) is None:
            return False
        name, network = self._clientAt(channel.transport.getPeer(), None)
        return found.upgradeUsual(channel, name, network, request)

    def mostBody(self, method: bytes, path: bytes) -> int:
        """Bytes of the body that such a request may have: as many as the resource has for its
        `mostBody`. 0, if it has none, as nearly all."""
        if method != b"POST":
            return 0
        found: Resource | None = self.resource
        for segment in path.split(b"/")[1:]:
            found = None if found is None else found.children.get(segment)
        most: int = getattr(found, "mostBody", 0)
        return most

    def clientOf(self, request: Request) -> tuple[str, Hashable]:
        """The client: the peer, or the address that a trusted proxy names. First as the log has it,
        then as --max-connections-per-address counts it; None if it counts none."""
        peer = request.getClientAddress()
        return self._clientAt(peer, self._proxies.clientOf(peer, request.requestHeaders))

    def _clientAt(self, peer: IAddress, client: Address | None) -> tuple[str, Hashable]:
        name = nameOf(peer) if client is None else str(client)
        if not self.context.limits.maxConnectionsPerAddress:
            return name, None
        address = addressOf(peer) if client is None else client
        return name, None if address is None else networkOf(address)

    def refusal(self, request: Request, refused: Refused) -> Resource:
        """The response to a request that is refused; the log has a line, and /metrics a count."""
        name, _ = self.clientOf(request)
        self.context.journal.refused(name, refused.status, refused.reason)
        return Answer(refused.status, refused.reason, refused.headers)

    def getResourceFor(self, request: Request) -> IResource:
        request.setHeader("Server", SERVER)
        request.setHeader("X-Content-Type-Options", "nosniff")
        try:
            found = self._find(request)
        except Refused as refused:
            return self.refusal(request, refused)
        isAsked = request.method == b"OPTIONS" and found is not NOT_FOUND
        if isAsked and not hasattr(found, "render_OPTIONS"):
            # As health checks of balancers ask, such as HAProxy's `option httpchk`.
            return Answer(200, "", {"Allow": ALLOW})
        return found

    def _find(self, request: Request) -> IResource:
        """Raises Refused."""
        # RFC 9112, 3.2.
        hosts = request.requestHeaders.getRawHeaders(b"Host", [])
        if request.clientproto == b"HTTP/1.1" and len(hosts) != 1:
            how = "came twice" if hosts else "is missing"
            raise Refused(400, f"the Host header {how}")
        isBodied = self.mostBody(request.method, request.path) > 0
        if request.method not in (b"GET", b"HEAD", b"OPTIONS") and not isBodied:
            takes = ", POST" if self.mostBody(b"POST", request.path) else ""
            raise Refused(405, "only GET, HEAD and OPTIONS are answered", Allow=ALLOW + takes)
        if request.path == b"*" and request.method == b"OPTIONS":
            return Exact()  # The server as a whole.
        absolute = _ABSOLUTE.fullmatch(request.path)
        if absolute is not None and HOST.fullmatch(absolute[1].decode("latin-1")):
            request.authority, path = absolute.groups(b"")
            request.postpath = [unquote(segment) for segment in path[1:].split(b"/")]
        elif not request.path.startswith(b"/"):
            raise Refused(400, "the target is no path, and no URL with a host")
        found: IResource = super().getResourceFor(request)
        # RFC 9110, 7.8 lets us serve the page instead, but a client learns nothing from a 200.
        if not isinstance(found, UpgradeResource) and "websocket" in request.tokens("Upgrade"):
            raise Refused(404, "there is nothing to upgrade here; try /echo")
        return found

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def log(self, request: object) -> None:
        """No line for each request: the journal has what matters, and is bounded."""


class EchoSite(HttpSite):
    """For clients. Those that are upgraded are in `connections`, and no longer in `channels`."""

    def __init__(
        self, context: Context, connections: Connections, root: Resource, proxies: TrustedProxies
    ) -> None:
        super().__init__(context, root, proxies)
        self.connections = connections

    def isAtCapacity(self) -> bool:
        most = self.context.limits.maxConnections + OVERFLOW_CONNECTIONS
        return len(self.channels) + len(self.connections.open) >= most


class AdminSite(HttpSite):
    """For operators, who have places of their own when clients have taken all the others."""

    def isAtCapacity(self) -> bool:
        return len(self.channels) >= ADMIN_CONNECTIONS
