"""A process with the id 1, such as a container's, before twistd has handlers for signals.

Linux drops a signal for PID 1 that has no handler (signal(7), pid_namespaces(7)), so that a
SIGTERM in the first half second would be lost, and the container killed some time later.
`echotwist/__init__.py` calls this, which is the first of echotwist that twistd loads. Before that
are Python and Twisted themselves: a tenth of a second, in which only a signal that is blocked waits
(`env --block-signal=TERM twistd ...`, coreutils), or for which somebody else is PID 1 (`docker run
--init`).
"""

import os
import signal

DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""See service.Signals."""


def mindSignals(pid: int) -> None:
    """Have signals end the process `pid`, this one, if it is PID 1. The reactor has its own
    handlers as it begins to run."""
    if pid != 1:
        return
    for number in DRAINING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    # One that has come already is handled now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DRAINING)


def _end(number: int, frame: object) -> None:
    # An exception could be caught by whatever is imported just now. A shell says 143, too, of who
    # was ended by SIGTERM.
    os._exit(128 + number)
