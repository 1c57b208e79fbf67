"""Other forms of the log, for `twistd --logger`:

    twistd -n --logger=echotwist.logs.json echotwist          a JSON object a line, for machines
    twistd -n --logger=echotwist.logs.journald echotwist      text, with priorities for journald

twistd's own form is for people. Whatever wrote an event, Twisted and Autobahn included, no
control byte and no newline of a client gets out raw: each line here begins as only this module
begins a line.

Twisted's own jsonFileLogObserver is made for Twisted to read back: its lines are ten times as
long, with a thread's and a logger's innards, the message in pieces, and no time that one can read.
"""

import sys
from datetime import UTC, datetime
from json import dumps
from typing import IO, Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
)
from twisted.python.reflect import safe_str

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


def json() -> ILogObserver:
    """Writes the log as JSON to the standard output."""
    return FileLogObserver(_output(), jsonLine)


def journald() -> ILogObserver:
    """Writes the log as text to the standard output, for systemd to read."""
    return FileLogObserver(_output(), journaldLines)


def _output() -> IO[Any]:
    # sys.stdout becomes a part of the log as it begins.
    output = sys.__stdout__
    if output is None:
        raise SystemExit("echotwist: there is no standard output to log to")
    return output


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
