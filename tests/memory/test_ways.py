"""Fragments and compression, in every way that a message may take through the service: all come to
the same."""

import random
import zlib
from functools import cache

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.deflate import OFFER, deflated, inflated
from support.differential import outcome, segments

from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    frame,
    text,
)

HOLD = 65536
"""Bytes of a message above which a loop does not hold it."""

MOST = 2**20
"""Bytes of the largest message that these services take."""


class Stream(bytes):
    """With a repr() that can be read."""

    def __repr__(self) -> str:
        return repr(bytes(self)) if len(self) < 400 else f"<{bytes(self[:400])!r}... {len(self)}>"


def begun(payload: bytes) -> bytes:
    """A message that goes on."""
    return frame(TEXT, payload, fin=False)


@cache
def filled(size: int, seed: int) -> bytes:
    """Text of so many bytes: of one character, which is compressed to little, or of many."""
    if seed < 4:
        return ("aé€🙂"[seed] * size).encode()[:size].decode("utf-8", "ignore").encode().ljust(size)
    return "".join(random.Random(seed).choices("abcdefghijklmnop", k=size)).encode()


SIZES = [
    0,
    1,
    2,
    125,
    126,
    127,
    300,
    5000,
    HOLD - 1,
    HOLD,
    HOLD + 1,
    2 * HOLD,
    2 * HOLD + 1,
    200_000,
    MOST,
    MOST + 1,
]

valid = st.one_of(
    st.text(max_size=200).map(str.encode),
    st.builds(filled, st.sampled_from(SIZES[:8]), st.integers(0, 9)),
    st.builds(filled, st.sampled_from(SIZES[:11]), st.integers(0, 9)),
    st.builds(filled, st.sampled_from(SIZES), st.integers(0, 4)),
)
odd = st.one_of(
    st.binary(max_size=200),
    # Bad at its very end, or behind what a loop may have judged already.
    st.builds(lambda payload, bad: payload + bad, valid, st.sampled_from(
        [b"\xc3", b"\xff", b"\xed\xa0\x80", b"\xf4\x90", b"\xe2\x82"])),
)  # fmt: skip
payloads = st.integers(0, 11).flatmap(lambda n: odd if n == 0 else valid)


def compressed(draw: st.DrawFn, payload: bytes) -> bytes:
    flushes = draw(st.lists(st.integers(0, len(payload)), max_size=2))
    data = deflated(
        payload,
        draw(st.integers(0, 9)),
        bits=draw(st.integers(9, 15)),
        memory=draw(st.integers(1, 9)),
        strategy=draw(st.integers(zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)),
        flushes=flushes,
        isFinal=draw(st.integers(0, 9)) == 0,
    )
    match draw(st.integers(0, 39)):
        case 0:
            return data[: draw(st.integers(0, len(data)))]
        case 1:
            return data + draw(st.binary(max_size=20))
        case 2:
            return draw(st.binary(max_size=60))
        case 3:
            at = draw(st.integers(0, len(data)))
            return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
        case 4:
            return b""  # As zlib makes it of nothing.
    return data


def isUtf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def isSound(opcode: int, payload: bytes) -> bool:
    """Whether a compressed message with this payload is echoed."""
    try:
        message = inflated(payload)
    except zlib.error:
        return False
    return len(message) <= MOST and (opcode == BINARY or isUtf8(message))


between = st.one_of(
    st.just(b""),
    st.just(b""),
    st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.builds(lambda n: frame(PING, b"again") * n, st.integers(2, 40)),
)
# Almost always an error where it stands.
wrong = st.one_of(
    st.just(text("x")),
    st.just(close(1000, "bye")),
    st.just(frame(CLOSE, b"\x03")),
    st.builds(lambda opcode, rsv, fin: frame(opcode, b"x", rsv=rsv, fin=fin),
              st.integers(0, 15), st.integers(0, 7), st.booleans()),
    st.builds(lambda n: frame(PING, bytes(n), fin=False), st.integers(0, 125)),
    st.binary(max_size=30),
)  # fmt: skip


