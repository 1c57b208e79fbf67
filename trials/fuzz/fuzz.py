"""Any bytes, cut anywhere, guided by what they reach in the compiled code, and in what reads usual
requests.

    python trials/fuzz/fuzz.py [SECONDS [FOLDER]]

First the loop alone, which is quick: every byte must be echoed or given back, exactly once. Then,
with what that has found, the whole service in its three ways, lending, echoing where it reads, and
without the fast path: a client and the log must see the same. Then handshakes and what follows, by
the short way and the long: the same again. The extension is compiled by clang, with
AddressSanitizer.

FOLDER keeps what was found for the next time, and is where an input that fails is written; run
`python trials/fuzz/fuzz.py 0 FOLDER` to run only what is there.
"""

import os
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

HOLD = 65536
"""Bytes of payload above which a frame is passed on as it comes."""

MOST = 2**20
"""Bytes of the largest message."""

REPEAT = 0xF6
"""Begins a repetition in an input: how often in two bytes, in threes, and which byte. So inputs
stay small, and frames may be large."""


def encoded(stream: bytes, sizes: list[int]) -> bytes:
    """The input that means this. `stream` may have repetitions."""
    return bytes([len(sizes) << 1, *b"".join(n.to_bytes(2, "big") for n in sizes)]) + stream


def decoded(data: bytes) -> tuple[bytes, list[int], bool]:
    """A stream, where it is cut, and whether the client says FIN behind it."""
    if not data:
        return b"", [], False
    start = 1 + 2 * (data[0] >> 1 & 15)
    sizes = [int.from_bytes(data[n : n + 2], "big") + 1 for n in range(1, start, 2)]
    first, *others = data[start:].split(bytes([REPEAT]))
    stream = bytearray(first)
    for other in others:
        stream += other[2:3] * (3 * int.from_bytes(other[:2], "big")) + other[3:]
    return bytes(stream[:100_000]), sizes, bool(data[0] & 1)


def seeds() -> list[bytes]:
    from echotwist.testing.frames import (
        BINARY,
        CONTINUATION,
        PING,
        PONG,
        TEXT,
        binary,
        close,
        frame,
        text,
    )
    from echotwist.testing.raw import request

    zeros = bytes([REPEAT, 0x60, 0, 0])  # 73,728 of them
    streams = [
        text("x") + binary(b"y" * 130) + text("aé€🙂" * 30) + close(1000, "bye"),
        text("x") + frame(PING, b"p") + frame(PONG, b"q") + frame(PING, bytes(126)),
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + text("c"),
        text("x") + frame(TEXT, b"\xed\xa0\x80") + text("x"),
        text("x") + frame(BINARY, b"", rsv=4) + frame(3),
        b"\x82\xff" + (73_728).to_bytes(8, "big") + bytes(4) + zeros + text("behind it"),
        b"\x81\xff" + (73_731).to_bytes(8, "big") + bytes(4) + zeros + b"\xc3\xa9\xff",
        b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4) + zeros,
        b"\x82\xfe\xff\xff" + bytes(4) + zeros,
        # Lengths that a shorter header could tell, by one.
        text("x") + b"\x82\xfe\x00\x7d" + bytes(4 + 125),
        text("x") + b"\x82\xff" + (65_535).to_bytes(8, "big") + bytes(4) + zeros,
    ]
    handshakes = [
        request(),
        request("/echo?x", Connection="keep-alive, Upgrade", Cookie="a=b") + text("early"),
        request(Sec_WebSocket_Protocol="a, b", Origin="http://localhost:8080"),
        request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
    ]
    closes = [close(1000, "bye"), close(4999), close(), text("x") + close(1001)]
    return [
        *(encoded(s, cut) for s in streams for cut in ([], [0], [4, 9], [200, 30_000])),
        *(b"\0" + each for each in handshakes),
        *(b"\1" + each for each in closes),
    ]


# The loop alone.


def echoOf(stream: bytes) -> tuple[bytes, list[int], bytes]:
    """The echo of frames that are plain, the sizes of the messages, and the echo of what has come
    of a last one that is not whole."""
    from echotwist.testing.frames import masked

    out = bytearray()
    sizes: list[int] = []
    while stream:
        first, n, head = stream[0], stream[1] & 127, 2
        assert first in (0x81, 0x82, 0x89, 0x8A), first
        assert stream[1] & 128
        if n > 125:
            head = 4 if n == 126 else 10
            n = int.from_bytes(stream[2:head], "big")
            assert n >= (126 if head == 4 else 65536)
            assert first < 0x88
        assert n <= MOST
        mask, payload = stream[head : head + 4], stream[head + 4 : head + 4 + n]
        assert len(mask) == 4
        payload = masked(payload, mask)
        echo = bytes([0x8A if first == 0x89 else first, stream[1] & 127]) + stream[2:head] + payload
        if len(payload) < n:
            assert n > HOLD
            return bytes(out), sizes, echo
        if first == 0x81:
            payload.decode()
        if first != 0x8A:
            out += echo
        if first < 0x88:
            sizes.append(n)
        stream = stream[head + 4 + n :]
    return bytes(out), sizes, b""


number = 0
"""Of the connection."""


@cache
def theLoop() -> Any:
    """One for all inputs: after each of them it has nothing left."""
    from echotwist.fastpath._loop import Loop

    return Loop(MOST, MOST, 1 << 30, 0, 0, os.eventfd(0))


