"""Several processes for the work that the fast path leaves to Autobahn: `--workers N`.

    supervisor     twistd echotwist --workers 2 ...
      |            starts the workers, restarts those that end, drains them
      +- worker    twistd echotwist --worker 1/2 ...
      +- worker    twistd echotwist --worker 2/2 ...

The fast path uses every core by itself. Handshakes, TLS, compression and fragments use one core a
process. The workers listen on the same ports (see `reuseport`) and share nothing. The supervisor
relays what they log, and merges their /metrics, each with the worker's number (see `relay` and
`metrics`).

The supervisor is Twisted's ProcessMonitor. It serves no clients, so that no client can crash it.
"""

import math
import os
import re
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError, ProcessExitedAlready
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.runner.procmon import ProcessMonitor
from twisted.web.server import Request

from echotwist.fatal import Fatal
from echotwist.http.answer import Answer, Exact
from echotwist.listen.location import Location, isDualStack, locate
from echotwist.listen.ports import ListenService, cannotListen
from echotwist.listen.reuseport import PortReservation
from echotwist.operate.relay import LogRelay, askAll

KILL_MARGIN = 5.0
"""Seconds that a worker may take beyond its drain timeout before it is killed."""

ABORT_TIMEOUT = 1.0
"""Seconds that a worker may take to abort a drain before it is killed."""

POLL_INTERVAL = 1.0
"""Seconds between two questions to the workers how they are."""

MAX_UNHEALTHY_POLLS = 10
"""Polls in a row in which a worker may not answer, or report a thread that hangs, before it is
killed. An unanswered poll takes up to 3 s, so that is some 30 s, as the watchdog of deploy/systemd
gives to one process."""

MAX_LINE = 1 << 20
"""Bytes of a line that a worker logs; longer ones are left out. A traceback has 80 KB."""

_RUN = "from twisted.scripts.twistd import run; run()"

_log = Logger(namespace="echotwist")


