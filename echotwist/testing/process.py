"""The service in a process of its own, for tests of WebSocket clients."""

import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from echotwist.testing.announced import Announced
from echotwist.testing.logged import LoggedProcess

if TYPE_CHECKING:
    import asyncio

    from echotwist.testing.certificates import Authority

START = 60.0
"""Seconds that a start may take; half of one is usual."""

PATIENCE = 5.0
"""Seconds for clients to leave: a drain tells them to, spread over one second. On a busy machine
the process itself takes longer to end, and a second signal could spoil its exit status."""

ABORT = 5.0
"""Seconds until a signal shows, and for the end of a drain that a second one ends."""

RECORDS = 100_000
"""Records of the log that are kept: the last ones."""

LOG_RATE = 10_000
"""Lines a second of the log, unless the options say otherwise. The service's own default is for
people; a test wants to find each message."""

_MAIN = "from echotwist.testing.child import main; main()"


class NotStarted(Exception):
    """The service did not start; the message says why, as the service does."""


class ServiceProcess(Announced):
    """`twistd -n echotwist OPTIONS`, on a free port of 127.0.0.1.

    `tls`: over TLS, with an authority of its own. An option --listen or --port is taken instead of
    the free port; then the URLs are those of the first that is not for a proxy.

    Use it with `with`, or with `async with` where clients run in the same event loop; or call
    `start` and `close`. The port stays reserved until `close`, which `with` calls at its end: so
    `restart` finds it free, and a client that connects meanwhile is refused. The process ends when
    its parent does, however that ends. In a fork of the parent, `stop`, `kill` and `close` do
    nothing.
    """

    reservesPort = sys.platform == "linux"
    """Elsewhere a port that is bound twice is an error, or goes to the wrong one."""

    def __init__(
        self, *options: str, tls: bool = False, environment: dict[str, str] | None = None
    ) -> None:
        """`environment` is added to this process's. Raises ValueError if `tls` is true and the
        options say where to listen, and TypeError for an option that is not a string."""
        self.options = checked(options)
        self.isTls = tls
        self._environment = environment or {}
        self._announced: dict[str, Any] = {}
        self._process: LoggedProcess | None = None
        self._records: deque[dict[str, Any]] = deque(maxlen=RECORDS)
        self._changed = threading.Condition()
        self._port = 0
        self._reservation: socket.socket | None = None
        # Not a TemporaryDirectory, which a fork would remove at its exit.
        self._folder: Path | None = None
        self._authority: Authority | None = None
        self._listensElsewhere = listensElsewhere(options, tls)
        self._starter = os.getpid()

    def start(self) -> Self:
        """Returns when clients are served. Raises NotStarted."""
        if self.isRunning:
            raise RuntimeError("it runs already")
        self.wait()  # If it has ended by itself, its pipes are still open.
        with self._changed:
            self._records.clear()
        try:
            self._reserve()
            ours, theirs = os.pipe()
            try:
                self._spawn(theirs)
            except BaseException:
                os.close(ours)
                raise
            finally:
                os.close(theirs)
            with open(ours, "rb") as announcement:
                self._announced = self._awaitAnnouncement(announcement.fileno())
        except BaseException as e:  # A Ctrl-C as well.
            self.kill()
            self.close()
            if isinstance(e, OSError):
                raise NotStarted(f"cannot start: {e}") from e
            raise
        if not self._listensElsewhere:
            self._port = self.port
        return self

    def _reserve(self) -> None:
        if self.isTls and self._authority is None:
            from echotwist.testing.certificates import Authority

            self._folder = Path(tempfile.mkdtemp(prefix="echotwist-"))
            self._authority = Authority(self._folder)
        if self.reservesPort and self._reservation is None and not self._listensElsewhere:
            self._reservation = socket.socket()
            self._reservation.bind(("127.0.0.1", 0))
            # After bind(), which could otherwise get a port that another socket has reserved.
            self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._port = self._reservation.getsockname()[1]

    def _spawn(self, announce: int) -> None:
        self._process = None
        folder = "" if self._folder is None else str(self._folder)
        self._process = LoggedProcess(
            [
                # -P: not what is in the current folder.
                *(sys.executable, "-P", "-c", _MAIN, folder, str(os.getpid())),
                *("--nodaemon", "--pidfile=", "--logger=echotwist.logs.json", "echotwist"),
                *self._defaults(),
                *self.options,
                f"--announce=fd:{announce}",
            ],
            lambda line: self._records.append(_record(line)),
            self._changed,
            stdin=subprocess.PIPE,
            pass_fds=[announce],
            env={**_inherited(), **self._environment},
            # A Ctrl-C in the terminal is for the tests, which then stop it; or for their debugger.
            process_group=0,
        )

    def _defaults(self) -> list[str]:
        defaults = []
        if self._authority is not None:
            defaults.append(f"--listen={self._authority.endpoint(self._port)}")
        elif not self._listensElsewhere:
            defaults.append(f"--listen=tcp:{self._port}:interface=127.0.0.1")
        if not any(_is(option, "log-rate") for option in self.options):
            defaults.append(f"--log-rate={LOG_RATE}")
        if not any(_is(option, "admin") for option in self.options):
            defaults.append("--admin=tcp:0:interface=127.0.0.1")
        return defaults

    def _awaitAnnouncement(self, descriptor: int) -> dict[str, Any]:
        said = b""
        poll = select.poll()  # select() knows no descriptor above 1023.
        poll.register(descriptor, select.POLLIN)
        while not said.endswith(b"\n"):
            more = os.read(descriptor, 65536) if poll.poll(START * 1000) else b""
            if not more:
                raise NotStarted(self._whyNot())
            said += more
        announced: dict[str, Any] = json.loads(said)
        return announced

    def _whyNot(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return f"it does not say in {START:.0f} s that it is ready"
        said = [record["message"] for record in self._records]
        fatal = [line for line in said if line.startswith("echotwist: ")]
        return "\n".join(fatal or said) or f"exit status {status}"

    @property
    def isRunning(self) -> bool:
        return self._process is not None and self._process.isRunning

    @property
    def isServing(self) -> bool:
        """Whether it takes new clients: while it drains, it still runs and does not. Of an address
        without a port, only whether it runs is known."""
        page = self._announced.get("page")
        if not self.isRunning or page is None or self._announced["url"] is None:
            return self.isRunning
        # A connection alone says nothing: the kernel makes it until the port is closed.
        with suppress(OSError, HTTPException):
            return _get(f"{page}readyz") == b"ready\n"
        return False

    @property
    def pid(self) -> int:
        return int(self._told("pid"))

    @property
    def version(self) -> str:
        """Of echotwist."""
        return self._told("version")

    @property
    def listeners(self) -> list[dict[str, Any]]:
        """Each as --announce has it: `endpoint`, `url`, `page`, `unix` and `proxied`."""
        return list(self._announced.get("listeners", []))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records of the log since the last start, each with `time`, `level`, `namespace`,
        `message` and the event's own keys (docs/operations.md). A line that is not a record has a
        `message` alone."""
        with self._changed:
            return list(self._records)

    def expect(self, pattern: str, timeout: float = 10) -> dict[str, Any]:
        """The first record since the last start whose message matches this regular expression.
        Waits up to `timeout` seconds for it: a thread reads the log a moment after it is written.
        Raises AssertionError."""

        def found() -> dict[str, Any] | None:
            return next((r for r in self._records if re.search(pattern, r["message"])), None)

        record = found() if self._process is None else self._process.until(found, timeout)
        if record is None:
            said = "\n".join(record["message"] for record in self.log)
            raise AssertionError(f"{pattern!r} is not in the log:\n{said}")
        return record

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics, by their names and labels as Prometheus writes them:
        `echotwist_connections_open`, `echotwist_messages_total{type="text"}`."""
        if not self.isRunning:
            raise RuntimeError("the service does not run")
        lines = _get(f"{self._told('admin')}metrics").decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def stop(self, patience: float = PATIENCE) -> int | None:
        """Drain, as SIGTERM does: clients get close 1001, and after `patience` seconds those that
        have not left are disconnected. Returns the exit status; None if it was never started."""
        if os.getpid() != self._starter:
            return None
        for seconds in (patience, ABORT):
            if self._process is None or not self.isRunning:
                break
            self._process.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
            # While one signal is pending, the kernel drops another.
            self._process.until(self._isDraining, ABORT)
        if self.isRunning:
            self.kill()
        return self.wait()

    def _isDraining(self) -> bool:
        return any(record["message"].startswith("draining") for record in self._records)

    def kill(self) -> None:
        """End it as a crash does, by SIGKILL: clients get no close frame."""
        if self._process is not None and os.getpid() == self._starter:
            if self.isRunning:  # With the workers of --workers, which are in its process group.
                os.killpg(self._process.process.pid, signal.SIGKILL)
            self.wait()

    def wait(self, timeout: float = START) -> int | None:
        """Wait until it has ended, and return its exit status; None if it was never started.
        Raises subprocess.TimeoutExpired."""
        if self._process is None:
            return None
        status = self._process.wait(timeout)
        assert self._process.process.stdin is not None
        self._process.process.stdin.close()
        return status

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port, with the same certificate."""
        self.stop()
        self.start()

    def close(self) -> int | None:
        """Stop it, and release its port and the files of its authority."""
        if os.getpid() != self._starter:
            return None
        status = self.stop()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
            self._port = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = self._authority = None
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        import asyncio  # Not at the top: it takes 0.04 s, of each start of pytest.

        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread goes on, however often this is cancelled.
            closing = asyncio.ensure_future(self._closeAfter(starting))
            while not closing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([closing])
            raise

    async def _closeAfter(self, starting: "asyncio.Future[Self]") -> None:
        import asyncio

        await asyncio.wait([starting])
        await asyncio.to_thread(self.close)

    async def __aexit__(self, *_: object) -> None:
        """In a thread, so that clients in this event loop can answer the close."""
        import asyncio

        await asyncio.to_thread(self.close)


def _get(url: str) -> bytes:
    """The body of a response with status 200. Raises OSError or HTTPException.

    Not by urllib: it asks http_proxy, and loads the system's certificates, which takes 70 ms.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    if address.scheme == "https":
        # What answers there is our own process, whoever has signed its certificate.
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        connection: HTTPConnection = HTTPSConnection(
            address.hostname, address.port, timeout=10, context=trusting
        )
    else:
        connection = HTTPConnection(address.hostname, address.port, timeout=10)
    with closing(connection):
        connection.request("GET", address.path)
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise OSError(f"{url}: {response.status} {response.reason}")
    return body


def _is(argument: str, *names: str) -> bool:
    return any(re.match(rf"--{name}(=|$)", argument) for name in names)


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    # What Python itself says, before there is a log or as the process dies.
    return record if isinstance(record, dict) else {"message": line.rstrip("\n")}


def _inherited() -> dict[str, str]:
    """The environment, without what systemd tells the tests, and what they tell their own Python:
    with PYTHONWARNINGS=error, twistd itself does not start."""
    theirs = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "PYTHONWARNINGS", "PYTHONDEVMODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(theirs)}


def checked(options: Sequence[str]) -> tuple[str, ...]:
    """The options. Raises TypeError for one that is not a string."""
    for option in options:
        if not isinstance(option, str):
            raise TypeError(f"options are strings, such as '--max-message=1M', not {option!r}")
    return tuple(options)


def listensElsewhere(options: Sequence[str], tls: bool) -> bool:
    """Whether the options say where to listen. Raises ValueError if `tls` says so, too."""
    said = any(_is(option, "listen", "port") or option.startswith("-p") for option in options)
    if tls and said:
        raise ValueError("tls has an endpoint of its own; leave --listen and --port out")
    return said
