"""The fast path: lends connections to compiled threads, and takes them back.

Autobahn decides everything. But most of an echo's life is text and binary messages, and Python need
not wake up for each of them. So, as in a router, there is a control plane, the reactor with
Autobahn, and a data plane: threads that each run a `Loop` (`_loop.pyx`) on a core of their own.

A connection belongs to the reactor or to one loop, and moves between them by messages only:

    dataReceived   the connection lends itself when a message comes and nothing else is going on
    Loop           echoes, until something unusual comes
    returned       gives the connection what the loop has not judged and what it has not sent

Before the reactor does anything to a lent connection (to close it in a drain, say), it recalls it.
"""

import os
import signal
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.fastpath import openssl
from echotwist.fastpath.sources import identity
from echotwist.limits import Limits
from echotwist.observe.journal import Journal
from echotwist.wire.tls import addressesOf
from echotwist.wire.transport import descriptor, tlsOf
from echotwist.wire.turns import SHARE


def _whyNot() -> str:
    """Why the compiled part cannot be used, as the operator is told; empty if it can."""
    try:
        import echotwist.fastpath._loop as compiled
    except ModuleNotFoundError:  # This was installed where there was no compiler, or no epoll.
        return "it is not compiled here"
    except ImportError as e:
        return f"the compiled part cannot be loaded: {e}"
    try:
        expected = identity(Path(__file__).parent)
    except OSError as e:
        return f"its source {e.filename} cannot be read, to compare: {e.strerror}"
    if getattr(compiled, "sources", None) != expected:
        return f"{compiled.__file__} was compiled from other sources"
    return ""


whyNot = _whyNot()

whyNotDeflate = whyNot
"""Why the loops cannot serve compressed messages; empty if they can."""

if not whyNot:
    from echotwist.fastpath._loop import Loop, echoFrames, hasZlib, parseCompressedFrame

    if not hasZlib:
        whyNotDeflate = "the fast path was compiled without zlib"


HANG = 10.0
"""Seconds without an answer after which a loop is said to hang. A turn takes milliseconds, whatever
clients do; and on a machine that still works at all, the kernel keeps no thread waiting so long."""

KINDS = ("plain", "fragmented", "compressed")
"""Of messages, as the client sent them; in the order in which a loop counts them."""

MAX_GRANT = 1000
"""Messages that one grant lets a loop report to the log, however high the log's rate is. A flood
brings more than the reactor can print in a second, and it would do nothing else."""

_log = Logger(namespace="echotwist")


class Connection(Protocol):
    """What can be lent."""

    number: int
    address: str
    transport: Any

    def abort(self) -> None:
        """End it at once: if a loop has it, as soon as it is returned."""

    def returned(
        self, why: str, begun: bytes, small: int, unjudged: bytes, unsent: bytes, isInside: bool
    ) -> None:
        """The connection belongs to the reactor again. The arguments are those of a "returned"
        event; see `Loop.takeEvents`."""


