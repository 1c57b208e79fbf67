"""What keeps the service from starting, or stops it."""

from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger(namespace="echotwist")


class Fatal(SystemExit, Exception):
    """The service cannot start. The message is for the operator.

    It is a SystemExit, so that Python prints one line without a traceback and exits with status 1.
    It is also an Exception, because twistd cleans up after nothing else: its pid file, and the
    parent process that waits for the daemon.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"echotwist: {message}")


failures: list[Fatal] = []
"""What stopped the reactor of this process. If there is any, `daemon` ends it with status 1."""


def failWhileRunning(reactor: Any, why: Fatal) -> None:
    """Log `why` and stop the reactor, which would only log it if it were raised."""
    _log.critical("{why}", why=why)
    try:
        reactor.stop()
    except ReactorNotRunning:  # It stops already, for another reason.
        return
    failures.append(why)
