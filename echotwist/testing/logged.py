"""A process, and what it says."""

import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

PATIENCE = 20.0
"""Seconds for a process to end, and for the rest of its output after that."""

Found = TypeVar("Found")


class LoggedProcess:
    """Runs `command`, and gives each line of its standard output and error to `keep` as it comes,
    on a thread, which holds `changed` then. The `options` are subprocess.Popen's.
    """

    def __init__(
        self,
        command: Sequence[str],
        keep: Callable[[str], object],
        changed: threading.Condition | None = None,
        **options: Any,
    ) -> None:
        self._keep = keep
        self._changed = changed or threading.Condition()
        self._isAtEnd = False
        self.isRead = threading.Event()
        """Cleared, its output is read no further."""

        self.isRead.set()
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **options,
        )
        # A daemon, as Python calls it: a test that fails may leave the process alive.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self._keep(line.rstrip("\n"))
                    self._changed.notify_all()
                self.isRead.wait()
        with self._changed:
            self._isAtEnd = True
            self._changed.notify_all()

    @property
    def isRunning(self) -> bool:
        return self.process.poll() is None

    def until(self, found: Callable[[], Found], timeout: float) -> Found:
        """What `found` returns: as soon as it is true, or else when `timeout` seconds have passed
        or the output has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._isAtEnd or found(), timeout)
            return found()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, when it has ended and all that it has said was kept. Raises
        subprocess.TimeoutExpired."""
        status = self.process.wait(timeout)
        self.isRead.set()
        self._reader.join(PATIENCE)
        return status
