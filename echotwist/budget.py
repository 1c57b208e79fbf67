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


class Holder(Protocol):
    """A connection."""

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

    def account(self, holder: Holder, size: int) -> None:
        """`holder` now holds `size` bytes. A connection that is gone holds none."""
        before = self._holders.pop(holder, 0)
        if size:
            self._holders[holder] = size
        else:
            self._stopped.pop(holder, None)
        self.held += size - before
        if self.held <= self._half:
            if self._deadline is not None:
                self._relax()
        elif size > before:
            self._press(holder, size)

    def _press(self, holder: Holder, size: int) -> None:
        if self._deadline is None:
            self._deadline = self._reactor.callLater(self._patience, self._late)
        if size > self._half / len(self._holders) and holder not in self._stopped:
            self._stopped[holder] = None
            holder.stopReading()
        while self.held > self._most:
            self._shed(self._most, 1)

    def _late(self) -> None:
        self._shed(self._half, AT_A_TIME)
        if self.held > self._half:
            self._deadline = self._reactor.callLater(PAUSE, self._late)

    def _shed(self, most: int, count: int) -> None:
        for holder in nlargest(count, self._holders, key=self._holders.__getitem__):
            if self.held <= most:
                return
            holder.refuse()
            # What it still has goes with its transport, in the reactor's next turn.
            self.account(holder, 0)

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
