"""The twistd around the service: its log.

twistd makes its own, which `Daemon` replaces in the way that Twisted has for that, a component of
the application.
"""

import signal
from collections.abc import Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import ILogObserver, formatEventAsClassicLogText
from twisted.python.components import Componentized

from echotwist.logs import Log, standardOutput
from echotwist.output import LogFile, opened
from echotwist.service import Fatal


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
        except (OSError, ValueError) as e:  # A path with a NUL.
            raise Fatal(f"--logfile {path}: {_why(e)}") from e
        if isinstance(log.output, LogFile):
            self._file = log.output
        return log


def _why(e: OSError | ValueError) -> str:
    return (e.strerror if isinstance(e, OSError) else None) or str(e)
