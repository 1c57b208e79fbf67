"""The command: `echotwist probe URL`."""

import argparse
import errno
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, TextIO

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall, react

from echotwist.fatal import Fatal
from echotwist.limits import parseSeconds
from echotwist.probe.probing import AREAS, Probing, Say, areasOf
from echotwist.probe.report import NOT_RUN, Report
from echotwist.probe.show import asMarkdown, asText, progressOf
from echotwist.probe.target import BadTarget, Target, parseHeader, parseProxy

EPILOG = """\
exit status: 0, nothing was found; 1, something was; 2, it could not be run.
docs/probe.md says what is measured, and what each verdict means."""


_EVERY = 300.0
"""Seconds between two probes of --serve."""

_CLEAR = "\r\x1b[K"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and exit."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        target = _target(options)
    except BadTarget as error:
        parser.error(str(error))
    if options.http2 and find_spec("h2") is None:
        parser.error("--http2 needs the library h2: pip install 'echotwist[http2]'")
    if options.every is not None and options.serve is None:
        parser.error("--every is for --serve")
    if options.serve is not None and (options.json or options.markdown):
        parser.error("--serve has the report as text at /, and as JSON at /?format=json")
    react(_probe if options.serve is None else _serve, (target, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "echotwist",
        description="Tools for WebSockets. The service itself: twistd -n echotwist.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    probe = commands.add_parser(
        "probe",
        help="what the path to a server does to WebSockets",
        description="Finds out what the path between you and a WebSocket server does to "
        "WebSockets: which hop cuts, strips, buffers or limits them. With an echotwist at the "
        "other end it sees both sides.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = probe.add_argument
    add("url", metavar="URL", help="of a WebSocket echo, such as wss://canary.example/echo")
    add(
        "--for",
        dest="seconds",
        metavar="TIME",
        type=_seconds,
        default=150.0,
        help="how long idle connections are watched: 150s by default, since infrastructure cuts "
        "after 30 to 120; also 10m, 2h",
    )
    add("--only", metavar="AREA,…", type=_areas, default=AREAS, help=", ".join(AREAS))
    add(
        "--header",
        metavar="NAME:VALUE",
        action="append",
        default=[],
        help="sent with each request; may be given several times",
    )
    add(
        "--proxy",
        metavar="URL",
        help="an HTTP proxy that is asked to CONNECT: http://[USER:PASSWORD@]HOST:PORT",
    )
    add("--cacert", metavar="FILE", help="PEM: trust these authorities, and no others")
    add("--insecure", action="store_true", help="take any certificate")
    add("--http2", action="store_true", help="try HTTP/2 (RFC 8441), too; over TLS only")
    add(
        "--serve",
        metavar="ENDPOINT",
        help="probe again and again, and serve /metrics for Prometheus there, and the last report "
        "at /; as --admin of the service takes it, such as tcp:9817:interface=127.0.0.1",
    )
    add(
        "--every",
        metavar="TIME",
        type=_seconds,
        help="with --serve: from the beginning of one probe to that of the next, 5m by default; "
        "if one takes longer, the next begins at the next multiple",
    )
    form = probe.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="by docs/probe.schema.json")
    form.add_argument("--markdown", action="store_true", help="to be pasted into an issue")
    return parser


def _seconds(text: str) -> float:
    try:
        return parseSeconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _areas(text: str) -> tuple[str, ...]:
    try:
        return areasOf([each.strip() for each in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _target(options: argparse.Namespace) -> Target:
    return Target.parse(
        options.url,
        headers=tuple(parseHeader(each) for each in options.header),
        proxy=None if options.proxy is None else parseProxy(options.proxy),
        caFile=options.cacert,
        isInsecure=options.insecure,
    )


def _probing(
    reactor: Any, target: Target, options: argparse.Namespace, say: Say | None = None
) -> Probing:
    probing = Probing(reactor, target, options.seconds, options.only, say or (lambda *_: None))
    probing.triesHttp2 = options.http2
    return probing


async def _serve(reactor: Any, target: Target, options: argparse.Namespace) -> None:
    # Not at the top: prometheus_client and the service's HTTP take 0.1 s to import.
    from echotwist.probe import exporter

    def begin() -> Probing:
        return _probing(reactor, target, options)

    try:
        await exporter.serve(reactor, begin, options.serve, options.every or _EVERY)
    except Fatal as error:
        print(error, file=sys.stderr)
        raise SystemExit(NOT_RUN) from None


async def _probe(reactor: Any, target: Target, options: argparse.Namespace) -> None:
    progress = _Progress(reactor, sys.stderr, options.seconds)
    probing = _probing(reactor, target, options, progress.say)
    done: Deferred[None] = Deferred()
    running = ensureDeferred(probing.run())

    def interrupt() -> Deferred[None]:
        running.cancel()
        return done  # The reactor runs until the report is printed.

    reactor.addSystemEventTrigger("before", "shutdown", interrupt)
    progress.start()
    try:
        report = await running
    except Exception:  # Ours: react() would end without a word.
        traceback.print_exc()
        raise SystemExit(NOT_RUN) from None
    finally:
        progress.stop()
        done.callback(None)
    try:
        _print(report, options)
    except BrokenPipeError:
        # Nobody reads on, as behind `| head`. Python would flush what is left as it ends.
        sys.stdout = None
    except OSError as error:
        print(f"cannot write the report: {error.strerror}", file=sys.stderr)
        raise SystemExit(NOT_RUN) from None
    if report.status:
        raise SystemExit(report.status)


def _print(report: Report, options: argparse.Namespace) -> None:
    out: Any = sys.stdout
    if out is None:  # It was closed before the start.
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    out.reconfigure(errors="replace")  # Not every terminal can show what a server says.
    if options.json:
        out.write(report.asJson())
    elif options.markdown:
        out.write(asMarkdown(report))
    else:
        isColored = out.isatty() and "NO_COLOR" not in os.environ
        width = min(shutil.get_terminal_size((100, 24)).columns, 120)
        out.write(asText(report, width=width, isColored=isColored))
    out.flush()


class _Progress:
    """A line on a terminal, each second: what is tried, and how long it takes at least."""

    def __init__(self, reactor: Any, out: TextIO, seconds: float) -> None:
        self._reactor, self._out = reactor, out
        self._ends = reactor.seconds() + seconds
        self._at: dict[str, str] = {}
        self._call = LoopingCall(self._show)
        self._call.clock = reactor

    def say(self, area: str, what: str) -> None:
        self._at.pop(area, None)
        if what:
            self._at[area] = what

    def start(self) -> None:
        if self._out.isatty():
            self._call.start(1.0)

    def stop(self) -> None:
        if self._call.running:
            self._call.stop()
            self._out.write(_CLEAR)
            self._out.flush()

    def _show(self) -> None:
        what = [f"{area}: {each}" for area, each in self._at.items()]
        line = progressOf(what, self._ends - self._reactor.seconds())
        width = shutil.get_terminal_size().columns - 1
        self._out.write(_CLEAR + line[:width])
        self._out.flush()
