"""The formats of the log:

    twistd -n echotwist                                       text, for people
    twistd -n --logger=echotwist.logs.json echotwist          a JSON object a line, for machines
    twistd -n --logger=echotwist.logs.journald echotwist      text, with priorities for journald

The first is twistd's own, which `daemon` sets up. The other two never print a control byte or a
newline raw, no matter whether echotwist, Twisted or Autobahn logged it, so that no client can forge
a line.

They do not use Twisted's jsonFileLogObserver (26.10, twisted/logger/_json.py), which is made for
Twisted to read back: its lines are ten times as long, with the internals of a thread and a logger,
the message in pieces, and a time that no person can read.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from json import dumps
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
)
from twisted.python.reflect import safe_str
from zope.interface import implementer

from echotwist.observe.output import FormatLine, Output, Stream

_LEGACY = {"message", "time", "system", "isError", "format", "failure"}
"""Keys that `twisted.python.log` adds to events. The `log_` keys have the same information."""

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""Of syslog(3), as sd-daemon(3) prefixes them to lines."""


@implementer(ILogObserver)
class Log:
    """Writes events, as `formatEvent` formats them, to the output that `openOutput` opens.

    Twisted's FileLogObserver (26.10, twisted/logger/_file.py) would block the reactor on a pipe
    that nobody reads.
    """

    def __init__(
        self,
        formatEvent: Callable[[LogEvent], str | None],
        openOutput: Callable[[FormatLine], Output],
    ) -> None:
        self._formatEvent = formatEvent
        self.output = openOutput(self._formatLine)

    def __call__(self, event: LogEvent) -> None:
        if lines := self._formatEvent(event):
            self.output.write(lines)

    def _formatLine(self, format: str, **values: Any) -> str:
        event = {"log_format": format, "log_time": time.time(), "log_level": LogLevel.warn,
                 "log_namespace": "echotwist", **values}  # fmt: skip
        return self._formatEvent(event) or ""


def json() -> ILogObserver:
    """Write the log as JSON to the standard output."""
    return Log(jsonLine, standardOutput)


def journald() -> ILogObserver:
    """Write the log as text, with priorities, to the standard output, for journald."""
    return Log(journaldLines, standardOutput)


def standardOutput(formatLine: FormatLine) -> Stream:
    # Not sys.stdout: twistd redirects that into the log.
    output = sys.__stdout__
    if output is None:
        raise SystemExit("echotwist: there is no standard output to log to")
    return Stream(output.fileno(), formatLine, output.encoding)


def jsonLine(event: LogEvent) -> str:
    """Format `event` as one flat JSON object and a newline, in ASCII: `time` (RFC 3339), `level`,
    `namespace`, `message`, `traceback` if it has a failure, and the event's own keys."""
    own = {
        key: value if isinstance(value, str | int | float | None) else safe_str(value)
        for key, value in event.items()
        if not key.startswith("log_") and key not in _LEGACY
    }
    ours = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="microseconds"),
        "level": _level(event).name,
        "namespace": safe_str(event.get("log_namespace", "-")),
        "message": formatEvent(event),
    }
    if "log_failure" in event:
        ours["traceback"] = event["log_failure"].getTraceback()
    return dumps({**ours, **{k: v for k, v in own.items() if k not in ours}}) + "\n"


def journaldLines(event: LogEvent) -> str:
    """Format `event` as lines with its priority. Every line but the first begins with a tab, so
    that nothing in one event can pass for another."""
    text = eventAsText(event, includeTimestamp=False)
    if not text:
        return ""
    prefix = f"<{_PRIORITIES[_level(event)]}>"
    first, *more = map(_printable, text.rstrip("\n").split("\n"))
    return "".join(f"{prefix}{line}\n" for line in (first, *("\t" + line for line in more)))


def _level(event: LogEvent) -> Any:
    return event.get("log_level") or LogLevel.info


def _printable(line: str) -> str:
    """`line` with escapes for characters that do not print. Others stay, since journald reads
    UTF-8."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line
    )
