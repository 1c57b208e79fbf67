"""Whether each byte, each frame and each code arrives as it was sent, both ways."""

import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from echotwist.paths.measured import Check
from echotwist.probe.connection import PATIENCE, Connection, Ended, Late
from echotwist.probe.dialer import Dialer, Upgrade
from echotwist.probe.farend import FarEnd, eventsOf
from echotwist.testing.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

_RSV1 = 4
"""Says that a message is compressed (RFC 7692, 6)."""

_GREETING = 0.3
"""Seconds for what a server says by itself, after the last of it."""

_TEXT = "ASCII, é, \u0000, \ufeff, €, 漢字, 🜁, e\u0301"
"""Characters of one to four bytes, and those that somebody might remove or normalize."""

_CLIENT_CODE, _CLIENT_REASON = 4321, "the probe’s reason"
_SERVER_CODE, _SERVER_REASON = 4123, "a server's reason"


_Check = Callable[[Dialer, FarEnd], Awaitable[str | None]]
"""Tells why something does not arrive as it was sent; None if it does."""


async def measure(
    near: Dialer, far: FarEnd, found: list[Check], say: Callable[[str], object]
) -> None:
    """Append to `found`; `say` is told what is tried. Raises NotReached and Refused."""
    checks: list[tuple[str, _Check]] = [
        ("text", _echoing((TEXT, _TEXT.encode()))),
        ("binary", _echoing((BINARY, bytes(range(256)) * 4))),
        ("empty messages", _echoing((TEXT, b""), (BINARY, b""))),
        ("a compressed message", _compressed),
        ("a ping between fragments", _between),
        ("who answers pings", _pings),
        ("frames and masks", _frames),
        ("the client's close", _clientCloses),
        ("the server's close", _serverCloses),
    ]
    for name, check in checks:
        say(name)
        try:
            why = await check(near, far)
        except _NotSeen as reason:
            found.append({"check": name, "passed": None, "why": str(reason)})
        except Late:
            found.append({"check": name, "passed": False, "why": "no answer in time"})
        except Ended as ended:
            found.append({"check": name, "passed": False, "why": ended.end.words()})
        else:
            found.append({"check": name, "passed": why is None, "why": why or ""})


class _NotSeen(Exception):
    """It could not be tried, or not be seen; the text says why."""


async def _open(
    near: Dialer, far: FarEnd, *steps: str, deflate: bool = False
) -> tuple[Upgrade, str]:
    """A connection that echoes after these steps, and the ID of its trace; empty without a lab."""
    path, trace = far.way(*steps)
    upgrade = await near.upgrade(path, deflate=deflate)
    if not far.isLab:
        with suppress(Late):  # A server that is not ours may say something first.
            while True:
                await upgrade.connection.frame(near.reactor.seconds() + _GREETING)
    return upgrade, trace


async def _arrived(far: FarEnd, traceId: str) -> list[dict[str, Any]]:
    """The frames that came to the server. Raises _NotSeen."""
    trace = await far.trace(traceId)
    if trace is None:
        raise _NotSeen("there is no trace")
    return eventsOf(trace, "frameReceived")


def _late(connection: Connection) -> float:
    return float(connection.reactor.seconds()) + PATIENCE


async def _echoes(connection: Connection, opcode: int, payload: bytes) -> str | None:
    """Why the echo of this message is another one; None if it is the same."""
    connection.send(opcode, payload)
    found, echo = await connection.echoOf(opcode, payload, _late(connection))
    if found != opcode:
        return f"the echo has opcode {found & 15} and RSV {found >> 4} instead of opcode {opcode}"
    return None if echo == payload else f"{len(payload)} bytes came back as {echo[:64].hex()}"


def _echoing(*messages: tuple[int, bytes]) -> _Check:
    """A check of these messages, one after the other on one connection."""

    async def check(near: Dialer, far: FarEnd) -> str | None:
        connection = (await _open(near, far))[0].connection
        why = None
        for opcode, payload in messages:
            why = why or await _echoes(connection, opcode, payload)
        await connection.close(1000)
        return why

    return check


