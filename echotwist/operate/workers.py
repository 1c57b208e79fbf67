"""Several processes for what Autobahn keeps to itself: `--workers N`.

    supervisor     twistd echotwist --workers 2 ...
      |            starts the workers, starts them again if they end, has them drain
      +- worker    twistd echotwist --worker 1/2 ...
      +- worker    twistd echotwist --worker 2/2 ...

The fast path uses every core by itself; handshakes, TLS, compression and fragments use one for
each process. The workers listen on the same ports (SO_REUSEPORT, socket(7)), and the kernel gives
each connection to one of them. They share nothing: what they log comes to the supervisor's log,
and what they count to its /metrics, with the worker's number.

The supervisor is Twisted's ProcessMonitor. It serves no client, so that nothing that clients do can
end it; and it holds the ports, without listening, so that one that is taken ends it at once, and
port 0 is the same for all.
"""

import json
import math
import os
import re
import signal
import socket
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.endpoints import UNIXClientEndpoint, quoteStringArgument
from twisted.internet.error import CannotListenError, ProcessExitedAlready
from twisted.internet.interfaces import IReadDescriptor, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import makeBinding
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.runner.procmon import ProcessMonitor
from twisted.web.server import Request
from zope.interface import implementer

from echotwist.fatal import Fatal
from echotwist.http.answer import Answer, Exact
from echotwist.listen.ports import ListenService, cannotListen
from echotwist.operate.signals import Signals

KILL_MARGIN = 5.0
"""Seconds that a worker may take beyond the drain limit, before it is killed."""

ABORT_TIMEOUT = 1.0
"""Seconds that it may take when a drain is to end at once."""

ANSWER_TIMEOUT = 2.0
"""Seconds that a worker may take to tell its metrics. Prometheus waits for ten."""

MAX_UNHEALTHY_POLLS = 10
"""Times that a worker that is asked each second may not answer, or say that a thread of it hangs,
before it is killed: some 30 s, as the watchdog of deploy/systemd gives to one process."""

MAX_LINE = 1 << 20
"""Bytes of a line that a worker logs; longer ones are left out. A traceback has 80 KB."""

_RUN = "from twisted.scripts.twistd import run; run()"

_log = Logger(namespace="echotwist")


