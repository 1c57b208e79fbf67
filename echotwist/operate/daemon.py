"""The twistd around the service: its log, its options, its errors.

twistd makes its own log, which `Daemon` replaces in the way that Twisted has for that, a component
of the application. What twistd would answer with a traceback, or not at all, `vet` answers with a
line. What it finds wrong before it knows that it is to run echotwist stays as it is: an unknown
name behind --uid or --gid is a traceback.
"""

import errno
import os
import pwd
import re
import signal
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import ILogObserver, formatEventAsClassicLogText
from twisted.python.components import Componentized

from echotwist.fatal import Fatal
from echotwist.logs import Log, standardOutput
from echotwist.observe.output import LogFile, opened


class Daemon(MultiService):
    """All services. As they become those of an application, it gets a log.

    `twistd` are the options of twistd, or nothing where something else runs the service.
    """

    def __init__(self, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self._twistd = twistd
        self._file: LogFile | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Raises Fatal if there is no such log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            # Its default is to end the process; logrotate may send it before the reactor runs.
            if not signal.getsignal(signal.SIGUSR1):
                signal.signal(signal.SIGUSR1, lambda *_: self._reopen())
            if (log := self._log()) is not None:
                parent.setComponent(ILogObserver, log)

    def _reopen(self) -> None:
        if self._file is not None:
            self._file.reopen()

    def _log(self) -> ILogObserver | None:
        """Where twistd's UnixAppLogger would write (twisted/scripts/_twistd_unix.py, 26.10)."""
        twistd = self._twistd
        if "nodaemon" not in twistd or twistd["logger"] or twistd["syslog"]:
            return None
        isDaemon = not (twistd["nodaemon"] or twistd["debug"])
        path = twistd["logfile"] or ("twistd.log" if isDaemon else "-")
        if path == "-":
            if isDaemon:
                raise Fatal("--logfile=-: a daemon has no standard output; give a file, or -n")
            return Log(formatEventAsClassicLogText, standardOutput)
        try:
            log = Log(formatEventAsClassicLogText, lambda remark: opened(path, remark))
        except OSError as e:
            raise Fatal(f"--logfile {path}: {e.strerror}") from e
        if isinstance(log.output, LogFile):
            self._file = log.output
            if twistd["uid"] is not None:
                log.output.giveTo(twistd["uid"])
        return log


def vet(twistd: Mapping[str, Any]) -> None:
    """Raises Fatal for options of twistd with which it could not start."""
    if "nodaemon" not in twistd:  # `twist` has none of them.
        return
    _vetUser(twistd)
    root = ""
    if (chroot := twistd["chroot"]) is not None:
        _vetFolder("chroot", chroot, "")
        if os.geteuid():
            raise Fatal(f"--chroot {chroot}: only root may")
        root = os.path.abspath(chroot)
    _vetFolder("rundir", twistd["rundir"], root)
    if (umask := twistd["umask"]) is not None and not 0 <= umask <= 0o777:
        raise Fatal(f"--umask {umask:o}: takes a mask from 0 to 777, in octal")
    if twistd["pidfile"]:
        _vetPidFile(os.path.abspath(twistd["pidfile"]), root)
    _clarify()


def _vetUser(twistd: Mapping[str, Any]) -> None:
    uid, gid = twistd["uid"], twistd["gid"]
    if uid is not None:
        try:
            pwd.getpwuid(uid)
        except (KeyError, OverflowError):
            raise Fatal(f"--uid {uid}: there is no such user") from None
    if gid is not None and not 0 <= gid < 2**32 - 1:
        raise Fatal(f"--gid {gid}: there is no such group")
    # A daemon that may not leaves its parent waiting for ever.
    if os.geteuid() and (uid not in (None, os.getuid()) or gid not in (None, os.getgid())):
        raise Fatal("--uid, --gid: only root may be somebody else")


def _vetFolder(option: str, path: str, root: str, rights: int = os.X_OK) -> None:
    """`path` is below `root`, where twistd will be by then."""
    where = f"{root}/{path}" if root else path
    try:
        if not stat.S_ISDIR(os.stat(where).st_mode):
            raise Fatal(f"--{option} {path}: {os.strerror(errno.ENOTDIR)}")
        if not os.access(where, rights):
            raise Fatal(f"--{option} {path}: {os.strerror(errno.EACCES)}")
    except OSError as e:
        raise Fatal(f"--{option} {path}: {e.strerror}") from e


def _vetPidFile(path: str, root: str) -> None:
    """twistd reads it outside `root`, and writes it inside (26.10)."""
    _vetFolder("pidfile", os.path.dirname(path), root, os.W_OK | os.X_OK)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Fatal(f"--pidfile {path}: is no file")
        with open(path, "rb") as file:
            content = file.read(100)
    except FileNotFoundError:
        return
    except OSError as e:
        raise Fatal(f"--pidfile {path}: {e.strerror}") from e
    if not re.fullmatch(rb"\s*\d{1,9}\s*", content) or not int(content):
        raise Fatal(f"--pidfile {path}: holds no process id; remove it if no twistd has it")
    if (pid := int(content)) == os.getpid():
        # What a container was left with that was killed: the id is 1 each time.
        Path(path).unlink()
        return
    with suppress(ProcessLookupError):  # twistd removes the file.
        with suppress(PermissionError):  # It is somebody else's.
            os.kill(pid, 0)
        raise Fatal(
            f"--pidfile {path}: process {pid} runs, maybe as another twistd; "
            "give this one another file, or none by --pidfile="
        )


def _clarify() -> None:
    """Have a daemon's parent say in words why it could not start.

    It would print the repr() of bytes, cut off at a hundred: "An error has occurred:
    b'echotwist.fatal.Fatal: echotwist: cannot listen on ..." (UnixApplicationRunner in
    twisted/scripts/_twistd_unix.py, 26.10). There is no way but to replace both ends of that pipe.
    """
    from twisted.scripts._twistd_unix import UnixApplicationRunner

    runner: Any = UnixApplicationRunner
    runner._formatChildException = _failure
    runner._waitForStart = _waitForStart


_PIPE = 4096
"""Bytes that a pipe takes at once (PIPE_BUF of Linux)."""


def _failure(runner: object, error: Exception) -> bytes:
    said = str(error) if isinstance(error, Fatal) else f"echotwist: {type(error).__name__}: {error}"
    return ("1 " + said.replace("\n", " ")).encode("utf-8", "backslashreplace")[:_PIPE]


def _waitForStart(runner: object, descriptor: int) -> int:
    """The exit status of the parent: 0 as soon as the daemon has started."""
    said = os.read(descriptor, _PIPE)
    if said == b"0":
        return 0
    os.write(2, said[2:] + b"\n")
    return 1
