"""Whether a connection is read: only while nothing keeps it from that.

Two things do, and one may end before the other: a client that does not read what is written to it
(backpressure), and the memory budget.
"""

from typing import Any

WRITE_BLOCKED = 1
"""The client does not read: Twisted has more than 64 KiB that the kernel does not take."""

OVER_BUDGET = 2
"""The connection buffers more than its share of the memory budget."""


class ReadGate:
    """Pauses `transport` for as long as there is a reason.

    A mixin, so that it costs a connection nothing until it is paused for the first time.
    """

    transport: Any

    _pausedFor = 0
    """The reasons, as bits."""

    def pauseReading(self, reason: int) -> None:
        self._pausedFor |= reason
        self.transport.pauseProducing()

    def resumeReading(self, reason: int) -> None:
        self._pausedFor &= ~reason
        if not self._pausedFor:
            self.transport.resumeProducing()

    def isPausedFor(self, reason: int) -> bool:
        return bool(self._pausedFor & reason)

    def forgetPauses(self) -> None:
        """The transport reads again, to discard what arrives; see `transport.linger`."""
        self._pausedFor = 0
