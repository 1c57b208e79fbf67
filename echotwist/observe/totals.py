"""Counts of what happened since the start of the process.

They are plain integers, because every message adds to them; prometheus_client's counters would take
a lock and a microsecond each. `metrics` turns them into Prometheus's when it is scraped.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field


class Histogram:
    """Counts of durations in seconds: up to each of `bounds`, and above all of them."""

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        # The reactor's clock is the wall clock, which may be set back.
        seconds = max(seconds, 0)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Totals:
    """Everything that happened, whether the log showed it or not."""

    accepted: int = 0
    """Handshakes answered with 101."""

    closed: Counter[int | None] = field(default_factory=Counter)
    """Connections, by close code as in `Journal.closed`."""

    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Requests, by HTTP status and reason. No reason quotes a client, so there are only some
    forty."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Connections dropped without an answer, before a handshake, by reason."""

    texts: int = 0
    textBytes: int = 0
    binaries: int = 0
    binaryBytes: int = 0
    """Whole messages received, and the bytes of their payloads. Each is echoed to the transport at
    once, so as many were sent."""

    pauses: int = 0
    """How often the service stopped reading a client because it did not read its echoes."""

    handshakes: Histogram = field(
        default_factory=lambda: Histogram(
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0
        )
    )
    """From accept, or from the answer to the previous request, to 101."""

    lifetimes: Histogram = field(
        default_factory=lambda: Histogram(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0)
    )
    """Of WebSocket connections, from 101 to their end."""

    lag: Histogram = field(
        default_factory=lambda: Histogram(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
    )
    """How late the reactor runs what is due."""
