"""Trials of endurance: whether the service holds when the machine, or ten thousand clients, do not.

    python trials/endurance/run.py                     all of it, into docs/reliability.md
    python trials/endurance/run.py --quick             does everything work? Smaller, not written
    python trials/endurance/run.py --only churn ...    some of it, not written

A trial is a function that returns its figures; see `figures`. To add one: write it, and name it in
TRIALS. The exit status is 1 if one does not hold.
"""

import argparse
import datetime
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from endurance import (
    churn,
    clock,
    descriptors,
    disk,
    drain,
    hostile,
    killed,
    lab,
    newcomer,
    resolver,
)
from endurance.figures import Figure, Trial, Unavailable
from support.skipped import note

from echotwist import __version__

TRIALS: dict[str, Trial] = {
    "memory budget": hostile.withFastPath,
    "memory budget, no fast path": hostile.withoutFastPath,
    "newcomer": newcomer.plain,
    "newcomer, TLS": newcomer.secure,
    "newcomer, crowded": newcomer.crowded,
    "newcomer, no fast path": newcomer.withoutFastPath,
    "hostile scripts": lab.hostile,
    "churn": churn.churn,
    "drain": drain.withFastPath,
    "drain, no fast path": drain.withoutFastPath,
    "workers killed": killed.workers,
    "full house": descriptors.fullHouse,
    "no descriptor left": descriptors.belowWhatIsInUse,
    "clock forward": clock.forward,
    "clock back": clock.backward,
    "full disk": disk.full,
    "log at its limit": disk.limited,
    "silent resolver": resolver.silent,
}

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"

QUICK = 0.05

FILES = 20_000
"""Descriptors that ten thousand clients want, of them and of the service, each."""


class Result:
    """What came of a trial. `why` says why it could not be made, or what failed in it."""

    def __init__(self, name: str, trial: Trial, share: float) -> None:
        self.name = name
        self.about = " ".join((trial.__doc__ or "").split())
        self.figures: Sequence[Figure] = ()
        self.why = ""
        self.isFailed = False
        began = time.monotonic()
        try:
            self.figures = trial(share)
            self.isFailed = not all(figure.holds for figure in self.figures)
        except Unavailable as e:
            self.why = str(e)
        except Exception as e:
            self.why, self.isFailed = f"{type(e).__name__}: {e}".partition("\n")[0], True
        self.took = time.monotonic() - began

    @property
    def outcome(self) -> str:
        return "**no**" if self.isFailed else "not tried" if self.why else "yes"


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=TRIALS, metavar="TRIAL", help=", ".join(TRIALS)
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:.0%}% of the clients")
    asked = parser.parse_args()
    files = raiseFiles()
    share = (QUICK if asked.quick else 1) * files / FILES
    results = []
    for name, trial in TRIALS.items():
        if asked.only is None or name in asked.only:
            result = Result(name, trial, share)
            results.append(result)
            print(f"{name}, {result.took:.0f} s: holds: {result.outcome} {result.why}")
            for figure in result.figures:
                mark = " " if figure.holds else "!"
                wanted = f" ({figure.wanted})" if figure.wanted else ""
                print(f"  {mark} {figure.what}: {figure.measured}{wanted}", flush=True)
    if asked.only is None and not asked.quick:
        REPORT.write_text(report(results, files))
        print(f"written: {os.path.relpath(REPORT)}")
    isFailed = note(f"{r.name}: {r.why}" for r in results if r.why and not r.isFailed)
    sys.exit(isFailed or any(result.isFailed for result in results))


def raiseFiles() -> int:
    """Let this process and its children open FILES, or as many as they may. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def report(results: Sequence[Result], files: int) -> str:
    parts = [
        "# Reliability",
        "Written by `tox -e endurance`, from what it measured: what was tried, and whether the "
        f"service held. {datetime.date.today()}, echotwist {__version__}, Python "
        f"{platform.python_version()}, {len(os.sched_getaffinity(0))} cores, "
        f"{platform.system()} {platform.release().partition('-')[0]}."
        + (f" `ulimit -n` is {files:,}: all with fewer clients." if files < FILES else ""),
        _table(
            ["trial", "holds", "s"],
            [[f"[{r.name}](#{_anchor(r.name)})", r.outcome, f"{r.took:.0f}"] for r in results],
        ),
    ]
    for result in results:
        parts += [f"## {result.name[0].upper()}{result.name[1:]}", result.about]
        if result.why:
            parts.append(f"{'It failed' if result.isFailed else 'Not tried'}: {result.why}.")
        if result.figures:
            parts.append(
                _table(
                    ["what", "measured", "wanted", "holds"],
                    [
                        [f.what, f.measured, f.wanted,
                         "" if not f.wanted else "yes" if f.holds else "**no**"]
                        for f in result.figures
                    ],
                )
            )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _anchor(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line).replace("\n", " ") + " |" for line in lines)


if __name__ == "__main__":
    main()
