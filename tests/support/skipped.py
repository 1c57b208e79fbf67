"""Lists what was not checked because something is not installed, for `tox -e skipped`.

    python tests/support/skipped.py FOLDER    prints what is noted there

Each environment of tox has a file there, which its last run wrote.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path


def note(lines: Iterable[str]) -> bool:
    """Note what this environment did not check: what it is, why, and what to install. Returns
    whether that is a failure: in CI, which has everything, nothing may be skipped."""
    lines = list(lines)
    if where := os.environ.get("SKIPPED"):
        Path(where).parent.mkdir(exist_ok=True, parents=True)
        Path(where).write_text("".join(f"{line}\n" for line in lines))
    return bool(lines) and "CI" in os.environ


def main(folder: Path) -> None:
    found = [
        f"  {file.name}: {line}"
        for file in sorted(folder.glob("*"))
        for line in file.read_text().splitlines()
    ]
    print(*(["NOT CHECKED:", *found] if found else ["nothing was skipped"]), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
