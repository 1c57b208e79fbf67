"""The memory budget, against ten thousand."""

import time
import zlib
from collections.abc import Sequence

from endurance.figures import MB, Figure, atMost, exactly, told
from endurance.herd import Herd, Kind
from endurance.honest import SLOWER, Honest
from support.probe import eventually, works
from support.process import Twistd

from echotwist.testing.frames import BINARY, CONTINUATION, PING, TEXT, frame

BUDGET = 128

LATE = 0.5
"""Seconds that their p99 may be, also without the fast path."""

COME = 600
"""Hostile clients that come in a second, until all stand."""

AGAIN = 50
"""Hostile clients that come again in a second, once all stand. What more of them would cost is
processor time, which is not what the budget is about."""

EACH = 8 << 10
"""Bytes that the manual says a connection takes besides the budget."""


def _deflated(size: int) -> bytes:
    z = zlib.compressobj(9, wbits=-15)
    return z.compress(bytes(size)) + z.flush(zlib.Z_SYNC_FLUSH)


LARGE = (16 * MB).to_bytes(8, "big")

KINDS = [
    Kind("a frame of 16 MiB, 64 KB of it sent", b"\x82\xff" + LARGE + bytes(4) + bytes(64_000)),
    Kind("fragments, without an end", frame(BINARY, bytes(32_000), fin=False)
         + frame(CONTINUATION, bytes(32_000), fin=False)),
    Kind("echoes that are not read", frame(TEXT, b"x" * 16_000) * 10),
    Kind("a request without an end", b"GET /echo HTTP/1.1\r\n" + b"X-Y: z\r\n" * 60, upgrade=False),
    Kind("pings, pongs not read", frame(PING, bytes(125)) * 30),
    Kind("empty fragments", frame(BINARY, b"", fin=False)
         + frame(CONTINUATION, b"", fin=False) * 50),
    Kind("256 KB deflated, without an end", frame(BINARY, _deflated(256 << 10), fin=False, rsv=4),
         extension="Sec-WebSocket-Extensions: permessage-deflate\r\n"),
]  # fmt: skip


def withFastPath(share: float) -> Sequence[Figure]:
    """10,000 hostile clients together send, in turn, a 64 KB beginning of a 16 MiB frame,
    fragments without an end, messages and pings whose answers they do not read, requests without
    an end, empty fragments, and compressed fragments that inflate to 256 KB: 900 MB if all of it
    were kept. Who is ended comes again. Meanwhile 100 honest clients send ten messages a second
    each. The memory of the process must stay within `--memory-budget=128M` and 8 KB a connection,
    and nobody honest may notice much."""
    return _attack(share)


def withoutFastPath(share: float) -> Sequence[Figure]:
    """The same with `--no-fast-path`, where one thread of Python serves the hostile and the honest.
    So many that come again then cost the honest more than five times what an echo took before; what
    holds is half a second for 99 of 100."""
    return _attack(share, "--no-fast-path")


def _attack(share: float, *options: str) -> Sequence[Figure]:
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
            herd.rate = COME
            began = time.monotonic()
            herd.run(lambda: herd.standing >= count * 0.99, look, 30)
            took = time.monotonic() - began
            standing = herd.standing
            building = honest.latency()
            herd.rate = AGAIN
            herd.run(lambda: False, look, 12)
            under = honest.latency()
            attempts = sum(herd.opened.values())
            ended = sum(herd.ended.values())
            herd.close()
            closing = time.monotonic()
            # Who is not read is not seen to leave: some hundred a second are read again.
            eventually(lambda: service.descriptors() < 200, 60)
            gone = time.monotonic() - closing
            time.sleep(1)
            after = honest.latency()
            works(service)
            left = service.memory()
        refusals = service.log.count("too much is waiting")
    return [
        told("hostile connections at a time, of so many opened", f"{standing:,} of {attempts:,}"),
        told("of them ended by the service", ended),
        told("seconds until none was left, after they had gone", round(gone)),
        told("lines of the log that say 1013 or 503 (10 a second are shown)", refusals),
        atMost(
            "memory at the most, less that before, MB",
            (most - base) / MB,
            BUDGET + count * EACH / MB,
        ),
        told("memory before, and a second after, MB", f"{base / MB:.0f}, {left / MB:.0f}"),
        told("an honest echo before", idle),
        told(f"while they come, in {took:.1f} s", building),
        told("while they stand", under),
        told("afterwards", after),
        told("p99 while they stand, to that before", f"{under.p99 / idle.p99:.1f} x")
        if options
        else atMost("p99 while they stand, to that before", under.p99 / idle.p99, SLOWER, " x"),
        atMost("p99 while they stand, s", under.p99, LATE),
        exactly("echoes that did not come", max(under.due - 10, 0), 0),
    ]
