"""Connections that lie there, or talk in one direction, for as long as they may: which of them are
cut, when, and who saw it.

One alone tells little: a limit of 60 s of silence, and one of 60 s of age, cut it at the same time.
Side by side they tell whether it is silence or age that counts, whose data, and whether pings do.
They are opened some seconds apart, so that an end at one age is told from an end at one instant.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from twisted.internet.defer import FirstError, ensureDeferred, gatherResults
from twisted.internet.task import deferLater

from echotwist.paths.measured import Row
from echotwist.probe.connection import Ended, Late
from echotwist.probe.dialer import Dialer
from echotwist.probe.farend import FarEnd, eventsOf
from echotwist.testing.frames import PING, TEXT

PERIOD = 1.0
"""Seconds between two messages, or pings. Below every timeout that somebody would choose."""

APART = 2.0
"""Seconds between the openings of two connections."""

_STALLED = 15.0
"""Seconds without a message where one should come each PERIOD; then the connection is looked at."""

_ALIVE = 10.0
"""Seconds for the answer to a ping."""


@dataclass(frozen=True)
class Kind:
    """What one of the connections does."""

    name: str
    steps: tuple[str, ...] = ()
    """What the lab does."""

    sends: int | None = None
    """The opcode of what the client sends each PERIOD."""

    hears: bool = False
    """Whether the server sends something each PERIOD."""


KINDS = (
    Kind("silent", ("keepalive=no",)),
    Kind("serverPings", (f"keepalive={PERIOD:.0f}s",)),
    Kind("serverData", ("keepalive=no", f"push={PERIOD:.0f}s"), hears=True),
    Kind("clientData", ("keepalive=no", "ignore=1000000"), sends=TEXT),
    Kind("both", ("keepalive=no",), sends=TEXT, hears=True),
)
"""With a lab."""

ONE_SIDED = (
    Kind("silent"),
    Kind("clientPings", sends=PING, hears=True),
    Kind("both", sends=TEXT, hears=True),
)
"""With any other echo, which may send pings by itself."""


async def measure(
    near: Dialer, far: FarEnd, seconds: float, found: list[Row], say: Callable[[str], object]
) -> None:
    """Append to `found`, at once, what each connection is at; it is whole after so many seconds.
    Raises NotReached and Refused."""
    kinds = KINDS if far.isLab else ONE_SIDED
    began: float = near.reactor.seconds()
    watching = []
    try:
        for number, kind in enumerate(kinds):
            if number:
                await deferLater(near.reactor, min(APART, seconds / 10), lambda: None)
            watch = _Watch(near, far, kind, began)
            await watch.open()
            found.append(watch.row)
            watching.append(ensureDeferred(watch.run(began + seconds)))
        say(f"{len(kinds)} connections")
        await gatherResults(watching, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for each in watching:
            each.cancel()
            each.addErrback(lambda _: None)  # That it was cancelled, or what was raised already.


class _Watch:
    """One of them."""

    def __init__(self, near: Dialer, far: FarEnd, kind: Kind, began: float) -> None:
        self._near, self._far, self._kind, self._began = near, far, kind, began
        self._trace = ""

    async def open(self) -> None:
        path, self._trace = self._far.way(*self._kind.steps)
        self._connection = (await self._near.upgrade(path)).connection
        self._sent = self._near.reactor.seconds()
        self.row: Row = {
            "row": self._kind.name,
            "opened": self._sent - self._began,
            "watched": 0.0,
            "ended": None,
            "client": None,
            "server": None,
            "isServerKnown": False,
            "alive": None,
            "fromServer": 0.0,
            "fromClient": 0.0,
        }

    async def run(self, until: float) -> None:
        """Talk, or be silent, until then; see whether it is alive; and ask what the server saw."""
        row, connection = self.row, self._connection
        isAsked = False
        try:
            await self._talk(until)
            isAsked = True
            row["alive"] = await self._isAlive()
        except Ended as ended:
            if isAsked:
                row["alive"] = False  # It had died before, and nobody was told.
            row["ended"] = ended.end.time - connection.opened
            row["client"] = {
                "how": ended.end.how,
                "code": ended.end.code,
                "reason": ended.end.reason,
            }
        finally:
            self._note()
        if self._far.isLab and not row["alive"]:
            await self._ask()
        if connection.end is None:
            end = await connection.close(1000)
            if end.how == "close" and row["server"] is None:
                row["alive"] = True  # It answers no pings: there are such servers, and hops.
        connection.abort()

    async def _talk(self, until: float) -> None:
        """Returns before `until` if nothing comes for _STALLED seconds where something should."""
        connection, kind, reactor = self._connection, self._kind, self._near.reactor
        while (now := reactor.seconds()) < until:
            # The same sums are compared and waited for: a difference may be rounded otherwise, and
            # this would spin.
            stalls = connection.heard + _STALLED if kind.hears else until
            if now >= stalls:
                return
            if kind.sends is not None and now >= self._sent + PERIOD:
                connection.send(kind.sends, b"still here")
                self._sent = now
            due = self._sent + PERIOD if kind.sends is not None else until
            self._note()
            with suppress(Late):
                await connection.frame(min(until, stalls, due))

    async def _isAlive(self) -> bool:
        connection = self._connection
        connection.send(PING, b"alive?")
        try:
            await connection.pong(b"alive?", self._near.reactor.seconds() + _ALIVE)
        except Late:
            return False
        return True

    def _note(self) -> None:
        """How long it has been there, and silent."""
        row, connection = self.row, self._connection
        at = self._near.reactor.seconds() if connection.end is None else connection.end.time
        row["watched"] = at - connection.opened
        row["fromServer"] = at - connection.heard
        row["fromClient"] = at - self._sent

    async def _ask(self) -> None:
        trace = await self._far.trace(self._trace)
        if trace is None:
            return
        self.row["isServerKnown"] = True
        ended = trace["ended"]
        if ended is not None:
            opened = [each["time"] for each in eventsOf(trace, "opened")] or [0]
            self.row["server"] = {
                "age": (ended["time"] - opened[0]) / 1e6,
                "by": ended["by"],
                "how": ended["how"],
                "tcp": ended["tcp"],
            }
