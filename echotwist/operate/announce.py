"""Tells the program that has started the service where it is: `--announce`.

One line of JSON, when clients are served and not before:

    {"url": "ws://127.0.0.1:40123/echo", "page": "http://127.0.0.1:40123/", "admin": null,
     "pid": 4711, "version": "0.1.0", "listeners": [{"endpoint": "tcp:0:interface=127.0.0.1",
     "url": "ws://127.0.0.1:40123/echo", "page": "http://127.0.0.1:40123/", "unix": null,
     "proxied": false}]}

The file is written under another name and renamed, so that nobody reads half of it. It exists
exactly as long as the service accepts new clients: a drain removes it first.
"""

import fcntl
import json
import os
import re
import stat
from contextlib import suppress
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from echotwist import __version__
from echotwist.fatal import Fatal
from echotwist.listen.location import Location

POLL = 0.02
"""Seconds from one look at whether the service listens to the next. Most listen at the first;
workers take half a second to start."""

_log = Logger(namespace="echotwist")


class Located(Protocol):
    """A service that listens, and knows where."""

    @property
    def isListening(self) -> bool: ...

    def locations(self, isAdmin: bool = False) -> list[Location]: ...


def target(text: str) -> str | int:
    """The absolute path of a file, or a descriptor. Raises ValueError.

    Both are as the parent process meant them: twistd may change its folder later (--rundir), and
    a number that was not passed on may become the reactor's own descriptor.
    """
    if match := re.fullmatch(r"fd:(\d{1,6})", text, re.ASCII):
        _checkWritable(int(match[1]))
        return int(match[1])
    if not text or text.startswith("fd:") or "\0" in text:
        raise ValueError("takes a file such as echotwist.json, or a descriptor such as fd:3")
    return os.path.abspath(text)


def _checkWritable(descriptor: int) -> None:
    try:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as e:
        raise ValueError(e.strerror) from e
    if mode == os.O_RDONLY:
        raise ValueError("is open for reading only")


class Announcement(Service):
    """Announces `served` in the file or on the descriptor `target`."""

    def __init__(self, reactor: Any, served: Located, target: str | int) -> None:
        self._reactor = reactor
        self._served = served
        self._target = target
        self._waiting = LoopingCall(self._announceIfListening)
        self._waiting.clock = reactor
        self._written: tuple[int, int, int] | None = None
        """What tells the file from one that another service has put in its place."""

    def startService(self) -> None:
        """Raises Fatal for a file that could not be written: twistd has the user and the folder
        by now that it is going to have, and can still end with status 1."""
        super().startService()
        try:
            self._vet()
        except OSError as e:
            raise Fatal(f"--announce {self._name}: {e.strerror}") from e
        self._reactor.callWhenRunning(self._waiting.start, POLL)

    @property
    def _name(self) -> str:
        return f"fd:{self._target}" if isinstance(self._target, int) else self._target

    def _vet(self) -> None:
        if isinstance(self._target, int):
            return
        with suppress(FileNotFoundError):
            # A rename would replace /dev/stdout, or a link.
            if not stat.S_ISREG(os.lstat(self._target).st_mode):
                raise Fatal(f"--announce {self._name}: is not a file; a descriptor is fd:1")
            # A process that was killed left it.
            os.unlink(self._target)
        os.close(self._openBeside(self._target))
        os.unlink(_beside(self._target))

    def _openBeside(self, path: str) -> int:
        """Opened with the mode that twistd's --umask leaves."""
        # A process with the same id may have left it, as in a container.
        with suppress(FileNotFoundError):
            os.unlink(_beside(path))
        return os.open(_beside(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _announceIfListening(self) -> None:
        if not self._served.isListening:
            return
        self._waiting.stop()
        try:
            self._write((json.dumps(announced(self._served)) + "\n").encode("ascii"))
        except OSError as e:
            # Otherwise the program that waits for the announcement would wait for ever.
            _log.critical("--announce {where}: {why}", where=self._name, why=e.strerror)
            self._reactor.stop()

    def _write(self, line: bytes) -> None:
        if isinstance(self._target, int):
            # Closed, so that the reader sees the end; but not the standard output, which may
            # be the log's.
            with open(self._target, "wb", closefd=self._target > 2) as file:
                file.write(line)
            return
        with open(self._openBeside(self._target), "wb") as file:
            try:
                file.write(line)
                file.flush()
                written = _identity(os.fstat(file.fileno()))
                os.rename(_beside(self._target), self._target)
            except OSError:
                os.unlink(_beside(self._target))
                raise
            self._written = written

    def stopService(self) -> None:
        super().stopService()
        if self._waiting.running:
            self._waiting.stop()
        if self._written is None:
            return
        assert isinstance(self._target, str)
        try:
            # Not what another service has put there.
            if _identity(os.lstat(self._target)) == self._written:
                os.unlink(self._target)
        except FileNotFoundError:
            pass
        except OSError as e:
            _log.warn("--announce {where}: {why}", where=self._name, why=e.strerror)


def announced(served: Located) -> dict[str, Any]:
    """What is said of `served`. The first `url` and `page` are those of the first listener that a
    client reaches by its URL alone, or None."""
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


def _beside(path: str) -> str:
    return f"{path}.{os.getpid()}"


def _page(location: Location) -> str | None:
    """Its URL; None for a socket that has no name. That of a Unix socket is what curl's
    --unix-socket takes."""
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