@st.composite
def message(draw: st.DrawFn, isDeflated: bool) -> bytes:
    """In a frame or in any fragments, compressed or not, with control frames between them."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(payloads)
    isCompressed = draw(st.integers(0, 19)) > 6 if isDeflated else draw(st.integers(0, 19)) == 0
    if isCompressed:
        payload = compressed(draw, payload)
    pieces = [payload]
    # Of a compressed message Autobahn judges each fragment, and a loop the whole: what comes behind
    # a bad one, such as a ping, is answered by the loop only.
    isSplittable = not isCompressed or isSound(opcode, payload)
    if isSplittable and draw(st.booleans()):
        size = st.one_of(st.integers(0, 3), st.integers(0, 70_000))
        pieces = segments(payload, draw(st.lists(size, max_size=6))) or [b""]
        if draw(st.booleans()):
            pieces.insert(draw(st.integers(0, len(pieces))), b"")
        if draw(st.integers(0, 4)) == 0:
            *before, last = pieces
            pieces = [*before, *(bytes([byte]) for byte in last[:500]), last[500:]]
    if not isCompressed and len(pieces) == 1 and len(payload) > HOLD and not isUtf8(payload):
        # In one frame it would be half echoed: test_fastpath has that.
        pieces = [payload[:9], payload[9:]]
    isWhole = not isSplittable or draw(st.integers(0, 29)) > 0
    frames = [
        frame(
            CONTINUATION if n else opcode,
            piece,
            fin=isWhole and n == len(pieces) - 1,
            rsv=4 if isCompressed and n == 0 else 0,
            mask=draw(st.sampled_from([b"\0\0\0\0", b"\x37\xfa\x21\x3d"])),
        )
        for n, piece in enumerate(pieces)
    ]
    if draw(st.integers(0, 29)) == 0:
        frames.insert(draw(st.integers(0, len(frames))), draw(wrong))
    return draw(between).join(frames) + draw(between)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[str | None, bytes]:
    """What the client offers, and what it sends then."""
    offer = draw(
        st.sampled_from([None, OFFER, OFFER, "permessage-deflate; server_max_window_bits=9"])
    )
    parts = draw(st.lists(message(offer is not None), min_size=1, max_size=6))
    return offer, Stream(b"".join(parts))


cuts = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 70_000)), max_size=40)

calm = settings(suppress_health_check=list(HealthCheck), max_examples=2 * settings().max_examples)


@calm
@given(conversations(), cuts, st.booleans())
@example((None, text("x") + frame(PING, b"p") * 3000 + text("y")), [], False)
@example((None, begun(b"a") + frame(CONTINUATION, b"b", fin=False) * 3000), [], True)
@example((None, begun(b"\xe2") + frame(PING) + frame(CONTINUATION, b"\x82")), [8], True)
@example((None, text("x") + b"\x00\xff\0\0"), [], False)
@example((None, begun(b"a") + b"\x81\xfe\0"), [3], False)
@example((OFFER, frame(TEXT, deflated(b"x"), rsv=4) * 3000), [], False)
@example((OFFER, frame(TEXT, deflated(bytes(MOST + 1)), rsv=4) + text("x")), [100], False)
@example((OFFER, frame(TEXT, deflated(bytes(MOST), isFinal=True) + b"\0", rsv=4)), [], False)
def test_fragments_and_compression_come_to_the_same_in_all_ways(
    conversation: tuple[str | None, bytes], sizes: list[int], isFinished: bool
) -> None:
    """An echo may be compressed otherwise, so it is inflated before it is compared."""
    offer, stream = conversation
    slow = outcome(stream, sizes, isFinished, isFast=False, offer=offer)
    ways: list[dict[str, bool]] = [
        {"isFast": True},
        {"isFast": True, "lends": False},
        {"isFast": True, "holds": False},
        {"isFast": False, "isSliced": True},
    ]
    for how in ways:
        assert outcome(stream, sizes, isFinished, offer=offer, **how) == slow, how
