"""The memory budget, against ten thousand."""

import time
from collections.abc import Sequence

from endurance.figures import MB, Figure, atMost, exactly, told
from endurance.herd import Herd, Kind
from endurance.honest import SLOWER, Honest
from endurance.waits import Latency
from support.deflate import deflated
from support.probe import works
from support.process import Twistd

from echotwist.testing.frames import BINARY, CONTINUATION, PING, TEXT, frame

BUDGET = 128

LATE = 0.5
"""Seconds that their p99 may be, also without the fast path."""

COME = 60
"""Seconds within which all of them must have come in. Nothing limits how fast they try: before,
they were kept to 600 a second, and to 50 that came again, because the reactor was full of them."""

STAND = 12
"""Seconds for which they stand, and those that the service ends come again."""

LEAVE = 60
"""Seconds within which the service must have closed all of them, once they have gone."""

LEAVE_SLOWLY = 600
"""The same without the fast path: what they have sent is worked off first, and 20,000 fragments of
one byte take Autobahn half a second."""

EACH = 8 << 10
"""Bytes that the manual says a connection takes besides the budget."""


LARGE = (16 * MB).to_bytes(8, "big")

KINDS = [
    Kind("a frame of 16 MiB, 64 KB of it sent", b"\x82\xff" + LARGE + bytes(4) + bytes(64_000)),
    Kind("fragments, without an end", frame(BINARY, bytes(32_000), fin=False)
         + frame(CONTINUATION, bytes(32_000), fin=False)),
    Kind("echoes that are not read", frame(TEXT, b"x" * 16_000) * 10),
    Kind("echoes of one byte that are not read", frame(TEXT, b"x") * 20_000),
    Kind("a request without an end", b"GET /echo HTTP/1.1\r\n" + b"X-Y: z\r\n" * 60, upgrade=False),
    Kind("pings, pongs not read", frame(PING, bytes(125)) * 1_000),
    Kind("empty fragments", frame(BINARY, b"", fin=False)
         + frame(CONTINUATION, b"", fin=False) * 1_000),
    Kind("fragments of one byte", frame(BINARY, b"x", fin=False)
         + frame(CONTINUATION, b"x", fin=False) * 20_000),
    Kind("256 KB deflated, without an end",
         frame(BINARY, deflated(bytes(256 << 10), 9), fin=False, rsv=4),
         extension="Sec-WebSocket-Extensions: permessage-deflate\r\n"),
]  # fmt: skip


def withFastPath(share: float) -> Sequence[Figure]:
    """10,000 hostile clients come as fast as they get in. In turn, each sends a 64 KB beginning of
    a 16 MiB frame, fragments without an end, ten messages of 16 KB or 20,000 of one byte whose
    echoes it does not read, a request without an end, 1,000 pings whose answers it does not read,
    1,000 empty fragments, 20,000 fragments of one byte, or compressed fragments that inflate to
    256 KB. One that the service ends comes again at once. Meanwhile 100 honest clients send ten
    messages a second each. The memory of the process must stay within `--memory-budget=128M` and
    8 KB a connection, all must get in, and nobody honest may notice much."""
    return _attack(share, LEAVE)


def withoutFastPath(share: float) -> Sequence[Figure]:
    """The same with `--no-fast-path`, where one thread of Python serves the hostile and the honest:
    99 of 100 echoes must come within half a second."""
    return _attack(share, LEAVE_SLOWLY, "--no-fast-path")


def _attack(share: float, leave: int, *options: str) -> Sequence[Figure]:
    count = round(10_000 * share)
    with Twistd(f"--memory-budget={BUDGET}M", "--log-rate=10", *options) as service:
        with Honest(service.port, 100) as honest:
            # One of each, so that everything is loaded.
            some = Herd(service.port, KINDS, len(KINDS))
            some.run(lambda: False, lambda: None, 1)
            some.close()
            honest.latency()
            time.sleep(4)
            idle = honest.latency()
            base = service.memory()
            most = 0

            def look() -> None:
                nonlocal most
                most = max(most, service.memory())

            herd = Herd(service.port, KINDS, count)
            began = time.monotonic()
            herd.run(lambda: herd.standing >= count * 0.99, look, COME)
            took = time.monotonic() - began
            standing = herd.standing
            building = honest.latency()
            herd.run(lambda: False, look, STAND)
            under = honest.latency()
            attempts = sum(herd.opened.values())
            ended = sum(herd.ended.values())
            herd.close()
            closing = time.monotonic()
            # Who is not read is not seen to leave: some hundred a second are read again.
            while service.descriptors() >= 200 and time.monotonic() < closing + leave:
                time.sleep(0.1)
            gone = time.monotonic() - closing
            time.sleep(1)
            after = honest.latency()
            missing = honest.missing()
            works(service)
            left = service.memory()
        refusals = service.log.count("too much is waiting")
    return [
        Figure(
            "hostile clients that stood",
            f"{standing:,} after {took:.1f} s",
            f"99 % of {count:,} within {COME} s",
            standing >= count * 0.99,
        ),
        told("hostile connections opened, together", attempts),
        told("of them ended by the service", ended),
        atMost("seconds until none was left, after they had gone", round(gone, 1), leave),
        told("lines of the log that say 1013 or 503 (10 a second are shown)", refusals),
        atMost(
            "memory at the most, less that before, MB",
            (most - base) / MB,
            BUDGET + count * EACH / MB,
        ),
        told("memory before, and a second after, MB", f"{base / MB:.0f}, {left / MB:.0f}"),
        told("an honest echo before", idle),
        told("while they come", building),
        told("while they stand", under),
        told("afterwards", after),
        *_notice("p99 while they come", building, idle, isFast=not options),
        *_notice("p99 while they stand", under, idle, isFast=not options),
        exactly("echoes that did not come", missing, 0),
    ]


def _notice(what: str, under: Latency, idle: Latency, isFast: bool) -> Sequence[Figure]:
    slower = under.p99 / idle.p99
    return [
        atMost(f"{what}, to that before", slower, SLOWER, " x")
        if isFast
        else told(f"{what}, to that before", f"{slower:.1f} x"),
        atMost(f"{what}, s", under.p99, LATE),
    ]
