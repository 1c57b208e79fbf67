"""What was measured, and its middle."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Measurement = dict[str, Any]
"""What the load printed of one run."""


@dataclass
class Results:
    """Measurements by row and server, a list entry a round (None for one that failed), and what a
    reader must know of how they came about."""

    seconds: float
    warmup: float
    rounds: int
    machine: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    loads: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    """What share of the cores others used before each round."""

    notes: list[str] = field(default_factory=list)
    measured: dict[str, dict[str, list[Measurement | None]]] = field(default_factory=dict)

    def add(self, row: str, server: str, measurement: Measurement | None) -> None:
        self.measured.setdefault(row, {}).setdefault(server, []).append(measurement)

    def values(self, row: str, server: str, figure: str) -> list[float]:
        """Of all rounds that have it."""
        return [
            measurement[figure]
            for measurement in self.measured.get(row, {}).get(server, [])
            if measurement is not None and figure in measurement
        ]

    def median(self, row: str, server: str, figure: str) -> float | None:
        values = self.values(row, server, figure)
        return statistics.median(values) if values else None

    def ratio(self, row: str, server: str, to: str, figure: str) -> float | None:
        return self.between((row, server), (row, to), figure)

    def between(self, what: tuple[str, str], to: tuple[str, str], figure: str) -> float | None:
        """Of two (row, server), the median of what the rounds say: a slow minute of the machine
        slows both."""
        ratios = [
            ours[figure] / theirs[figure]
            for ours, theirs in zip(self._rounds(*what), self._rounds(*to), strict=False)
            if ours and theirs and ours.get(figure) and theirs.get(figure)
        ]
        return statistics.median(ratios) if ratios else None

    def _rounds(self, row: str, server: str) -> list[Measurement | None]:
        return self.measured.get(row, {}).get(server, [])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
