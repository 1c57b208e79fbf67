"""Runs the script of a connection.

A script is a coroutine. It gives way to others after each slice, and ends with the connection: when
the client closes, or breaks a rule, when the service drains, or when the budget is used up.

What the client sends before a step wants it is kept; see `LabConnection` for how much.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from echotwist.lab.frames import BINARY, PING, TEXT, filling
from echotwist.lab.judge import Judge
from echotwist.lab.observer import SHOWN
from echotwist.lab.opening import GARBAGE, Opening
from echotwist.lab.steps import Script
from echotwist.limits import LAB_CASE, LAB_FLOOD, LAB_HOLD, LAB_PAYLOAD, LAB_STEP
from echotwist.wire.gate import STALLED
from echotwist.wire.turns import PIECE

if TYPE_CHECKING:
    from echotwist.lab.connection import LabConnection

OVERHEAD = 200
"""Bytes of memory that a message takes while it waits, beside its payload."""

CHATTER = 0.1
"""Seconds between two messages of `reply-close=chatter`."""

Handle = Callable[[bytes, bool, bool], object]
"""Takes a message: its payload, whether it is binary, and whether it was compressed."""

_PAUSES = {"echo", "ignore", "stall", "wait", "hang", "drop"}
"""Steps before which the 101 goes out, if it was to be in one with what follows."""

T = TypeVar("T")

_log = Logger(namespace="echotwist")


class Runner:
    """Runs `script` on `connection`."""

    def __init__(self, connection: "LabConnection", script: Script, judge: Judge | None) -> None:
        self.transport = connection.transport
        self.kept = 0
        """Bytes of messages that no step has wanted yet."""

        self._connection = connection
        self._script = script
        self._judge = judge
        self._reactor = connection.context.reactor
        self._turns = connection.context.turns
        self._hasEnded = False
        self._awaited: Deferred[Any] | None = None
        self._granted: Deferred[None] | None = None
        self._messages: deque[tuple[bytes, bool, bool]] = deque()
        self._handle: Handle | None = None
        self._wanted = 0.0
        self._enough: Deferred[None] | None = None
        self._settled: Deferred[None] | None = None
        self._patience: IDelayedCall | None = None
        """The end of it in a case: LAB_CASE for the script, and then as `_settle` has it."""

        self._deadline = 0.0
        self._pushing: IDelayedCall | None = None
        self._pushed = 0

    def start(self) -> None:
        self._go(self._run())

    def answerClose(self, answer: Callable[[], None], how: str | float | None) -> None:
        """The client has said close: end the script, and `answer`, or do as `reply-close` says."""
        self.stop()
        self._hasEnded = False
        self._go(self._close(answer, how))

    def stop(self) -> None:
        """End the script, and whatever it has set going."""
        self._hasEnded = True
        self._forget()
        self._settled = self._enough = None
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        if self._awaited is not None:  # Else this is called by the script itself.
            self._awaited.cancel()

    def _forget(self) -> None:
        """Answer no message, and send none but by steps."""
        self._handle = None
        self._messages.clear()
        self.kept = 0
        if self._pushing is not None and self._pushing.active():
            self._pushing.cancel()

    def _go(self, script: Coroutine[Any, Any, None]) -> None:
        ensureDeferred(script).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("while a script ran", failure)
            self._connection.abort()

    def _check(self) -> None:
        """Raises CancelledError if the script has ended, also if a step has ended it just now."""
        if self._hasEnded:
            raise CancelledError

    async def _until(self, deferred: "Deferred[T]") -> T:
        """Its result. Raises CancelledError once the script has ended."""
        self._check()
        self._awaited = deferred
        try:
            return await deferred
        finally:
            self._awaited = None

    async def _sleep(self, seconds: float) -> None:
        self._check()
        await self._until(deferLater(self._reactor, seconds, lambda: None))

    async def _turn(self) -> None:
        """Let others have their turn."""
        self._check()
        self._granted = Deferred()
        self._turns.wait(self)
        await self._until(self._granted)

    def takeTurn(self) -> None:
        granted, self._granted = self._granted, None
        if granted is not None and not granted.called:
            granted.callback(None)

    async def _run(self) -> None:
        if not await self._open(Opening(self._script.opening)):
            return
        end = self._turns.sliceEnd()
        for step in self._script.body:
            if step.name in _PAUSES:
                self._connection.uncork()
            await getattr(self, "_do_" + step.name.replace("-", "_"))(step.value)
            self._check()
            if self._turns.clock() >= end:
                await self._turn()
                end = self._turns.sliceEnd()
        connection = self._connection
        connection.uncork()
        await self._until(connection.output.drained())
        connection.tell("scriptEnded")
        if self._judge is not None:
            await self._take(_discard)
            await self._settle(self._judge)
        else:
            await self._take(self._echo)

    # Until the verdict is clear.

    def noticed(self) -> None:
        """Something has happened: ask the judge, and be patient anew until the deadline."""
        if self._judge is None or self._hasEnded:
            return
        if self._settled is None:
            if self._patience is None:
                self._patience = self._reactor.callLater(LAB_CASE, self._connection.abort)
            return
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        left = max(self._deadline - self._reactor.seconds(), 0)
        delay = 0 if self._judge.isDecided else min(self._judge.case.patience, left)
        self._patience = self._reactor.callLater(delay, self._beSettled)

    def _beSettled(self) -> None:
        settled, self._settled = self._settled, None
        assert settled is not None  # `stop` cancels the timer, too.
        settled.callback(None)

    def _isDecided(self) -> bool:
        return self._judge is not None and self._judge.isDecided

    async def _settle(self, judge: Judge) -> None:
        """Wait for the verdict, and end."""
        settled = self._settled = Deferred()
        self._deadline = self._reactor.seconds() + LAB_CASE
        self.noticed()
        await self._until(settled)
        if self._connection.maySayClose():
            await self._do_close((1000, b""))
        else:
            self._connection.abort()

    async def _linger(self, seconds: float) -> None:
        """Wait for the client to leave; in a case, only until the verdict is clear."""
        self._connection.tell("scriptEnded")
        if self._judge is not None:
            await self._settle(self._judge)
        else:
            await self._sleep(seconds)
            self._connection.abort()

    # The answer to the handshake, and to a close.

    async def _open(self, opening: Opening) -> bool:
        """Returns whether the script goes on."""
        connection = self._connection
        if "hold" in opening:
            await self._sleep(opening["hold"])
        if "garbage" in opening:
            connection.hang()
            await self._until(connection.respond([GARBAGE]))
            await self._linger(LAB_HOLD)
            return False
        if "status" in opening:
            connection.status = opening["status"]
            await self._until(connection.respond([opening.refusal()]))
            connection.dropConnection()
            return False
        response = opening.response(connection.agree(opening["extension"]))
        if "cut" in opening:
            first = next(response)
            await self._until(connection.respond([first[: len(first) // 2]]))
            await self._do_drop(opening["cut"])
            return False
        if "coalesce" in opening:
            connection.cork(response)
        else:
            connection.output.chop = opening["split"] or 0
            await self._until(connection.respond(response))
            connection.output.chop = 0
        connection.open()
        return True

    async def _close(self, answer: Callable[[], None], how: str | float | None) -> None:
        connection = self._connection
        if self._judge is not None and connection.isBlocked():
            connection.dropConnection()  # It has failed the connection, and reads no more.
            return
        await self._until(connection.output.drained())
        match how:
            case "no":
                connection.hang()
                await self._linger(LAB_STEP)
            case "chatter":
                connection.hang()
                connection.tell("scriptEnded")
                end = self._reactor.seconds() + LAB_STEP
                while self._reactor.seconds() < end and not self._isDecided():
                    await self._until(connection.send(b"chatter", TEXT))
                    await self._sleep(CHATTER)
                connection.abort()
            case "open":
                answer()
                await self._until(connection.output.drained())
                await self._linger(LAB_STEP)
            case float(seconds):
                await self._sleep(seconds)
                answer()
            case _:
                answer()

    # Steps.

    async def _do_send(self, payload: bytes) -> None:
        await self._until(self._connection.send(payload, TEXT))

    async def _do_send_hex(self, payload: bytes) -> None:
        await self._until(self._connection.send(payload, BINARY))

    async def _do_fill(self, size: int) -> None:
        await self._until(self._connection.sendParts(filling, size, TEXT))

    async def _do_ping(self, payload: bytes) -> None:
        await self._until(self._connection.sendControl(PING, payload))

    async def _do_frame(self, data: bytes) -> None:
        self._connection.tell("bytesSent", data[:SHOWN])
        await self._until(self._connection.put([data]))

    _do_violate = _do_frame

    async def _do_flood(self, data: bytes) -> None:
        self._connection.tell("bytesSent", data[:SHOWN])
        await self._until(self._connection.put(self._flood(data)))

    def _flood(self, data: bytes) -> Iterator[bytes]:
        end = self._reactor.seconds() + LAB_FLOOD
        some = data * max(PIECE // len(data), 1)
        for _ in range(LAB_PAYLOAD // len(some)):
            yield some
            if self._reactor.seconds() >= end:
                return

    async def _do_echo(self, most: int | float) -> None:
        await self._takeSome(self._echo, most)

    async def _do_ignore(self, most: int | float) -> None:
        await self._takeSome(_discard, most)

    async def _do_stall(self, seconds: float) -> None:
        self._connection.pauseReading(STALLED)
        await self._sleep(seconds)
        self._connection.resumeReading(STALLED)

    async def _do_wait(self, seconds: float) -> None:
        await self._sleep(seconds)

    async def _do_close(self, value: tuple[int | None, bytes]) -> None:
        code, reason = value
        connection = self._connection
        self._forget()  # No message follows a close (RFC 6455, 5.5.1) that no step sends.
        isFirst = connection.state == connection.STATE_OPEN
        connection.tell("closeSent", code)
        if isFirst:
            connection.sendCloseFrame(code=code, reasonUtf8=reason if code is not None else None)
        else:
            connection.putClose(code, reason)
        await self._until(connection.output.drained())
        connection.awaitClose()

    async def _do_drop(self, how: str) -> None:
        self._connection.uncork()
        await self._until(self._connection.output.drained())
        self._connection.tell("scriptEnded")
        if how == "fin":
            self._connection.dropConnection()
        else:
            self._connection.reset()
        self.stop()

    async def _do_hang(self, value: None) -> None:
        self._forget()
        self._connection.hang()
        if self._judge is None:
            await self._sleep(LAB_STEP)
            self._connection.abort()

    # Settings.

    async def _do_delay(self, seconds: float) -> None:
        self._connection.output.delay = seconds

    async def _do_jitter(self, seconds: float) -> None:
        self._connection.output.jitter = seconds

    async def _do_rate(self, rate: int) -> None:
        self._connection.output.rate = rate

    async def _do_chop(self, size: int) -> None:
        self._connection.output.chop = size

    async def _do_fragment(self, size: int) -> None:
        self._connection.shape.fragment = size

    async def _do_interleave(self, value: None) -> None:
        self._connection.shape.interleave = True

    async def _do_as(self, kind: str) -> None:
        self._connection.shape.opcode = TEXT if kind == "text" else BINARY

    async def _do_compress(self, how: str) -> None:
        self._connection.shape.compress = how

    async def _do_pong(self, how: str | float) -> None:
        self._connection.pong = how

    async def _do_reply_close(self, how: str | float) -> None:
        self._connection.replyClose = how

    async def _do_keepalive(self, how: str | float) -> None:
        self._connection.keepAlive(None if isinstance(how, str) else how)

    async def _do_push(self, interval: float) -> None:
        if self._pushing is not None and self._pushing.active():
            self._pushing.cancel()
        self._pushing = self._reactor.callLater(interval, self._push, interval)

    def _push(self, interval: float) -> None:
        self._pushing = self._reactor.callLater(interval, self._push, interval)
        if not self._connection.isBehind():
            self._pushed += 1
            self._connection.send(b"push %d" % self._pushed, TEXT)

    # Messages that come.

    def message(self, payload: bytes, isBinary: bool, isCompressed: bool) -> None:
        """The client has sent a message. In a case its payload is for observers alone."""
        if self._hasEnded:
            return
        if self._judge is not None:
            payload = b""
        if self._handle is not None and not self._messages:
            self._handOver(payload, isBinary, isCompressed)
        else:
            self._messages.append((payload, isBinary, isCompressed))
            self.kept += len(payload) + OVERHEAD

    async def _take(self, handle: Handle, most: float = float("inf")) -> None:
        """Have `handle` take those that were kept, and those that come."""
        self._handle = handle
        self._wanted = most
        end = self._turns.sliceEnd()
        while self._messages and self._handle is not None:
            message = self._messages.popleft()
            self.kept -= len(message[0]) + OVERHEAD
            self._handOver(*message)
            if self._turns.clock() >= end:
                await self._turn()
                end = self._turns.sliceEnd()
        self._connection.balance()

    def _handOver(self, payload: bytes, isBinary: bool, isCompressed: bool) -> None:
        assert self._handle is not None
        self._handle(payload, isBinary, isCompressed)
        self._wanted -= 1
        if not self._wanted:
            self._handle = None
            enough, self._enough = self._enough, None
            assert enough is not None  # Only a step wants so many.
            enough.callback(None)

    async def _takeSome(self, handle: Handle, most: int | float) -> None:
        if isinstance(most, float):
            await self._take(handle)
            await self._sleep(most)
            self._handle = None
            return
        enough = self._enough = Deferred()
        await self._take(handle, most)
        if self._judge is not None:  # A client that says nothing does not keep a case waiting.
            enough.addTimeout(self._judge.case.patience, self._reactor, _goOn)
        await self._until(enough)
        self._handle = self._enough = None

    def _echo(self, payload: bytes, isBinary: bool, isCompressed: bool) -> None:
        self._connection.send(payload, BINARY if isBinary else TEXT, isCompressed)


def _discard(payload: bytes, isBinary: bool, isCompressed: bool) -> None:
    """Takes a message, and does nothing with it."""


def _goOn(result: object, seconds: float) -> None:
    """A timeout that is no failure."""
