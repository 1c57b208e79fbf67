"""Several processes: the supervisor and a worker, in memory."""

import errno
import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificate import tlsEndpoint
from support.memory import Service
from support.process import freePorts
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessExitedAlready
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from echotwist.fatal import Fatal
from echotwist.limits import Limits
from echotwist.listen.certificate import ExpiryReminder
from echotwist.operate import worker
from echotwist.operate.relay import ANSWER_TIMEOUT, LogRelay
from echotwist.operate.supervisor import KILL_MARGIN, MAX_UNHEALTHY_POLLS, Supervisor
from echotwist.operate.worker import Lifeline, WorkerSignals
from echotwist.tap import Options, makeService


class Process:
    """The transport of a child's process."""

    def __init__(self, protocol: Any, command: list[str], env: dict[str, str]) -> None:
        self.protocol = protocol
        self.command = command
        self.env = env
        self.signals: list[str | int] = []
        self.pid = 4711
        self.hasEnded = False
        protocol.makeConnection(self)

    def signalProcess(self, name: str | int) -> None:
        if self.hasEnded:
            raise ProcessExitedAlready
        self.signals.append(name)

    def end(self) -> None:
        self.hasEnded = True
        self.protocol.processEnded(Failure(ProcessDone(0)))


class Reactor(MemoryReactorClock):
    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.stopped = 0

    canSpawn = True

    def spawnProcess(
        self, protocol: Any, executable: str, command: Any, env: Any, **_: Any
    ) -> None:
        if not self.canSpawn:
            raise OSError(errno.EAGAIN, "Try again")
        self.processes.append(Process(protocol, command, env))

    def stop(self) -> None:
        self.stopped += 1

    def callFromThread(self, call: Any, *args: Any) -> None:
        call(*args)


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


def made(reactor: Reactor, *arguments: str) -> Any:
    options = Options()
    options.parseOptions(list(arguments))
    return makeService(options, reactor)


@pytest.fixture
def start(reactor: Reactor) -> Iterator[Any]:
    trees = []

    def begin(*arguments: str) -> Supervisor:
        tree = made(reactor, "--workers=2", "--port=0", *arguments)
        tree.privilegedStartService()
        tree.startService()
        trees.append(tree)
        workers: Supervisor = tree.services[1]
        return workers

    yield begin
    for tree in trees:
        ended = tree.stopService()
        for process in reactor.processes:
            if not process.hasEnded:
                process.end()
        reactor.advance(0.05)
        assert not isinstance(ended, Deferred) or ended.called


def heldPort(workers: Supervisor) -> int:
    (held,) = workers._reservation.sockets
    port: int = held.getsockname()[1]
    return port


# The supervisor.


