"""A verdict on a path, with its evidence."""

from dataclasses import dataclass, field

LEVELS = ("problem", "limit", "note")
"""What breaks WebSockets; what breaks some of them; what does no harm and is good to know."""


@dataclass(frozen=True)
class Finding:
    rule: str
    """Which rule has spoken, such as `idle-timeout`; it stays the same while the words may not."""

    level: str
    """One of LEVELS."""

    title: str
    """One sentence."""

    evidence: list[str] = field(default_factory=list)
    """What was measured."""

    consistentWith: list[str] = field(default_factory=list)
    """What is known to do that, the likeliest first. Never a proof: others may do the same."""

    cures: list[str] = field(default_factory=list)
    """What to change, and where."""
