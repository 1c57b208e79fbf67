"""The head of a request or of an answer, as it was on the wire."""

import re
from dataclasses import dataclass

Headers = list[tuple[str, str]]
"""Names and values, in their order."""


def pairsOf(headers: list[list[str]]) -> Headers:
    """Of headers as JSON has them."""
    return [(name, value) for name, value in headers]


def replacing(headers: Headers, by: Headers) -> Headers:
    """`headers`, and `by` instead of those that it names."""
    names = {name.lower() for name, _ in by}
    return [*(each for each in headers if each[0].lower() not in names), *by]


@dataclass(frozen=True)
class Head:
    """Of a request or an answer, as it was on the wire. Bytes are one character each."""

    line: str
    headers: Headers

    @classmethod
    def parse(cls, head: bytes) -> "Head":
        line, *rest = head.decode("latin-1").rstrip("\r\n").split("\n")
        headers = [each.rstrip("\r").partition(":") for each in rest]
        return cls(line.rstrip("\r"), [(name, value.strip(" \t")) for name, _, value in headers])

    @property
    def status(self) -> int:
        """Of an answer; 0 if it is none."""
        version, _, rest = self.line.partition(" ")
        code = rest[:3]
        return int(code) if version.startswith("HTTP/") and code.isdecimal() else 0

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name]

    def get(self, name: str) -> str | None:
        """All values of a header, as one; None if it is not there."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def has(self, name: str, token: str) -> bool:
        """Whether a header that is a list has this word in it."""
        words = (self.get(name) or "").split(",")
        return token in [word.strip().lower() for word in words]


_HIDDEN = re.compile(r"([0-9]{1,3}(?:,[0-9]{3}){0,4}) bytes, not shown")


def hidden(size: int) -> str:
    """What stands for a value of so many bytes that is not shown."""
    return f"{size:,} bytes, not shown"


def sizeOfHidden(value: str) -> int | None:
    """The size that `hidden` was given; None if this is a value itself."""
    found = _HIDDEN.fullmatch(value)
    return None if found is None else int(found[1].replace(",", ""))
