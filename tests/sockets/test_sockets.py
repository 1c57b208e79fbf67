"""The service on real sockets of every kind, in Twisted's reactor."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from support.certificate import tlsEndpoint
from twisted.internet import endpoints, reactor, threads
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions

from echotwist.tap import Options, makeService
from echotwist.testing.frames import BINARY, CLOSE, PING, TEXT, Frame, binary, close, parse, text
from echotwist.testing.raw import request
from echotwist.wire.gate import WRITE_BLOCKED
from echotwist.wire.transport import unsent

pytestmark = pytest.mark.usefixtures("log")


class Peer(Protocol):
    """A client that keeps what it receives; tests can wait for it."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Deferred[str] = Deferred()  # Fires with the name of the reason.
        self._waiting: tuple[Callable[[bytes], bool], Deferred[bytes]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self._waiting is not None and self._waiting[0](self.data):
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(self.data)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self.lost.callback(reason.type.__name__)

    def until(self, enough: Callable[[bytes], bool]) -> "Deferred[bytes]":
        waiting: Deferred[bytes] = Deferred()
        self._waiting = (enough, waiting)
        self.dataReceived(b"")
        return waiting.addTimeout(60, reactor)

    def size(self, size: int) -> "Deferred[bytes]":
        return self.until(lambda data: len(data) >= size)

    async def open(self, more: bytes = b"") -> "Peer":
        self.transport.write(request() + more)  # type: ignore[union-attr]
        await self.until(lambda data: b"\r\n\r\n" in data)
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self


class Running:
    """A service that listens, and how to connect to it."""

    def __init__(self, *arguments: str) -> None:
        options = Options()
        options.parseOptions(list(arguments))
        _, self.echo, *_ = makeService(options)
        self.echo.privilegedStartService()
        self.echo.startService()
        self.peers: list[Peer] = []

    @property
    def port(self) -> int:
        return int(self.echo._ports[0][1].getHost().port)

    @property
    def connections(self) -> list[Any]:
        return list(self.echo.connections.open)

    async def connect(self, kind: str = "tcp", where: Any = None) -> Peer:
        client: Any
        match kind:
            case "tcp" | "haproxy":
                client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
            case "tcp6":
                client = endpoints.TCP6ClientEndpoint(reactor, "::1", self.port)
            case "unix":
                client = endpoints.UNIXClientEndpoint(reactor, where)
            case "ssl" | "haproxy:ssl":
                raw = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
                client = endpoints.wrapClientTLS(Unverified(), raw)
        peer: Peer = await client.connect(Factory.forProtocol(Peer))
        if kind.startswith("haproxy"):
            peer.transport.write(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n")  # type: ignore[union-attr]
        self.peers.append(peer)
        return peer


class Unverified(CertificateOptions):
    """TLS for a client that trusts every certificate."""

    def clientConnectionForTLS(self, tls: Any) -> Any:
        return SSL.Connection(self.getContext(), None)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint description, but for the port."""
    return f"{tlsEndpoint(tmp_path_factory.mktemp('tls'), '{}')}:interface=127.0.0.1"


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    services = []

    def begin(*arguments: str) -> Running:
        services.append(Running(*arguments))
        return services[-1]

    yield begin

    async def end() -> None:
        for service in services:
            for peer in service.peers:
                if not peer.lost.called:
                    peer.transport.abortConnection()  # type: ignore[union-attr]
                    await peer.lost
            await service.echo.stopService()
            assert service.echo.connections.open == set()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


KINDS = ["tcp", "tcp6", "unix", "ssl", "haproxy", "haproxy:ssl"]


@pytest.fixture(params=KINDS)
def any(request: pytest.FixtureRequest, start: Any, tls: str, tmp_path: Path) -> Any:
    """A service on an endpoint of each kind, and its connect()."""
    kind = request.param
    where = str(tmp_path / "s")
    listen = {
        "tcp": "tcp:0:interface=127.0.0.1",
        "tcp6": "tcp6:0:interface=\\:\\:1",
        "unix": f"unix:{where}",
        "ssl": tls.format(0),
        "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
        "haproxy:ssl": f"haproxy:{tls.format(0)}",
    }[kind]
    service = start(f"--listen={listen}")
    return service, lambda: service.connect(kind, where)


@pytest_twisted.ensureDeferred
async def test_messages_are_echoed_and_the_close_is_clean(any: Any) -> None:
    _, connect = any
    peer = await (await connect()).open(text("early"))
    big = bytes(range(256)) * 8192
    peer.transport.write(binary(big) + text("last") + close(1000, "bye"))
    data = await peer.until(lambda data: data.endswith(b"\x03\xe8bye"))
    assert parse(data) == [
        Frame(TEXT, b"early"),
        Frame(BINARY, big),
        Frame(TEXT, b"last"),
        Frame(CLOSE, b"\x03\xe8bye"),
    ]
    assert await peer.lost == "ConnectionDone"


@pytest_twisted.ensureDeferred
async def test_a_protocol_error_is_sent_before_the_disconnect(any: Any) -> None:
    _, connect = any
    peer = await (await connect()).open()
    # More than the service reads at once: unread data must not reset the connection.
    peer.transport.write(text("valid") + b"\xff" + bytes(1_000_000))
    assert await peer.lost == "ConnectionDone"
    valid, last = parse(peer.data)
    assert valid == Frame(TEXT, b"valid")
    assert last.payload[:2] == b"\x03\xea"


@pytest_twisted.ensureDeferred
async def test_backpressure_stops_reading_over_real_sockets(any: Any) -> None:
    service, connect = any
    peer = await (await connect()).open()
    peer.transport.pauseProducing()
    # More than the buffers of two kernels take.
    message = binary(bytes(65_536 - 14))
    count = 240
    for _ in range(count):
        peer.transport.write(message)
    (connection,) = service.connections
    # The service comes to rest when nothing moves any more.
    before, still = (-1, -1), 0
    while still < 5:
        await sleep(0.05)
        now = (unsent(connection.transport), connection.trafficStats.incomingWebSocketMessages)
        still = still + 1 if now == before else 0
        before = now
    waiting, received = before
    assert received < count
    assert waiting <= 65_536 + 2 * 65_536 + 2**15
    peer.transport.resumeProducing()
    data = await peer.size(count * (65_536 - 14 + 4))
    assert len(parse(data)) == count


@pytest.mark.slow(reason="four endpoints, each for a keepalive of 300 ms")
@pytest_twisted.ensureDeferred
async def test_keepalive_pings_and_drops_a_silent_client(
    start: Any, tls: str, tmp_path: Path
) -> None:
    times = ["--ping-interval=100ms", "--ping-timeout=200ms"]
    for kind, endpoint in (
        ("tcp", "tcp:0:interface=127.0.0.1"),
        ("unix", f"unix:{tmp_path}/s"),
        ("ssl", tls.format(0)),
        ("haproxy", "haproxy:tcp:0:interface=127.0.0.1"),
    ):
        service = start(f"--listen={endpoint}", *times)
        peer = await (await service.connect(kind, f"{tmp_path}/s")).open()
        await peer.lost
        assert parse(peer.data) == [Frame(PING, b"")]


@pytest_twisted.ensureDeferred
async def test_a_drain_closes_with_1001(any: Any) -> None:
    service, connect = any
    peer = await (await connect()).open()
    stopped = service.echo.stopService()
    data = await peer.size(2)
    assert parse(data)[0].payload[:2] == b"\x03\xe9"
    peer.transport.write(close(1001))
    assert await peer.lost == "ConnectionDone"
    await stopped


@pytest_twisted.ensureDeferred
async def test_every_interface_means_ipv4_and_ipv6(start: Any) -> None:
    service = start("--port=0")
    for kind in ("tcp", "tcp6"):
        peer = await (await service.connect(kind)).open()
        peer.transport.write(text("x"))
        assert parse(await peer.size(3)) == [Frame(TEXT, b"x")]
    names = sorted(connection.address.rsplit(":", 1)[0] for connection in service.connections)
    assert names == ["127.0.0.1", "[::1]"]


@pytest_twisted.ensureDeferred
async def test_the_log_has_the_client_of_the_proxy_protocol_over_sockets(
    start: Any, log: Any
) -> None:
    service = start("--listen=haproxy:tcp:0:interface=127.0.0.1")
    await (await service.connect("haproxy")).open()
    assert log.lines()[-1] == "#1 192.0.2.7:1234 connected"


@pytest_twisted.ensureDeferred
async def test_a_missing_tls_handshake_has_its_timeout(start: Any, tls: str) -> None:
    service = start(f"--listen={tls.format(0)}", "--handshake-timeout=300ms")
    peer = await service.connect("tcp")
    peer.transport.write(b"\x16\x03\x01")
    await peer.lost
    assert service.echo._specs[0].site.channels == {}


@pytest_twisted.ensureDeferred
async def test_a_tls_peer_without_close_notify_is_dropped(start: Any, tls: str) -> None:
    """It answers neither the FIN nor the close_notify."""
    service = start(f"--listen={tls.format(0)}", "--close-timeout=300ms")
    peer = await (await service.connect("ssl")).open()
    peer.transport.pauseProducing()
    peer.transport.write(close(1000))
    (connection,) = service.connections
    while connection.state != connection.STATE_CLOSED:
        await sleep(0.01)
    while service.connections:
        await sleep(0.05)
    peer.transport.resumeProducing()
    await peer.lost


@pytest_twisted.ensureDeferred
async def test_far_over_max_connections_tls_clients_make_room(start: Any, tls: str) -> None:
    service = start(f"--listen={tls.format(0)}", "--max-connections=1")
    peers = [await service.connect("tcp") for _ in range(52)]
    await peers[0].lost  # The first one makes room for the last.
    assert not peers[-1].lost.called


@pytest.mark.parametrize("kind", ["tcp", "ssl"])
@pytest_twisted.ensureDeferred
async def test_without_keepalive_a_client_that_does_not_read_is_kept(
    start: Any, tls: str, kind: str, log: Any
) -> None:
    """By FIN, or over TLS by close_notify alone; neither is read by a service that has stopped."""
    listen = tls.format(0) if kind == "ssl" else "tcp:0:interface=127.0.0.1"
    times = ["--ping-interval=0", "--close-timeout=100ms"]
    service = start(f"--listen={listen}", "--no-fast-path", *times)
    peer = await (await service.connect(kind)).open()
    peer.transport.pauseProducing()
    peer.transport.write(binary(bytes(12 * 2**20)))  # More than the buffers of two kernels take.
    (connection,) = service.connections
    while not connection.isPausedFor(WRITE_BLOCKED):
        await sleep(0.05)
    await sleep(0.5)
    assert service.connections == [connection]
    if kind == "ssl":
        peer.transport.loseConnection()
    else:
        peer.transport.loseWriteConnection()
    for _ in range(100):
        await sleep(0.05)
        if not service.connections:
            break
    assert service.connections == []
    assert " closed: 1006 'not read to the end'" in log.lines()[-1]


@pytest_twisted.ensureDeferred
async def test_a_half_close_waits_for_its_echo(start: Any) -> None:
    service = start("--listen=tcp:0:interface=127.0.0.1")
    peer = await (await service.connect()).open()
    peer.transport.write(binary(bytes(3_000_000)))
    peer.transport.loseWriteConnection()
    assert await peer.lost == "ConnectionDone"
    assert parse(peer.data) == [Frame(BINARY, bytes(3_000_000))]


@pytest.mark.slow(reason="the files are looked at once a second")
@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_drops_no_connection(start: Any, tmp_path: Path) -> None:
    service = start(f"--listen={tlsEndpoint(tmp_path)}:interface=127.0.0.1")
    peers = [await (await service.connect("ssl")).open() for _ in range(10)]
    shown = peers[0].transport.getPeerCertificate().digest("sha256")
    (tmp_path / "chain.pem").unlink()
    tlsEndpoint(tmp_path)  # Another one, in the same files.
    new = peers[0]
    while new.transport.getPeerCertificate().digest("sha256") == shown:
        await sleep(0.1)
        new = await (await service.connect("ssl")).open()
    for peer in (*peers, new):
        peer.transport.write(text("x"))
        assert parse(await peer.size(3)) == [Frame(TEXT, b"x")]


@pytest_twisted.ensureDeferred
async def test_tcp_nodelay_is_set(start: Any) -> None:
    service = start("--listen=tcp:0:interface=127.0.0.1")
    await (await service.connect()).open()
    (connection,) = service.connections
    handle = connection.transport.getHandle()
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def sleep(seconds: float) -> "Deferred[None]":
    waiting: Deferred[None] = Deferred()
    reactor.callLater(seconds, waiting.callback, None)
    return waiting


# The fast path on threads.


@pytest.mark.parametrize("kind", ["tcp", "unix", "haproxy"])
@pytest_twisted.ensureDeferred
async def test_lent_connections_are_echoed_while_the_reactor_is_busy(
    kind: str, start: Callable[..., Running], tmp_path: Path
) -> None:
    """The reactor is blocked here for as long as a thousand echoes take."""
    where = {"unix": f"unix:{tmp_path}/echo", "haproxy": "haproxy:tcp:0:interface=127.0.0.1"}
    service = start(f"--listen={where.get(kind, 'tcp:0:interface=127.0.0.1')}", "--log-rate=3")
    echoed: list[bytes] = []

    def client(whenLent: threading.Event, begin: threading.Event) -> None:
        if kind == "unix":
            s = socket.socket(socket.AF_UNIX)
            s.connect(f"{tmp_path}/echo")
        else:
            s = socket.create_connection(("127.0.0.1", service.port))
        with s:
            s.settimeout(20)
            if kind == "haproxy":
                s.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n")
            s.sendall(request() + text("lend me"))
            data = b""
            while not data.endswith(b"lend me"):
                data += s.recv(1000)
            whenLent.set()
            begin.wait(20)
            for n in range(1000):
                s.sendall(text(f"message {n:4}"))
                echoed.append(s.recv(100)[2:])

    whenLent, begin = threading.Event(), threading.Event()
    thread = threading.Thread(target=client, args=(whenLent, begin))
    thread.start()
    assert await threads.deferToThread(whenLent.wait, 20)
    begin.set()
    thread.join(20)  # This blocks the reactor.
    assert echoed == [b"message %4d" % n for n in range(1000)]


@pytest_twisted.ensureDeferred
async def test_every_loop_echoes(start: Callable[..., Running]) -> None:
    service = start("--port=0", "--threads=3")
    peers = [await (await service.connect()).open(text("x")) for _ in range(9)]
    for peer in peers:
        await peer.until(lambda data: data.endswith(b"x"))
    assert [loop.lent for loop, _ in service.echo.fastPath._running] == [3, 3, 3]


@pytest_twisted.ensureDeferred
async def test_messages_that_are_not_logged_are_echoed_over_tls(
    start: Callable[..., Running], tls: str
) -> None:
    """By compiled code; those that are logged go through Autobahn."""
    service = start(f"--listen={tls.format(0)}", "--log-rate=0")
    peer = await (await service.connect("ssl")).open(text("early"))
    big = bytes(range(256)) * 8192
    peer.transport.write(text("é") + binary(big) + text("last") + close(1000, "bye"))  # type: ignore[union-attr]
    data = await peer.until(lambda data: data.endswith(b"\x03\xe8bye"))
    assert [f.payload for f in parse(data)] == [
        b"early", "é".encode(), big, b"last", b"\x03\xe8bye"
    ]  # fmt: skip
