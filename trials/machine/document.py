"""What docs/operations.md tells operators to type. The machine is given exactly that."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def section(name: str) -> str:
    """The part of the document under this heading."""
    (found,) = re.findall(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return str(found)


def blocks(name: str) -> list[str]:
    """The shell commands of a section."""
    return re.findall(r"^```sh\n(.*?)^```$", section(name), re.M | re.S)


def block(name: str, having: str) -> str:
    """The one block of a section that has this in it."""
    found = [text for text in blocks(name) if having in text]
    assert len(found) == 1, f"{len(found)} blocks of {name!r} have {having!r} in them"
    return found[0]
