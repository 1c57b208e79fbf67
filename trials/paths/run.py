"""Probe real middleboxes, wrong and right, and hops that misbehave; writes docs/paths.md.

First all idle connections of all boxes lie there side by side, since that takes its time; then one
box after the other has messages, sizes and speed measured, since that wants the machine alone.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from paths.boxes import BOXES, Box, Running, missing, running, version
from paths.hops import HOPS
from support.process import needs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from echotwist.paths import rules
from echotwist.paths.finding import Finding
from echotwist.paths.measured import Measured
from echotwist.probe import probe
from echotwist.probe.report import Report
from echotwist.testing import ServiceProcess

DOCUMENT = Path(__file__).parents[2] / "docs/paths.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"

HOP_SECONDS = 20.0
"""Their timers are of five."""

Ways = dict[str, tuple[str, dict[str, Any]]]
"""By name: a URL, and options of `probe`."""

LIVELY = ("bytes", "sizes", "flow")


@contextmanager
def httpProxy() -> Iterator[None]:
    """Node's http-proxy, where Node finds it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # As root, Node runs as nobody.
        command = [needs("npm", "npm"), "install", "--silent", "--no-fund", "http-proxy@1"]
        subprocess.run(command, cwd=folder, check=True, timeout=300)
        os.environ["NODE_PATH"] = f"{folder}/node_modules"
        yield


def whole(watched: Report, lively: Report) -> Measured:
    """Both parts of a probe as one."""
    return {**lively.measured, **watched.measured}


async def probed(
    ways: dict[str, tuple[str, dict[str, Any]]], seconds: float
) -> dict[str, Measured]:
    """What was measured on each way: a URL, and options of `probe`."""

    async def watch(url: str, options: dict[str, Any]) -> Report:
        return await probe(url, seconds=seconds, only=["idle"], **options)

    watching = [Deferred.fromCoroutine(watch(*way)) for way in ways.values()]
    watched: list[Report] = await gatherResults(watching)
    found = {}
    for (name, (url, options)), first in zip(ways.items(), watched, strict=True):
        second = await probe(url, seconds=5, only=LIVELY, **options)
        found[name] = whole(first, second)
        print(f"{name}: {words(rules.judge(found[name]))}", flush=True)
    return found


def words(findings: list[Finding]) -> str:
    return "; ".join(f"{each.level}: {each.title}" for each in findings) or "nothing"


def way(box: Running) -> tuple[str, dict[str, Any]]:
    caFile = None if box.caFile is None or not box.url.startswith("wss:") else str(box.caFile)
    return f"{box.url}echo", {"proxy": box.proxy, "cacert": caFile}


# The document.


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def told(measured: Measured) -> str:
    """The findings with the likeliest candidate, to see whether it is the right one."""
    parts = []
    for each in rules.judge(measured):
        first = f" ({each.consistentWith[0]})" if each.consistentWith else ""
        parts.append(f"{each.level}: {cell(each.title)}{cell(first)}")
    return "<br>".join(parts) or "nothing"


def changed(measured: Measured) -> str:
    """What becomes of the headers of an upgrade on their way to the server."""
    handshake = measured.get("handshake", {})
    changes = handshake.get("toServer")
    if changes is None:
        return "not seen"
    added = [f"+{name}" for name, _ in changes["added"]]
    removed = [f"−{name}" for name, _ in changes["removed"]]
    rewritten = [f"{each['name']}: {each['arrived']}" for each in changes["rewritten"]]
    return cell(", ".join([*added, *removed, *rewritten])) or "nothing"


def configuration(box: Box) -> str:
    if not box.config:
        return box.name
    return f"[{box.name}](../trials/paths/config/{box.config[0]})"


def document(boxes: dict[str, Measured], hops: dict[str, Measured], seconds: float) -> str:
    day = datetime.date.today().isoformat()
    versions = {BOXES[name].product: version(BOXES[name]) for name in boxes}
    lines = [
        f"Measured on {day}, on loopback, idle connections for {seconds:.0f} s.", "",
        "| product | version |", "|---|---|",
        *(f"| {product} | {cell(words)} |" for product, words in versions.items()), "",
        "## Real middleboxes", "",
        "| configuration | what the probe says, with its likeliest candidate "
        "| the lines that make it right | headers on their way to the server |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for name, measured in boxes.items():
        box = BOXES[name]
        cure = "<br>".join(f"`{cell(line)}`" for line in box.cure)
        said, headers = told(measured), changed(measured)
        lines.append(f"| {configuration(box)} | {said} | {cure} | {headers} |")
    lines += [
        "", "## Hops that misbehave on purpose", "",
        "For what none of these does on request: [small relays](../trials/paths/hops.py), "
        "with timers of 5 s.", "",
        "| hop | what the probe says |", "|---|---|",
        *(f"| {name} | {told(measured)} |" for name, measured in hops.items()),
    ]  # fmt: skip
    return "\n".join(lines)


async def main(reactor: Any, options: argparse.Namespace, echotwist: ServiceProcess) -> None:
    port = int(echotwist.url.rpartition(":")[2].partition("/")[0])
    with ExitStack() as stack:
        started = {}
        for name, box in BOXES.items():
            if options.name and name not in options.name:
                continue
            if (why := missing(box)) is not None:
                print(f"left out: {name}: {why}", file=sys.stderr)
                continue
            started[name] = stack.enter_context(running(box, port))
        ways = {name: way(each) for name, each in started.items()}
        boxes = await probed(ways, options.seconds)
    with ExitStack() as stack:
        hops = {
            name: (f"{stack.enter_context(make(port)).url}echo", dict[str, Any]())
            for name, make in HOPS.items()
            if not options.name or name in options.name
        }
        misbehaving = await probed(hops, HOP_SECONDS)
    if not options.name:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        measured = document(boxes, misbehaving, options.seconds)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "name", nargs="*", help="only these boxes and hops; then nothing is written"
    )
    parser.add_argument("--for", dest="seconds", type=float, default=150.0, help="seconds")
    return parser.parse_args()


if __name__ == "__main__":
    with httpProxy(), ServiceProcess("--max-connections=1000") as echotwist:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor, parsed(), echotwist)))