def test_each_worker_is_told_its_number(
    start: Any, reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        monkeypatch.setenv(name, "the supervisor's")
    workers = start("--max-message=1M", "--no-compression")
    one, two = (process.command for process in reactor.processes)
    for number, command in ((1, one), (2, two)):
        arguments = command[command.index("echotwist") + 1 :]
        options = Options()
        options.parseOptions(arguments)
        assert options["worker"] == (number, 2)
        assert options["port"] == heldPort(workers)
        assert options["admin"].startswith("unix:")
        assert options["no-compression"]
        assert "--nodaemon" in command
    env = reactor.processes[0].env
    assert env["PATH"] == os.environ["PATH"]
    assert "the supervisor's" not in env.values()


def test_a_worker_serves_and_supervises_nobody(reactor: Reactor) -> None:
    tree = made(reactor, "--workers=2", "--worker=1/2")
    kinds = [type(service).__name__ for service in tree.services]
    assert kinds == ["WorkerSignals", "EchoService", "Lifeline", "Notifier"]


@pytest.mark.parametrize(
    "parent",
    [{"reactor": "poll"}, {"reactor": Reactor(), "reactorName": "poll"}],
    ids=["twistd", "twist"],
)
def test_the_reactor_option_reaches_all_workers(reactor: Reactor, parent: dict[str, Any]) -> None:
    options = Options()
    options.parent = parent  # type: ignore[assignment]
    options.parseOptions(["--workers=2", "--port=0"])
    tree: Any = makeService(options, reactor)
    tree.privilegedStartService()
    tree.startService()
    command = reactor.processes[0].command
    assert command[command.index("--reactor") + 1] == "poll"
    tree.stopService()
    for process in reactor.processes:
        process.end()
    reactor.advance(0.05)


def test_shared_limits_are_divided_among_workers() -> None:
    options = Options()
    options.parseOptions(
        ["--worker=2/4", "--max-connections=10", "--log-rate=7", "--memory-budget=1G",
         "--threads=9"]
    )  # fmt: skip
    limits = options["limits"]
    assert (limits.maxConnections, limits.logRate, limits.memoryBudget) == (3, 2, 256 << 20)
    assert options["threads"] in (0, 2)  # 0 where it is not compiled.


def test_each_worker_has_its_own_descriptors_and_enough_memory() -> None:
    options = Options()
    options.parseOptions(["--worker=1/16", "--no-fast-path"])
    assert options["limits"].maxConnections == Limits().maxConnections
    assert options["limits"].memoryBudget == 8 * Limits().maxMessage


def test_connection_numbers_are_unique_across_workers(reactor: Reactor) -> None:
    service = Service("--worker=2/3", isFast=False)
    assert [service.open().protocol.number for _ in range(3)] == [2, 5, 8]


def test_a_worker_that_ends_is_restarted(start: Any, reactor: Reactor, log: Any) -> None:
    workers = start()
    reactor.advance(31)
    reactor.processes[0].end()
    reactor.advance(0)
    assert len(reactor.processes) == 3
    assert reactor.processes[2].command == reactor.processes[0].command
    assert workers.restarts == 1
    why = "A process has ended without apparent errors: process finished with exit code 0."
    assert f"worker 1 has ended, and is restarted: {why}" in log.lines()
    log.events[:] = [e for e in log.events if e["log_level"] < LogLevel.warn]


def test_a_worker_that_ends_at_once_is_restarted_with_backoff(
    start: Any, reactor: Reactor, log: Any
) -> None:
    start()
    for delay in (1, 2, 4, 8, 16, 30, 30):
        reactor.advance(1.5)  # It takes a while to fail.
        reactor.processes[-1].end()
        count = len(reactor.processes)
        reactor.advance(delay - 0.1)
        assert len(reactor.processes) == count
        reactor.advance(0.1)
        assert len(reactor.processes) == count + 1
    log.events.clear()


def test_a_worker_that_cannot_be_spawned_is_retried(start: Any, reactor: Reactor, log: Any) -> None:
    reactor.canSpawn = False
    start()
    assert reactor.processes == []
    assert "worker 1 cannot be started: [Errno 11] Try again" in log.lines()
    reactor.canSpawn = True
    reactor.advance(1)
    assert len(reactor.processes) == 2
    log.events.clear()


def test_a_drain_reaches_all_workers_and_waits_for_them(reactor: Reactor) -> None:
    tree = made(reactor, "--workers=2", "--port=0", "--drain-timeout=7")
    tree.startService()
    done: list[Any] = []
    tree.stopService().addCallback(done.append)
    one, two = reactor.processes
    assert one.signals == two.signals == ["TERM"]
    one.end()
    reactor.advance(0.05)
    assert not done
    two.end()
    reactor.advance(0.05)
    assert done
    reactor.advance(60)
    assert len(reactor.processes) == 2
    assert reactor.getDelayedCalls() == []


def test_a_worker_that_does_not_end_its_drain_is_killed(reactor: Reactor) -> None:
    tree = made(reactor, "--workers=2", "--port=0", "--drain-timeout=7")
    tree.startService()
    tree.stopService()
    one, two = reactor.processes
    one.end()
    reactor.advance(7 + KILL_MARGIN)
    assert two.signals == ["TERM", "KILL"]
    two.end()
    reactor.advance(0.05)


def test_a_second_signal_ends_the_drain_of_workers(start: Any, reactor: Reactor, log: Any) -> None:
    workers = start()
    one, two = reactor.processes
    one.hasEnded = True
    workers.abortDrain()
    assert two.signals == [signal.SIGQUIT]
    reactor.advance(0.9)
    one.hasEnded = False
    one.end()
    reactor.advance(0.1)
    assert two.signals == [signal.SIGQUIT, "KILL"]
    assert one.signals == []
    log.events.clear()


def test_the_ports_stay_reserved_while_workers_restart(start: Any) -> None:
    workers = start()
    with socket.socket(socket.AF_INET6) as other, pytest.raises(OSError, match="in use"):
        other.bind(("", heldPort(workers)))


@pytest.mark.parametrize("kind", ["port", "tcp", "tcp6"])
def test_a_supervisor_ends_when_the_port_is_in_use(reactor: Reactor, kind: str) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        what = {
            "port": f"--port={port}",
            "tcp": f"--listen=tcp:{port}:interface=127.0.0.1",
            "tcp6": f"--listen=tcp6:{port}",
        }[kind]
        tree = made(reactor, "--workers=2", what)
        with pytest.raises(Fatal, match="Address already in use"):
            tree.privilegedStartService()
    for held in tree.services[1]._reservation.sockets:
        held.close()


@pytest.mark.parametrize("endpoint", ["tcp6:{}", "tcp:{}:interface=\\:\\:"])
def test_both_address_families_of_a_port_are_reserved(reactor: Reactor, endpoint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tree = made(reactor, "--workers=2", f"--listen={endpoint.format(port)}")
        with pytest.raises(Fatal, match="Address already in use"):
            tree.privilegedStartService()
    for held in tree.services[1]._reservation.sockets:
        held.close()


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("unix:/s", "--workers can share only TCP ports"),
        ("tcp:0", "--workers needs a port other than 0"),
    ],
)
def test_a_supervisor_ends_when_an_endpoint_cannot_be_shared(
    reactor: Reactor, endpoint: str, why: str
) -> None:
    tree = made(reactor, "--workers=2", f"--listen={endpoint}")
    with pytest.raises(Fatal, match=re.escape(f"cannot listen on {endpoint}: {why}")):
        tree.privilegedStartService()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen=tcp:PORT:interface=127.0.0.1", "--listen=tcp:PORT:interface=127.0.0.1"],
        ["--listen=tcp:PORT", "--listen=tcp:PORT:interface=127.0.0.1"],
        ["--listen=tcp:PORT:interface=127.0.0.1", "--listen=tcp:PORT"],
        ["--listen=tcp6:PORT", "--listen=tcp:PORT"],
        ["--listen=haproxy:tcp:PORT", "--listen=tcp6:PORT"],
        ["--listen=tcp:PORT", "--admin=tcp:PORT"],
        ["--listen=tcp:PORT", "--admin=tcp:PORT:interface=127.0.0.1"],
        ["--port=PORT", "--admin=tcp:PORT:interface=127.0.0.1"],
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_listened_on_twice_is_refused(workers: str, arguments: list[str]) -> None:
    """Otherwise a worker could not bind it the second time, and would restart over and over."""
    reactor: Any = SelectReactor()  # It binds real ports; the tests' own reactor is running.
    (port,) = freePorts(1)
    options = [argument.replace("PORT", str(port)) for argument in arguments]
    tree = made(reactor, f"--workers={workers}", *options)
    second = options[1].partition("=")[2]
    with pytest.raises(Fatal, match=f"cannot listen on {second}: Address already in use"):
        tree.privilegedStartService()
    if workers == "2":
        for held in tree.services[1]._reservation.sockets:
            held.close()
    reactor.disconnectAll()


