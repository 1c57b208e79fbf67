"""What a probe has found, as an object and as JSON (docs/probe.schema.json)."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from echotwist.paths.finding import Finding
from echotwist.paths.measured import Measured
from echotwist.probe.show import asText

CLEAN, FOUND, NOT_RUN = 0, 1, 2
"""Exit statuses."""


@dataclass
class Report:
    url: str
    began: str
    """In ISO 8601, UTC."""

    version: str
    """Of echotwist, whose rules these are."""

    findings: list[Finding] = field(default_factory=list)
    """The worst first."""

    measured: Measured = field(default_factory=lambda: Measured())
    incomplete: dict[str, str] = field(default_factory=dict)
    """Areas that could not be finished, and why."""

    duration: float = 0.0
    """Seconds."""

    def __str__(self) -> str:
        """As the command prints it."""
        return asText(self)

    @property
    def isClean(self) -> bool:
        """Whether nothing was found that breaks a WebSocket, and all was run. Notes are allowed."""
        return self.status == CLEAN

    @property
    def status(self) -> int:
        """CLEAN; FOUND, a problem or a limit; or NOT_RUN, in part or whole, and nothing found."""
        if any(finding.level != "note" for finding in self.findings):
            return FOUND
        return NOT_RUN if self.incomplete else CLEAN

    def asJson(self) -> str:
        return json.dumps({**asdict(self), "status": self.status}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def fromJson(cls, text: str) -> Self:
        """Raises ValueError, KeyError or TypeError if it is none."""
        fields: dict[str, Any] = json.loads(text)
        del fields["status"]
        fields["findings"] = [Finding(**each) for each in fields["findings"]]
        return cls(**fields)
