"""Where the log goes: whole lines, in order, and never a wait for whoever reads them.

    LogFile     a file (--logfile), rotated by itself or by others
    Stream      what a reader may be slow at: the standard output, as pipe, terminal or socket

A line that cannot be written is lost, and counted; as soon as lines can be written again, the log
says in one of its own how many were.

A stream has a thread that waits for the reader. Without one there is no way that is right for all
that a standard output may be: O_NONBLOCK is a flag of the open file, which the shell and others
share; and a descriptor that poll(2) calls writable still waits if somebody else fills the pipe
first, or if it is a stopped terminal that has less room than the line.
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

from echotwist.limits import LOG_EXIT, LOG_FILE, LOG_FILES, LOG_QUEUE

Remark = Callable[..., str]
"""Makes a line, in the form of the log, of a format and its values; see `twisted.logger`."""


class Output(Protocol):
    def write(self, lines: str) -> None:
        """Write whole lines, each with its newline, or lose them. Raises nothing; may be called
        by any thread."""


class _Writer:
    """Writes lines whole to a descriptor, or counts them. Waits for the reader of a stream."""

    def __init__(self, remark: Remark, encoding: str) -> None:
        self._remark = remark
        self._encoding = encoding
        self._lost = 0
        self._why = ""
        self._isCut = False

    def put(self, descriptor: int, lines: str) -> None:
        try:
            if self.told(descriptor):
                self._write(descriptor, lines)
                return
        except OSError as e:
            self._why = f"as it could not be written: {e.strerror}"
        self._lost += lines.count("\n")

    def lose(self, count: int) -> None:
        """Nobody read so many lines."""
        self._lost += count
        self._why = "while nobody read it"

    def told(self, descriptor: int) -> bool:
        """Have the log say what is missing in it. Returns whether it does, or nothing is."""
        if self._lost:
            said = self._remark(
                "{lost:,} lines of the log were lost {why}", lost=self._lost, why=self._why
            )
            with suppress(OSError):
                self._write(descriptor, said)
                self._lost = 0
        return not self._lost

    def _write(self, descriptor: int, lines: str) -> None:
        # What cannot be encoded must not cost the line.
        data = memoryview(("\n" * self._isCut + lines).encode(self._encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # Whoever made the descriptor had set O_NONBLOCK.
                waiting = select.poll()
                waiting.register(descriptor, select.POLLOUT)
                waiting.poll()
                continue
            # If no more follows, on a full disk, the next line is to be one of its own.
            self._isCut = bool(data)


class LogFile:
    """A log in the file `path`, which is not a stream.

    It is rotated when it has LOG_FILE bytes, to `path`.1 up to LOG_FILES. If somebody else has
    renamed it, as logrotate does, `reopen` begins a new one; if it was truncated it goes on at its
    beginning. Its mode and owner stay what they were.

    Twistd's own LogFile keeps all that it has rotated, changes their mode to its umask's, writes on
    behind the hole of a truncation, and may rotate at a signal but not reopen (twistd's
    UnixAppLogger, twisted/scripts/_twistd_unix.py, 26.10).
    """

    def __init__(self, descriptor: int, path: str, remark: Remark) -> None:
        self._descriptor = descriptor
        self._path = os.path.realpath(path)
        self._remark = remark
        self._writer = _Writer(remark, "utf-8")
        # Of a thread; no signal handler takes it.
        self._lock = threading.Lock()
        self._isToReopen = False
        self._stays = ""

    def giveTo(self, uid: int) -> None:
        """Make the file that of the user whom this process becomes, as nginx does with its own.
        That of root could not be opened anew, and the log would go to a file that is deleted."""
        with suppress(PermissionError):  # Who is not root becomes nobody else.
            os.fchown(self._descriptor, uid, -1)

    def reopen(self) -> None:
        """Have the next line written to what is at `path` then. For a signal handler."""
        self._isToReopen = True

    def write(self, lines: str) -> None:
        with self._lock:
            try:
                if self._isToReopen:
                    self._reopen()
                elif os.fstat(self._descriptor).st_size >= LOG_FILE:
                    self._rotate()
                    self._stays = ""
            except OSError as e:
                if self._stays != str(e):  # It is tried with each line.
                    self._stays = str(e)
                    lines += self._remark("the log stays in the same file: {why}", why=str(e))
            self._writer.put(self._descriptor, lines)

    def _reopen(self) -> None:
        self._isToReopen = False  # Before: the signal may come again meanwhile.
        try:
            self._open()
        except OSError:
            self._isToReopen = True
            raise
        self._stays = ""

    def _rotate(self) -> None:
        # Unless somebody has done so, or it was done and the new one could not be opened.
        if self._isAtPath():
            for number in range(LOG_FILES - 1, 0, -1):
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
        except FileExistsError:  # Whoever made it has chosen its mode.
            new = os.open(self._path, _FLAGS)
        else:
            # Not every file system has them.
            with suppress(OSError):
                os.fchown(new, was.st_uid, was.st_gid)
            with suppress(OSError):
                os.fchmod(new, mode)
        try:
            os.dup2(new, self._descriptor, inheritable=False)
        finally:
            os.close(new)


class Stream:
    """A log to a descriptor that somebody reads, or does not: `write` never waits.

    A line waits for those before it, LOG_QUEUE characters at the most; what comes then is lost,
    until all that waited was read. The end of the process waits for LOG_EXIT seconds.
    """

    def __init__(self, descriptor: int, remark: Remark, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._writer = _Writer(remark, encoding)
        self._forget()
        # The thread, and what waits for it, are the parent's.
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.flush)

    def _forget(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[str | int] = deque()
        """Lines, and numbers of lines that were lost between them."""

        self._size = 0
        self._isIdle = True
        self._thread: threading.Thread | None = None

    def write(self, lines: str) -> None:
        with self._changed:
            lost = self._waiting[-1] if self._waiting else None
            if isinstance(lost, int):
                self._waiting[-1] = lost + lines.count("\n")
            elif self._size + len(lines) > LOG_QUEUE:
                self._waiting.append(lines.count("\n"))
            else:
                self._waiting.append(lines)
                self._size += len(lines)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log", daemon=True)
                with suppress(RuntimeError):  # There can be no more threads, for now.
                    thread.start()
                    self._thread = thread

    def flush(self, seconds: float = LOG_EXIT) -> None:
        """Wait until all is written, or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._isIdle and not self._waiting, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._isIdle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._isIdle = False
                lines = self._waiting.popleft()
                if isinstance(lines, str):
                    self._size -= len(lines)
            if isinstance(lines, str):
                self._writer.put(self._descriptor, lines)
            else:
                self._writer.lose(lines)
                self._writer.told(self._descriptor)


_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_APPEND  # Behind what others write, and at the beginning if they truncate it.
    | os.O_NONBLOCK  # A FIFO that nobody reads is an error, not a wait.
    | os.O_NOCTTY
)


def opened(path: str, remark: Remark) -> LogFile | Stream:
    """A log to `path`, which may be a device or a pipe. Raises OSError."""
    descriptor = os.open(path, _FLAGS, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return LogFile(descriptor, path, remark)
    return Stream(descriptor, remark)
