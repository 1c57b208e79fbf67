"""What a trial of clients found, as docs/clients.md."""

import datetime
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echotwist import __version__
from echotwist.lab.cases import CASES

REPORT = Path(__file__).parents[2] / "docs" / "clients.md"

GROUPS = {"H": "Handshake", "F": "Frames", "C": "Compression", "X": "Closing and loss"}
"""By the first letter of the cases."""

MARKS = {
    "OK": "✓",
    "NON-STRICT": "≈ non-strict",
    "FAILED": "✗ **failed**",
    "UNCLEAN": "✗ **unclean**",
    "INFORMATIONAL": "·",
    "": "–",
}
"""Of Autobahn's words; the last is of none."""

WRONG = ("NON-STRICT", "UNCLEAN", "FAILED")
"""Those that a section has a row for."""

MEANINGS = {
    "OK": "did what it must",
    "NON-STRICT": "did what is allowed, and not what is recommended",
    "FAILED": "did not do what it must",
    "UNCLEAN": "did what it must, but did not end the connection as it must",
    "INFORMATIONAL": "need not do anything, or nothing that the server could see",
    "": "did not offer what the case is about, such as compression",
}


Verdicts = Mapping[str, Mapping[str, object]]
"""By the IDs of the cases, as /lab/report has them."""


@dataclass(frozen=True)
class Result:
    """What came of a client."""

    name: str
    title: str
    version: str
    about: str
    verdicts: Verdicts
    saw: Mapping[str, str]
    """What the program saw that uses the client."""

    ends: Mapping[str, str]
    """Cases in which the process ended, and how."""

    broke: str
    """Why the driver is to be mended; empty if it is not."""

    def verdict(self, case: str) -> str:
        """A word of Autobahn's; empty if there is nothing to judge."""
        found = self.verdicts.get(case, {})
        isOffered = not str(found.get("why", "")).startswith(("did not offer", "offered no"))
        return str(found.get("behavior", "")) if isOffered else ""

    def closeFault(self, case: str) -> str:
        """What the end of the connection lacked, if that is all."""
        close = str(self.verdicts.get(case, {}).get("behaviorClose", ""))
        return close if self.verdict(case) == "OK" and close not in ("OK", "INFORMATIONAL") else ""

    def cases(self, *verdicts: str) -> list[str]:
        return [case for case in CASES if self.verdict(case) in verdicts]

    def tell(self, isLong: bool) -> None:
        """Print how many have which verdict, or also what is not OK."""
        counts = ", ".join(
            f"{len(self.cases(word))} {word or 'not offered'}" for word in MARKS if self.cases(word)
        )
        print(f"{self.name} ({self.version}): {counts}", flush=True)
        if self.broke:
            print(f"  ! the driver broke: {self.broke}", flush=True)
        for case in CASES if isLong else ():
            if self.verdict(case) not in ("OK", ""):
                saw = "; ".join(filter(None, [self.saw.get(case), self.ends.get(case)]))
                why = self.verdicts.get(case, {}).get("why", "")
                print(f"  {case} {self.verdict(case)}: {why}; saw: {saw}")


def write(results: Sequence[Result], skipped: Mapping[str, str]) -> None:
    REPORT.write_text(report(results, skipped))
    print(f"written: {os.path.relpath(REPORT)}")


def report(results: Sequence[Result], skipped: Mapping[str, str]) -> str:
    parts = [
        "# Clients",
        f"What WebSocket clients that we did not write made of each of the {len(CASES)} cases of "
        "`/lab`. Written by `tox -e clients`, from what the server saw: "
        f"{datetime.date.today()}, echotwist {__version__}.",
        "A client is run as its manual has it, with its own limits, by the smallest program that "
        "echoes every message ([how](../trials/clients/README.md)). A case that was not OK was run "
        "again with nothing beside it, and that is what is written here. To see it again: start "
        "the service, have the client connect to `ws://localhost:8080/lab?case=ID`, and echo "
        "until the connection ends; with `&trace=…` the server keeps what it saw.",
        _table(
            ["sign", "in the Autobahn testsuite's words", "the client"],
            [[MARKS[word].partition(" ")[0], word, f"it {MEANINGS[word]}"] for word in MARKS],
        ),
        "## Results",
        _table(
            ["client", "version", *(word.lower() or "not offered" for word in MARKS)],
            [
                [
                    f"[{r.title}](#{_anchor(r.title)})",
                    r.version,
                    *(str(len(r.cases(w))) for w in MARKS),
                ]
                for r in results
            ],
        ),
    ]
    if skipped:
        parts += ["Not run:", "\n".join(f"- {title}: {why}" for title, why in skipped.items())]
    for letter, group in GROUPS.items():
        parts += [f"## {group}", *_group(results, [id for id in CASES if id[0] == letter])]
    parts += ["## What was not OK", "Each with the section that says what a client must do."]
    for result in results:
        parts += _section(result)
    return "\n\n".join(parts) + "\n"


def _group(results: Sequence[Result], cases: Iterable[str]) -> list[str]:
    rows, alike = [], []
    for case in cases:
        found = [result.verdict(case) for result in results]
        if set(found) == {"OK"} and not any(result.closeFault(case) for result in results):
            alike.append(case)
        else:
            marks = (_marked(result, case) for result in results)
            rows.append([case, _cell(CASES[case].title), *marks])
    parts = [_table(["case", "the server", *(r.name for r in results)], rows)] if rows else []
    if alike:
        listed = ", ".join(f"{case} ({CASES[case].title})" for case in alike)
        parts.append(f"✓ from all: {_cell(listed)}.")
    return parts


def _marked(result: Result, case: str) -> str:
    return MARKS.get(result.verdict(case), "") + _closing(result, case)


def _closing(result: Result, case: str) -> str:
    fault = result.closeFault(case)
    return f", close {fault.lower()}" if fault else ""


def _section(result: Result) -> list[str]:
    parts = [f"### {result.title}", f"{result.version}. {result.about}"]
    if result.broke:
        parts.append(f"The driver broke: {_cell(result.broke)}.")
    rows = [
        [
            f"`/lab?case={case}`",
            _cell(CASES[case].title),
            _cell(CASES[case].source),
            result.verdict(case) + _closing(result, case),
            _cell(str(result.verdicts[case]["why"])),
            _cell("; ".join(filter(None, [result.saw.get(case), result.ends.get(case)]))),
        ]
        for case in CASES
        if result.verdict(case) in WRONG or result.closeFault(case)
    ]
    if rows:
        head = ["repeat", "the server", "source", "verdict", "the client", "its program saw"]
        parts.append(_table(head, rows))
    else:
        parts.append("All that can be judged is OK.")
    return parts


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    """As text of Markdown: a client, and so a peer, may have written it."""
    escaped = html.escape(text, quote=False)
    for sign in "\\`*_[]|":
        escaped = escaped.replace(sign, f"\\{sign}")
    return " ".join(escaped.split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