async def _compressed(near: Dialer, far: FarEnd) -> str | None:
    upgrade, _ = await _open(near, far, "compress=always", deflate=True)
    connection = upgrade.connection
    if not upgrade.deflates:
        await connection.close(1000)
        raise _NotSeen("compression is not agreed on")
    payload = b"to be compressed, compressed, compressed"
    deflator = zlib.compressobj(wbits=-15)
    deflated = deflator.compress(payload) + deflator.flush(zlib.Z_SYNC_FLUSH)
    connection.send(TEXT, deflated.removesuffix(b"\0\0\xff\xff"), rsv=_RSV1)
    _, found, echo, _ = await connection.message(_late(connection))
    try:
        if found >> 4 & _RSV1:
            echo = zlib.decompressobj(wbits=-15).decompress(echo + b"\0\0\xff\xff", 1 << 20)
    except zlib.error as error:
        return f"the echo cannot be inflated: {error}"
    await connection.close(1000)
    return None if (found & 15, echo) == (TEXT, payload) else "another message came back"


async def _between(near: Dialer, far: FarEnd) -> str | None:
    upgrade, _ = await _open(near, far)
    connection = upgrade.connection
    connection.send(TEXT, b"be", fin=False)
    connection.send(PING, b"between")
    connection.send(CONTINUATION, b"tween")
    late, hasPong, echo, isWhole = _late(connection), False, b"", False
    while not isWhole:
        found = (await connection.frame(late)).frame
        if found.opcode == PONG:
            if found.payload != b"between":
                return "a pong with another payload came"
            hasPong = True
        else:  # It may come in fragments, too.
            echo, isWhole = echo + found.payload, found.fin
    if echo != b"between":
        return f"the echo came as {echo[:64].hex()}"
    if not hasPong:
        await connection.pong(b"between", late)
    await connection.close(1000)
    return None


async def _pings(near: Dialer, far: FarEnd) -> str | None:
    if not far.isLab:
        raise _NotSeen("the far end cannot be asked")
    upgrade, trace = await _open(near, far)
    connection = upgrade.connection
    connection.send(PING, b"who answers?")
    await connection.pong(b"who answers?", _late(connection))
    await connection.close(1000)
    arrived = [each for each in await _arrived(far, trace) if each["opcode"] == PING]
    return None if arrived else "the ping did not arrive: something between has answered it"


async def _frames(near: Dialer, far: FarEnd) -> str | None:
    if not far.isLab:
        raise _NotSeen("the far end cannot be asked")
    upgrade, trace = await _open(near, far, "fragment=5000")
    connection = upgrade.connection
    sent = []
    for opcode, size, fin in (
        (BINARY, 20_000, False),
        (CONTINUATION, 3, False),
        (CONTINUATION, 0, True),
    ):
        mask = connection.send(opcode, bytes(size), fin=fin)
        sent.append((opcode, size, fin, mask.hex()))
    _, _, _, fragments = await connection.message(_late(connection))
    await connection.close(1000)
    arrived = [
        (each["opcode"], each["length"], each["fin"], each["mask"])
        for each in await _arrived(far, trace)
        if each["opcode"] < CLOSE
    ]
    if [each[:3] for each in arrived] != [each[:3] for each in sent]:
        shown = ", ".join(f"{length:,}" for _, length, _, _ in arrived)
        return f"fragments of 20,000, 3 and 0 bytes came to the server as {shown}"
    if [each[3] for each in arrived] != [each[3] for each in sent]:
        return "the frames came to the server with other masks"
    return None if fragments == 5 else f"5 fragments from the server came as {fragments}"


async def _clientCloses(near: Dialer, far: FarEnd) -> str | None:
    upgrade, trace = await _open(near, far)
    end = await upgrade.connection.close(_CLIENT_CODE, _CLIENT_REASON)
    if far.isLab:
        seen = [
            (each.get("code"), each.get("reason"))
            for each in await _arrived(far, trace)
            if each["opcode"] == CLOSE
        ]
        if seen and seen[0] != (_CLIENT_CODE, _CLIENT_REASON):
            code, reason = seen[0]
            return f"{_CLIENT_CODE} came to the server as {code} ({reason!r})"
        if not seen:
            return "the close frame did not come to the server"
    if end.how != "close":
        return f"{_CLIENT_CODE} was not answered by a close frame, but by {end.words()}"
    return None if end.code == _CLIENT_CODE else f"{_CLIENT_CODE} was answered by {end.code}"


async def _serverCloses(near: Dialer, far: FarEnd) -> str | None:
    if not far.isLab:
        raise _NotSeen("the far end closes nothing by itself")
    upgrade, _ = await _open(near, far, f"close={_SERVER_CODE},{quote(_SERVER_REASON)}")
    try:
        await upgrade.connection.frame(_late(upgrade.connection))
    except Ended as ended:
        end = ended.end
        if (end.how, end.code, end.reason) == ("close", _SERVER_CODE, _SERVER_REASON):
            return None
        return f"{_SERVER_CODE} of the server came as {end.words()}"
    return "another frame came"
