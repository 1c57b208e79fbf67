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

import codecs
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

INFLATED = 131072
"""Bytes up to which the loop inflates a message."""

HOLD = 65536
"""Bytes of payload above which a frame is passed on as it comes."""

MOST = 2**20
"""Bytes of the largest message."""

SMALL = 64
"""Bytes of a fragment below which it counts as small: for what it lacks."""

REPEAT = 0xF6
"""Begins a repetition in an input: how often in two bytes, in threes, and which byte. So inputs
stay small, and frames may be large."""


FINISHED, DEFLATED = 1, 32
"""Bits of an input's first byte: the client says FIN behind its stream, and has negotiated
permessage-deflate. Between them is how many sizes follow."""


def encoded(stream: bytes, sizes: list[int], isDeflated: bool = False) -> bytes:
    """The input that means this. `stream` may have repetitions."""
    first = len(sizes) << 1 | DEFLATED * isDeflated
    return bytes([first, *b"".join(n.to_bytes(2, "big") for n in sizes)]) + stream


def decoded(data: bytes) -> tuple[bytes, list[int], bool, bool]:
    """A stream, where it is cut, whether the client says FIN behind it, and whether it may send
    what is compressed."""
    if not data:
        return b"", [], False, False
    start = 1 + 2 * (data[0] >> 1 & 15)
    sizes = [int.from_bytes(data[n : n + 2], "big") + 1 for n in range(1, start, 2)]
    first, *others = data[start:].split(bytes([REPEAT]))
    stream = bytearray(first)
    for other in others:
        stream += other[2:3] * (3 * int.from_bytes(other[:2], "big")) + other[3:]
    return bytes(stream[:100_000]), sizes, bool(data[0] & FINISHED), bool(data[0] & DEFLATED)


def seeds() -> list[bytes]:
    from support.deflate import deflated

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
    begun = frame(TEXT, b"a\xc3", fin=False)
    fragments = [
        begun + frame(PING, b"p") + frame(CONTINUATION, b"\xa9") + text("x"),
        begun + frame(CONTINUATION, b"", fin=False) * 20 + frame(CONTINUATION, b"\xa9b"),
        begun + frame(CONTINUATION, b"b") + text("x"),
        begun + text("x"),
        begun + b"\0\xff" + (73_728).to_bytes(8, "big") + bytes(4) + zeros + text("behind it"),
    ]
    whole = deflated(b"hello " * 30)
    compressed = [
        frame(TEXT, whole, rsv=4) + text("not") + frame(BINARY, b"\0", rsv=4) + frame(TEXT, rsv=4),
        frame(TEXT, whole[:5], fin=False, rsv=4)
        + frame(PING)
        + frame(CONTINUATION, whole[5:])
        + frame(TEXT, deflated(b"x", isFinal=True), rsv=4),
        frame(TEXT, deflated("aé€🙂".encode() * 30, 0, flushes=[4, 9]), rsv=4) + text("x"),
        frame(BINARY, deflated(bytes(INFLATED + 1)), rsv=4) + frame(TEXT, deflated(b"\xff"), rsv=4),
        frame(BINARY, deflated(bytes(MOST + 1), 9), rsv=4) + text("x"),
        frame(BINARY, whole[:-3], rsv=4) + text("x"),
        frame(BINARY, whole, fin=False, rsv=4) + frame(CONTINUATION, b"", rsv=4),
    ]
    handshakes = [
        request(),
        request("/echo?x", Connection="keep-alive, Upgrade", Cookie="a=b") + text("early"),
        request(Sec_WebSocket_Protocol="a, b", Origin="http://localhost:8080"),
        request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
    ]
    closes = [close(1000, "bye"), close(4999), close(), text("x") + close(1001)]
    return [
        *(
            encoded(stream, cut, isDeflated)
            for some, isDeflated in (
                (streams + fragments, False),
                (streams[:4] + fragments + compressed, True),
            )
            for stream in some
            for cut in ([], [0], [4, 9], [200, 30_000])
        ),
        *(b"\0" + each for each in handshakes),
        *(b"\1" + each for each in closes),
    ]


# The loop alone.


@dataclass
class Answer:
    """What must come of frames that the loop has answered."""

    echo: bytes = b""
    """Frames, the payload of compressed ones inflated."""
    sizes: list[int] = field(default_factory=list)
    """Of the messages."""
    half: bytes = b""
    """The echo of what has come of a last one that passes."""
    begun: bytes = b""
    """The fragment that stands for those of a message without its end."""
    small: int = 0
    """What these count for as small fragments."""


def isText(data: bytes, isWhole: bool) -> None:
    codecs.getincrementaldecoder("utf-8")().decode(data, isWhole)


