"""What a trial returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Figure:
    """One thing that was measured. `wanted` says what holds; empty if it is only told."""

    what: str
    measured: str
    wanted: str = ""
    holds: bool = True


class Unavailable(Exception):
    """This machine lacks what the trial needs; the message says what."""


Trial = Callable[[float], Sequence[Figure]]
"""Takes the share of its full size, from 0 to 1. The first paragraph of its docstring is what the
report says of it. Raises AssertionError for what must hold before anything can be measured."""


def told(what: str, measured: object) -> Figure:
    return Figure(what, _shown(measured))


def exactly(what: str, measured: Any, wanted: Any) -> Figure:
    return Figure(what, _shown(measured), _shown(wanted), measured == wanted)


def atMost(what: str, measured: float, most: float, unit: str = "") -> Figure:
    return Figure(what, f"{measured:,.4g}{unit}", f"at most {most:,.4g}{unit}", measured <= most)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
