"""What all connections buffer together, and what happens when that is too much.

A connection buffers what it has received of an unfinished message, and the echo that its client
does not read. `limits` bounds that for one connection; ten thousand may still exceed the memory of
the machine. So each connection reports to the budget whenever it has been read.

- Up to half of the budget, nothing happens.
- Over half, the budget pauses each connection that would buffer more than its share of that half.
  If the total is still over half at a deadline, the budget closes the largest with 1013 until it
  is not.
- Over the whole budget, it closes the largest at once.

Clients that buffer little, as honest ones do, are unaffected by those that buffer much.
"""

from heapq import nlargest
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from echotwist.wire.gate import OVER_BUDGET

BATCH = 20
"""Connections that are closed, or read again, in one turn of the reactor. Thousands at once would
take it a second, in which it does nothing else."""

BATCH_INTERVAL = 0.05
"""Seconds between two batches."""

REFRESH_INTERVAL = 1.0
"""Seconds between two times that all connections are asked for their size."""


class BudgetedConnection(Protocol):
    """A connection that buffers; see `gate.ReadGate` for the two that pause it."""

    def buffered(self) -> int:
        """Bytes that it buffers now. Since it last reported, its client may have read some."""

    def pauseReading(self, reason: int) -> None: ...

    def resumeReading(self, reason: int) -> None: ...

    def endOverBudget(self) -> None:
        """End, and release everything that is buffered."""


class Budget:
    """At most `most` bytes, of which `buffered` are in use. `patience` is in seconds: how long the
    total may stay over half before the largest connections are closed."""

    def __init__(self, most: int, patience: float, reactor: IReactorTime) -> None:
        self.buffered = 0
        self._most = most
        self._half = most // 2
        self._patience = patience
        self._reactor = reactor
        self._sizes: dict[BudgetedConnection, int] = {}
        self._paused: dict[BudgetedConnection, None] = {}  # The first paused comes first.
        self._deadline: IDelayedCall | None = None
        self._resuming: IDelayedCall | None = None
        self._refreshed = float("-inf")

    def account(self, connection: BudgetedConnection) -> None:
        """Take notice of a `connection` whose size may have changed."""
        size = connection.buffered()
        before = self._set(connection, size)
        if not size and connection in self._paused:
            del self._paused[connection]
            connection.resumeReading(OVER_BUDGET)
        if self.buffered <= self._half:
            if self._deadline is not None:
                self._relax()
        elif size > before:
            self._press(connection)

    def forget(self, connection: BudgetedConnection) -> None:
        """Drop a `connection` that is gone, or that the fast path serves."""
        self._paused.pop(connection, None)
        self._set(connection, 0)
        if self._deadline is not None and self.buffered <= self._half:
            self._relax()

    def _set(self, connection: BudgetedConnection, size: int) -> int:
        """Returns its size before."""
        before = self._sizes.pop(connection, 0)
        if size:
            self._sizes[connection] = size
        self.buffered += size - before
        return before

    def _press(self, connection: BudgetedConnection) -> None:
        self._refresh()
        if self.buffered <= self._half:
            if self._deadline is not None:
                self._relax()
            return
        if self._deadline is None:
            self._deadline = self._reactor.callLater(self._patience, self._due)
        size = self._sizes.get(connection, 0)
        if size > self._half / len(self._sizes) and connection not in self._paused:
            self._paused[connection] = None
            connection.pauseReading(OVER_BUDGET)
        while self.buffered > self._most:
            self._shed(self._most, 1)

    def refresh(self) -> None:
        """Ask every connection for its size."""
        for connection in list(self._sizes):
            self._set(connection, connection.buffered())

    def _refresh(self) -> None:
        if abs(self._reactor.seconds() - self._refreshed) >= REFRESH_INTERVAL:
            self._refreshed = self._reactor.seconds()
            self.refresh()

    def _due(self) -> None:
        # One turn later: if the process was stopped meanwhile, its clients may have read, and
        # the reactor can write now what is buffered.
        self._deadline = self._reactor.callLater(0, self._expired)

    def _expired(self) -> None:
        self._refresh()
        self._shed(self._half, BATCH)
        if self.buffered > self._half:
            self._deadline = self._reactor.callLater(BATCH_INTERVAL, self._expired)
        elif self._deadline is not None:
            self._relax()

    def _shed(self, most: int, count: int) -> None:
        for connection in nlargest(count, self._sizes, key=self._sizes.__getitem__):
            if self.buffered <= most:
                return
            if self._set(connection, connection.buffered()) > self._sizes.get(connection, 0):
                continue  # Its client has read meanwhile.
            connection.endOverBudget()
            # What it still has goes with its transport, in the reactor's next turn.
            self.forget(connection)

    def _relax(self) -> None:
        assert self._deadline is not None
        if self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if self._resuming is None:
            self._resume()

    def _resume(self) -> None:
        self._resuming = None
        if self.buffered > self._half:
            return  # It is too much again.
        some = list(islice(self._paused, BATCH))
        if len(self._paused) > BATCH:
            self._resuming = self._reactor.callLater(BATCH_INTERVAL, self._resume)
        for connection in some:
            self._paused.pop(connection, None)
            connection.resumeReading(OVER_BUDGET)