class Supervisor(ProcessMonitor):
    """Runs `count` workers, with the `arguments` of twistd echotwist.

    `ports` has the ports to listen on, each with the operator's description of it: an endpoint that
    was made for `reservation`, or a number to listen on every interface. `drainTimeout` is in
    seconds. `reactorName` is what twistd's --reactor says, if it was given.
    """

    # A process that ends sooner failed to start. Twisted's default of 1 s is less than a start
    # takes.
    threshold = 30
    maxRestartDelay = 30  # Twisted's default is an hour.

    admin: ListenService | None = None
    """Serves --admin until the last worker has ended."""

    _polling: LoopingCall

    def __init__(
        self,
        reactor: Any,
        arguments: Sequence[str],
        count: int,
        drainTimeout: float,
        reservation: PortReservation,
        ports: Sequence[tuple[str, IStreamServerEndpoint | int]],
        reactorName: str | None = None,
    ) -> None:
        super().__init__(reactor)
        self.log = LogRelay(namespace="echotwist")
        self.killTime = math.ceil(drainTimeout + KILL_MARGIN)
        self.restarts = 0
        self.drainTimeout = drainTimeout
        self.connected = 0
        self.isListening = False
        self.isReady = False
        """Whether any worker accepted clients at the last poll."""

        self._names = [str(number) for number in range(1, count + 1)]
        self._unhealthy: Counter[str] = Counter()
        """By worker, if it has ever been healthy: the polls since it last was."""

        # Workers resolve relative paths here, even where twistd changes its folder.
        self._cwd = os.getcwd()
        self._arguments = list(arguments)
        self._reservation = reservation
        self._ports = ports
        self._reactorName = reactorName
        self._folder: Any = None

    def privilegedStartService(self) -> None:
        """Reserve the ports, before twistd gives up root. Raises Fatal."""
        for description, port in self._ports:
            if isinstance(port, int):
                try:
                    number = self._reservation.dualStack(port)
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
        # Last, so that --admin cannot take one of these ports.
        self._reservation.share()

    def startService(self) -> None:
        if not self._reservation.sockets:
            self.privilegedStartService()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="echotwist-")
        except OSError as e:
            raise Fatal(f"cannot make a folder for the workers' sockets: {e.strerror}") from e
        for name in self._names:
            self.addProcess(name, self._commandOf(name), env=_environment(), cwd=self._cwd)
        super().startService()
        if self.admin is not None:
            self.admin.startService()
        self._repeat(POLL_INTERVAL, self._poll)

    def _commandOf(self, name: str) -> list[str]:
        return [
            *(sys.executable, "-P", "-c", _RUN),  # -P: import nothing from the current folder.
            *("--nodaemon", "--pidfile=", "--logger=echotwist.logs.json"),
            *(("--reactor", self._reactorName) if self._reactorName else ()),
            "echotwist",
            *self._arguments,
            f"--worker={name}/{len(self._names)}",
            f"--admin=unix:{quoteStringArgument(self._socketOf(name))}:lockfile=0",
        ]

    def _socketOf(self, name: str) -> str:
        """The path of a worker's --admin."""
        return os.path.join(self._folder.name, name)

    def startProcess(self, name: str) -> None:
        if name in self.restart:
            self.restarts += 1
        del self._unhealthy[name]
        # A killed worker leaves its socket.
        Path(self._socketOf(name)).unlink(missing_ok=True)
        super().startProcess(name)
        started: Any = self.protocols.get(name)
        if started is not None:
            _log.info("worker {worker}: pid {pid}", worker=name, pid=started.transport.pid)
            # Otherwise a line of more than 16 KB closes the worker's output, by an exception: for
            # it LineReceiver calls loseConnection(), which procmon's transport does not have
            # (26.10, twisted/runner/procmon.py, `LineLogger`).
            for output in (started._output, started._error):
                output.MAX_LENGTH = MAX_LINE
                output.lineLengthExceeded = lambda line: None
            started.processEnded = partial(self._workerEnded, name, started.processEnded)

    def _workerEnded(self, name: str, then: Callable[[Failure], None], reason: Failure) -> None:
        # ProcessMonitor does not log it, and may wait half a minute before it restarts the worker.
        if self.running:
            _log.warn(
                "worker {worker} has ended, and is restarted: {why}",
                worker=name,
                why=reason.getErrorMessage(),
            )
        then(reason)

    @inlineCallbacks
    def stopService(self) -> Any:  # type: ignore[override]  # IService's may return a Deferred.
        """Drain. Fires when all workers have ended."""
        self._polling.stop()
        super().stopService()
        # ProcessMonitor does not say when they have ended, but it forgets those that have.
        yield self._repeat(0.05, self._stopRepeatingIfAllEnded)
        if self.admin is not None:
            yield self.admin.stopService()
        self._reservation.close()
        self._folder.cleanup()

    def _repeat(self, seconds: float, call: Callable[[], Any]) -> "Deferred[Any]":
        self._polling = LoopingCall(call)
        self._polling.clock = self._clock
        return self._polling.start(seconds)

    def _stopRepeatingIfAllEnded(self) -> None:
        if not self.protocols:
            self._polling.stop()

    @inlineCallbacks
    def _poll(self) -> Any:
        answers = yield self.ask("/metrics")
        healthy = [
            # A worker with a thread that hangs counts as hanging.
            re.search(rb"^echotwist_fastpath_hanging [1-9]", body or b"", re.M) is None
            and re.search(rb"^echotwist_connections_open (\S+)", body or b"", re.M)
            for body in answers.values()
        ]
        self.connected = sum(int(float(match[1])) for match in healthy if match)
        self.isReady = any(healthy)
        if all(healthy) and not self.isListening:
            self.isListening = True
            _log.info("workers: {count}, all listening", count=len(self._names))
        for name, match in zip(answers, healthy, strict=True):
            if match:
                self._unhealthy[name] = 0
            elif name in self._unhealthy:
                self._unhealthy[name] += 1
                if self._unhealthy[name] == MAX_UNHEALTHY_POLLS:
                    _log.error("worker {worker} hangs; it is killed", worker=name)
                    self._signal("KILL", name)

    def locations(self, isAdmin: bool = False) -> list[Location]:
        """As ListenService's: of the ports that the workers share."""
        if isAdmin:
            return [] if self.admin is None else self.admin.locations(isAdmin=True)
        return [
            locate(
                description,
                (IPv6Address if reserved.family == socket.AF_INET6 else IPv4Address)(
                    "TCP", *reserved.getsockname()[:2]
                ),
                partial(isDualStack, reserved),
            )
            for (description, _), reserved in zip(
                self._ports, self._reservation.sockets, strict=True
            )
        ]

    def isAlive(self) -> bool:
        """Always: the supervisor itself replaces workers that hang, so that systemd need not
        restart all of them."""
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
        """Send GET `path` to every worker; see `relay.askAll`."""
        return askAll(self._reactor, {name: self._socketOf(name) for name in self._names}, path)


def _environment() -> dict[str, str]:
    """The environment, without what systemd tells only the supervisor."""
    own = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


class SupervisorReadiness(Exact):
    """`/readyz` of the supervisor: whether any worker was ready at the last poll, at most some
    seconds ago. So a probe does not wait for a worker that hangs."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self._supervisor = supervisor

    def render(self, request: Request) -> bytes:
        isReady = self._supervisor.running and self._supervisor.isReady
        answer = Answer(200, "ready") if isReady else Answer(503, "no worker is ready")
        return answer.render(request)
