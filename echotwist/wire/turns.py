"""Whose turn it is: no client has the reactor for long before the others have had it.

One read may be 64 KiB, and that may be nine thousand frames, a pipeline of two thousand requests,
or a message that inflates to 16 MB: seconds of work, in which the reactor would do nothing else. So
a connection works for a slice of time. If something is left, it is not read meanwhile, and waits in
a queue for its next slice.

The reactor works off a little of the queue in each of its iterations, and otherwise accepts, reads
and writes as ever. So those that are not in the queue (a new connection, its handshake, /healthz, a
client that sends a message now and then) do not wait for those that are.

A thread for the work would be no help: it would hold the interpreter's lock.
"""

import time
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

SLICE = 0.0005
"""Seconds that a connection works at a time. What it has begun by then it also ends: a frame, a
line of a request, a piece (PIECE) of a message. These take less than a millisecond, but for two:
the end of a message of many megabytes, which is copied, and that of a request whose target has
thousands of segments or parameters, which Twisted takes apart (4 ms for 16 KB of them)."""

FIRST_SLICE = 0.0002
"""Seconds of the first turn of a connection: it ends it for one with ten small messages, and most
of those that wait for one need no second."""

SHARE = 0.001
"""Seconds of each iteration of the reactor that are for the queue. An iteration without
them takes some 0.1 ms, so that is most of the time; and a newcomer, who needs five iterations to
connect, shake hands and have its first echo, waits some 10 ms."""

PIECE = 32 << 10
"""Bytes of a message that are inflated or deflated at a time: 0.5 ms of zlib at most (measured,
random bytes at level 1)."""

SMALL = 4 << 10
"""Bytes of a read that are worked on at once, whoever else waits: 0.1 ms for a message, or for two
frames and no more."""

_log = Logger(namespace="echotwist")


class Waiting(Protocol):
    """A connection that has something left to work on."""

    transport: Any

    def takeTurn(self) -> None:
        """Work for a slice. If something is left after that, `wait` again."""


class _Queue:
    """Connections of one kind, which wait for a slice of this length. `had` is how many seconds
    they have had; the kind that had least is next (start-time fair queueing).

    There are three kinds: those that were just read, by whether that was much, and those that have
    had a turn and have more left. So an honest client with three small messages does not wait for
    thousands that have just come with 64 KB each (it was five seconds, measured), nor these for
    those whose work never ends.
    """

    def __init__(self, slice: float) -> None:
        self.slice = slice
        self.had = 0.0
        self.waiting: deque[Waiting] = deque()


class Turns:
    """The queues. `clock` is in seconds, and monotonic."""

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self._reactor = reactor
        self._small = _Queue(FIRST_SLICE)
        self._large = _Queue(FIRST_SLICE)
        self._old = _Queue(SLICE)
        self._queues = self._small, self._large, self._old
        self._isWorking = False
        self._hasAdmitted = False
        self._slice = SLICE

    def _isAnyWaiting(self) -> bool:
        return any(queue.waiting for queue in self._queues)

    def sliceEnd(self, isNew: bool = True) -> float:
        """When a slice that begins now ends, on `clock`. A connection that was just read, and is
        not `isNew`, gets none while others wait: it does one thing, and then is the last of them.
        """
        if self._isAnyWaiting() and not (isNew or self._isWorking):
            return float("-inf")
        return self.clock() + self._slice

    def admits(self, size: int) -> bool:
        """Whether `size` bytes that a connection has just read may be worked on at once. Of many,
        only the first in an iteration of the reactor: each takes up to a millisecond, and a
        hundred connections may be ready."""
        if size <= SMALL or self._isWorking:
            return True
        if self._isAnyWaiting() or self._hasAdmitted:
            return False
        self._hasAdmitted = True
        self._reactor.callLater(0, self._nextIteration)
        return True

    def _nextIteration(self) -> None:
        self._hasAdmitted = False

    def wait(self, connection: Waiting, size: int = 0) -> None:
        """Have `connection` take its turn after all of its kind that wait already. It has `size`
        bytes left."""
        busy = [queue.had for queue in self._queues if queue.waiting]
        if not (busy or self._isWorking):
            self._reactor.callLater(0, self._work)
        queue = self._old if self._isWorking else self._large if size > SMALL else self._small
        if busy and not queue.waiting:
            queue.had = max(queue.had, min(busy))  # It has no claim to the time when it was empty.
        queue.waiting.append(connection)

    def _work(self) -> None:
        end = self.clock() + SHARE
        self._isWorking = True
        try:
            # Nobody twice: all the others may wait for this iteration to end.
            left = {queue: len(queue.waiting) for queue in self._queues if queue.waiting}
            while left:
                queue = min(left, key=attrgetter("had"))
                left[queue] -= 1
                if not left[queue]:
                    del left[queue]
                queue.had += queue.slice
                self._slice = queue.slice
                self._giveTurn(queue.waiting.popleft())
                if self.clock() >= end:
                    break
        finally:
            # Whatever was raised, the others go on.
            self._isWorking = False
            self._slice = SLICE
            if self._isAnyWaiting():
                self._reactor.callLater(0, self._work)

    def _giveTurn(self, connection: Waiting) -> None:
        transport = connection.transport  # A channel that upgrades has none afterwards.
        try:
            connection.takeTurn()
        except Exception:
            # As in the reactor, an error costs this connection and no other.
            _log.failure("while a connection took its turn")
            transport.abortConnection()