def answerOf(stream: bytes, isDeflated: bool) -> Answer:
    from support.deflate import inflated

    from echotwist.testing.frames import CONTINUATION, TEXT, length, masked

    answer = Answer()
    first, collected = 0, b""
    while stream:
        byte, n, head = stream[0], stream[1] & 127, 2
        assert stream[1] & 128
        if n > 125:
            head = 4 if n == 126 else 10
            n = int.from_bytes(stream[2:head], "big")
            assert n >= (126 if head == 4 else 65536)
        assert n <= MOST
        mask, payload = stream[head : head + 4], stream[head + 4 : head + 4 + n]
        assert len(mask) == 4
        payload = masked(payload, mask)
        echo = length(n, masked=False) + payload
        isFinal, opcode = byte & 0x80, byte & 15
        if byte in (0x89, 0x8A):
            assert len(payload) == n <= 125
            if byte == 0x89:
                answer.echo += b"\x8a" + echo
        elif byte in (0x81, 0x82) and not first:
            if byte == 0x81:
                isText(payload, len(payload) == n)
            if len(payload) < n:
                assert n > HOLD
                answer.half = stream[:1] + echo
                return answer
            answer.echo += stream[:1] + echo
            answer.sizes.append(n)
        else:
            assert len(payload) == n
            assert bool(first) == (opcode == CONTINUATION)
            assert byte & 0x70 in ((0, 0x40) if isDeflated and not first else (0,))
            first = first or byte
            collected += payload
            assert len(collected) <= HOLD
            if not isFinal or opcode == CONTINUATION:
                answer.small += max(SMALL - n, 0)
            if first == TEXT:
                isText(collected, bool(isFinal))
            if isFinal:
                if first & 0x40:
                    collected = inflated(collected)
                    assert len(collected) <= INFLATED
                    if first & 15 == TEXT:
                        collected.decode()
                    answer.echo += bytes([0x80 | first]) + collected
                else:
                    answer.echo += bytes([0x80 | first]) + length(len(collected), False) + collected
                answer.sizes.append(len(collected))
                first, collected, answer.small = 0, b"", 0
        stream = stream[head + 4 + n :]
    if first:
        answer.begun = bytes([first]) + length(len(collected)) + bytes(4) + collected
    return answer


number = 0
"""Of the connection."""


@cache
def theLoop() -> Any:
    """One for all inputs: after each of them it has nothing left."""
    from echotwist.fastpath._loop import Loop

    return Loop(MOST, MOST, 1 << 30, 0, 0, os.eventfd(0))


def loop(data: bytes) -> None:
    """Every byte is echoed or given back; so is every message shown or counted."""
    from support.deflate import readableStream

    stream, sizes, isFinished, isDeflated = decoded(data)
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
            ready = loop.turn(0) or loop.due() == 0
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
    loop.lend(ours.fileno(), number, first, (15, 8) if isDeflated else None)
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
    *messages, (kind, _, why, begun, small, unjudged, unsent, isInside) = events
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
    answer = answerOf(consumed, isDeflated)
    assert readableStream(received + unsent) == answer.echo + answer.half
    assert (begun, small) == (answer.begun, answer.small)
    assert isInside == bool(answer.half)
    assert [m[2] for m in messages] == answer.sizes[:3]
    (texts, textBytes, binaries, binaryBytes), _, _, buffered = loop.takeCounts()
    assert buffered == 0
    assert texts + binaries == len(answer.sizes[3:])
    assert textBytes + binaryBytes == sum(answer.sizes[3:])
    for skt in (ours, theirs):
        skt.close()


# The whole service, all ways.


def ways(data: bytes) -> None:
    from support.deflate import OFFER
    from support.differential import Outcome, outcome

    from echotwist.testing.frames import CLOSE, PONG, parse

    stream, sizes, isFinished, isDeflated = decoded(data)

    def come(isFast: bool, lends: bool = True) -> Outcome:
        offer = OFFER if isDeflated else None
        return outcome(stream, sizes, isFinished, isFast, offer, lends=lends)

    slow, fast = come(False), come(True)
    assert come(True, lends=False) == slow
    if fast == slow:
        return
    assert (fast.messages, fast.bytes) == (slow.messages, slow.bytes), (slow, fast)
    echoes = slow.received
    if not fast.received.startswith(echoes):
        echoes = echoes[: beginOf(CLOSE, echoes)]
        assert fast.received.startswith(echoes), (slow, fast)
    more = fast.received[len(echoes) :]
    if isDeflated and more[:1] != b"\x82":
        # A compressed message in fragments is judged when it is whole: until then, pings are
        # answered.
        pongs = more[: beginOf(CLOSE, more)]
        assert all(f.opcode == PONG for f in parse(pongs)), (slow, fast)
        return
    # A large frame that is cut off, or bad inside, is half echoed; all else is the same.
    assert more[:2] in (b"\x81\x7f", b"\x82\x7f"), (slow, fast)
    assert HOLD < int.from_bytes(more[2:10], "big") > len(more) - 10, (slow, fast)


def beginOf(opcode: int, received: bytes) -> int:
    """Where the first frame with this opcode begins; the end, if there is none."""
    from echotwist.testing.frames import take

    at = 0
    while (taken := take(received, at)) is not None and taken[0].opcode != opcode:
        at = taken[1]
    return at


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
