"""Where the log goes: whole lines, in order, without ever waiting for a reader.

    LogFile     a file (--logfile), rotated by itself or by others
    Stream      whatever a slow reader may block: the standard output, as a pipe, terminal or socket

A line that cannot be written is lost and counted. As soon as lines can be written again, the log
says in a line of its own how many were lost.

A stream has a thread that waits for the reader. No way without a thread works for everything that
a standard output may be. O_NONBLOCK is a flag of the open file, which the shell and other processes
share. And a descriptor that poll(2) calls writable may still block, if another process fills the
pipe first, or if it is a stopped terminal with less room than the line needs.
"""

import atexit
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from echotwist.limits import (
    LOG_FILE_BYTES,
    LOG_FILES_KEPT,
    LOG_FLUSH_TIMEOUT,
    LOG_QUEUE_CHARACTERS,
)

FormatLine = Callable[..., str]
"""Formats a line as the log does, from a format string and its values; see `twisted.logger`."""


class Output(Protocol):
    def write(self, lines: str) -> None:
        """Write whole lines, each with its newline, or lose them. Raises nothing. Any thread may
        call it."""


class _Writer:
    """Writes whole lines to a descriptor, or counts them as lost. It may block."""

    def __init__(self, formatLine: FormatLine, encoding: str) -> None:
        self._formatLine = formatLine
        self._encoding = encoding
        self._lost = 0
        self._reason = ""
        self._isLineCut = False

    def put(self, descriptor: int, lines: str) -> None:
        try:
            if self.reportLost(descriptor):
                self._write(descriptor, lines)
                return
        except OSError as e:
            self._reason = f"as it could not be written: {e.strerror}"
        self._lost += lines.count("\n")

    def countLost(self, count: int) -> None:
        """Count `count` lines as lost because nobody read them."""
        self._lost += count
        self._reason = "while nobody read it"

    def reportLost(self, descriptor: int) -> bool:
        """Log how many lines were lost, if any were. Returns False if that could not be written."""
        if self._lost:
            line = self._formatLine(
                "{lost:,} lines of the log were lost {why}", lost=self._lost, why=self._reason
            )
            with suppress(OSError):
                self._write(descriptor, line)
                self._lost = 0
        return not self._lost

    def _write(self, descriptor: int, lines: str) -> None:
        # A character that cannot be encoded must not cost the line.
        data = memoryview(
            ("\n" * self._isLineCut + lines).encode(self._encoding, "backslashreplace")
        )
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # The descriptor came with O_NONBLOCK set.
                waiting = select.poll()
                waiting.register(descriptor, select.POLLOUT)
                waiting.poll()
                continue
            # If the disk fills up here, the next line must not continue this one.
            self._isLineCut = bool(data)


