"""Whether a connection is read: it is unless there is a reason not to.

There are two, and either may end first: a client that does not read what is written to it
(backpressure), and the memory budget.
"""

from typing import Any

WRITE_BLOCKED = 1
"""The client does not read: Twisted has more than 64 KiB that the kernel does not take."""

OVER_BUDGET = 2
"""The connection buffers more than its share of the memory budget."""


class ReadGate:
    """Pauses `transport` while there is a reason, and resumes it after the last.

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

    def forgetPause(self, reason: int) -> None:
        """It has ended, and something else decides when the transport reads again."""
        self._pausedFor &= ~reason
