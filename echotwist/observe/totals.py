"""What happened since the start of the process, in numbers.

Plain integers: they are added to for each message, where prometheus_client's own counters would
take a lock and a microsecond. `metrics` makes Prometheus's out of them when it is asked.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field


class Histogram:
    """How many times, in seconds, were up to each of `bounds`, and above all of them."""

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        # The reactor's clock is the wall's, and may be set back.
        seconds = max(seconds, 0)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Totals:
    """Whether the log shows it or not."""

    accepted: int = 0
    """Handshakes that were answered with 101."""

    closed: Counter[int | None] = field(default_factory=Counter)
    """Connections, by the code of `Journal.closed`."""

    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Requests, by HTTP status and reason. The reasons are our own words: there are some forty."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Connections that ended without an answer and without a handshake, by reason, in our words."""

    texts: int = 0
    textBytes: int = 0
    binaries: int = 0
    binaryBytes: int = 0
    """Messages that were received whole, and bytes of their payload. An echo goes to the transport
    at that moment, so as many were sent."""

    pauses: int = 0
    """How often a client did not read, and was not read then."""

    handshakes: Histogram = field(
        default_factory=lambda: Histogram(
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0
        )
    )
    """From accept, or from the answer to the request before, to 101."""

    lifetimes: Histogram = field(
        default_factory=lambda: Histogram(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0)
    )
    """Of connections, from 101 to their end."""

    lag: Histogram = field(
        default_factory=lambda: Histogram(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
    )
    """How late the reactor comes to what is due."""
