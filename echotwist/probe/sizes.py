"""Messages of sizes at which something between may have a limit, whole and in fragments."""

from collections.abc import Callable
from hashlib import sha256

from echotwist.paths.measured import Size
from echotwist.probe.connection import Connection, Ended, Late
from echotwist.probe.dialer import Dialer
from echotwist.probe.farend import FarEnd, eventsOf
from echotwist.testing.frames import BINARY, CONTINUATION

LADDER = (
    *(125, 126, 16_384, 32_767, 32_768, 32_769, 65_535, 65_536),
    *(131_071, 131_072, 131_073, 1_048_575, 1_048_576, 1_048_577, 16_777_216),
)
"""Bytes: where the length of a frame takes two and eight bytes, and at limits that are documented:
32 KB a frame and 128 KB a message (AWS API Gateway), 64 KB (APISIX), 1 MB (Cloudflare Workers), and
16 MB, the largest message of the Autobahn testsuite."""

FRAGMENT = 16_384
"""Bytes: below every limit of a frame that is known."""

PATIENCE = 60.0
"""Seconds for an echo, beside what it takes at _SLOWEST."""

_SLOWEST = 100_000
"""Bytes a second each way: on a slower line larger messages do not pass, whoever stands there."""

_GIVEN_UP = 3
"""Sizes in a row that do not pass, after which larger ones are not tried."""


async def measure(
    near: Dialer, far: FarEnd, found: list[Size], say: Callable[[str], object]
) -> None:
    """Append to `found`. `say` is told what is tried. Raises NotReached and Refused."""
    for shape in ("whole", "fragments"):
        await _climb(near, far, shape, found, say)


async def _climb(
    near: Dialer, far: FarEnd, shape: str, found: list[Size], say: Callable[[str], object]
) -> None:
    way = _Way(near, far, shape)
    failed = 0
    for size in LADDER:
        if failed == _GIVEN_UP:
            break
        say(f"{size:,} bytes, {shape}")
        result, wasCut = await way.echo(size)
        if wasCut:
            # Once more: it may be that everything was cut just then, by a reload say.
            result, _ = await way.echo(size)
        failed = 0 if result["passed"] else failed + 1
        found.append(result)
    await way.close()


class _Way:
    """There and back, on one connection for as long as it lives."""

    def __init__(self, near: Dialer, far: FarEnd, shape: str) -> None:
        self._near, self._far, self._shape = near, far, shape
        self._connection: Connection | None = None
        self._trace = ""

    async def echo(self, size: int) -> tuple[Size, bool]:
        """What became of a message of this size, and whether the connection was cut."""
        if self._connection is None:
            self._connection = await self._open()
        connection = self._connection
        result = await _echo(connection, size, self._shape)
        if result["passed"]:
            return result, False
        wasCut = connection.end is not None
        connection.abort()
        self._connection = None
        if self._far.isLab:
            await _ask(self._far, self._trace, result)
        return result, wasCut

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close(1000)

    async def _open(self) -> Connection:
        steps = [f"fragment={FRAGMENT}"] if self._shape == "fragments" else []
        path, self._trace = self._far.way(*steps)
        return (await self._near.upgrade(path)).connection


async def _echo(connection: Connection, size: int, shape: str) -> Size:
    payload = sha256(size.to_bytes(4, "big")).digest() * (size // 32 + 1)
    payload = payload[:size]
    step = size if shape == "whole" else FRAGMENT
    result: Size = {
        "size": size,
        "shape": shape,
        "passed": False,
        "why": "",
        "code": None,
        "arrived": None,
        "refusedByServer": False,
    }
    try:
        for start in range(0, size, step):
            opcode = CONTINUATION if start else BINARY
            connection.send(opcode, payload[start : start + step], fin=start + step >= size)
        patience = PATIENCE + 2 * size / _SLOWEST
        deadline = connection.reactor.seconds() + patience
        opcode, echo = await connection.echoOf(BINARY, payload, deadline)
        result["passed"] = echo == payload and opcode == BINARY
        if not result["passed"]:
            result["why"] = f"another message came: {len(echo):,} bytes, opcode {opcode & 15}"
    except Late:
        result["why"] = f"no echo in {patience:.0f} s"
    except Ended as ended:
        result["why"], result["code"] = ended.end.words(), ended.end.code
    return result


async def _ask(far: FarEnd, trace: str, result: Size) -> None:
    """Whether the server has got it, and whether it was the one that refused it."""
    seen = await far.trace(trace)
    if seen is None:
        return
    messages: list[list[int]] = [[]]
    for frame in eventsOf(seen, "frameReceived"):
        if frame["opcode"] < 3:
            messages[-1].append(frame["length"])
            if frame["fin"]:
                messages.append([])
    result["arrived"] = any(sum(each) == result["size"] for each in messages[:-1])
    result["refusedByServer"] = bool(eventsOf(seen, "refused"))
