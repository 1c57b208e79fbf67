"""The twistd around the service: its log, its options, its errors.

`Daemon` replaces twistd's log by the means that Twisted provides, a component of the application.
`checkTwistdOptions` reports in one line what twistd would report with a traceback or not at all,
and has twistd end with status 1 if the service fails later.
Errors that twistd finds before it loads echotwist stay as they are: an unknown name in --uid or
--gid is a traceback.
"""

import errno
import os
import pwd
import re
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.app import ApplicationRunner
from twisted.application.service import MultiService
from twisted.logger import ILogObserver, formatEventAsClassicLogText
from twisted.python.components import Componentized

from echotwist import fatal
from echotwist.fatal import Fatal
from echotwist.logs import Log, standardOutput
from echotwist.observe.output import LogFile, openLog


class Daemon(MultiService):
    """The parent of all services. When an application adopts it, it sets the application's log.

    `twistd` has the options of twistd; it is empty where something else runs the service.
    """

    def __init__(self, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self._twistd = twistd
        self._file: LogFile | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Raises Fatal if the log cannot be opened."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            # The default action would end the process, and logrotate may signal it before the
            # reactor runs.
            if not signal.getsignal(signal.SIGUSR1):
                signal.signal(signal.SIGUSR1, lambda *_: self._reopen())
            if (log := self._openLog()) is not None:
                parent.setComponent(ILogObserver, log)

    def _reopen(self) -> None:
        if self._file is not None:
            self._file.reopen()

    def _openLog(self) -> ILogObserver | None:
        """A log where twistd's own would go (26.10, twisted/scripts/_twistd_unix.py,
        `UnixAppLogger`), or None if the operator has chosen another."""
        twistd = self._twistd
        if "nodaemon" not in twistd or twistd["logger"] or twistd["syslog"]:
            return None
        path = twistd["logfile"] or ("twistd.log" if isDaemon(twistd) else "-")
        if path == "-":
            if isDaemon(twistd):
                raise Fatal("--logfile=-: a daemon has no standard output; give a file, or -n")
            return Log(formatEventAsClassicLogText, standardOutput)
        try:
            log = Log(formatEventAsClassicLogText, lambda formatLine: openLog(path, formatLine))
        except OSError as e:
            raise Fatal(f"--logfile {path}: {e.strerror}") from e
        if isinstance(log.output, LogFile):
            self._file = log.output
            if twistd["uid"] is not None:
                log.output.changeOwner(twistd["uid"])
        return log


def isDaemon(twistd: Mapping[str, Any]) -> bool:
    """Whether twistd puts itself into the background. `twist` cannot."""
    return "nodaemon" in twistd and not (twistd["nodaemon"] or twistd["debug"])


def checkTwistdOptions(twistd: Mapping[str, Any]) -> None:
    """Check the options of twistd. Raises Fatal if it could not start with them."""
    if "nodaemon" not in twistd:  # `twist` has none of these options.
        return
    _checkUser(twistd)
    root = ""
    if (chroot := twistd["chroot"]) is not None:
        _checkFolder("chroot", chroot, "")
        if os.geteuid():
            raise Fatal(f"--chroot {chroot}: only root may do this")
        root = os.path.abspath(chroot)
    _checkFolder("rundir", twistd["rundir"], root)
    if (umask := twistd["umask"]) is not None and not 0 <= umask <= 0o777:
        raise Fatal(f"--umask {umask:o}: takes a mask from 0 to 777, in octal")
    if twistd["pidfile"]:
        _checkPidFile(os.path.abspath(twistd["pidfile"]), root)
    _reportFailures()


def _checkUser(twistd: Mapping[str, Any]) -> None:
    uid, gid = twistd["uid"], twistd["gid"]
    if uid is not None:
        try:
            pwd.getpwuid(uid)
        except (KeyError, OverflowError):
            raise Fatal(f"--uid {uid}: there is no such user") from None
    if gid is not None and not 0 <= gid < 2**32 - 1:
        raise Fatal(f"--gid {gid}: there is no such group")
    # Without this check, the daemon fails and its parent waits for it forever.
    if os.geteuid() and (uid not in (None, os.getuid()) or gid not in (None, os.getgid())):
        raise Fatal("--uid, --gid: only root may change to another user or group")


def _checkFolder(option: str, path: str, root: str, rights: int = os.X_OK) -> None:
    """Check a folder. `path` is relative to `root`, into which twistd will have changed by then."""
    where = f"{root}/{path}" if root else path
    try:
        if not stat.S_ISDIR(os.stat(where).st_mode):
            raise Fatal(f"--{option} {path}: {os.strerror(errno.ENOTDIR)}")
        if not os.access(where, rights):
            raise Fatal(f"--{option} {path}: {os.strerror(errno.EACCES)}")
    except OSError as e:
        raise Fatal(f"--{option} {path}: {e.strerror}") from e


def _checkPidFile(path: str, root: str) -> None:
    """Check the pid file. twistd (26.10) reads it outside of `root`, and writes it inside."""
    _checkFolder("pidfile", os.path.dirname(path), root, os.W_OK | os.X_OK)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Fatal(f"--pidfile {path}: is not a regular file")
        with open(path, "rb") as file:
            content = file.read(100)
    except FileNotFoundError:
        return
    except OSError as e:
        raise Fatal(f"--pidfile {path}: {e.strerror}") from e
    if not re.fullmatch(rb"\s*\d{1,9}\s*", content) or not int(content):
        raise Fatal(f"--pidfile {path}: holds no process id; remove it unless a twistd uses it")
    if (pid := int(content)) == os.getpid():
        # Left by a killed container, in which the id of the first process is always 1.
        Path(path).unlink()
        return
    if isRunning(pid):  # Otherwise the file is stale, and twistd removes it.
        raise Fatal(
            f"--pidfile {path}: process {pid} is running, maybe as another twistd; "
            "choose another file, or none with --pidfile="
        )


def isRunning(pid: int) -> bool:
    """Whether there is a process with this id, of whichever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _reportFailures() -> None:
    """Have the parent of a daemon print in full why the daemon could not start, and twistd end with
    status 1 if the service fails while it runs.

    twistd would print the repr() of at most a hundred bytes: "An error has occurred:
    b'echotwist.fatal.Fatal: echotwist: cannot listen on ...". It has no hook for this, so both ends
    of its pipe are replaced (26.10, twisted/scripts/_twistd_unix.py, `UnixApplicationRunner`). Nor
    has it one for its status: the reactor logs a SystemExit like any other exception, and an exit
    signal gives another status than a failed start (twisted/application/app.py,
    `_exitWithSignal`).
    """
    from twisted.scripts._twistd_unix import UnixApplicationRunner

    runner: Any = UnixApplicationRunner
    runner.run = _run
    runner._formatChildException = _failureLine
    runner._waitForStart = _waitForStart


_PIPE_BUF = 4096
"""Bytes that are written to a pipe atomically (PIPE_BUF on Linux)."""


def _run(runner: Any) -> None:
    ApplicationRunner.run(runner)
    if fatal.failures:
        raise SystemExit(1)  # The log has the line.


def _failureLine(runner: object, error: Exception) -> bytes:
    text = str(error) if isinstance(error, Fatal) else f"echotwist: {type(error).__name__}: {error}"
    return ("1 " + text.replace("\n", " ")).encode("utf-8", "backslashreplace")[:_PIPE_BUF]


def _waitForStart(runner: object, descriptor: int) -> int:
    """Wait until the daemon has started or failed. Returns the exit status of the parent."""
    outcome = os.read(descriptor, _PIPE_BUF)
    if outcome == b"0":
        return 0
    os.write(2, outcome[2:] + b"\n")
    return 1
