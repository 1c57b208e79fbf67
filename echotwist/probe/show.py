"""A report for people: in a terminal, and as Markdown."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from echotwist.paths.finding import LEVELS, Finding
from echotwist.paths.lines import linesOf

if TYPE_CHECKING:
    from echotwist.probe.report import Report

_COLORS = {"problem": "31", "limit": "33", "note": "36", "good": "32", "faint": "2", "strong": "1"}
"""SGR (ECMA-48): red, yellow, cyan, green, faint, bold."""

_COLUMN = 42
"""Where the results begin."""


def asText(report: "Report", *, width: int = 100, isColored: bool = False) -> str:
    """The verdicts, and then a table of what was measured."""

    def paint(text: str, color: str) -> str:
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if isColored else text

    lines = [paint(f"{report.url}, {report.began}, {report.duration:.0f} s", "strong"), ""]
    for finding in report.findings:
        lines += _finding(finding, width, paint)
    color = "good" if report.isClean else "strong"
    lines += [*(paint(line, color) for line in wrap(_summary(report), width)), ""]
    area = ""
    for name, what, result in linesOf(report.measured, report.incomplete):
        if name != area:
            lines.append(paint(name, "strong"))
            area = name
        first, *rest = wrap(_clean(result), max(width - _COLUMN, 30)) or [""]
        lines.append(f"  {what:<{_COLUMN - 3}} {first}")
        lines += [" " * _COLUMN + each for each in rest]
    return "\n".join([*lines, ""])


def _finding(finding: Finding, width: int, paint: Any) -> Iterator[str]:
    head, *rest = wrap(f"{finding.level}: {_clean(finding.title)}", width) or [""]
    yield paint(head, finding.level)
    yield from rest
    for label, values in (
        ("seen", finding.evidence),
        ("consistent with", finding.consistentWith),
        ("cure", finding.cures),
    ):
        for number, value in enumerate(values):
            start = f"  {label if number == 0 else '':<16}"
            yield from wrap(_clean(value), width, initial_indent=start, subsequent_indent=" " * 18)
    yield ""


def _summary(report: "Report") -> str:
    counts = Counter(finding.level for finding in report.findings)
    if counts["problem"] or counts["limit"]:
        told = [
            f"{counts[each]} {each}{'s' * (counts[each] > 1)}" for each in LEVELS if counts[each]
        ]
        return f"{', '.join(told)}."
    if (notReached := report.measured.get("handshake", {}).get("notReached")) is not None:
        return f"It could not be run: {notReached['stage']}: {_clean(notReached['why'])}."
    if report.incomplete:
        return "Nothing was found, and not all could be run."
    rows = report.measured.get("idle", [])
    watched = f"; silence was watched for {rows[0]['watched']:.0f} s" if rows else ""
    return f"Nothing was found that breaks a WebSocket on this path{watched}."


def asMarkdown(report: "Report") -> str:
    """The same, to be pasted into an issue."""
    lines = [f"# {_escaped(report.url)}", "", f"{report.began}, {report.duration:.0f} s.", ""]
    for finding in report.findings:
        lines += [f"## {finding.level}: {_escaped(finding.title)}", ""]
        for label, values in (
            ("Seen", finding.evidence),
            ("Consistent with", finding.consistentWith),
            ("Cure", finding.cures),
        ):
            if values:
                lines += [f"{label}:", "", *(f"- {_escaped(value)}" for value in values), ""]
    lines += [_escaped(_summary(report)), "", "| | | |", "|---|---|---|"]
    lines += [
        f"| {' | '.join(_escaped(each) for each in line)} |"
        for line in linesOf(report.measured, report.incomplete)
    ]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", _clean(text))


def _clean(text: str) -> str:
    """On one line, and without what a terminal obeys, or what turns the direction of a text: much
    of it was written by others."""
    return "".join(
        each if each.isprintable() else " " if each in "\r\n\t" else "�" for each in text
    )


def progressOf(what: Iterable[str], left: float) -> str:
    """One line, while the probe runs."""
    minutes, seconds = divmod(max(round(left), 0), 60)
    return f"{minutes}:{seconds:02d} left; " + ", ".join(what)
