"""A disk without room under the log."""

import contextlib
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from endurance.figures import MB, Figure, atMost, exactly, told
from support.probe import eventually
from support.process import TWISTD, freePorts

from echotwist.testing.frames import TEXT, Frame, text
from echotwist.testing.raw import RawClient

ROOM = 64 << 10
"""Bytes that the log file may have."""

MESSAGES = 20_000


def full(share: float) -> Sequence[Figure]:
    """The log file is on a file system that is full (`/dev/full`: each write fails with ENOSPC).
    Messages are echoed all the same, and what is not written is not kept."""
    return _log(share, Path("/dev/full"), None)


def limited(share: float) -> Sequence[Figure]:
    """The log file reaches the limit of its size (RLIMIT_FSIZE of 64 KB: EFBIG), and later the
    limit is raised. The log goes on then."""
    with tempfile.TemporaryDirectory() as folder:
        return _log(share, Path(folder) / "log", ROOM)


def _log(share: float, path: Path, room: int | None) -> Sequence[Figure]:
    (port,) = freePorts(1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    process = subprocess.Popen(
        [*TWISTD, "-n", f"--logfile={path}", "echotwist", f"--port={port}", "--log-rate=10000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=(
            None
            if room is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
        ),
    )
    try:
        client = _Client(port)
        half = max(round(MESSAGES * share), 5000) // 2
        echoed = client.echoes(half)
        before = _memory(process.pid)
        echoed += client.echoes(half)
        added = _memory(process.pid) - before
        figures = [
            exactly("echoes", echoed, 2 * half),
            atMost("memory added in the second half, MB", added / MB, 2),
        ]
        if room is not None:
            size = path.stat().st_size
            figures.append(exactly("the log is full, at so many bytes", size, room))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
            with contextlib.suppress(AssertionError):
                eventually(lambda: client.echoes(1) == 1 and path.stat().st_size > size, 5)
            figures.append(
                exactly("it goes on when there is room", path.stat().st_size > size, True)
            )
        client.raw.close()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        figures.append(exactly("exit status after SIGTERM", process.returncode, 0))
        figures.append(told("bytes on standard output and error", len(output)))
        return figures
    finally:
        process.kill()
        process.wait()


class _Client:
    def __init__(self, port: int) -> None:
        def connected() -> bool:
            with contextlib.suppress(ConnectionError):
                self.raw = RawClient(f"ws://127.0.0.1:{port}/echo", timeout=10)
                return True
            return False

        eventually(connected)

    def echoes(self, count: int) -> int:
        """How many of so many messages come back, one after the other."""
        for n in range(count):
            self.raw.send(text("x" * 50))
            try:
                assert self.raw.frame() == Frame(TEXT, b"x" * 50)
            except EOFError:
                return n
        return count


def _memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
