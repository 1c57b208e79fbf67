"""What a ServiceProcess runs: twistd, for as long as the process lives that has started it.

It knows echotwist alone: a look at all of twistd's plugins would load each of them, and write
`dropin.cache` into their folder.
"""

import os
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
    """`run` with the arguments of the command, but for the first: a folder of the parent's, or
    nothing. The standard input is a pipe that ends with the parent."""
    folder = sys.argv.pop(1)
    Thread(target=watch, args=(0, folder, end or _end), daemon=True).start()
    run()


def watch(descriptor: int, folder: str, end: Callable[[], None]) -> None:
    """`end` when `descriptor` ends, and remove what the parent cannot remove any more."""
    while os.read(descriptor, 1024):
        pass
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    end()


def _end() -> None:
    """Drain, and after a moment end the drain: the clients were those of the parent."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
    os._exit(1)
