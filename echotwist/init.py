"""Signals for PID 1, as in a container, before twistd installs its handlers.

Linux drops a signal to PID 1 that has no handler (signal(7), pid_namespaces(7)). A SIGTERM in the
first half second would be lost, and the container would be killed some time later.
`echotwist/twistd.py`, the first module of echotwist that twistd loads, calls this. Python and
Twisted load before it, which takes a tenth of a second. A signal that comes then is kept only if it
is blocked (`env --block-signal=TERM twistd ...`, coreutils), or if another process is PID 1
(`docker run --init`).
"""

import os
import signal

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""They drain the service; see `operate.signals`."""


def handleSignalsAsInit(pid: int) -> None:
    """Have signals end this process, `pid`, if it is PID 1. `operate.signals` replaces the handlers
    when the reactor runs."""
    if pid != 1:
        return
    for number in DRAIN_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    # A signal that came while they were blocked is handled now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DRAIN_SIGNALS)


def _end(number: int, frame: object) -> None:
    # Not by an exception, which a module that is being imported could catch. A shell reports the
    # same status, 143, for a process that SIGTERM ended.
    os._exit(128 + number)