@implementer(IReadDescriptor)
class FastPath:
    """The loops, each on a thread, and the connections that they are lent.

    To the reactor it is a descriptor that is ready when a loop has events.
    """

    Thread = Thread
    """Runs a loop. Tests put another class here."""

    clock = staticmethod(time.perf_counter)
    """As that of `wire.turns.Turns`."""

    def __init__(self, reactor: Any, limits: Limits, journal: Journal, threads: int) -> None:
        self.threads = threads
        self._reactor = reactor
        self._limits = limits
        self._journal = journal
        self._running: list[tuple[Loop, Thread]] = []
        self._lent: dict[Loop, dict[int, Connection]] = {}
        """What each loop has, by number. A pair of connection and loop would take 64 bytes more."""
        self._checked: dict[int, float] = {}
        """When each loop that has not answered yet was asked, by its number."""
        self._hung: set[int] = set()
        self._eventsFd = -1
        self._events: deque[tuple[int, Any]] = deque()
        """What the loops have reported, each with the loop's number, and is not handled yet."""
        self._handling: IDelayedCall | None = None
        self._grant = min(limits.logRate, MAX_GRANT)
        self.messages = Counter({(kind, isTls): 0 for isTls in (False, True) for kind in KINDS})
        """Messages that the loops have echoed since the start, as of the last `count`: by one of
        KINDS, and whether they came over TLS."""
        self.buffered = 0
        """Bytes that the loops buffer for clients, as of the last `count`."""
        self._held: dict[Loop, int] = {}
        """The same, of each loop."""
        self._relieved = float("-inf")
        """When one was last asked to give some back."""

    @property
    def lent(self) -> int:
        """Connections that the loops have."""
        return sum(map(len, self._lent.values()))

    @property
    def isRunning(self) -> bool:
        return bool(self._running)

    def start(self) -> None:
        """Start the threads; not before the process has become a daemon, because fork() copies no
        threads. Raises OSError or RuntimeError if the system does not allow so many."""
        limits = self._limits
        self._eventsFd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reactor.addReader(self)
        try:
            for _ in range(self.threads):
                loop = Loop(
                    limits.maxMessage,
                    limits.fragmentAllowance,
                    # The other half is the reactor's.
                    limits.bufferBudget // 2,
                    limits.pingInterval,
                    limits.pingTimeout,
                    self._eventsFd,
                    self._journal.logsFrames,
                    limits.closeTimeout,
                    self._running[0][0] if self._running else None,
                )
                # A daemon in Python's sense: the interpreter does not wait for it at its exit.
                thread = self.Thread(target=_run, args=(loop,), daemon=True)
                thread.start()
                self._running.append((loop, thread))
                self._lent[loop] = {}
                loop.grant(self._grant)
        except (OSError, RuntimeError):
            self.stop()
            raise
        self._journal.onSecondEnd = self._nextSecond

    def stop(self) -> None:
        """Take all connections back, and end the threads."""
        if self._eventsFd < 0:
            return
        for loop, _ in self._running:
            loop.stop()
        for _, thread in self._running:
            thread.join()
        self.doRead()
        self._handleAll()
        self.count()
        self._journal.onSecondEnd = None
        self._running.clear()
        self._lent.clear()
        self._held.clear()
        self._reactor.removeReader(self)
        os.close(self._eventsFd)
        self._eventsFd = -1

    def canServe(self, transport: Any) -> bool:
        """Whether a connection with this `transport` may be lent: what is below must be a socket,
        perhaps with TLS on it."""
        if descriptor(transport) < 0:
            return False
        return tlsOf(transport) is None or not openssl.whyNot()

    def lend(
        self, connection: Connection, data: bytes, deflate: tuple[int, int] | None = None
    ) -> None:
        """Have a loop serve `connection`, from `data` on, which was read from it. The caller must
        have stopped reading. `deflate` is as `Loop.lend` has it."""
        loop = min((loop for loop, _ in self._running), key=lambda loop: loop.lent)
        self._lent[loop][connection.number] = connection
        tls = tlsOf(connection.transport)
        addresses = None if tls is None else addressesOf(tls.getHandle())
        fd = descriptor(connection.transport)
        loop.lend(fd, connection.number, data, deflate, addresses)

    def recall(self, connection: Connection, atOnce: bool) -> None:
        """Have `connection` returned: at once, or when the frame that passes has ended. The loop
        also returns it if it is recalled again and nothing of that frame has come since."""
        loop = next(loop for loop, lent in self._lent.items() if connection.number in lent)
        loop.recall(descriptor(connection.transport), connection.number, atOnce)

    def hanging(self) -> list[int]:
        """Ask each loop whether it still turns. Returns the numbers, from 1 on, of those that have
        not answered for HANG seconds. The service itself has no timer for this: health checks and
        scrapes call it again and again, and messages pay nothing for it."""
        now = self._reactor.seconds()
        if any(now - since >= HANG for since in self._checked.values()):
            # If the process was stopped, the answers may have come, and are not read yet.
            self.doRead()
            self._handleAll()
        found = []
        for number, (loop, _) in enumerate(self._running, 1):
            if number not in self._checked:
                self._checked[number] = now
                loop.check()
            elif now - self._checked[number] >= HANG:
                found.append(number)
        for number in set(found) - self._hung:
            _log.error(
                "thread {number} of the fast path hangs: no answer in {seconds:.0f} s",
                number=number,
                seconds=now - self._checked[number],
            )
        self._hung.update(found)
        return found

    def _answered(self, number: int) -> None:
        del self._checked[number]
        if number in self._hung:
            self._hung.remove(number)
            _log.info("thread {number} of the fast path goes on", number=number)

    def echoFrames(self, data: bytes) -> tuple[bytes, int] | None:
        """The echo of the plain frames that `data` begins with, and how many bytes those are; for
        a connection that cannot be lent. None while the log shows messages, because it gets them
        from Autobahn."""
        if self._journal.isShowing:
            return None
        echo, used, messages = echoFrames(data, self._limits.maxMessage)
        self._journal.count(*messages)
        return echo, used

    def parseCompressedFrame(self, data: bytes) -> tuple[bool, bytes, int] | None:
        """The compressed message that `data` begins with, if it is one frame: whether it is binary,
        its payload, still compressed, and how many bytes of `data` it is."""
        return parseCompressedFrame(data, self._limits.maxWirePayload)

    def doRead(self) -> None:
        with suppress(BlockingIOError):  # stop() and hanging() call this without an event.
            os.eventfd_read(self._eventsFd)
        for number, (loop, _) in enumerate(self._running, 1):
            self._events.extend((number, event) for event in loop.takeEvents())
        if self._handling is None:
            self._handleSome()

    def _handleSome(self) -> None:
        """Handle events for a while, and the rest in the reactor's next turns: ten thousand clients
        that leave at once take it a second, in which it would do nothing else."""
        self._handling = None
        end = self.clock() + SHARE
        while self._events:
            self._handle(*self._events.popleft())
            if self.clock() >= end and self._events:
                self._handling = self._reactor.callLater(0, self._handleSome)
                return
        if self._grant < self._limits.logRate and self._journal.isShowing:
            for loop, _ in self._running:
                loop.grant(self._grant)

    def _handleAll(self) -> None:
        if self._handling is not None:
            self._handling.cancel()
            self._handling = None
        while self._events:
            self._handle(*self._events.popleft())

    def _handle(self, loop: int, event: Any) -> None:
        if event[0] == "alive":
            self._answered(loop)
            return
        if event[0] == "short":
            self._relieve()
            return
        lent = self._lent[self._running[loop - 1][0]]
        connection = lent[event[1]]
        try:
            self._tell(event, connection, lent)
        except Exception:
            # As in the reactor, an error costs this connection and no other. A loop may still have
            # it, so it aborts itself.
            _log.failure("#{number} what came back from the fast path", number=connection.number)
            connection.abort()

    def _tell(self, event: Any, connection: Connection, lent: dict[int, Connection]) -> None:
        kind, number, *rest = event
        if kind == "message":
            size, isBinary, preview = rest
            self._journal.message(connection, preview, isBinary, size)
        elif kind == "frame":
            header, isSent = rest
            self._journal.frame(connection, header, isSent=isSent)
        else:
            del lent[number]
            connection.returned(*rest)

    def _relieve(self) -> None:
        """Some connections have waited for memory for the close timeout: have the loop that buffers
        most give some back. Each loop says so, for the memory of all, and may be late."""
        now = self._reactor.seconds()
        if not 0 <= now - self._relieved < self._limits.closeTimeout / 2:
            self._relieved = now
            self.count()
            max(self._held, key=self._held.__getitem__).shed()

    def count(self) -> None:
        """Add to the journal what the loops have counted, and update `messages` and `buffered`."""
        for loop, _ in self._running:
            messages, kinds, pauses, self._held[loop] = loop.takeCounts()
            self._journal.count(*messages)
            self._journal.totals.pauses += pauses
            self.messages.update(dict(zip(self.messages, kinds, strict=True)))
        self.buffered = sum(self._held.values())

    def _nextSecond(self) -> None:
        self.count()
        for loop, _ in self._running:
            loop.grant(self._grant)

    def fileno(self) -> int:
        return self._eventsFd

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends: stop() was called before, or the threads end with the process."""

    def logPrefix(self) -> str:
        return "echotwist fast path"


def _run(loop: "Loop") -> None:
    # Python runs signal handlers in the main thread, which a signal to this one would not wake.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run()
