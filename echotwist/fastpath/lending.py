"""The fast path: lends connections to compiled threads, and takes them back.

Autobahn decides everything. But most of an echo's life is complete text and binary frames on a
plain socket, and Python need not be woken for each of them. So, as in a router, there is a
control plane, the reactor with Autobahn, and a data plane: threads that each run a `Loop`
(`_loop.pyx`) on a core of its own.

A connection belongs to the reactor or to one loop, and moves between them by messages only:

    EchoProtocol.dataReceived   lends it when a plain frame comes and nothing else is going on
    Loop                        echoes, until something comes that is not plain
    EchoProtocol.returned       gets it back, with what was not judged and what was not sent

What the reactor wants of a connection that is lent (to close it in a drain, say) begins with
`recall`.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.fastpath.sources import identity
from echotwist.limits import Limits
from echotwist.observe.journal import Journal


def _whyNot() -> str:
    """Why the compiled part cannot be used, for the operator; empty if it can."""
    try:
        import echotwist.fastpath._loop as compiled
    except ModuleNotFoundError:  # There was no compiler, or no epoll, where this was installed.
        return "it is not compiled here"
    except ImportError as e:
        return f"the compiled part cannot be loaded: {e}"
    try:
        sources = identity(Path(__file__).parent)
    except OSError as e:
        return f"its source {e.filename} cannot be read, to compare: {e.strerror}"
    if getattr(compiled, "sources", None) != sources:
        return f"{compiled.__file__} was compiled of other sources"
    return ""


whyNot = _whyNot()

if not whyNot:
    from echotwist.fastpath._loop import Loop, echoFrames, parseCompressedFrame


HANG = 10.0
"""Seconds without an answer after which a loop is said to hang. A turn takes milliseconds, whatever
clients do; and the kernel lets no thread wait for so long on a machine that still does anything."""

SHOWN = 1000
"""Messages that a loop shows the log at once, of a rate that is higher. A flood would make more
than the reactor can print in a second, which then does nothing else."""

_log = Logger(namespace="echotwist")


class Connection(Protocol):
    """What is lent: an EchoProtocol."""

    number: int
    address: str
    transport: Any

    def returned(self, why: str, unjudged: bytes, unsent: bytes, isInside: bool) -> None:
        """It belongs to the reactor again. The arguments are those of `Loop.takeEvents`."""


@implementer(IReadDescriptor)
class FastPath:
    """Some loops, each on a thread, and what they are lent.

    To the reactor it is the descriptor that says that a loop has something to report.
    """

    Thread = Thread
    """Runs a loop. Tests have another."""

    def __init__(self, reactor: Any, limits: Limits, journal: Journal, threads: int) -> None:
        self.threads = threads
        self._reactor = reactor
        self._limits = limits
        self._journal = journal
        self._running: list[tuple[Loop, Thread]] = []
        self._lent: dict[int, tuple[Connection, Loop]] = {}
        self._checked: dict[int, float] = {}
        self._hung: set[int] = set()
        self._eventsFd = -1
        self._shown = min(limits.logRate, SHOWN)
        self.messages = 0
        """Echoed by the loops since the start, as of the last `count`."""
        self.buffered = 0
        """Bytes that the loops buffer for clients, as of the last `count`."""

    @property
    def lent(self) -> int:
        """Connections that the loops have."""
        return len(self._lent)

    @property
    def isRunning(self) -> bool:
        return bool(self._running)

    def start(self) -> None:
        """Start the threads. Not before the process has become a daemon: fork() leaves threads
        behind. Raises OSError or RuntimeError if there cannot be so many."""
        limits = self._limits
        self._eventsFd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reactor.addReader(self)
        try:
            for _ in range(self.threads):
                loop = Loop(
                    limits.maxMessage,
                    # The other half is the reactor's.
                    limits.bufferBudget // 2 // self.threads,
                    limits.pingInterval,
                    limits.pingTimeout,
                    self._eventsFd,
                )
                # A daemon, as Python calls it: the process ends without it if it must.
                thread = self.Thread(target=_run, args=(loop,), daemon=True)
                thread.start()
                self._running.append((loop, thread))
                loop.grant(self._shown)
        except (OSError, RuntimeError):
            self.stop()
            raise
        self._journal.beside = self._nextSecond

    def stop(self) -> None:
        """Take back what is lent, and end the threads."""
        if self._eventsFd < 0:
            return
        for loop, _ in self._running:
            loop.stop()
        for _, thread in self._running:
            thread.join()
        self.doRead()
        self.count()
        self._journal.beside = None
        self._running.clear()
        self._reactor.removeReader(self)
        os.close(self._eventsFd)
        self._eventsFd = -1

    def lend(self, connection: Connection, data: bytes) -> None:
        """Let a loop serve `connection`, which is not read any more, from `data` on."""
        loop = min((loop for loop, _ in self._running), key=lambda loop: loop.lent)
        self._lent[connection.number] = connection, loop
        loop.lend(_descriptorOf(connection), connection.number, data)

    def recall(self, connection: Connection, atOnce: bool) -> None:
        """Have `connection` returned: at once, or when the frame that is passing has ended; asked
        again, also if nothing of that has come since."""
        _, loop = self._lent[connection.number]
        loop.recall(_descriptorOf(connection), connection.number, atOnce)

    def hanging(self) -> list[int]:
        """Ask the loops whether they turn. Returns the numbers, from 1 on, of those that have not
        answered for HANG seconds. Whoever wants to know asks again and again; no timer of the
        service's does, and nothing is done for it where messages pass."""
        now = self._reactor.seconds()
        if any(now - since >= HANG for since in self._checked.values()):
            # If the process stood still, the answers are there and not read.
            self.doRead()
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
        with suppress(BlockingIOError):  # stop() looks without being told.
            os.eventfd_read(self._eventsFd)
        for number, (loop, _) in enumerate(self._running, 1):
            for event in loop.takeEvents():
                if event[0] == "alive":
                    self._answered(number)
                    continue
                connection = self._lent[event[1]][0]
                try:
                    self._handle(event, connection)
                except Exception:
                    # As the reactor does it: it costs this connection, and no other.
                    _log.failure(
                        "#{number} what came back from the fast path", number=connection.number
                    )
                    connection.transport.abortConnection()
            if self._shown < self._limits.logRate and self._journal.isShowing:
                loop.grant(self._shown)

    def _handle(self, event: Any, connection: Connection) -> None:
        kind, number, *rest = event
        if kind == "message":
            size, isBinary, preview = rest
            self.messages += 1
            self._journal.message(connection, preview, isBinary, size)
        else:
            del self._lent[number]
            connection.returned(*rest)

    def count(self) -> None:
        """Have the journal count what the loops have not shown it."""
        self.buffered = 0
        for loop, _ in self._running:
            messages, pauses, buffered = loop.takeCounts()
            self.buffered += buffered
            self._journal.count(*messages)
            self._journal.totals.pauses += pauses
            self.messages += messages[0] + messages[2]

    def _nextSecond(self) -> None:
        self.count()
        for loop, _ in self._running:
            loop.grant(self._shown)

    def fileno(self) -> int:
        return self._eventsFd

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends; stop() has been called, or the process ends with the threads."""

    def logPrefix(self) -> str:
        return "echotwist fast path"


def _run(loop: "Loop") -> None:
    # Python's signal handlers run in the main thread, which a signal here would not wake.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run()


def _descriptorOf(connection: Connection) -> int:
    fd: int = connection.transport.getHandle().fileno()
    return fd
