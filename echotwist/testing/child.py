"""The process of a ServiceProcess: twistd, for as long as its parent lives.

It knows the plugin of echotwist alone. To scan for plugins would load all of them, and write
`dropin.cache` into their folder.
"""

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread

from twisted.application import app
from twisted.application.service import ServiceMaker
from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

_MAKER = ServiceMaker("echotwist", "echotwist.tap", "A WebSocket echo service.", "echotwist")

PATIENCE = 2.0
"""Seconds between one signal to end and the next."""


class Options(ServerOptions):
    """twistd's, with one plugin."""

    loadedPlugins = {_MAKER.tapname: _MAKER}
    subCommands = [(_MAKER.tapname, None, lambda: _MAKER.options(), _MAKER.description)]


def run() -> None:
    app.run(runApp, Options)


def main(run: Callable[[], None] = run, end: Callable[[], None] | None = None) -> None:
    """`run` with the arguments of the command, but for the first two: a folder of the parent's, or
    nothing, and its process id. The standard input is a pipe that ends with the parent."""
    folder, parent = sys.argv.pop(1), int(sys.argv.pop(1))
    Thread(target=watch, args=(0, parent, folder, end or _end), daemon=True).start()
    run()


def watch(descriptor: int, parent: int, folder: str, end: Callable[[], None]) -> None:
    """`end` when `descriptor` or the process `parent` ends, and remove its `folder`.

    A fork of the parent may hold the other end of the pipe for longer than the parent lives.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parentFd, lives = -1, True
    try:
        parentFd = os.pidfd_open(parent)
        poll.register(parentFd, select.POLLIN)
    except ProcessLookupError:  # It has ended already.
        lives = False
    except (AttributeError, OSError):  # Linux has it since 5.3.
        pass
    while lives:
        lives = parentFd not in dict(poll.poll()) and bool(os.read(descriptor, 1024))
    if parentFd >= 0:
        os.close(parentFd)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    end()


def _end() -> None:
    """Drain, and after PATIENCE end the drain: its clients were the parent's."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
    os._exit(1)
