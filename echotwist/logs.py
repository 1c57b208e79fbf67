"""The forms of the log:

    twistd -n echotwist                                       text, for people
    twistd -n --logger=echotwist.logs.json echotwist          a JSON object a line, for machines
    twistd -n --logger=echotwist.logs.journald echotwist      text, with priorities for journald

The first is twistd's own, and made by `daemon`. In the others no control byte and no newline of a
client gets out raw, whatever wrote the event, Twisted and Autobahn included: each line here begins
as only this module begins a line.

Twisted's own jsonFileLogObserver is made for Twisted to read back: its lines are ten times as
long, with a thread's and a logger's innards, the message in pieces, and no time that one can read.
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

from echotwist.observe.output import Output, Remark, Stream

_LEGACY = {"message", "time", "system", "isError", "format", "failure"}
"""Keys of events from `twisted.python.log`; what they say is in the new keys as well."""

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""Those of syslog(3), as sd-daemon(3) writes them."""


@implementer(ILogObserver)
class Log:
    """Writes events in the `form` given to the output that `make` makes.

    Twisted's FileLogObserver waits for a pipe that nobody reads, and its reactor with it.
    """

    def __init__(
        self, form: Callable[[LogEvent], str | None], make: Callable[[Remark], Output]
    ) -> None:
        self._form = form
        self.output = make(self._remark)

    def __call__(self, event: LogEvent) -> None:
        if lines := self._form(event):
            self.output.write(lines)

    def _remark(self, format: str, **values: Any) -> str:
        event = {"log_format": format, "log_time": time.time(), "log_level": LogLevel.warn,
                 "log_namespace": "echotwist", **values}  # fmt: skip
        return self._form(event) or ""


def json() -> ILogObserver:
    """Writes the log as JSON to the standard output."""
    return Log(jsonLine, standardOutput)


def journald() -> ILogObserver:
    """Writes the log as text to the standard output, for systemd to read."""
    return Log(journaldLines, standardOutput)


def standardOutput(remark: Remark) -> Stream:
    # sys.stdout becomes a part of the log as it begins.
    output = sys.__stdout__
    if output is None:
        raise SystemExit("echotwist: there is no standard output to log to")
    return Stream(output.fileno(), remark, output.encoding)


def jsonLine(event: LogEvent) -> str:
    """`event` as one flat object and a newline, all ASCII: `time` (RFC 3339), `level`,
    `namespace`, `message`, and the event's own keys; `traceback` of a failure."""
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
    """`event` as lines with their priority. Only the first has no tab, so that nothing in an
    event can pass for another one."""
    text = eventAsText(event, includeTimestamp=False)
    if not text:
        return ""
    prefix = f"<{_PRIORITIES[_level(event)]}>"
    first, *more = map(_printable, text.rstrip("\n").split("\n"))
    return "".join(f"{prefix}{line}\n" for line in (first, *("\t" + line for line in more)))


def _level(event: LogEvent) -> Any:
    return event.get("log_level") or LogLevel.info


def _printable(line: str) -> str:
    """`line` with escapes for what does not print. All that journald gets is taken for UTF-8."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line
    )
