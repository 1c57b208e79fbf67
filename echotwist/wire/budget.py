"""What is held for clients in memory, all together, and what happens if it is too much.

A connection holds what it has received of a message that is not whole, and the echo that its
client does not read. `limits` bounds that for one; ten thousand may still be more than the machine
has. So each tells the budget what it holds, whenever it has been read.

- Up to half of the budget, nothing happens.
- Over half, who would hold more than its share of that half is not read. At a deadline, if it is
  still over half, those that hold most are closed with 1013, until it is not.
- Over all of it, those that hold most are closed at once.

So who holds little, as honest clients do, notices nothing of those who hold much.
"""

from heapq import nlargest
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

AT_A_TIME = 20
"""Connections that are closed, or read again, at a time: for thousands at once the reactor needs a
second, in which it does nothing else."""

PAUSE = 0.05
"""Seconds between two times."""


REFRESH = 1.0
"""Seconds between two times that everybody is asked what it holds."""


class Holder(Protocol):
    """A connection."""

    def holding(self) -> int:
        """Bytes that it holds now: what its client has read since it was accounted is gone."""

    def stopReading(self) -> None: ...

    def resumeReading(self) -> None: ...

    def refuse(self) -> None:
        """End, and let go of everything that is held."""


class Budget:
    """`most` is in bytes; `patience` in seconds, between too much and the end of those that hold
    most. `held` is what all hold."""

    def __init__(self, most: int, patience: float, reactor: IReactorTime) -> None:
        self.held = 0
        self._most = most
        self._half = most // 2
        self._patience = patience
        self._reactor = reactor
        self._holders: dict[Holder, int] = {}
        self._stopped: dict[Holder, None] = {}  # In the order in which they were.
        self._deadline: IDelayedCall | None = None
        self._resuming: IDelayedCall | None = None
        self._refreshed = float("-inf")

    def account(self, holder: Holder) -> None:
        """What `holder` holds may have changed."""
        size = holder.holding()
        before = self._set(holder, size)
        if not size and holder in self._stopped:
            del self._stopped[holder]
            holder.resumeReading()
        if self.held <= self._half:
            if self._deadline is not None:
                self._relax()
        elif size > before:
            self._press(holder)

    def forget(self, holder: Holder) -> None:
        """`holder` is gone, or holds nothing here any more."""
        self._stopped.pop(holder, None)
        self._set(holder, 0)
        if self._deadline is not None and self.held <= self._half:
            self._relax()

    def _set(self, holder: Holder, size: int) -> int:
        """Returns what it held before."""
        before = self._holders.pop(holder, 0)
        if size:
            self._holders[holder] = size
        self.held += size - before
        return before

    def _press(self, holder: Holder) -> None:
        self._refresh()
        if self.held <= self._half:
            if self._deadline is not None:
                self._relax()
            return
        if self._deadline is None:
            self._deadline = self._reactor.callLater(self._patience, self._due)
        size = self._holders.get(holder, 0)
        if size > self._half / len(self._holders) and holder not in self._stopped:
            self._stopped[holder] = None
            holder.stopReading()
        while self.held > self._most:
            self._shed(self._most, 1)

    def refresh(self) -> None:
        """Ask everybody what it holds."""
        for holder in list(self._holders):
            self._set(holder, holder.holding())

    def _refresh(self) -> None:
        if abs(self._reactor.seconds() - self._refreshed) >= REFRESH:
            self._refreshed = self._reactor.seconds()
            self.refresh()

    def _due(self) -> None:
        # After a turn: if the process was stopped meanwhile, its clients may have read, and what
        # is held can go out now.
        self._deadline = self._reactor.callLater(0, self._late)

    def _late(self) -> None:
        self._refresh()
        self._shed(self._half, AT_A_TIME)
        if self.held > self._half:
            self._deadline = self._reactor.callLater(PAUSE, self._late)
        elif self._deadline is not None:
            self._relax()

    def _shed(self, most: int, count: int) -> None:
        for holder in nlargest(count, self._holders, key=self._holders.__getitem__):
            if self.held <= most:
                return
            if self._set(holder, holder.holding()) > self._holders.get(holder, 0):
                continue  # Its client has read meanwhile.
            holder.refuse()
            # What it still has goes with its transport, in the reactor's next turn.
            self.forget(holder)

    def _relax(self) -> None:
        assert self._deadline is not None
        if self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if self._resuming is None:
            self._resume()

    def _resume(self) -> None:
        self._resuming = None
        if self.held > self._half:
            return  # It is too much again.
        some = list(islice(self._stopped, AT_A_TIME))
        if len(self._stopped) > AT_A_TIME:
            self._resuming = self._reactor.callLater(PAUSE, self._resume)
        for holder in some:
            self._stopped.pop(holder, None)
            holder.resumeReading()