def loop(data: bytes) -> None:
    """Every byte is echoed or given back; so is every message shown or counted."""
    stream, sizes, isFinished = decoded(data)
    global number
    number += 1
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    loop = theLoop()
    loop.grant(3)
    received = bytearray()
    events = []

    def turn() -> bool:
        """Returns whether the loop still has it."""
        ready = 1
        while ready:
            ready = loop.turn(0)
            try:
                while more := theirs.recv(2**16):
                    received.extend(more)
                    ready = 1
            except BlockingIOError:
                pass
            events.extend(loop.takeEvents())
        return bool(loop.lent)

    cut = sizes[0] if sizes else len(stream)
    first, rest = stream[:cut], stream[cut:]
    loop.lend(ours.fileno(), number, first)
    isLent = turn()
    for size in [*sizes[1:], len(rest)]:
        segment, rest = rest[:size], rest[size:]
        while segment and isLent:
            sent = theirs.send(segment[: 2**16])
            segment = segment[sent:]
            isLent = turn()
        rest = segment + rest
    if isLent and isFinished:
        theirs.shutdown(socket.SHUT_WR)
        assert not turn()
    elif isLent:
        loop.recall(ours.fileno(), number, True)
        assert not turn()
    *messages, (kind, _, why, unjudged, unsent, isInside) = events
    try:
        while more := ours.recv(2**16):
            unjudged += more
    except BlockingIOError:
        pass
    assert kind == "returned"
    assert isInside or why != "not UTF-8"
    unjudged += rest
    consumed = stream[: len(stream) - len(unjudged)]
    # What is bad in a frame half echoed is given back unmasked, for nobody to read.
    assert why == "not UTF-8" or consumed + unjudged == stream, "another byte is given back"
    echo, counts, half = echoOf(consumed)
    assert bytes(received + unsent) == echo + half
    assert isInside == bool(half)
    assert [m[2] for m in messages] == counts[:3]
    (texts, textBytes, binaries, binaryBytes), _, _, buffered = loop.takeCounts()
    assert buffered == 0
    assert texts + binaries == len(counts[3:])
    assert textBytes + binaryBytes == sum(counts[3:])
    for skt in (ours, theirs):
        skt.close()


# The whole service, all ways.


def ways(data: bytes) -> None:
    from support.differential import outcome

    from echotwist.testing.frames import CLOSE

    stream, sizes, isFinished = decoded(data)
    slow, fast = (outcome(stream, sizes, isFinished, isFast) for isFast in (False, True))
    assert outcome(stream, sizes, isFinished, isFast=True, lends=False) == slow
    if fast == slow:
        return
    # A large frame that is cut off, or bad inside, is half echoed; all else is the same.
    assert (fast.messages, fast.bytes) == (slow.messages, slow.bytes), (slow, fast)
    echoes = slow.received
    if not fast.received.startswith(echoes):
        at = 0
        while echoes[at] != 0x80 | CLOSE:
            n, head = echoes[at + 1], 2
            if n > 125:
                head = 4 if n == 126 else 10
                n = int.from_bytes(echoes[at + 2 : at + head], "big")
            at += head + n
        echoes = echoes[:at]
        assert fast.received.startswith(echoes), (slow, fast)
    half = fast.received[len(echoes) :]
    assert half[:2] in (b"\x81\x7f", b"\x82\x7f"), (slow, fast)
    assert HOLD < int.from_bytes(half[2:10], "big") > len(half) - 10, (slow, fast)


# What is usual, both ways.


def usual(data: bytes) -> None:
    """A handshake, or with an odd first byte what follows it."""
    from support.usual import isUsual

    from echotwist.testing.raw import request

    isUsual([request(), data[1:]] if data[:1] and data[0] & 1 else [data[1:]])


TARGETS = {"loop": loop, "ways": ways, "usual": usual}


def fuzz(target: str, arguments: list[str]) -> None:
    import atheris

    if target == "usual":  # Guided by Python, since it is no compiled code that reads.
        with atheris.instrument_imports(include=["echotwist.http"]):
            import echotwist.http.usual  # noqa: F401
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def main(seconds: int, corpus: Path, build: Path) -> None:
    import atheris
    from instrumented import build as instrumented
    from instrumented import isMissing

    if isMissing("clang", "clang libclang-rt-dev"):
        return
    env = instrumented(build, "-fsanitize=fuzzer-no-link,address", compiler="clang")
    env["PYTHONSAFEPATH"] = "1"
    env["ASAN_OPTIONS"] = "detect_leaks=0:quarantine_size_mb=16:malloc_context_size=5"
    env["LD_PRELOAD"] = str(Path(atheris.path()) / "asan_with_fuzzer.so")
    corpus.mkdir(exist_ok=True)
    for n, seed in enumerate(seeds()):
        (corpus / f"seed-{n}").write_bytes(seed)
    for target in TARGETS:
        print(f"--- {target}", flush=True)
        limit = f"-max_total_time={max(seconds // len(TARGETS), 1)}" if seconds else "-runs=0"
        subprocess.run(
            [
                *(sys.executable, __file__, target, limit, f"-artifact_prefix={corpus}/failed-"),
                *("-max_len=2000", "-timeout=60", "-rss_limit_mb=0", "-print_final_stats=1"),
                corpus,
            ],
            env=env,
            check=True,
        )


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in TARGETS:
        fuzz(sys.argv[1], sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(
                int(sys.argv[1]) if sys.argv[1:] else 60,
                Path(sys.argv[2] if sys.argv[2:] else f"{folder}/corpus"),
                Path(folder, "build"),
            )
