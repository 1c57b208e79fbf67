"""Compressed messages as the loops inflate and deflate them, beside the same in Python."""

import zlib

import pytest
from autobahn.websocket.compress import PerMessageDeflateOffer
from hypothesis import example, given
from hypothesis import strategies as st

from echotwist.fastpath._loop import MessageCodec
from echotwist.websocket.deflate import Deflate, acceptFirst

codec = MessageCodec()
"""One for all the tests, as a loop has one for all its connections."""

parts = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=20), st.integers(0, 5000)),
)
messages = st.lists(parts, max_size=5).map(b"".join)


def deflate(windowBits: int = 15, memLevel: int = 8) -> Deflate:
    """As it is negotiated."""
    accepted = acceptFirst(contextTakeover=False)([PerMessageDeflateOffer()])
    assert accepted is not None
    made = Deflate.create_from_offer_accept(True, accepted)
    assert isinstance(made, Deflate)
    assert made.noContextTakeover
    made.server_max_window_bits, made.mem_level = windowBits, memLevel
    return made


def stored(data: bytes, isLast: bool = False) -> bytes:
    """A block that is not compressed (RFC 1951, 3.2.4), at the beginning of an octet."""
    size = len(data).to_bytes(2, "little")
    return bytes([isLast]) + size + bytes(0xFF - octet for octet in size) + data


def compressed(message: bytes, level: int, strategy: int, flush: int) -> bytes:
    """By any client: in blocks of any kind, with any end."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    half = len(message) // 2
    data = compressor.compress(message[:half]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return (data + compressor.compress(message[half:]) + compressor.flush(flush)).removesuffix(
        b"\x00\x00\xff\xff"
    )


payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(stored, st.binary(max_size=40), st.booleans()),
    st.builds(
        compressed,
        messages,
        st.integers(0, 9),
        st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]),
        st.sampled_from(
            [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_FINISH]
        ),
    ),
)


def damaged(payload: bytes, cut: int, at: int, octet: int, behind: bytes) -> bytes:
    kept = bytearray(payload[: len(payload) - cut % (len(payload) + 1)])
    if kept:
        kept[at % len(kept)] ^= octet
    return bytes(kept) + behind


damages = st.builds(
    damaged,
    payloads,
    st.one_of(st.just(0), st.integers(0, 10_000)),
    st.integers(0, 10_000),
    st.one_of(st.just(0), st.integers(0, 255)),
    st.one_of(st.just(b""), st.binary(max_size=9), payloads),
)


@given(messages, st.integers(9, 15), st.integers(1, 9))
@example(b"", 15, 8)
@example(b"x" * 32506, 15, 8)  # The largest that fits zlib's window with its lookahead.
@example(b"x" * 32507, 15, 8)
def test_a_message_is_deflated_to_the_same_bytes_and_inflated_to_itself(
    message: bytes, windowBits: int, memLevel: int
) -> None:
    payload = codec.deflated(message, windowBits, memLevel)
    assert payload == deflate(windowBits, memLevel).deflated(message)
    assert codec.inflated(payload, len(message)) == message


@given(st.one_of(payloads, damages), st.one_of(st.integers(0, 400), st.integers(0, 100_000)))
@example(b"", 10)
@example(b"\x01", 10)  # The tail that was taken away completes a last block.
@example(b"\x03\x00", 10)
@example(stored(b"x", isLast=True), 10)
@example(stored(b"x") + b"\x00" + stored(b"y"), 10)
@example(stored(b"x") + b"\x00", 1)
@example(stored(b"x") + b"\x00", 0)
@example(stored(b"x"), 1)
def test_what_deflate_inflates_is_inflated_and_nothing_else(payload: bytes, most: int) -> None:
    expected = deflate().inflated(payload, most)
    inflated = codec.inflated(payload, most)
    if expected is None:
        assert inflated in ("unusual", "too large")
    else:
        assert inflated == expected


@pytest.mark.parametrize("size", [65536, 1 << 24])
def test_a_bomb_is_inflated_up_to_what_there_is_room_for(size: int) -> None:
    bomb = deflate().deflated(bytes(size))
    assert len(bomb) < size // 200
    assert codec.inflated(bomb, size - 1) == "too large"
    assert codec.inflated(bomb, 100) == "too large"
    assert codec.inflated(bomb, 0) == "too large"
    assert codec.inflated(bomb, size) == bytes(size)


def test_a_distance_does_not_reach_into_the_message_before() -> None:
    message = bytes(range(256)) * 4
    assert codec.inflated(codec.deflated(message, 15, 8), 2000) == message
    # Three octets of the 256 behind: one block of fixed codes, which begins with a match.
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_FIXED, message)
    payload = compressor.compress(message[:32]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) < 16  # It does refer to what was before.
    assert codec.inflated(payload.removesuffix(b"\x00\x00\xff\xff"), 2000) == "unusual"
    assert codec.inflated(codec.deflated(message, 15, 8), 2000) == message


def test_the_levels_of_memory_may_change_from_message_to_message() -> None:
    message = bytes(range(256)) * 4
    for memLevel in (8, 1, 9, 1, 8):
        payload = deflate(15, memLevel).deflated(message)
        assert codec.deflated(message, 15, memLevel) == payload


def test_codecs_of_several_loops_are_independent() -> None:
    others = [MessageCodec() for _ in range(3)]
    for n in range(9):
        message = bytes([n]) * 100 * n
        other = others[n % 3]
        assert other.inflated(codec.deflated(message, 15, 8), 1000) == message
