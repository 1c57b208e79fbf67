"""`--announce`: tells the program that started the service where it is, in a line of JSON.

The line is written as soon as the service listens everywhere:

    {"url": "ws://127.0.0.1:40123/echo", "page": "http://127.0.0.1:40123/", "admin": null,
     "pid": 4711, "version": "0.1.0", "listeners": [{"endpoint": "tcp:0:interface=127.0.0.1",
     "url": "ws://127.0.0.1:40123/echo", "page": "http://127.0.0.1:40123/", "unix": null,
     "proxied": false}]}

A file appears whole, by a rename, and is removed at the first moment of a drain. A supervisor
leaves it while it restarts workers, even if none serves for a while: /readyz says so, and an
announcement that came and went with every missed poll would help nobody.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from echotwist import __version__
from echotwist.fatal import Fatal, failWhileRunning
from echotwist.listen.location import Location
from echotwist.operate.daemon import isRunning

POLL = 0.02
"""Seconds between two looks at whether the service listens. Most services listen at the first
look; workers take half a second to start."""

MAX_SIZE = 1 << 20
"""Bytes of a file that may be an announcement. A listener takes some 200 of them."""

_log = Logger(namespace="echotwist")


class Located(Protocol):
    """A service that listens, and knows where."""

    @property
    def isListening(self) -> bool: ...

    def locations(self, isAdmin: bool = False) -> list[Location]: ...


class Target(Protocol):
    """Where an announcement goes. Its str() is what the operator called it."""

    def prepare(self) -> None:
        """Find out, before the service starts, whether `write` will work. Raises Fatal or
        OSError."""

    def write(self, line: bytes) -> None:
        """Write the announcement, without ever waiting for its reader. Raises OSError."""

    def remove(self) -> None:
        """Take the announcement back, if that is possible. Raises OSError."""


def parseTarget(text: str, isDaemon: bool = False) -> Target:
    """A file, or a descriptor that this process inherited. Raises ValueError."""
    if match := re.fullmatch(r"fd:(\d{1,6})", text, re.ASCII):
        return DescriptorTarget(int(match[1]), isDaemon)
    if not text or text.startswith("fd:") or "\0" in text:
        raise ValueError("takes a file such as echotwist.json, or a descriptor such as fd:3")
    # twistd may change its folder later (--rundir).
    return FileTarget(os.path.abspath(text))


class DescriptorTarget:
    """A descriptor, which the announcement closes."""

    def __init__(self, number: int, isDaemon: bool) -> None:
        """Raises ValueError for a descriptor that the parent process did not pass on.

        It must be made while the options are parsed: the reactor opens descriptors of its own
        soon, under the numbers that are free.
        """
        self._number = number
        if isDaemon and number <= 2:
            raise ValueError("is /dev/null in a daemon; give a file, a descriptor from 3 on, or -n")
        try:
            flags = fcntl.fcntl(number, fcntl.F_GETFD)
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError as e:
            raise ValueError(e.strerror) from e
        # --reactor has installed a reactor by now. Python sets the flag on all that it opens (PEP
        # 446), and a descriptor that was inherited cannot have it.
        if flags & fcntl.FD_CLOEXEC:
            raise ValueError("was not passed on by the parent process")
        if mode == os.O_RDONLY:
            raise ValueError("is open for reading only")

    def __str__(self) -> str:
        return f"fd:{self._number}"

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def write(self, line: bytes) -> None:
        # Other processes share the flag, such as a shell in whose terminal this is. They would
        # notice only if they used a full pipe or an idle terminal within these microseconds. poll()
        # is no alternative: a pipe that has room for a part of the line counts as writable.
        isBlocking = os.get_blocking(self._number)
        os.set_blocking(self._number, False)
        try:
            written = os.write(self._number, line)
        except BlockingIOError:
            written = 0
        finally:
            os.set_blocking(self._number, isBlocking)
            # The reader sees the end. The standard output may be the log's, and stays open.
            if self._number > 2:
                os.close(self._number)
        if written < len(line):
            raise OSError(errno.EAGAIN, "has no room for the line")

    def remove(self) -> None:
        """The reader has the line already."""


class FileTarget:
    """A file at the absolute path `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._written: tuple[int, int, int] | None = None
        """Identifies the file that `write` has made."""

    def __str__(self) -> str:
        return self.path

    def prepare(self) -> None:
        """Remove the announcement of a process that was killed, and try to create a file.

        An announcement of a process that runs is replaced as well, with a warning. A refusal would
        keep a service from starting after a reboot, when another process may have the same id.
        """
        with suppress(FileNotFoundError):
            # The rename would replace a link or /dev/stdout, rather than write to it.
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise Fatal(f"--announce {self}: is not a regular file; a descriptor is fd:1")
            with open(self.path, "rb") as file:
                pid = self._announcedPid(file.read(MAX_SIZE + 1))
            if pid not in (None, os.getpid()) and isRunning(pid):
                _log.warn("--announce {where}: replaces that of process {pid}, which runs",
                          where=self.path, pid=pid)  # fmt: skip
            os.unlink(self.path)
        descriptor, path = self._createBeside()
        os.close(descriptor)
        os.unlink(path)

    def _announcedPid(self, content: bytes) -> int | None:
        """The process that has written this announcement; None for an empty file, such as mktemp
        makes. Raises Fatal if it is neither, rather than have somebody's file removed."""
        if not content:
            return None
        with suppress(ValueError, RecursionError):
            found = json.loads(content) if len(content) <= MAX_SIZE else None
            if isinstance(found, dict) and isinstance(found.get("listeners"), list):
                pid = found.get("pid")
                if type(pid) is int and 0 < pid < 1 << 31:
                    return pid
        raise Fatal(f"--announce {self}: there is a file that is no announcement; remove it first")

    def _createBeside(self) -> tuple[int, str]:
        """Create a file in the same folder, and return its descriptor and path. O_EXCL spares what
        is there. Unlike tempfile's, the file has the mode that twistd's --umask leaves."""
        path = os.path.join(os.path.dirname(self.path), f".echotwist-{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, 0o666), path

    def write(self, line: bytes) -> None:
        descriptor, path = self._createBeside()
        try:
            with open(descriptor, "wb") as file:
                file.write(line)
                file.flush()
                written = _identity(os.fstat(descriptor))
            os.rename(path, self.path)
        except OSError:
            os.unlink(path)
            raise
        self._written = written

    def remove(self) -> None:
        if self._written is None:
            return
        with suppress(FileNotFoundError):
            # Another service may have put its own there.
            if _identity(os.lstat(self.path)) == self._written:
                os.unlink(self.path)


class Announcement(Service):
    """Announces where `served` listens."""

    def __init__(self, reactor: Any, served: Located, target: Target) -> None:
        self._reactor = reactor
        self._served = served
        self._target = target
        self._waiting = LoopingCall(self._announceIfListening)
        self._waiting.clock = reactor

    def startService(self) -> None:
        """Raises Fatal if the announcement could not be written. By now twistd has changed to its
        user and folder, and it can still end with status 1."""
        super().startService()
        try:
            self._target.prepare()
        except OSError as e:
            raise Fatal(f"--announce {self._target}: {e.strerror}") from e
        self._reactor.callWhenRunning(self._waiting.start, POLL)

    def _announceIfListening(self) -> None:
        if not self._served.isListening:
            return
        self._waiting.stop()
        try:
            self._target.write((json.dumps(announced(self._served)) + "\n").encode("ascii"))
        except OSError as e:
            # The program that reads it would wait for it forever.
            failWhileRunning(self._reactor, Fatal(f"--announce {self._target}: {e.strerror}"))

    def stopService(self) -> None:
        super().stopService()
        if self._waiting.running:
            self._waiting.stop()
        try:
            self._target.remove()
        except OSError as e:
            _log.warn("--announce {where}: {why}", where=str(self._target), why=e.strerror)


def announced(served: Located) -> dict[str, Any]:
    """The announcement of `served`. Its `url` and `page` are those of the first listener that a
    client reaches by the URL alone, or None."""
    locations = served.locations()
    reached = [_listener(one) for one in locations if one.authority and not one.isProxied]
    first = reached[0] if reached else {}
    admin = [location for location in served.locations(isAdmin=True) if location.authority]
    return {
        "url": first.get("url"),
        "page": first.get("page"),
        "admin": _page(admin[0]) if admin else None,
        "pid": os.getpid(),
        "version": __version__,
        "listeners": [_listener(location) for location in locations],
    }


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    # The kernel gives the inode of a removed file to the next one.
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _page(location: Location) -> str | None:
    """The URL of the page; None for a socket without a name. For a Unix socket it is the URL that
    goes with curl's --unix-socket."""
    if location.authority is None:
        return None if location.path is None else f"{location.scheme}://localhost/"
    return f"{location.scheme}://{location.authority}/"


def _listener(location: Location) -> dict[str, Any]:
    page = _page(location)
    return {
        "endpoint": location.description,
        "url": None if page is None else page.replace("http", "ws", 1) + "echo",
        "page": page,
        "unix": location.path,
        "proxied": location.isProxied,
    }
