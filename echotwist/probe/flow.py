"""How fast, and how evenly: what a buffer between does to messages, and what it all takes."""

import itertools
from collections.abc import Callable

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from echotwist.paths.measured import Burst, Flow
from echotwist.probe.connection import PATIENCE, Connection, Ended, Late
from echotwist.probe.dialer import Dialer
from echotwist.probe.farend import FarEnd, eventsOf
from echotwist.testing.frames import BINARY, CLOSE, PING, TEXT

_ROUND = b"a round trip of 32 bytes, there."

INTERVAL = 0.2
"""Seconds between two messages of a trickle."""

_TRICKLE = 25
"""Messages of a trickle: five seconds."""

_MOST = 1000
"""Messages of one that are noted: a server may send more than it was asked for."""

_ROUNDS = 20
"""Round trips of each kind."""

_BURST = 500
"""Messages at once."""

_BULK = 4 << 20
"""Bytes for a rate: a second at 32 Mbit/s."""

_TOO_BIG = 1009
"""The close code for it (RFC 6455, 7.4.1)."""

_SLOWEST = 60.0
"""Seconds for them."""


async def measure(near: Dialer, far: FarEnd, facts: Flow, say: Callable[[str], object]) -> None:
    """Fill in `facts`. Raises NotReached, Refused, Ended and Late."""
    say("a trickle")
    await _trickle(near, far, facts)
    connection = (await near.upgrade(far.way()[0])).connection
    say("round trips")
    facts["pingRoundTrips"] = [await _ping(connection) for _ in range(_ROUNDS)]
    facts["messageRoundTrips"] = [await _message(connection) for _ in range(_ROUNDS)]
    facts["tcpRoundTrip"] = connection.tcpRoundTrip()
    say("a burst")
    facts["burst"] = await _burst(connection)
    say("rates")
    await _rates(near, far, connection, facts)
    await connection.close(1000)


def _gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def _trickle(near: Dialer, far: FarEnd, facts: Flow) -> None:
    """Both ways at once at the lab; else the echoes of what the client sends."""
    path, trace = far.way(f"push={INTERVAL * 1000:.0f}ms", "ignore=1000000")
    connection = (await near.upgrade(path)).connection
    sent: list[float] = []
    received: list[float] = []
    for number in range(_TRICKLE):
        sent.append(near.reactor.seconds())
        connection.send(TEXT, b"trickle %d" % number)
        due = connection.opened + INTERVAL * (number + 1)
        try:
            while True:
                arrived = await connection.frame(due)
                if arrived.frame.opcode < CLOSE and len(received) < _MOST:
                    received.append(arrived.time)
        except Late:
            pass
    await connection.close(1000)
    if not far.isLab:
        facts["toClient"] = {
            "interval": INTERVAL,
            "sent": _gaps(sent),
            "received": _gaps(received),
        }
        return
    seen = await far.trace(trace)
    left = [each["time"] / 1e6 for each in eventsOf(seen, "frameSent") if each["opcode"] < CLOSE]
    came = [
        each["time"] / 1e6 for each in eventsOf(seen, "frameReceived") if each["opcode"] < CLOSE
    ]
    facts["toClient"] = {"interval": INTERVAL, "sent": _gaps(left), "received": _gaps(received)}
    facts["toServer"] = {"interval": INTERVAL, "sent": _gaps(sent), "received": _gaps(came)}


async def _ping(connection: Connection) -> float:
    began: float = connection.reactor.seconds()
    connection.send(PING, b"ping")
    return await connection.pong(b"ping", began + PATIENCE) - began


async def _message(connection: Connection) -> float:
    began: float = connection.reactor.seconds()
    connection.send(TEXT, _ROUND)
    while True:
        arrived, _, payload, _ = await connection.message(began + PATIENCE)
        if payload == _ROUND:
            return arrived - began


async def _burst(connection: Connection) -> Burst:
    began: float = connection.reactor.seconds()
    sent = [b"burst %d" % number for number in range(_BURST)]
    for each in sent:
        connection.send(TEXT, each)
    received, arrived = list[bytes](), began
    ours = set(sent)
    while len(received) < len(sent):
        arrived, _, payload, _ = await connection.message(began + _SLOWEST)
        if payload in ours:
            received.append(payload)
    return {"count": _BURST, "seconds": arrived - began, "inOrder": received == sent}


async def _rates(near: Dialer, far: FarEnd, other: Connection, facts: Flow) -> None:
    """Bytes a second each way; and what a message on `other` takes meanwhile."""
    loaded: list[float] = []
    facts["loadedRoundTrips"] = loaded

    async def disturb() -> None:
        while True:
            loaded.append(await _message(other))
            await deferLater(near.reactor, 0.02, lambda: None)

    disturbing = ensureDeferred(disturb())
    disturbing.addErrback(lambda _: None)
    try:
        if far.isLab:
            facts["down"] = await _down(near, far)
            facts["up"] = await _up(near, far)
        else:
            facts["echo"] = await _there(near)
    except Ended as ended:
        if ended.end.code != _TOO_BIG:
            raise
        # The server takes no message of that size, as the ladder of sizes tells.
    finally:
        disturbing.cancel()


async def _down(near: Dialer, far: FarEnd) -> float:
    """From the request on: what comes right behind the 101 may be there with it."""
    path, _ = far.script(f"fill={_BULK}", "as=binary")
    began: float = near.reactor.seconds()
    connection = (await near.upgrade(path)).connection
    arrived, _, payload, _ = await connection.message(began + _SLOWEST)
    await connection.close(1000)
    return len(payload) / max(arrived - began, 1e-6)


async def _up(near: Dialer, far: FarEnd) -> float:
    """To the server, and a word back."""
    path, _ = far.script("ignore=1", "send=all")
    connection = (await near.upgrade(path)).connection
    began: float = near.reactor.seconds()
    connection.send(BINARY, bytes(_BULK))
    arrived, _, _, _ = await connection.message(began + _SLOWEST)
    await connection.close(1000)
    return _BULK / max(arrived - began, 1e-6)


async def _there(near: Dialer) -> float:
    """There and back, of both together."""
    connection = (await near.upgrade(near.target.path)).connection
    began: float = near.reactor.seconds()
    connection.send(BINARY, bytes(_BULK))
    arrived, _, payload, _ = await connection.message(began + _SLOWEST)
    await connection.close(1000)
    return 2 * len(payload) / max(arrived - began, 1e-6)
