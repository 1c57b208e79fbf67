"""What a connection at /lab sends: in order, and no faster than its script says."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from echotwist.limits import LAB_SEGMENT
from echotwist.wire.context import Context
from echotwist.wire.transport import send

GATHERED = LAB_SEGMENT
"""Bytes that are written at a time at the least, if there are so many: a system call for each frame
of a byte would take most of a turn."""

TICK = 0.05
"""Seconds between two writes at a given rate; they may be longer."""


class _Item:
    """Something that is sent whole, before anything else is."""

    def __init__(self, pieces: Iterable[bytes], size: int, due: float) -> None:
        self.pieces: Iterator[bytes] = iter(pieces)
        self.rest = b""
        self.size = size
        self.due = due
        self.isBegun = False
        self.sent: Deferred[None] = Deferred()


class Output:
    """Writes what is `put` into it. `onWrite` is told of each write; `onProgress`, after some."""

    def __init__(
        self,
        context: Context,
        transport: Any,
        onWrite: Callable[[bytes], None],
        onProgress: Callable[[], None],
    ) -> None:
        self.transport = transport
        self.delay = self.jitter = 0.0
        """Seconds by which messages are late, and by up to how many more."""

        self.rate = 0
        """Bytes a second; 0 is no limit."""

        self.chop = 0
        """Bytes of a write, each in a segment; 0 is no limit."""

        self._context = context
        self._onWrite = onWrite
        self._onProgress = onProgress
        self._size = 0
        self._items: deque[_Item] = deque()
        self._isBlocked = False
        self._isInTurn = False
        self._isClosed = False
        self._mayAt = 0.0
        self._timer: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []
        self._isGoing = False

    def put(
        self, pieces: Iterable[bytes], size: int = 0, isMessage: bool = False
    ) -> "Deferred[None]":
        """Send `pieces`, after all that was put before, and if it is a message, after the delay. An
        empty piece is work that has nothing to send yet. `size` is the memory that it takes while
        it waits, in bytes. Fires when the last byte is with the transport; never, if the connection
        ends before."""
        due = self._context.reactor.seconds()
        if isMessage and self.delay + self.jitter:
            due += self.delay + random.uniform(0, self.jitter)
        item = _Item(pieces, size, due)
        if not self._isClosed:
            self._items.append(item)
            self._size += size
            self._go()
        return item.sent

    def drained(self) -> "Deferred[None]":
        """Fires when nothing waits here any more; never, if the connection ends before."""
        if not self._items:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        return drained

    @property
    def waiting(self) -> int:
        """Bytes of memory that what waits here takes."""
        return self._size + (len(self._items[0].rest) if self._items else 0)

    @property
    def isPacing(self) -> bool:
        """Whether something waits for its time, and not for the client."""
        return bool(self._items) and not self._isBlocked

    @property
    def isAmid(self) -> bool:
        """Whether part of something was sent, and the rest was not."""
        return bool(self._items) and self._items[0].isBegun

    def close(self) -> None:
        """Send nothing more, neither what waits nor what is put."""
        self._isClosed = True
        self._items.clear()
        self._size = 0
        self._clearTimer()

    def pause(self) -> None:
        """The client does not read."""
        self._isBlocked = True

    def resume(self) -> None:
        self._isBlocked = False
        self._go()

    def takeTurn(self) -> None:
        self._isInTurn = False
        self._go()

    def _waitForTurn(self) -> None:
        self._isInTurn = True
        self._context.turns.wait(self)

    def _wake(self, at: float) -> None:
        self._clearTimer()
        delay = max(at - self._context.reactor.seconds(), 0)
        self._timer = self._context.reactor.callLater(delay, self._go)

    def _clearTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _go(self) -> None:
        """Write for a slice."""
        if self._isInTurn or self._isGoing:
            return
        self._isGoing = True  # What fires may put more.
        try:
            self._write()
            while self._drained and not self._items:
                drained, self._drained = self._drained, []
                for each in drained:
                    each.callback(None)
                self._write()
        finally:
            self._isGoing = False
        self._onProgress()

    def _write(self) -> None:
        turns = self._context.turns
        end = turns.sliceEnd(isNew=False)
        while self._items and not self._isBlocked:
            item, now = self._items[0], self._context.reactor.seconds()
            if (due := max(item.due, self._mayAt if self.rate else 0)) > now:
                self._wake(due)
                return
            data, isLast = self._take(item, end)
            if data:
                item.isBegun = True
                if self.rate:
                    self._mayAt = now + len(data) / self.rate
                self._onWrite(data)
                send(self.transport, data)
            if isLast and self._items:  # It may have been closed meanwhile.
                self._items.popleft()
                self._size -= item.size
                item.sent.callback(None)
            if self._items and (self.chop or turns.clock() >= end):
                self._waitForTurn()
                return

    def _take(self, item: _Item, end: float) -> tuple[bytes, bool]:
        """What is written next of `item`, and whether that is the last of it. Pieces are gathered
        until `end`."""
        limits = [self.chop] if self.chop else []
        if self.rate:
            limits.append(max(int(self.rate * TICK), 1))
        limit = min([*limits, GATHERED]) if limits else 0
        pieces, size = [item.rest], len(item.rest)
        isLast = False
        while size < (limit or GATHERED):
            piece = next(item.pieces, None)
            if not piece:
                isLast = piece is None
                break
            pieces.append(piece)
            size += len(piece)
            if self._context.turns.clock() >= end:
                break
        data = b"".join(pieces)
        if limit:
            data, item.rest = data[:limit], data[limit:]
        else:
            item.rest = b""
        return data, isLast and not item.rest
