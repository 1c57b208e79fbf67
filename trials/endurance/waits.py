"""How long clients wait."""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

FAVOUR = -5
"""The priority of those who measure, where they may have it: see `favour`."""


@dataclass(frozen=True)
class Latency:
    """Of what was waited for since the last question, in seconds."""

    count: int
    p50: float
    p99: float
    most: float

    def __str__(self) -> str:
        return (
            f"{self.p50 * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms, most {self.most * 1e3:.1f} ms "
            f"of {self.count:,}"
        )


class Waits:
    """Collects them. A wait that began before the last question counts from that on, and one that
    has not ended counts as what it has been so far: else a service that answers nobody would look
    as if it answered at once."""

    def __init__(self) -> None:
        self._took: list[float] = []
        self._asked = time.monotonic()

    def ended(self, began: float) -> None:
        self._took.append(time.monotonic() - max(began, self._asked))

    def latency(self, due: Iterable[float]) -> Latency:
        """`due` is when those began that have not ended."""
        now = time.monotonic()
        waiting = (now - max(began, self._asked) for began in due)
        took = sorted(self._took)
        usual = took[len(took) // 2] if took else 0.0
        # One that has just begun tells nothing.
        took = sorted([*took, *(wait for wait in waiting if wait > usual)]) or [0.0]
        # In place: a thread may be about to add one.
        del self._took[:]
        self._asked = now
        return Latency(len(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1])


def favour() -> None:
    """Let this process have a core before the service has one, if it is allowed to: who measures
    must wait for the service, and not for a core."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, FAVOUR)
