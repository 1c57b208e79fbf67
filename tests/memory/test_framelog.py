"""--log-frames: the header of each frame, in RFC 6455's words."""

import zlib
from typing import Any

import pytest
from support.memory import Client, Service

from echotwist.observe.journal import headerWords
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


def frames(log: Any) -> list[str]:
    """The lines of frames, without the connection."""
    lines = [line.partition("127.0.0.1:40000 ")[2] for line in log.lines()]
    return [line for line in lines if line.startswith(("received: ", "sent: "))]


def opened(*options: str, **headers: str) -> Client:
    return Service("--log-frames", *options).open(**headers)


@pytest.mark.usefixtures("way")
def test_each_frame_is_logged_as_received_and_as_sent(log: Any) -> None:
    client = opened()
    client.send(
        text("hello") + frame(PING, b"p") + frame(PONG, b"q") + frame(BINARY, bytes(70_000))
    )
    client.send(
        frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, bytes(200)) + close(1000, "bye")
    )
    assert frames(log) == [
        "received: text, FIN, masked, payload length 5",
        "sent: text, FIN, payload length 5",
        "received: ping, FIN, masked, payload length 1",
        "sent: pong, FIN, payload length 1",
        "received: pong, FIN, masked, payload length 1",
        "received: binary, FIN, masked, payload length 70,000",
        "sent: binary, FIN, payload length 70,000",
        "received: text, masked, payload length 2",
        "received: continuation, FIN, masked, payload length 200",
        "sent: text, FIN, payload length 202",
        "received: close, FIN, masked, payload length 5",
        "sent: close, FIN, payload length 5",
    ]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frame(3), "reserved opcode 0x3, FIN, masked, payload length 0"),
        (frame(TEXT, b"x", rsv=6), "text, FIN, RSV1, RSV2, masked, payload length 1"),
        (b"\x81\x01", "text, FIN, payload length 1"),  # Refused before its payload has come.
        (b"\x89\xfe", "ping, FIN, masked"),  # Refused before its length has come.
    ],
)
def test_a_frame_that_is_refused_is_logged(log: Any, data: bytes, words: str) -> None:
    client = opened()
    client.send(text(""))
    client.send(data)
    received, sent = frames(log)[2:]
    assert received == f"received: {words}"
    assert sent.startswith("sent: close, FIN, payload length ")


@pytest.mark.usefixtures("way")
def test_a_header_that_comes_byte_by_byte_is_logged_once(log: Any) -> None:
    client = opened()
    client.send(frame(BINARY, bytes(300)), segment=1)
    assert frames(log) == [
        "received: binary, FIN, masked, payload length 300",
        "sent: binary, FIN, payload length 300",
    ]


def test_a_header_of_which_half_has_arrived_is_not_logged(log: Any) -> None:
    client = opened()
    client.send(b"\x81")
    client.protocol.endOverBudget()
    client.service.run()
    (sent,) = frames(log)
    assert sent.startswith("sent: close, FIN, ")


@pytest.mark.usefixtures("way")
def test_keepalive_pings_are_logged(log: Any) -> None:
    client = opened("--ping-interval=10s")
    client.send(text(""))
    client.service.advance(10.5)
    assert frames(log)[2:] == ["sent: ping, FIN, payload length 0"]


@pytest.mark.usefixtures("way")
def test_compressed_frames_are_logged_with_rsv1(log: Any) -> None:
    client = opened(Sec_WebSocket_Extensions="permessage-deflate")
    deflate = zlib.compressobj(wbits=-15)
    payload = (deflate.compress(b"hello") + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    client.send(frame(TEXT, payload, rsv=4))
    assert frames(log) == [
        f"received: text, FIN, RSV1, masked, payload length {len(payload)}",
        "sent: text, FIN, RSV1, payload length 7",
    ]


@pytest.mark.usefixtures("way")
def test_frames_share_the_log_rate_and_are_not_counted(log: Any) -> None:
    client = opened("--log-rate=4")
    client.send(frame(PING) * 1000)
    assert len(log.lines()) == 4
    client.service.advance(2)
    assert len(log.lines()) == 4


@pytest.mark.usefixtures("way")
def test_frames_are_not_logged_unless_asked_for(log: Any) -> None:
    client = Service().open()
    client.send(text("x") + frame(PING) + close(1000))
    assert frames(log) == []


def test_over_sockets_without_descriptors_frames_are_logged_as_well(log: Any) -> None:
    """As over TLS, where the fast path echoes what the reactor has read."""
    client = Service("--log-frames", isFast=True, lends=False).open()
    client.send(text("x"))
    assert frames(log) == ["received: text, FIN, masked, payload length 1",
                           "sent: text, FIN, payload length 1"]  # fmt: skip


def test_the_words_of_a_header() -> None:
    assert headerWords(frame(CLOSE)) == "close, FIN, masked, payload length 0"
    assert headerWords(b"\x0b\x05") == "reserved opcode 0xb, payload length 5"
    assert headerWords(b"\x02\xff" + (1 << 40).to_bytes(8, "big")) == (
        "binary, masked, payload length 1,099,511,627,776"
    )


def test_a_large_frame_that_is_cut_off_is_logged(log: Any) -> None:
    """The fast path echoes its beginning, and Autobahn never sees it."""
    service = Service("--log-frames", isFast=True)
    client = service.open()
    client.send(frame(BINARY, bytes(100_000))[:90_000])
    client.protocol.abort()
    service.run()
    assert frames(log) == ["received: binary, FIN, masked, payload length 100,000"]
