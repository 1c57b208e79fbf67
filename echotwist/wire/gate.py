"""Whether a connection is read: it is unless there is a reason not to.

There are four, and any may end first: a client that does not read what is written to it
(backpressure), the memory budget, that it has to wait for its turn, and a script of the lab.
"""

from typing import Any

WRITE_BLOCKED = 1
"""The client does not read: Twisted has more than 64 KiB that the kernel does not take."""

OVER_BUDGET = 2
"""The connection buffers more than its share of the memory budget."""

WAITS = 4
"""What was read is not worked off yet, and waits for the connection's turn; see `turns`."""

STALLED = 8
"""A script of the lab does not read."""


class ReadGate:
    """Pauses `transport` while there is a reason, and resumes it after the last.

    A mixin, so that it costs a connection nothing until it is paused for the first time.
    """

    transport: Any

    _pausedFor = 0
    """The reasons, as bits."""

    hasLeft: Any = False
    """Whether something that was received is not worked off yet. Then it waits for its turn, or its
    client does not read. In either case it is not read, and sees no FIN before it has answered."""

    def pauseReading(self, reason: int) -> None:
        self._pausedFor |= reason
        self.transport.pauseProducing()

    def resumeReading(self, reason: int) -> None:
        self._pausedFor &= ~reason
        if not self._pausedFor:
            self.transport.resumeProducing()

    def isPausedFor(self, reason: int) -> bool:
        """Whether for that reason, or for one of several."""
        return bool(self._pausedFor & reason)

    def forgetPause(self, reason: int) -> None:
        """It has ended, and something else decides when the transport reads again."""
        self._pausedFor &= ~reason
