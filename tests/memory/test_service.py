"""Listening and draining, in memory."""

import errno
import os
import signal
import socket
from typing import Any

import pytest
from support.memory import Client, Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer

from echotwist import fatal
from echotwist.fastpath import lending, openssl
from echotwist.fatal import Fatal
from echotwist.listen.ports import DualStackEndpoint, ListenSpec
from echotwist.listen.tls import TlsEndpoint
from echotwist.testing.frames import CLOSE, TEXT, Frame, binary, close, text
from echotwist.testing.raw import request

pytestmark = pytest.mark.usefixtures("way")

GOING_AWAY = Frame(CLOSE, b"\x03\xe9server going away")


@implementer(IListeningPort)
class Port:
    def __init__(self, host: Any, isDual: bool = True) -> None:
        self._host = host
        self.socket = socket.socket(socket.AF_INET6)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not isDual)
        self.stopped: Deferred[None] | None = None

    def getHost(self) -> Any:
        return self._host

    def fileno(self) -> int:
        return self.socket.fileno()

    def __del__(self) -> None:
        self.socket.close()

    def startListening(self) -> None:
        """Done."""

    def stopListening(self) -> "Deferred[None]":
        self.stopped = Deferred()
        return self.stopped


@implementer(IStreamServerEndpoint)
class Endpoint:
    """An endpoint with a port, or an error."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def listen(self, factory: Any) -> Any:
        return fail(self.result) if isinstance(self.result, Exception) else succeed(self.result)


def listening(description: str, result: Any) -> Service:
    service = Service()
    service.echo._specs = [ListenSpec(description, Endpoint(result), service.site)]
    return service


def drained(service: Service) -> list[Any]:
    """Begin to drain; the list gets an element when it is done."""
    done: list[Any] = []
    service.echo.stopService().addBoth(done.append)
    service.run()
    return done


def openIn(where: str, s: str = "") -> str:
    return (
        f"open http{s}://{where}/ in a browser, "
        f"or connect a WebSocket client to ws{s}://{where}/echo"
    )


@pytest.mark.parametrize(
    ("description", "host", "line"),
    [
        ("port 8080", IPv6Address("TCP", "::", 8080), openIn("localhost:8080")),
        (
            "port 8080",  # On a machine without IPv6.
            IPv4Address("TCP", "0.0.0.0", 8080),
            openIn("127.0.0.1:8080") + " (on all IPv4 addresses)",
        ),
        ("tcp6:80", IPv6Address("TCP", "::", 80), openIn("localhost:80")),
        (
            "tcp6:80",
            (IPv6Address("TCP", "::", 80), False),
            openIn("[::1]:80") + " (on all IPv6 addresses)",
        ),
        ("tcp:80:interface=192.0.2.1", IPv4Address("TCP", "192.0.2.1", 80), openIn("192.0.2.1:80")),
        ("tcp6:80:interface=\\:\\:1", IPv6Address("TCP", "::1", 80), openIn("[::1]:80")),
        (
            "ssl:443",
            IPv4Address("TCP", "0.0.0.0", 443),
            openIn("127.0.0.1:443", "s") + " (on all IPv4 addresses)",
        ),
        ("ssl:443", IPv6Address("TCP", "::", 443), openIn("localhost:443", "s")),
        (
            "haproxy:tcp:80",
            IPv4Address("TCP", "0.0.0.0", 80),
            "listening on haproxy:tcp:80, for a proxy",
        ),
        ("unix:/run/x", UNIXAddress(b"/run/x"), "listening on unix:/run/x"),
        ("fd", UNIXAddress(None), "listening on UNIXAddress(None)"),
    ],
)
def test_listening_addresses_are_logged_when_the_reactor_runs(
    log: Any, monkeypatch: pytest.MonkeyPatch, way: str, description: str, host: Any, line: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    service = listening(description, Port(*host) if isinstance(host, tuple) else Port(host))
    service.tree.privilegedStartService()
    assert log.lines() == []
    service.start()
    assert log.lines() == [
        line,
        "no fast path, it is turned off: Autobahn echoes everything"
        if way == "Autobahn"
        else f"fast path: threads: {len(os.sched_getaffinity(0))}",
        f"taking up to {service.context.limits.maxConnections:,} connections",
    ]


def test_a_fast_path_without_zlib_says_so_at_the_start(
    log: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(lending, "whyNotDeflate", "it has none")
    service = listening("fd", Port(UNIXAddress(None)))
    service.tree.privilegedStartService()
    service.start()
    said = "compressed messages stay with the reactor: it has none"
    if way == "Autobahn":
        assert said not in log.lines()
    else:
        threads = f"fast path: threads: {len(os.sched_getaffinity(0))}"
        assert log.lines()[1:3] == [threads, said]


@pytest.mark.parametrize("why", ["", "no such function"])
@pytest.mark.parametrize("isTls", [False, True])
def test_the_log_tells_when_the_loops_cannot_do_tls(
    log: Any, monkeypatch: pytest.MonkeyPatch, way: str, why: str, isTls: bool
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(openssl, "whyNot", lambda: why)
    service = listening("fd", Port(UNIXAddress(None)))
    service.tree.privilegedStartService()
    if isTls:
        spec = service.echo._specs[0]
        spec.endpoint = TlsEndpoint(service.reactor, spec.endpoint, None)  # type: ignore[arg-type]
    service.start()
    said = f"TLS stays with the reactor: {why}"
    assert (said in log.lines()) == bool(way == "fast path" and isTls and why)


def test_it_listens_once_with_and_without_privileges() -> None:
    service = listening("x", Port(IPv4Address("TCP", "127.0.0.1", 1)))
    service.echo.startService()
    assert len(service.echo._ports) == 1
    service = listening("x", Port(IPv4Address("TCP", "127.0.0.1", 1)))
    service.echo.privilegedStartService()
    service.echo.startService()
    assert len(service.echo._ports) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CannotListenError("", 80, OSError(errno.EADDRINUSE, "x")), "Address already in use"),
        (
            CannotListenError(None, "s", "Cannot acquire lock"),
            "Address already in use, as s.lock says",
        ),
        (OSError(errno.EACCES, "x"), "Permission denied"),
        (ValueError("no such thing"), "no such thing"),
        (OSError("odd"), "odd"),
    ],
)
def test_a_port_in_use_is_one_clear_line(error: Exception, why: str) -> None:
    with pytest.raises(Fatal) as caught:
        listening("port 80", error).tree.privilegedStartService()
    assert str(caught.value) == f"echotwist: cannot listen on port 80: {why}"


def test_a_unix_socket_in_use_is_one_clear_line() -> None:
    error = CannotListenError(None, b"/run/s", "Cannot acquire lock")
    with pytest.raises(Fatal) as caught:
        listening("unix:/run/s", error).tree.privilegedStartService()
    assert str(caught.value) == (
        "echotwist: cannot listen on unix:/run/s: Address already in use, as /run/s.lock says"
    )


def test_an_endpoint_that_fails_later_ends_the_service(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fatal, "failures", [])
    later: list[Deferred[Any]] = []

    @implementer(IStreamServerEndpoint)
    class Later:
        def listen(self, factory: Any) -> Any:
            later.append(Deferred())
            return later[-1]

    service = Service()
    service.echo._specs = [ListenSpec(name, Later(), service.site) for name in ("one", "two")]
    service.echo.privilegedStartService()
    service.reactor.running = True
    later[0].errback(ValueError("no"))
    assert service.reactor.hasStopped

    def stop() -> None:
        raise ReactorNotRunning

    service.reactor.running = True  # Until the drain ends.
    monkeypatch.setattr(service.reactor, "stop", stop)
    later[1].errback(ValueError("nor here"))
    assert log.lines() == [
        "echotwist: cannot listen on one: no",
        "echotwist: cannot listen on two: nor here",
    ]
    assert [str(why) for why in fatal.failures] == log.lines()[:1]
    log.events.clear()  # The error was expected.


def test_a_machine_without_ipv6_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    adopted: list[Any] = []
    backlogs: list[int] = []
    listen = socket.socket.listen

    class Reactor:
        def adoptStreamPort(self, fd: int, family: int, factory: Any) -> str:
            adopted.append((family, socket.socket(fileno=os.dup(fd))))
            return "port"

    def noted(self: socket.socket, backlog: int) -> None:
        backlogs.append(backlog)
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", noted)
    for both, family in ((True, socket.AF_INET6), (False, socket.AF_INET)):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda both=both: both)
        got: list[Any] = []
        DualStackEndpoint(Reactor(), 0).listen(None).addCallback(got.append)  # type: ignore[arg-type]
        assert got == ["port"]
        adoptedFamily, listener = adopted.pop()
        with listener:
            assert adoptedFamily == listener.family == family
            assert not os.get_blocking(listener.fileno())
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert backlogs == [1024, 1024]


def test_a_port_in_use_on_every_interface_fails() -> None:
    with socket.create_server(("", 0)) as taken:
        failed: list[Any] = []
        endpoint = DualStackEndpoint(None, taken.getsockname()[1])
        endpoint.listen(None).addErrback(failed.append)  # type: ignore[arg-type]
    assert failed[0].value.errno == errno.EADDRINUSE


# Draining


def test_a_drain_closes_every_client_with_1001(service: Service) -> None:
    clients = [service.open() for _ in range(3)]
    done = drained(service)
    service.advance(1)
    for client in clients:
        assert client.frames() == [GOING_AWAY]
        assert not client.socket.fin
        client.send(close(1001))
        assert client.socket.fin
        client.finish()
        assert not client.socket.reset
    assert done == [None]
    service.advance(20)
    assert service.timers() == 0


def test_a_drain_without_clients_is_over_at_once(service: Service, log: Any) -> None:
    assert drained(service) == [None]
    assert log.lines() == []
    assert service.timers() == 0


def test_a_drain_closes_the_ports_first(service: Service) -> None:
    port = Port(IPv4Address("TCP", "127.0.0.1", 1))
    service = listening("x", port)
    service.echo.startService()
    client = service.open()
    done = drained(service)
    assert port.stopped is not None
    client.finish()
    assert done == []
    port.stopped.callback(None)
    assert done == [None]


def test_a_drain_echoes_nothing_after_its_close_frame(client: Client) -> None:
    done = drained(client.service)
    client.send(text("late") + binary(bytes(100_000)) + close(1001))
    assert client.frames() == [GOING_AWAY]
    client.finish()
    assert done == [None]


def test_a_drain_sends_waiting_echoes_before_its_close_frame(client: Client) -> None:
    client.socket.window = 0
    client.send(binary(bytes(200_000)))
    done = drained(client.service)
    client.socket.window = float("inf")
    client.service.run()
    echo, last = client.frames()
    assert (len(echo.payload), last) == (200_000, GOING_AWAY)
    client.send(close(1001))
    client.finish()
    assert done == [None]


def test_a_drain_aborts_clients_at_the_close_timeout(client: Client) -> None:
    done = drained(client.service)
    client.service.advance(4.9)
    assert done == []
    client.service.advance(0.2)
    assert done == [None]
    assert client.socket.reset


def test_a_drain_ends_at_the_drain_timeout() -> None:
    service = Service("--close-timeout=1h", "--drain-timeout=3s")
    client = service.open()
    done = drained(service)
    service.advance(2.9)
    assert done == []
    service.advance(0.2)
    assert done == [None]
    assert client.socket.reset


def test_a_drain_waits_for_clients_that_are_closing_already(client: Client) -> None:
    client.send(close(1000))
    done = drained(client.service)
    assert done == []
    client.finish()
    assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]
    assert done == [None]


def test_a_protocol_error_during_a_drain_ends_in_order(client: Client) -> None:
    done = drained(client.service)
    client.send(b"\xff\xff")
    assert client.frames() == [GOING_AWAY]
    assert client.socket.fin
    client.finish()
    assert done == [None]
    assert not client.socket.reset


def test_a_drain_spreads_its_close_frames_over_a_second(service: Service) -> None:
    clients = service.crowd(200)
    drained(service)
    told = []
    for _ in range(25):
        told.append(sum(bool(client.socket.sent) for client in clients))
        service.advance(0.05)
    assert told[0] == 10
    assert told[10] == 110
    assert told[-1] == 200
    for client in clients:
        client.finish()
    assert service.connections.open == set()


def test_a_drain_refuses_new_clients_with_503(service: Service) -> None:
    service.open()
    waiting = service.connect()
    drained(service)
    waiting.send(request())
    assert waiting.received().startswith(b"HTTP/1.1 503 ")


def test_suppressed_log_lines_are_reported_at_the_end_of_a_drain(log: Any) -> None:
    service = Service("--log-rate=1")
    client = service.open()
    client.send(text("x") * 5)
    client.finish()
    drained(service)
    assert (
        "and in this second 5 messages (5 bytes), "
        "0 connected, 1 closed, 0 refused, 0 dropped" in log.lines()
    )


def test_a_drain_is_logged(client: Client, log: Any) -> None:
    drained(client.service)
    client.service.advance(2)
    client.send(close(1001))
    client.finish()
    assert "draining, with 1 connected" in log.lines()
    assert log.lines()[-1] == "drained in 2.0 s"


# Signals


def test_the_first_signal_drains_and_the_second_aborts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    service = client.service
    service.echo._specs = []
    service.start()
    assert set(handlers) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    calls: list[Any] = []
    service.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert calls == [service.reactor.stop]
    done = drained(service)
    handlers[signal.SIGINT](signal.SIGINT, None)
    calls[1]()
    service.run()
    assert done == [None]
    assert client.socket.reset


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    ignored = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda number: ignored.get(number, signal.SIG_DFL))
    service = listening("x", Port(IPv4Address("TCP", "127.0.0.1", 1)))
    service.start()
    assert set(handlers) == {signal.SIGTERM, signal.SIGINT}


def test_a_client_opened_later_still_echoes_after_a_failed_one(service: Service) -> None:
    service.open().send(b"\xff\xff")
    client = service.open()
    client.send(text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]


def test_a_client_accepted_just_before_a_drain_is_answered(service: Service) -> None:
    early, half = service.connect(), service.connect()
    half.send(request()[:40])
    done = drained(service)
    service.advance(0.5)
    assert not done
    early.send(request())
    half.send(request()[40:])
    for client in (early, half):
        assert client.received().startswith(b"HTTP/1.1 503 ")
    service.advance(0.1)
    assert done


def test_a_client_without_a_request_delays_a_drain_by_one_second() -> None:
    service = Service()
    silent, kept = service.connect(), service.connect()
    kept.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    done: list[Any] = []
    service.echo.stopService().addCallback(done.append)
    service.advance(0.9)
    assert not done
    assert not silent.socket.fin
    service.advance(0.2)
    assert done
    assert silent.socket.fin
    assert kept.socket.fin
    assert not silent.socket.reset


def test_a_second_signal_ends_a_drain_at_once() -> None:
    service = Service()
    silent = service.connect()
    done: list[Any] = []
    service.echo.stopService().addCallback(done.append)
    service.echo.abortDrain()
    service.advance(0.1)
    assert done
    assert silent.socket.closed