class ReusePortReactor:
    """A reactor, of which other processes may listen on the same ports.

    Endpoints have no parameter for that (twisted/internet/endpoints.py, 26.10), and ask this.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        binding = makeBinding(interface, port, reuseAddress=True, reusePort=True)
        return self._reactor.listenTCP(binding, factory, backlog, interface)


class PortReservation:
    """A reactor that takes ports as `ReusePortReactor` does, and does not listen. `sockets` are the
    sockets.

    Raises CannotListenError, also for what cannot be shared. Nobody else gets a port before
    `share` is called, nor does this process a second time, by whatever interface.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.sockets: list[socket.socket] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("listenUNIX", "adoptStreamPort"):
            return self._refuse
        return getattr(self._reactor, name)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise CannotListenError("", "", OSError("--workers can share only TCP ports"))

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if not port:
            raise CannotListenError(interface, port, OSError("--workers needs a port other than 0"))
        return self._hold(socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET,
                         interface, port)  # fmt: skip

    def everyInterface(self, port: int) -> int:
        """As service.EveryInterface. Returns the port; 0 takes a free one."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return self._hold(family, "", port)

    def _hold(self, family: int, host: str, port: int) -> int:
        held = socket.socket(family, socket.SOCK_STREAM)
        self.sockets.append(held)
        # For connections of the last process, which the kernel still knows.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not host:
            # With a host it is as the kernel has it, as where Twisted listens.
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            held.bind((host, port))
        except OSError as e:
            raise CannotListenError(host, port, e) from e
        # With it, another one that does not listen either could have the same port.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        number: int = held.getsockname()[1]
        return number

    def share(self) -> None:
        """Let workers listen on the ports."""
        for held in self.sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class LogRelay(Logger):
    """Logs what a worker has logged. ProcessMonitor gives it each line that a worker writes."""

    def info(self, format: str | None = None, *args: Any, **values: Any) -> None:
        if "line" not in values:
            super().info(format, *args, **values)
            return
        worker, line = values["tag"], values["line"]
        try:
            event = json.loads(line)
            level = LogLevel.lookupByName(event.pop("level"))
            namespace, text = event.pop("namespace"), event.pop("message")
        except (ValueError, KeyError, TypeError, AttributeError):
            # What Python itself says, before there is a log or as the process dies.
            if line:
                _log.error("worker {worker}: {text!r}", worker=worker, text=line)
            return
        if "traceback" in event:
            text = f"{text}\n{event['traceback']}"
        # Its time is that of the supervisor's line; Logger takes `format` from its first argument.
        values = {key: value for key, value in event.items() if key not in ("time", "format")}
        Logger(namespace).emit(
            level, "worker {worker}: {text}", **{**values, "worker": worker, "text": text}
        )

    def failure(self, format: str, failure: Any = None, *args: Any, **values: Any) -> None:
        """What ProcessMonitor says if it cannot start one; its format has no such key."""
        _log.error(
            "worker {worker} cannot be started: {why}",
            worker=values.get("name"),
            why=failure and failure.getErrorMessage(),
        )


class Supervisor(ProcessMonitor):
    """Runs `count` workers, with the `arguments` of twistd echotwist.

    `ports` are what they listen on, and what the operator calls it: endpoints made for `holding`,
    or a number, on every interface. `drainTimeout` is in seconds. `reactorName` is what twistd was
    told, if it was.
    """

    # What ends within this has failed to start: Twisted's second is less than that takes.
    threshold = 30
    maxRestartDelay = 30  # And not Twisted's hour.

    admin: ListenService | None = None
    """Serves the operator, until the last worker has ended."""

    _looking: LoopingCall

    def __init__(
        self,
        reactor: Any,
        arguments: Sequence[str],
        count: int,
        drainTimeout: float,
        holding: PortReservation,
        ports: Sequence[tuple[str, IStreamServerEndpoint | int]],
        reactorName: str | None = None,
    ) -> None:
        super().__init__(reactor)
        self.log = LogRelay(namespace="echotwist")
        self.killTime = math.ceil(drainTimeout + KILL_MARGIN)
        self.count = count
        self.restarts = 0
        self.drainTimeout = drainTimeout
        self.connected = 0
        self.isListening = False
        self.isReady = False
        """Whether any of them took clients when it was asked last."""

        self._silent: Counter[str] = Counter()
        # Relative paths are those of whoever started it, also where twistd changes its folder.
        self._cwd = os.getcwd()
        self._arguments = list(arguments)
        self._reservation = holding
        self._ports = ports
        self._reactorName = reactorName
        self._folder: Any = None

    def privilegedStartService(self) -> None:
        """Hold the ports, before twistd gives up root. Raises Fatal."""
        for description, port in self._ports:
            if isinstance(port, int):
                try:
                    number = self._reservation.everyInterface(port)
                except CannotListenError:
                    raise cannotListen(description, Failure()) from None
                self._arguments.append(f"--port={number}")
                continue
            failed: list[Failure] = []
            port.listen(Factory()).addErrback(failed.append)
            if failed:
                raise cannotListen(description, failed[0])
        if self.admin is not None:
            self.admin.privilegedStartService()
        # Not before: its port must be another one.
        self._reservation.share()

    def startService(self) -> None:
        if not self._reservation.sockets:
            self.privilegedStartService()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="echotwist-")
        except OSError as e:
            raise Fatal(f"cannot make a folder for the workers' sockets: {e.strerror}") from e
        for number in range(1, self.count + 1):
            command, env = self._commandOf(number), _environment()
            self.addProcess(str(number), command, env=env, cwd=self._cwd)
        super().startService()
        if self.admin is not None:
            self.admin.startService()
        self._look(1.0, self._askHowMany)

    def _commandOf(self, number: int) -> list[str]:
        return [
            *(sys.executable, "-P", "-c", _RUN),  # -P: not what is in the current folder.
            *("--nodaemon", "--pidfile=", "--logger=echotwist.logs.json"),
            *(("--reactor", self._reactorName) if self._reactorName else ()),
            "echotwist",
            *self._arguments,
            f"--worker={number}/{self.count}",
            f"--admin=unix:{quoteStringArgument(self._pathOf(number))}:lockfile=0",
        ]

    def startProcess(self, name: str) -> None:
        if name in self.restart:
            self.restarts += 1
        del self._silent[name]
        # What a worker leaves that is killed.
        Path(self._pathOf(name)).unlink(missing_ok=True)
        super().startProcess(name)
        started: Any = self.protocols.get(name)
        if started is not None:
            _log.info("worker {worker}: pid {pid}", worker=name, pid=started.transport.pid)
            # A line of more than 16 KB would close the worker's output: LineLogger has a transport
            # that cannot lose its connection (twisted/runner/procmon.py, 26.10).
            for output in (started._output, started._error):
                output.MAX_LENGTH = MAX_LINE
                output.lineLengthExceeded = lambda line: None
            started.processEnded = partial(self._ended, name, started.processEnded)

    def _ended(self, name: str, tell: Callable[[Failure], None], reason: Failure) -> None:
        # ProcessMonitor says nothing of it, and may wait for half a minute.
        if self.running:
            _log.warn(
                "worker {worker} has ended, and is started again: {why}",
                worker=name,
                why=reason.getErrorMessage(),
            )
        tell(reason)

    @inlineCallbacks
    def stopService(self) -> Any:  # type: ignore[override]  # IService's may return a Deferred.
        """Drain. Fires when all workers have ended."""
        self._looking.stop()
        super().stopService()
        # ProcessMonitor does not say when they have; but it forgets those that have.
        yield self._look(0.05, self._stopLookingIfAllHaveEnded)
        if self.admin is not None:
            yield self.admin.stopService()
        for held in self._reservation.sockets:
            held.close()
        self._folder.cleanup()

    def _look(self, seconds: float, look: Callable[[], Any]) -> "Deferred[Any]":
        self._looking = LoopingCall(look)
        self._looking.clock = self._clock
        return self._looking.start(seconds)

    def _stopLookingIfAllHaveEnded(self) -> None:
        if not self.protocols:
            self._looking.stop()

    @inlineCallbacks
    def _askHowMany(self) -> Any:
        told = yield self.ask("/metrics")
        found = [
            # A thread that hangs makes a worker that hangs.
            re.search(rb"^echotwist_fastpath_hanging [1-9]", body or b"", re.M) is None
            and re.search(rb"^echotwist_connections_open (\S+)", body or b"", re.M)
            for body in told.values()
        ]
        self.connected = sum(int(float(match[1])) for match in found if match)
        self.isReady = any(found)
        if all(found) and not self.isListening:
            self.isListening = True
            _log.info("workers: {count}, all listening", count=self.count)
        for name, match in zip(told, found, strict=True):
            if match:
                self._silent[name] = 0
            elif name in self._silent:  # It has answered before.
                self._silent[name] += 1
                if self._silent[name] == MAX_UNHEALTHY_POLLS:
                    _log.error("worker {worker} hangs; it is killed", worker=name)
                    self._signal("KILL", name)

    def isAlive(self) -> bool:
        """Workers that hang are replaced; what systemd is told is of the supervisor."""
        return True

    def abortDrain(self) -> None:
        """End a drain at once."""
        for name in list(self.protocols):
            self._signal(signal.SIGQUIT, name)
            self._clock.callLater(ABORT_TIMEOUT, self._signal, "KILL", name)

    def _signal(self, number: str | int, name: str) -> None:
        if (protocol := self.protocols.get(name)) is not None:
            with suppress(ProcessExitedAlready):
                protocol.transport.signalProcess(number)  # type: ignore[union-attr]

    def ask(self, path: str) -> "Deferred[dict[str, bytes | None]]":
        """What each worker answers to GET `path` on its --admin, by its number; None if it does
        not, or not with 200."""

        @inlineCallbacks
        def one(worker: str) -> Any:
            endpoint = UNIXClientEndpoint(
                self._reactor, self._pathOf(worker), timeout=ANSWER_TIMEOUT
            )
            factory: Any = Factory.forProtocol(partial(AdminRequest, path))
            factory.noisy = False
            question: Any = yield endpoint.connect(factory)
            try:
                answer: bytes = yield question.answer.addTimeout(ANSWER_TIMEOUT, self._clock)
            finally:
                question.transport.abortConnection()
            head, _, body = answer.partition(b"\r\n\r\n")
            size = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
            isWhole = size is not None and int(size[1]) == len(body)
            return body if isWhole and head.startswith(b"HTTP/1.1 200 ") else None

        names = [str(number) for number in range(1, self.count + 1)]
        asking = DeferredList([one(name) for name in names], consumeErrors=True)
        return asking.addCallback(
            lambda told: {
                name: answer if isTold else None
                for name, (isTold, answer) in zip(names, told, strict=True)
            }
        )

    def _pathOf(self, worker: int | str) -> str:
        return os.path.join(self._folder.name, str(worker))


class AdminRequest(Protocol):
    """A request to a worker. Twisted's Agent would log lines for each, and keep connections to
    workers that are gone."""

    def __init__(self, path: str) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._path = path
        self._received: list[bytes] = []

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode()
        )

    def dataReceived(self, data: bytes) -> None:
        self._received.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.callback(b"".join(self._received))


def _environment() -> dict[str, str]:
    """Without what systemd tells the supervisor, and nobody else."""
    theirs = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
    return {name: value for name, value in os.environ.items() if not name.startswith(theirs)}


class SupervisorReadiness(Exact):
    """`/readyz` of all: whether any was ready when they were asked last, a second ago. A probe
    does not wait for one that hangs."""

    def __init__(self, workers: Supervisor) -> None:
        super().__init__()
        self._workers = workers

    def render(self, request: Request) -> bytes:
        isReady = self._workers.running and self._workers.isReady
        answer = Answer(200, "ready") if isReady else Answer(503, "no worker is ready")
        return answer.render(request)


class WorkerSignals(Signals):
    """SIGTERM drains, once and for all: systemd and the supervisor may both send it. SIGQUIT is
    how the supervisor ends a drain. What a terminal sends goes to the supervisor as well."""

    def _install(self) -> None:
        if not isSupervised():
            super()._install()
            return
        signal.signal(signal.SIGTERM, lambda *_: None if self._stopping else self.received())
        signal.signal(
            signal.SIGQUIT, lambda *_: self._reactor.callFromThread(self._service.abortDrain)
        )
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def isSupervised(descriptor: int = 0) -> bool:
    """Whether a supervisor started this process: it holds the other end of a pipe. Whoever starts
    a worker in another way, such as in a terminal, does not."""
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


@implementer(IReadDescriptor)
class Lifeline(Service):
    """In a worker: drains it if its supervisor is gone, which ends the pipe between them."""

    def __init__(self, reactor: Any, descriptor: int = 0) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def startService(self) -> None:
        super().startService()
        if isSupervised(self._descriptor):
            self._reactor.addReader(self)

    def stopService(self) -> None:
        super().stopService()
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        if not os.read(self._descriptor, 1024):
            self.connectionLost()

    def fileno(self) -> int:
        return self._descriptor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """epollreactor says so, and other reactors let it read."""
        self._reactor.removeReader(self)
        _log.warn("the supervisor is gone")
        self._reactor.stop()

    def logPrefix(self) -> str:
        return "lifeline"
