"""The codec of echotwist.testing, which must not be wrong where the service is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    binary,
    close,
    frame,
    length,
    parse,
    take,
    text,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x81\x05Hello", [Frame(TEXT, b"Hello")]),
        (b"\x01\x03Hel\x80\x02lo", [Frame(TEXT, b"Hel", False), Frame(CONTINUATION, b"lo")]),
        (b"\x89\x05Hello", [Frame(PING, b"Hello")]),
        (b"\x82\x7e\x01\x00" + bytes(256), [Frame(BINARY, bytes(256))]),
        (b"\x82\x7f" + (65536).to_bytes(8, "big") + bytes(65536), [Frame(BINARY, bytes(65536))]),
        (b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00",
         [Frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)]),
    ],
)  # fmt: skip
def test_the_examples_of_the_papers_are_read(data: bytes, expected: list[Frame]) -> None:
    """RFC 6455, 5.7; RFC 7692, 7.2.3.1."""
    assert parse(data) == expected


def test_the_examples_of_the_paper_are_written() -> None:
    assert frame(TEXT, b"Hello") == bytes.fromhex("818537fa213d7f9f4d5158")
    assert text("Hello") == frame(TEXT, b"Hello")
    assert binary(bytes(200))[:4] == b"\x82\xfe\x00\xc8"
    assert binary(bytes(70_000))[:10] == b"\x82\xff" + (70_000).to_bytes(8, "big")
    assert close() == frame(CLOSE)
    assert close(1000, "bye") == frame(CLOSE, b"\x03\xe8bye")


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_frames_are_taken_one_after_the_other_wherever_they_are_cut(payloads: list[bytes]) -> None:
    data = b"".join(b"\x82" + length(len(each), masked=False) + each for each in payloads)
    frames, start = [], 0
    for end in range(len(data) + 1):
        while (taken := take(data[:end], start)) is not None:
            found, start = taken
            frames.append(found)
    assert frames == [Frame(BINARY, payload) for payload in payloads]
    assert start == len(data)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x81\x85", "a server must not mask"),
        (b"\x82\x7e\x00\x7d", "a length is not minimal"),
        (b"\x82\x7f" + (65535).to_bytes(8, "big"), "a length is not minimal"),
        (b"\x89\x7e\x00\x7e", "a control frame is long"),
        (b"\x81\x05Hell", "a frame is cut"),
        (b"\x81", "a frame is cut"),
        (b"\x82\x7e\x01", "a frame is cut"),
    ],
)
def test_what_no_server_may_send_is_an_error(data: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse(data)
