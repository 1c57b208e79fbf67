"""`twistd -n echotwist` as a process, as its users run it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from echotwist.testing import ServiceProcess
from echotwist.testing.logged import LoggedProcess
from echotwist.testing.raw import RawClient

SCRIPTS = Path(sysconfig.get_path("scripts"))

TWISTD = [str(SCRIPTS / "twistd"), "--pidfile="]

TWIST = [str(SCRIPTS / "twist"), "--log-format=text"]
"""Twisted's other command for the same plugins."""


def needs(program: str, package: str) -> str:
    """The path of a program, in /usr/sbin as well. Skips the test if it is not installed."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: {package})")
    return found


_held: list[socket.socket] = []


def freePorts(count: int) -> list[int]:
    """Ports that nobody listens on, and that nobody else is given while this process lives.

    They are held without listening, which keeps the kernel, and this function in other processes,
    from giving them away; only who asks for the number, with SO_REUSEADDR as servers do, gets it.
    Ports that were merely closed again could be anybody's when the service is to listen there.
    """
    held = [socket.socket() for _ in range(count)]
    for skt in held:
        skt.bind(("", 0))
        # Not before: another process's held port could be taken then.
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.extend(held)
    return [skt.getsockname()[1] for skt in held]


class Twistd(LoggedProcess):
    """twistd in any form in which it is run, on a free port unless told otherwise. Use it with
    `with`: at the end it is asked to stop, and must have done so cleanly.

    Who only wants an echo takes echotwist.testing.ServiceProcess.
    """

    def __init__(
        self,
        *arguments: str,
        port: int = 0,
        before: Sequence[str] = (),
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        check: bool = True,
        passed: Sequence[int] = (),
        command: Sequence[str] = (*TWISTD, "-n"),
        options: Sequence[str] = (),
        ready: str = "(open http|listening on)",
    ) -> None:
        """`before` stands before the `command`, `options` are that one's own, and `passed` are
        descriptors that it inherits. It is waited for until its log says that it is `ready`."""
        if not any(argument.startswith("--listen") for argument in arguments):
            arguments = (f"--port={port}", *arguments)
        self.lines: list[str] = []
        self._check = check
        super().__init__(
            [*before, *command, *options, "echotwist", *arguments],
            self.lines.append,
            cwd=cwd,
            pass_fds=passed,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        try:
            self.expect(ready)
        except AssertionError:
            self.process.kill()
            self.wait()
            raise

    def expect(self, pattern: str) -> None:
        """Wait until the log has lines with this regular expression."""
        found = self.until(lambda: re.search(pattern, self.log), 60)
        assert found, f"{pattern!r} is not in the log:\n{self.log}"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        """Of the page, such as http://localhost:40123/."""
        match = re.search(r"open (https?://\S+)", self.log)
        assert match, self.log
        return match[1]

    @property
    def ws(self) -> str:
        """Of the echo, such as ws://localhost:40123/echo."""
        return self.url.replace("http", "ws", 1) + "echo"

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].rstrip("/"))

    def portOf(self, scheme: str) -> int:
        """Of the echo that is reached by ws or by wss, if both are served."""
        match = re.search(rf"{scheme}://[^:/]+:(\d+)/echo", self.log)
        assert match, self.log
        return int(match[1])

    def connect(self, host: str = "127.0.0.1", **options: Any) -> RawClient:
        """A client of bytes; `options` are RawClient's."""
        return RawClient(f"ws://{host}:{self.port}/echo", **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Send the signal, wait, and return the exit status."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def __enter__(self) -> "Twistd":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            status = self.stop() if self.isRunning else self.wait()
        finally:
            self.process.kill()
            self.wait()
        if kind is None and self._check:
            assert status == 0, self.log
            assert "Traceback" not in self.log, self.log


@contextlib.contextmanager
def served(*options: str, tls: bool = False) -> Iterator[ServiceProcess]:
    """A service that must end in order, and have nothing to complain of."""
    with ServiceProcess(*options, tls=tls) as service:
        yield service
        status = service.stop(patience=30)  # A second signal would be another end.
        faults = [record for record in service.log if record["level"] in ("error", "critical")]
    assert (status, faults) == (0, []), (status, faults)


def waitUntilGone(pid: int) -> None:
    status = subprocess.run(
        ["timeout", "20", "tail", f"--pid={pid}", "-f", "/dev/null"], check=False
    )
    assert status.returncode == 0