class LogFile:
    """A log in the regular file `path`.

    It is rotated at LOG_FILE_BYTES, to `path`.1 up to `path`.LOG_FILES_KEPT. If another program has
    renamed it, as logrotate does, `reopen` begins a new file. If it was truncated, the log goes on
    at its beginning. Its mode and owner are kept.

    Twisted's LogFile (26.10, twisted/python/logfile.py), which twistd uses, keeps every rotated
    file, gives the new one the mode of the umask, and after a truncation writes on behind a hole.
    On a signal twistd can rotate it but not reopen it (twisted/scripts/_twistd_unix.py,
    `UnixAppLogger`).
    """

    def __init__(self, descriptor: int, path: str, formatLine: FormatLine) -> None:
        self._descriptor = descriptor
        self._path = os.path.realpath(path)
        self._formatLine = formatLine
        self._writer = _Writer(formatLine, "utf-8")
        # Between threads. No signal handler takes it.
        self._lock = threading.Lock()
        self._mustReopen = False
        self._lastError = ""

    def changeOwner(self, uid: int) -> None:
        """Give the file to the user whom this process becomes, as nginx does with its logs.
        Otherwise a root-owned file could not be reopened, and the log would go to a deleted
        file."""
        with suppress(PermissionError):  # A process that is not root keeps its user.
            os.fchown(self._descriptor, uid, -1)

    def reopen(self) -> None:
        """Have the next line written to whatever `path` is by then. A signal handler may call
        it."""
        self._mustReopen = True

    def write(self, lines: str) -> None:
        with self._lock:
            try:
                if self._mustReopen:
                    self._reopen()
                elif os.fstat(self._descriptor).st_size >= LOG_FILE_BYTES:
                    self._rotate()
                    self._lastError = ""
            except OSError as e:
                if self._lastError != str(e):  # Each line tries again.
                    self._lastError = str(e)
                    lines += self._formatLine("the log stays in the same file: {why}", why=str(e))
            self._writer.put(self._descriptor, lines)

    def _reopen(self) -> None:
        self._mustReopen = False  # First: the signal may come again meanwhile.
        try:
            self._open()
        except OSError:
            self._mustReopen = True
            raise
        self._lastError = ""

    def _rotate(self) -> None:
        # Unless another program has renamed it, or an earlier rotation failed to open the new file.
        if self._isAtPath():
            for number in range(LOG_FILES_KEPT - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.rename(self._path, f"{self._path}.1")
        self._open()

    def _isAtPath(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        return False

    def _open(self) -> None:
        was = os.fstat(self._descriptor)
        mode = stat.S_IMODE(was.st_mode)
        try:
            new = os.open(self._path, _FLAGS | os.O_EXCL, mode)
        except FileExistsError:  # Whoever made it chose its mode.
            new = os.open(self._path, _FLAGS)
        else:
            # Not every file system has owners and modes.
            with suppress(OSError):
                os.fchown(new, was.st_uid, was.st_gid)
            with suppress(OSError):
                os.fchmod(new, mode)
        try:
            os.dup2(new, self._descriptor, inheritable=False)
        finally:
            os.close(new)


class Stream:
    """A log to a descriptor whose reader may be slow or stuck. `write` never waits.

    Up to LOG_QUEUE_CHARACTERS of lines are queued. Once the queue overflows, lines are lost until
    everything in it has been written. When the process ends, it waits up to LOG_FLUSH_TIMEOUT
    seconds for the queue.
    """

    def __init__(self, descriptor: int, formatLine: FormatLine, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._writer = _Writer(formatLine, encoding)
        self._reset()
        # A forked child has neither the parent's thread nor a claim to its queue.
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[str | int] = deque()
        """Lines, and how many lines were lost between them."""

        self._size = 0
        self._isIdle = True
        self._thread: threading.Thread | None = None

    def write(self, lines: str) -> None:
        with self._changed:
            lost = self._queue[-1] if self._queue else None
            if isinstance(lost, int):
                self._queue[-1] = lost + lines.count("\n")
            elif self._size + len(lines) > LOG_QUEUE_CHARACTERS:
                self._queue.append(lines.count("\n"))
            else:
                self._queue.append(lines)
                self._size += len(lines)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log", daemon=True)
                with suppress(RuntimeError):  # Out of threads; the next line tries again.
                    thread.start()
                    self._thread = thread

    def flush(self, seconds: float = LOG_FLUSH_TIMEOUT) -> None:
        """Wait until everything is written, for at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._isIdle and not self._queue, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._isIdle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue)
                self._isIdle = False
                lines = self._queue.popleft()
                if isinstance(lines, str):
                    self._size -= len(lines)
            if isinstance(lines, str):
                self._writer.put(self._descriptor, lines)
            else:
                self._writer.countLost(lines)
                self._writer.reportLost(self._descriptor)


_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_APPEND  # Behind what others write, and from the beginning if they truncate it.
    | os.O_NONBLOCK  # A FIFO without a reader is an error instead of a wait.
    | os.O_NOCTTY
)


def openLog(path: str, formatLine: FormatLine) -> LogFile | Stream:
    """Open a log at `path`, which may be a device or a pipe. Raises OSError."""
    descriptor = os.open(path, _FLAGS, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return LogFile(descriptor, path, formatLine)
    return Stream(descriptor, formatLine)