def test_another_supervisor_cannot_take_the_port_of_workers(reactor: Reactor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen = f"--listen=tcp:{port}:interface=127.0.0.1"
    first, second = (made(Reactor(), "--workers=2", listen) for _ in range(2))
    first.privilegedStartService()
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with pytest.raises(Fatal, match="Address already in use"):
            second.privilegedStartService()
    for tree in (first, second):
        for held in tree.services[1]._reservation.sockets:
            held.close()


def test_a_supervisor_without_a_folder_for_its_sockets_ends(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    tree = made(reactor, "--workers=2", "--port=0")
    with pytest.raises(Fatal, match="cannot make a folder for the workers' sockets: No such file"):
        tree.startService()
    for held in tree.services[1]._reservation.sockets:
        held.close()


def test_endpoints_are_reserved_and_shared_with_reuseport(reactor: Reactor, tmp_path: Any) -> None:
    with socket.socket() as free, socket.socket() as other:
        for skt in (free, other):
            skt.bind(("127.0.0.1", 0))
        ports = free.getsockname()[1], other.getsockname()[1]
    listens = (
        f"--listen=tcp:{ports[0]}:interface=127.0.0.1",
        f"--listen={tlsEndpoint(tmp_path, str(ports[1]))}",
    )
    supervisor = made(reactor, "--workers=2", *listens)
    supervisor.privilegedStartService()
    held = supervisor.services[1]._reservation.sockets
    assert [skt.getsockname()[1] for skt in held] == list(ports)
    made(reactor, "--worker=1/2", *listens).privilegedStartService()
    bindings: list[Any] = [port for port, *_ in reactor.tcpServers]
    assert [(binding._port, binding._reusePort) for binding in bindings] == [
        (ports[0], True),
        (ports[1], True),
    ]
    for skt in held:
        skt.close()


# What workers log.


def relayed(line: str) -> None:
    LogRelay().info("[{tag}] {line}", tag="2", line=line, stream="stdout")


def test_the_supervisor_relays_the_log_of_a_worker(log: Any) -> None:
    relayed(
        json.dumps(
            {"time": "2026-01-01T00:00:00+00:00", "level": "info", "namespace": "echotwist",
             "message": "#2 peer text, 2 bytes: '{}'", "number": 2, "size": 2, "format": "x"}
        )
    )  # fmt: skip
    (event,) = log.events
    assert log.lines() == ["worker 2: #2 peer text, 2 bytes: '{}'"]
    assert (event["worker"], event["number"], event["size"]) == ("2", 2, 2)


def test_the_supervisor_relays_a_traceback_of_a_worker(log: Any) -> None:
    relayed(
        json.dumps({"time": "", "level": "critical", "namespace": "x", "message": "m",
                    "traceback": "Traceback ..."})
    )  # fmt: skip
    (event,) = log.events
    log.events.clear()
    assert event["log_level"] == LogLevel.critical
    assert event["log_namespace"] == "x"
    assert event["text"] == "m\nTraceback ..."


def test_a_long_log_line_does_not_silence_a_worker(start: Any, reactor: Reactor, log: Any) -> None:
    start()
    protocol = reactor.processes[0].protocol
    protocol.outReceived(b"x" * 100_000 + b"\n")
    assert len(log.events.pop()["text"]) == 100_000
    protocol.outReceived(b"y" * 2_000_000)
    protocol.outReceived(b"\n")
    protocol.outReceived(b'{"level": "info", "namespace": "echotwist", "message": "I am here"}\n')
    assert log.lines()[-1] == "worker 1: I am here"
    log.events[:] = [e for e in log.events if e["log_level"] < LogLevel.warn]


def test_a_worker_that_cannot_be_executed_is_logged(log: Any) -> None:
    LogRelay().failure("...", Failure(OSError(11, "Try again")), name="2")
    (event,) = log.events
    log.events.clear()
    assert (event["worker"], event["why"]) == ("2", "[Errno 11] Try again")


@pytest.mark.parametrize("line", ["Fatal Python error: \x1b[2J", "[]", "{}", '{"level": "no"}'])
def test_worker_output_that_is_no_event_is_logged_escaped(log: Any, line: str) -> None:
    relayed(line)
    (event,) = log.events
    log.events.clear()
    assert event["text"] == line
    assert event["log_format"] == "worker {worker}: {text!r}"


def test_an_empty_line_of_a_worker_is_ignored(log: Any) -> None:
    relayed("")
    assert log.events == []


def test_the_process_monitors_own_lines_are_logged(log: Any) -> None:
    LogRelay(namespace="echotwist").info("so {this}", this="it is")
    assert log.lines() == ["so it is"]


# What they are asked.


class Asked:
    """Plays the workers: answers the last requests of the supervisor."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def answer(self, *answers: bytes | None) -> list[bytes]:
        """Returns the requests. None stands for a worker that does not answer."""
        clients = self._reactor.unixClients[-len(answers) :]
        requests = []
        for (_, factory, *_), answer in zip(clients, answers, strict=True):
            protocol = factory.buildProtocol(None)
            transport = StringTransport()
            transport.abortConnection = lambda: None  # type: ignore[method-assign]
            protocol.makeConnection(transport)
            requests.append(transport.value())
            if answer is not None:
                protocol.dataReceived(answer[:20])
                protocol.dataReceived(answer[20:])
                protocol.connectionLost(Failure(ConnectionDone()))
        if None in answers:
            self._reactor.advance(ANSWER_TIMEOUT)
        return requests


@pytest.fixture
def asked(reactor: Reactor) -> Asked:
    return Asked(reactor)


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


OPEN = answer(b"echotwist_connections_open 0.0\n")
HANGING = answer(b"echotwist_connections_open 0.0\nechotwist_fastpath_hanging 1.0\n")


@pytest.mark.parametrize("cut", [OPEN[:-3], b"HTTP/1.1 200 X\r\n\r\nechotwist_connections_open 1"])
def test_half_an_answer_of_a_worker_is_none(start: Any, asked: Asked, cut: bytes) -> None:
    workers = start()
    asked.answer(OPEN, cut)
    assert not workers.isListening


@pytest.mark.parametrize("said", [None, HANGING], ids=["nothing", "a thread hangs"])
def test_a_worker_that_hangs_is_killed(
    start: Any, reactor: Reactor, asked: Asked, log: Any, said: bytes | None
) -> None:
    start()
    asked.answer(OPEN, said)  # It has not answered before.
    for _ in range(MAX_UNHEALTHY_POLLS + 1):
        reactor.advance(1)
        asked.answer(OPEN, said)
    one, two = reactor.processes
    assert two.signals == []
    reactor.advance(1)
    asked.answer(OPEN, OPEN)
    for _ in range(MAX_UNHEALTHY_POLLS - 1):
        reactor.advance(1)
        asked.answer(OPEN, said)
    assert two.signals == []
    reactor.advance(1)
    asked.answer(OPEN, said)
    assert (one.signals, two.signals) == ([], ["KILL"])
    assert "worker 2 hangs; it is killed" in log.lines()
    log.events[:] = [e for e in log.events if e["log_level"] < LogLevel.warn]


def test_a_supervisor_with_a_hanging_worker_is_alive_for_the_watchdog(
    start: Any, asked: Asked
) -> None:
    """It replaces that worker; systemd must not restart the others as well."""
    workers = start()
    asked.answer(OPEN, HANGING)
    assert workers.isAlive()


def test_a_supervisor_is_ready_when_all_workers_listen(
    start: Any, reactor: Reactor, asked: Asked, log: Any
) -> None:
    workers = start()
    assert not workers.isListening
    (first, *_) = asked.answer(answer(b"echotwist_connections_open 3.0\n"), None)
    assert first == b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"
    assert not workers.isListening
    assert workers.connected == 3
    reactor.advance(1)
    asked.answer(*[answer(b"# x\nechotwist_connections_open 4.0\n")] * 2)
    assert workers.isListening
    assert workers.connected == 8
    assert "workers: 2, all listening" in log.lines()
    reactor.advance(1)
    asked.answer(*[answer(b"echotwist_connections_open 0.0\n")] * 2)
    assert log.lines().count("workers: 2, all listening") == 1


class Http:
    """A request to the supervisor's --admin."""

    def __init__(self, workers: Supervisor, path: bytes) -> None:
        assert workers.admin is not None
        (listener,) = workers.admin._specs
        listener.site.context.turns.clock = lambda: 0.0  # However slow the machine is.
        self.channel = listener.site.buildProtocol(None)
        transport: Any = StringTransport()
        transport.dataBuffer = b""
        transport.offset = transport._tempDataLen = 0
        transport.abortConnection = lambda: None
        self.transport = transport
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")

    def received(self) -> bytes:
        received: bytes = self.transport.value()
        return received


ADMIN = "--admin=tcp:9090:interface=127.0.0.1"


def test_the_metrics_of_all_workers_are_merged(start: Any, asked: Asked) -> None:
    workers = start(ADMIN)
    http = Http(workers, b"/metrics")
    asked.answer(
        answer(
            b"# TYPE echotwist_messages_total counter\n"
            b'echotwist_messages_total{type="text"} 3.0\n'
            b"# TYPE process_open_fds gauge\nprocess_open_fds 7.0\n"
        ),
        answer(b"no", 503),
    )
    assert b"Content-Type: text/plain; version=" in http.received()
    for line in (
        b'echotwist_worker_up{worker="1"} 1.0',
        b'echotwist_worker_up{worker="2"} 0.0',
        b"echotwist_worker_restarts_total 0.0",
        b"# TYPE echotwist_messages_total counter",
        b'echotwist_messages_total{type="text",worker="1"} 3.0',
        b'process_open_fds{worker="1"} 7.0',
    ):
        assert line in http.received()


def test_unreadable_metrics_of_a_worker_are_answered_all_the_same(
    start: Any, asked: Asked, log: Any
) -> None:
    """Without an answer the connection would stay open for ever."""
    http = Http(start(ADMIN), b"/metrics")
    asked.answer(answer(b"no { metric\n"), answer(b""))
    assert b"the metrics of the workers cannot be read\n" in http.received()
    (error,) = log.errors()
    assert error.startswith("the metrics of the workers cannot be read")
    log.events.clear()


def test_metrics_tell_the_certificates_of_workers_and_of_admin(
    start: Any, asked: Asked, tmp_path: Path
) -> None:
    name = "echotwist_certificate_not_after_seconds"
    http = Http(start(f"--admin={tlsEndpoint(tmp_path, '9090')}"), b"/metrics")
    body = f'# TYPE {name} gauge\n{name}{{file="/chain.pem"}} 1.9e+09\n'.encode()
    asked.answer(answer(body), answer(body))
    assert {line for line in http.received().decode().splitlines() if line.startswith(name)} == {
        f'{name}{{file="{tmp_path}/chain.pem"}} 3.250368e+10',
        f'{name}{{file="/chain.pem",worker="1"}} 1.9e+09',
        f'{name}{{file="/chain.pem",worker="2"}} 1.9e+09',
    }


def test_only_the_supervisor_reminds_of_expiring_certificates(
    reactor: Reactor, tmp_path: Path
) -> None:
    for name in ("clients", "admin"):
        (tmp_path / name).mkdir()
    clients, admin = (tlsEndpoint(tmp_path / name, "9090") for name in ("clients", "admin"))
    both = (f"--listen={clients}", f"--admin={admin}")
    (reminder,) = [s for s in made(reactor, "--workers=2", *both) if isinstance(s, ExpiryReminder)]
    files = [each.file for each in reminder._certificates]
    assert files == [f"{tmp_path}/clients/chain.pem", f"{tmp_path}/admin/chain.pem"]
    worker = made(reactor, "--worker=1/2", *both)
    assert not any(isinstance(s, ExpiryReminder) for s in worker)


def test_readyz_is_200_if_any_worker_is_ready(start: Any, reactor: Reactor, asked: Asked) -> None:
    workers = start(ADMIN)
    assert Http(workers, b"/readyz").received().startswith(b"HTTP/1.1 503 ")
    asked.answer(answer(b"no", 503), OPEN)
    assert Http(workers, b"/readyz").received().startswith(b"HTTP/1.1 200 ")
    reactor.advance(1)
    asked.answer(answer(b"no", 503), None)
    assert Http(workers, b"/readyz").received().startswith(b"HTTP/1.1 503 ")


def test_readyz_of_a_supervisor_is_503_during_a_drain(reactor: Reactor, asked: Asked) -> None:
    tree = made(reactor, "--workers=2", "--port=0", ADMIN)
    tree.startService()
    workers = tree.services[1]
    asked.answer(OPEN, OPEN)
    tree.stopService()
    assert Http(workers, b"/readyz").received().startswith(b"HTTP/1.1 503 ")
    assert Http(workers, b"/healthz").received().startswith(b"HTTP/1.1 200 ")
    for process in reactor.processes:
        process.end()
    reactor.advance(0.05)


def test_an_operator_that_disconnected_is_not_answered(start: Any, asked: Asked) -> None:
    http = Http(start(ADMIN), b"/metrics")
    http.channel.connectionLost(Failure(ConnectionDone()))
    asked.answer(OPEN, OPEN)
    assert http.received() == b""


# A worker.


def test_a_worker_ends_with_its_supervisor(reactor: Reactor, log: Any) -> None:
    ours, theirs = os.pipe()
    lifeline = Lifeline(reactor, ours)
    lifeline.startService()
    assert reactor.getReaders() == [lifeline]
    assert (lifeline.fileno(), lifeline.logPrefix()) == (ours, "lifeline")
    os.write(theirs, b"x")
    lifeline.doRead()
    assert not reactor.stopped
    os.close(theirs)
    lifeline.doRead()
    assert reactor.stopped
    assert reactor.getReaders() == []
    lifeline.stopService()
    os.close(ours)
    assert log.lines() == ["the supervisor is gone"]
    log.events.clear()


def test_a_worker_without_a_lifeline_runs_alone(reactor: Reactor) -> None:
    with open(os.devnull) as nothing:
        lifeline = Lifeline(reactor, nothing.fileno())
        lifeline.startService()
        assert reactor.getReaders() == []
        lifeline.stopService()


def test_a_worker_drains_once_and_ignores_signals_of_the_terminal(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)

    class Drained:
        hurried = 0

        def abortDrain(self) -> None:
            self.hurried += 1

    drained = Drained()
    signals = WorkerSignals(reactor, drained)
    signals._install()  # In a terminal.
    assert handlers[signal.SIGINT] != signal.SIG_IGN
    monkeypatch.setattr(worker, "isSupervised", lambda: True)
    signals._install()
    assert handlers[signal.SIGINT] == handlers[signal.SIGHUP] == signal.SIG_IGN
    for _ in range(3):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert reactor.stopped == 1
    assert drained.hurried == 0
    handlers[signal.SIGQUIT](signal.SIGQUIT, None)
    assert drained.hurried == 1


def test_the_supervisor_locates_the_shared_port(start: Any) -> None:
    workers = start()
    (reserved,) = workers._reservation.sockets
    (location,) = workers.locations()
    assert location.authority == f"localhost:{reserved.getsockname()[1]}"
    assert workers.locations(isAdmin=True) == []


def test_the_supervisor_locates_each_endpoint(reactor: Reactor) -> None:
    four, six = freePorts(2)
    tree = made(
        reactor,
        "--workers=2",
        f"--listen=tcp:{four}:interface=127.0.0.1",
        rf"--listen=tcp6:{six}:interface=\:\:1",
        "--admin=tcp:9090:interface=127.0.0.1",
    )
    tree.privilegedStartService()
    workers: Any = tree.services[1]
    try:
        told = [(location.description.partition(":")[0], location.authority)
                for location in workers.locations() + workers.locations(isAdmin=True)]  # fmt: skip
    finally:
        for reserved in workers._reservation.sockets:
            reserved.close()
    assert told == [
        ("tcp", f"127.0.0.1:{four}"),
        ("tcp6", f"[::1]:{six}"),
        ("tcp", "127.0.0.1:9090"),
    ]
