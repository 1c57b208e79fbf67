"""The echo, in memory: from the bytes of frames to the bytes of frames."""

import gc
import random
import weakref
import zlib
from functools import partial
from typing import Any

import pytest
from support import deflate
from support.deflate import inflated
from support.memory import Client, Service
from twisted.internet.address import IPv4Address

from echotwist.http.channel import Request
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    binary,
    close,
    frame,
    parse,
    text,
)
from echotwist.testing.raw import request
from echotwist.websocket.connection import Owner

pytestmark = pytest.mark.usefixtures("way")


def failed(client: Client) -> int:
    """The code of the close frame that the service sent last, before its FIN."""
    *_, last = client.frames()
    assert last.opcode == CLOSE
    assert client.socket.fin
    assert not client.socket.reset
    return int.from_bytes(last.payload[:2], "big")


@pytest.mark.parametrize(
    "payload", [b"", b"a", bytes(range(256)), b"x" * 125, b"x" * 126, b"x" * 65535, b"x" * 65536]
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_echoed_with_its_type(client: Client, opcode: int, payload: bytes) -> None:
    if opcode == TEXT:
        payload = payload.decode("latin-1").encode()
    client.send(frame(opcode, payload))
    assert client.frames() == [Frame(opcode, payload)]


def test_messages_are_echoed_in_order(client: Client) -> None:
    client.send(b"".join(text(str(n)) for n in range(1000)))
    assert client.frames() == [Frame(TEXT, str(n).encode()) for n in range(1000)]


def test_a_message_may_arrive_one_byte_at_a_time(client: Client) -> None:
    client.send(text("hello") + binary(b"\x00" * 200), segment=1)
    assert client.frames() == [Frame(TEXT, b"hello"), Frame(BINARY, b"\x00" * 200)]


def test_the_largest_message_is_echoed(client: Client) -> None:
    payload = bytes(16 * 2**20)
    client.send(binary(payload))
    assert client.frames() == [Frame(BINARY, payload)]


def test_a_fragmented_message_is_echoed_whole(client: Client) -> None:
    client.send(frame(TEXT, b"he", fin=False) + frame(CONTINUATION, b"", fin=False))
    assert client.frames() == []
    client.send(frame(PING, b"between") + frame(CONTINUATION, b"llo"))
    assert client.frames() == [Frame(PONG, b"between"), Frame(TEXT, b"hello")]


def test_a_ping_is_answered_by_a_pong_with_its_payload(client: Client) -> None:
    client.send(frame(PING, b"") + frame(PING, b"x" * 125))
    assert client.frames() == [Frame(PONG, b""), Frame(PONG, b"x" * 125)]


def test_an_unsolicited_pong_is_not_answered(client: Client) -> None:
    client.send(frame(PONG, b"hm") + text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]


def test_nothing_is_sent_unasked_before_the_keepalive(service: Service) -> None:
    service.advance(100)
    client = service.open()
    assert client.frames() == []
    service.advance(29)
    assert client.frames() == []


@pytest.mark.parametrize("size", [1, 20 * 1024, 100 * 1024])
@pytest.mark.parametrize("segment", [None, 5000])
def test_frames_in_the_segment_of_the_handshake_are_echoed(
    service: Service, size: int, segment: int | None
) -> None:
    client = service.connect()
    client.send(request() + binary(bytes(size)) + text("next"), segment)
    _, _, echoed = client.received().partition(b"\r\n\r\n")
    assert parse(echoed) == [Frame(BINARY, bytes(size)), Frame(TEXT, b"next")]


def test_a_frame_split_by_the_segment_of_the_handshake_is_echoed(service: Service) -> None:
    client = service.connect()
    client.send(request() + text("hello")[:3])
    client.received()
    client.send(text("hello")[3:])
    assert client.frames() == [Frame(TEXT, b"hello")]


def test_a_text_segment_may_end_inside_a_utf8_character(client: Client) -> None:
    client.send(text("€" * 5), segment=4)
    assert client.frames() == [Frame(TEXT, "€".encode() * 5)]


# Closing


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (close(), b""),
        (close(1000), b"\x03\xe8"),
        (close(1001, "away"), b"\x03\xe9away"),
        (close(1012), b"\x03\xf4"),
        (close(1013), b"\x03\xf5"),
        (close(1014), b"\x03\xf6"),
        (close(4999, "x" * 123), b"\x13\x87" + b"x" * 123),
    ],
)
def test_the_close_frame_is_echoed_with_its_code_and_reason(
    client: Client, sent: bytes, answer: bytes
) -> None:
    client.send(text("last") + sent)
    assert client.frames() == [Frame(TEXT, b"last"), Frame(CLOSE, answer)]
    assert client.socket.fin
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset
    assert client.service.timers() <= 1  # The journal's second.
    assert client.service.connections.open == set()


def test_data_after_a_close_frame_is_discarded(client: Client) -> None:
    client.send(close(1000) + text("late"))
    for _ in range(100):
        client.send(text("later") * 1000)
    assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]
    assert client.protocol.data == b""


def test_a_half_close_without_a_close_frame_gets_its_echo(client: Client) -> None:
    client.socket.window = 100
    client.send(binary(bytes(50_000)))
    client.finish()
    assert not client.socket.closed
    client.socket.window = float("inf")
    client.service.run()
    assert client.frames() == [Frame(BINARY, bytes(50_000))]
    assert client.socket.closed
    assert not client.socket.reset


def test_a_close_frame_and_half_close_in_one_segment_are_answered(client: Client) -> None:
    client.socket.peerDone = True
    client.send(text("x") + close(1000))
    assert client.frames() == [Frame(TEXT, b"x"), Frame(CLOSE, b"\x03\xe8")]
    assert client.socket.closed
    assert not client.socket.reset


def test_the_close_timeout_aborts_a_client_that_does_not_disconnect(
    client: Client,
) -> None:
    client.send(close(1000))
    client.service.advance(4.9)
    assert not client.socket.closed
    client.service.advance(1.2)  # It may look first while the close is on its way to the client.
    assert client.socket.reset
    assert client.service.connections.open == set()


def test_the_close_timeout_aborts_a_client_that_closes_and_does_not_read(
    client: Client, way: str
) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)))
    client.send(close(1000))
    # Autobahn reads on until 64 KiB are unsent. A loop does not, and never sees the close frame.
    client.service.advance(5 if way == "Autobahn" else 51)
    assert client.socket.closed
    assert client.service.connections.open == set()


def test_keepalive_aborts_a_client_that_never_reads_again(client: Client) -> None:
    client.socket.window = 0
    client.send(binary(bytes(200_000)))
    client.send(close(1000))  # Not read: the service has stopped.
    assert not client.reading
    client.service.advance(51)
    assert client.socket.closed


def test_an_error_under_backpressure_ends_with_a_close_frame(client: Client, way: str) -> None:
    """The service has stopped reading, and must resume to see the client's FIN."""
    client.socket.window = 0
    client.send(binary(bytes(60_000)))
    client.send(binary(bytes(10_000)) + b"\xff\xff")
    assert client.reading == (way == "Autobahn")
    client.socket.window = float("inf")
    client.service.run()
    assert [len(frame.payload) for frame in client.frames()][:2] == [60_000, 10_000]
    assert client.socket.fin
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset


def test_a_connection_reset_during_an_echo_is_forgotten(client: Client) -> None:
    client.socket.broken = True
    client.send(text("x") * 3)
    assert client.socket.closed
    assert client.service.connections.open == set()


def test_a_fault_in_the_log_leaks_no_connection(
    client: Client, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.service.context.journal, "closed", None)
    client.finish()
    assert client.service.connections.open == set()
    assert log.errors()
    assert all("TypeError" in error for error in log.errors())
    log.events.clear()


def test_the_upgrade_request_is_freed_at_once(service: Service) -> None:
    requests = []

    class Kept(Request):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            requests.append(weakref.ref(self))

    service.site.requestFactory = Kept  # type: ignore[assignment]
    gc.disable()
    try:
        service.open(Forwarded="for=192.0.2.7")  # Twisted parses it.
        assert [request() for request in requests] == [None]
    finally:
        gc.enable()


def test_a_lost_connection_leaves_no_timer(client: Client) -> None:
    client.finish()
    client.service.advance(2)
    assert client.service.timers() == 0
    assert client.service.connections.open == set()


# What is wrong is said by its code, after everything valid before it was echoed.

INVALID = {
    "rsv": (frame(TEXT, b"x", rsv=1), 1002),
    "rsv1 without compression": (frame(TEXT, b"x", rsv=4), 1002),
    "opcode 3": (frame(3, b"x"), 1002),
    "opcode 11": (frame(11, b"x"), 1002),
    "not masked": (b"\x81\x01x", 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text inside a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "length of 16 bits not minimal": (b"\x81\xfe\x00\x01" + b"\0" * 4 + b"x", 1002),
    "length of 64 bits not minimal": (b"\x82\xff" + b"\0" * 6 + b"\xff\xff" + b"\0" * 4, 1002),
    "length of 2**63": (b"\x82\xff\x80" + b"\0" * 7 + b"\0" * 4, 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close 1005": (close(1005), 1002),
    "close 1006": (close(1006), 1002),
    "close 999": (close(999), 1002),
    "close 5000": (close(5000), 1002),
    "close reason not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "character cut": (frame(TEXT, b"\xe2\x82"), 1007),
    "message too big": (b"\x82\xff" + (16 * 2**20 + 1).to_bytes(8, "big") + b"\0" * 4, 1009),
    "declared 2**62": (b"\x82\xff\x40" + b"\0" * 7 + b"\0" * 4, 1009),
}


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("segment", [None, 1])
def test_a_protocol_error_is_answered_with_its_close_code_after_the_valid_echoes(
    client: Client, name: str, segment: int | None
) -> None:
    data, code = INVALID[name]
    client.send(text("valid") + data, segment)
    first, last = client.frames()
    assert first == Frame(TEXT, b"valid")
    assert (last.opcode, last.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    assert client.socket.fin


@pytest.mark.parametrize("name", INVALID)
def test_after_a_protocol_error_comes_one_close_frame_and_nothing_else(
    client: Client, name: str
) -> None:
    data, code = INVALID[name]
    client.send(data + text("late"))
    client.send(text("later") + close(1000))
    assert failed(client) == code
    assert client.protocol.data == b""
    client.finish()
    assert client.socket.closed
    client.service.advance(2)
    assert client.service.timers() == 0


def test_a_protocol_error_under_backpressure_is_sent_when_the_client_reads(client: Client) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + frame(TEXT, b"\xff"))
    client.socket.window = float("inf")
    client.service.run()
    echo, last = client.frames()
    assert len(echo.payload) == 60_000
    assert last.payload[:2] == b"\x03\xef"


def test_invalid_utf8_fails_with_1007_inside_a_frame(client: Client) -> None:
    client.send(frame(TEXT, b"\xff" + bytes(1000))[:20])
    assert failed(client) == 1007


def test_max_message_counts_all_fragments_1009() -> None:
    client = Service("--max-message=1000").open()
    client.send(frame(BINARY, bytes(500), fin=False) + frame(CONTINUATION, bytes(500), fin=False))
    assert client.frames() == []
    client.send(frame(CONTINUATION, bytes(1)))
    assert failed(client) == 1009


def test_a_message_of_exactly_max_message_is_echoed() -> None:
    client = Service("--max-message=1000").open()
    client.send(frame(BINARY, bytes(500), fin=False) + frame(CONTINUATION, bytes(500)))
    assert client.frames() == [Frame(BINARY, bytes(1000))]


@pytest.mark.parametrize("size", [10, 16 * 2**20])
def test_a_message_of_max_message_may_end_with_an_empty_fragment(size: int) -> None:
    """Clients that stream end a message so: they know its end only when nothing follows."""
    client = Service(f"--max-message={size}").open()
    for piece in (size, size // 2):
        client.send(frame(BINARY, bytes(piece), fin=False))
        client.send(frame(CONTINUATION, bytes(size - piece), fin=False))
        client.send(frame(CONTINUATION, b""))
        assert client.frames() == [Frame(BINARY, bytes(size))]
    client.send(frame(BINARY, bytes(size), fin=False) + frame(CONTINUATION, b"x"))
    assert failed(client) == 1009


def test_a_message_of_max_message_may_come_in_tiny_fragments(client: Client) -> None:
    payload = random.Random(1).randbytes(2**20)
    pieces = [payload[start : start + 32] for start in range(0, len(payload), 32)]
    for n, piece in enumerate(pieces):
        client.socket.arriving += frame(BINARY if n == 0 else CONTINUATION, piece, fin=False)
    client.send(frame(CONTINUATION, bytes(15 * 2**20)))
    assert client.frames() == [Frame(BINARY, payload + bytes(15 * 2**20))]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        pytest.param([], 262_144, marks=pytest.mark.slow(reason="262,144 frames")),
        (["--max-message=10"], 1024),
    ],
)
def test_too_many_tiny_fragments_are_1009(options: list[str], most: int) -> None:
    client = Service(*options).open()
    many = frame(CONTINUATION, b"", fin=False) * 1000
    client.send(frame(BINARY, b"", fin=False))
    for _ in range((most - 1) // 1000):
        client.send(many)
    client.send(frame(CONTINUATION, b"", fin=False) * ((most - 1) % 1000))
    assert client.frames() == []
    assert len(client.protocol._message) == 0
    client.send(many)
    (last,) = client.frames()
    assert last.payload == b"\x03\xf1a message has too many fragments under 64 bytes"


def test_a_message_in_tiny_segments_is_buffered_in_one_piece(client: Client) -> None:
    """Autobahn's list of pieces took 16 bytes and more for each byte."""
    client.send(frame(BINARY, bytes(70_000), fin=False)[:-1], segment=2)
    kept = client.protocol
    assert len(kept._message) == 69_999
    assert not kept.message_data
    assert not kept.frame_data


# Backpressure


def test_backpressure_stops_reading_from_a_client_that_does_not_read(client: Client) -> None:
    client.socket.window = 0
    for _ in range(50):
        client.socket.arriving += binary(bytes(65_000))
    client.service.run()
    waiting = client.transport._tempDataLen + len(client.transport.dataBuffer)
    assert waiting <= 65536 + 65536 + 65_010
    assert not client.reading
    client.socket.window = float("inf")
    client.service.run()
    assert client.frames() == [Frame(BINARY, bytes(65_000))] * 50
    assert client.reading


def test_backpressure_stops_reading_from_a_client_that_pings_and_does_not_read(
    client: Client, way: str
) -> None:
    client.socket.window = 0
    client.socket.arriving += frame(PING, b"x" * 100) * 100_000
    client.service.run()
    waiting = client.transport._tempDataLen + len(client.transport.dataBuffer)
    assert waiting <= 65536 + (65536 if way == "Autobahn" else 4 * 65536)  # One read's echo.
    assert len(client.socket.arriving) > 10_000_000


# Liveness


def test_keepalive_does_not_ping_a_client_that_sends(client: Client) -> None:
    """The Autobahn testsuite fails a case in which an unexpected ping arrives."""
    for _ in range(10):
        client.service.advance(29)
        client.send(text("x"))
    assert {frame.opcode for frame in client.frames()} == {TEXT}
    client.service.advance(29.9)
    assert client.frames() == []
    client.service.advance(0.2)
    assert client.frames() == [Frame(PING, b"")]


def test_keepalive_pings_a_silent_client_at_each_interval(client: Client) -> None:
    for _ in range(5):
        client.service.advance(30)
        assert client.frames() == [Frame(PING, b"")]
        client.send(frame(PONG, b""))
    assert not client.socket.closed


def test_keepalive_aborts_a_client_without_a_pong(client: Client) -> None:
    client.service.advance(49.9)
    assert not client.socket.closed
    client.service.advance(0.2)
    assert client.socket.closed
    assert client.socket.reset
    client.service.advance(2)
    assert client.service.timers() == 0


def test_keepalive_takes_any_byte_for_a_pong(client: Client) -> None:
    """No pong can come while a long frame is on its way."""
    message = binary(bytes(1000))
    client.send(message[:10])
    for byte in message[10:60]:
        client.service.advance(10)
        client.send(bytes([byte]))
    assert not client.socket.closed


def test_keepalive_spares_a_slow_reader(client: Client) -> None:
    """A ping waits behind a long echo."""
    client.socket.window = 0
    client.send(binary(bytes(2**20)))
    for _ in range(100):
        client.socket.window = 3000
        client.service.advance(10)
    assert not client.socket.closed
    client.socket.window = 0
    client.service.advance(51)
    assert client.socket.closed


def test_keepalive_pings_again_one_interval_after_a_pong() -> None:
    """Not one ping timeout after it, which may be longer than the interval."""
    client = Service("--ping-interval=1s", "--ping-timeout=20s").open()
    for _ in range(3):
        client.service.advance(1.1)
        assert [f.opcode for f in client.frames()] == [PING]
        client.send(frame(PONG))
    client.service.advance(1 + 19.8)
    assert not client.socket.closed
    client.service.advance(0.3)
    assert client.socket.closed


@pytest.mark.parametrize("after", [0, 15])
def test_keepalive_counts_a_pong_that_came_while_the_process_was_stopped(
    client: Client, after: int
) -> None:
    """The timer is due before the sockets are read."""
    client.service.advance(30)
    assert client.frames() == [Frame(PING, b"")]
    client.service.advance(after)
    client.socket.arriving += frame(PONG)
    client.service.reactor.advance(60)
    client.service.run()
    client.send(text("x"))
    assert client.frames()[-1] == Frame(TEXT, b"x")
    assert not client.socket.closed


def test_keepalive_aborts_a_client_silent_since_the_process_was_stopped(client: Client) -> None:
    client.service.advance(30)
    client.service.reactor.advance(60)
    client.service.advance(9.9)
    assert not client.socket.closed
    client.service.advance(10.2)
    assert client.socket.closed


def test_keepalive_can_be_turned_off() -> None:
    client = Service("--ping-interval=0").open()
    client.service.advance(1_000)
    assert client.frames() == []
    assert client.service.timers() == 0


def test_keepalive_takes_fractions_of_a_second() -> None:
    client = Service("--ping-interval=500ms", "--ping-timeout=250ms").open()
    client.service.advance(0.5)
    assert client.frames() == [Frame(PING, b"")]
    client.service.advance(0.24)
    assert not client.socket.closed
    client.service.advance(0.02)
    assert client.socket.closed


# Compression. What is not compressed may be sent on a connection that compresses.

DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}


deflated = partial(deflate.deflated, level=9)


def test_a_compressed_message_is_echoed_compressed(service: Service) -> None:
    client = service.open(**DEFLATE)
    for _ in range(3):
        client.send(frame(TEXT, deflated(b"hello " * 100), rsv=4))
        (echo,) = client.frames()
        assert (echo.opcode, echo.rsv) == (TEXT, 4)
        assert inflated(echo.payload) == b"hello " * 100


@pytest.mark.parametrize("options", [[], ["--context-takeover"]])
def test_a_message_is_echoed_uncompressed_if_it_came_so(options: list[str]) -> None:
    client = Service(*options).open(**DEFLATE)
    fragments = frame(TEXT, b"hel", fin=False) + frame(CONTINUATION, b"lo")
    client.send(text("hello") + frame(TEXT, deflated(b"hello"), rsv=4) + fragments)
    plain, compressed, collected = client.frames()
    assert plain == collected == Frame(TEXT, b"hello")
    assert compressed.rsv == 4


def test_an_empty_compressed_message_is_echoed(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(TEXT, b"\x00", rsv=4) + frame(TEXT, deflated(b"x"), rsv=4))
    assert [inflated(echo.payload) for echo in client.frames()] == [b"", b"x"]


def test_no_deflate_window_is_kept_between_messages(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(TEXT, deflated(b"hello"), rsv=4))
    assert client.protocol._perMessageCompress._compressor is None
    assert client.protocol._perMessageCompress._decompressor is None


def test_a_decompression_bomb_is_1009_before_it_is_inflated(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(BINARY, deflated(bytes(64 * 2**20)), rsv=4))
    assert failed(client) == 1009
    assert client.protocol._message == b""


def test_a_decompression_bomb_in_many_fragments_is_1009(service: Service) -> None:
    client = service.open(**DEFLATE)
    bomb = deflated(bytes(64 * 2**20))
    client.send(frame(BINARY, bomb[:1000], fin=False, rsv=4))
    for start in range(1000, len(bomb), 1000):
        client.send(frame(CONTINUATION, bomb[start : start + 1000], fin=False))
    client.send(frame(CONTINUATION, b""))
    assert failed(client) == 1009
    for _ in range(50):
        client.send(frame(BINARY, bomb, rsv=4))
    assert client.protocol.data == b""


def test_max_message_limits_the_inflated_message() -> None:
    client = Service("--max-message=1000").open(**DEFLATE)
    client.send(frame(BINARY, deflated(bytes(1000)), rsv=4))
    assert inflated(client.frames()[0].payload) == bytes(1000)
    client.send(frame(BINARY, deflated(bytes(1001)), rsv=4))
    assert failed(client) == 1009


def test_an_incompressible_message_may_be_of_max_message() -> None:
    payload = random.Random(1).randbytes(2**20)
    client = Service("--max-message=1M").open(**DEFLATE)
    client.send(frame(BINARY, deflated(payload), rsv=4))
    assert inflated(client.frames()[0].payload) == payload
    client.send(frame(BINARY, deflated(payload + b"x"), rsv=4))
    assert failed(client) == 1009


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xff\xff", deflated(b"hello world")[:-3], deflated(bytes(1000))[:2]],
    ids=["no deflate", "cut", "cut early"],
)
def test_invalid_deflate_data_is_1007(service: Service, payload: bytes) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(BINARY, payload, rsv=4))
    assert failed(client) == 1007


@pytest.mark.parametrize("options", [[], ["--context-takeover"]])
def test_a_compressed_frame_without_payload_is_an_empty_message(options: list[str]) -> None:
    """zlib compresses nothing to nothing, and some clients send what zlib makes."""
    client = Service(*options).open(**DEFLATE)
    client.send(frame(TEXT, b"", rsv=4) * 2 + frame(TEXT, b"", rsv=4, fin=False))
    client.send(frame(CONTINUATION, deflated(b"x")))
    echoes = client.frames()
    assert [echo.payload for echo in echoes[:2]] == [b"\x00", b"\x00"]
    assert inflated(echoes[2].payload) == b"x"


def test_invalid_utf8_in_compressed_text_is_1007(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(TEXT, deflated(b"\xff"), rsv=4))
    assert failed(client) == 1007


def test_a_final_deflate_block_ends_a_message_as_in_rfc_7692(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=4) * 2)
    assert [inflated(echo.payload) for echo in client.frames()] == [b"Hello", b"Hello"]


def test_data_after_a_final_deflate_block_is_refused(service: Service) -> None:
    client = service.open(**DEFLATE)
    client.send(frame(TEXT, bytes.fromhex("f348cdc9c90700") + deflated(b"lost"), rsv=4))
    assert failed(client) == 1007


def test_context_takeover_keeps_the_deflate_window() -> None:
    client = Service("--context-takeover").open(**DEFLATE)
    z = zlib.compressobj(9, wbits=-15)
    out = zlib.decompressobj(wbits=-15)
    payload = bytes(range(256))
    sizes = []
    for _ in range(3):
        sent = (z.compress(payload) + z.flush(zlib.Z_SYNC_FLUSH))[:-4]
        client.send(frame(BINARY, sent, rsv=4))
        (echo,) = client.frames()
        assert out.decompress(echo.payload + b"\0\0\xff\xff") == payload
        sizes.append(len(echo.payload))
    assert sizes[1] < sizes[0] / 10


def test_context_takeover_refuses_a_final_deflate_block() -> None:
    client = Service("--context-takeover").open(**DEFLATE)
    client.send(frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=4))
    assert failed(client) == 1007


# Accounts


def test_connections_are_numbered_and_forgotten(service: Service) -> None:
    first, second = service.open(), service.open()
    assert [c.protocol.number for c in (first, second)] == [1, 2]
    assert len(service.connections.open) == 2
    first.finish()
    second.finish()
    assert service.connections.open == set()
    assert service.open().protocol.number == 3


@pytest.mark.parametrize("end", ["finish", "abort", "close", "error"])
def test_a_lost_connection_is_freed_at_once(service: Service, end: str) -> None:
    """Not only by the garbage collector: it may have buffered half a message."""
    client = service.open(**DEFLATE)
    client.send(text("x") + frame(TEXT, deflated(b"x"), rsv=4) + frame(BINARY, bytes(9), fin=False))
    connection = weakref.ref(client.protocol)
    gc.disable()
    try:
        match end:
            case "abort":
                client.transport.abortConnection()
            case "close":
                client.send(close(1000))
            case "error":
                client.send(b"\xff\xff")
        client.finish()
        service.advance(6)
        service.clients.clear()
        assert connection() is None
    finally:
        gc.enable()


def test_a_thousand_connections_leave_every_count_at_its_start(service: Service) -> None:
    for n in range(1000):
        client = service.open()
        client.send(text("x") + close(1000) if n % 2 else text("x"))
        client.finish()
        service.clients.clear()
    service.advance(5)
    assert service.connections.open == set()
    assert service.site.channels == {}
    assert service.timers() == 0
    assert service.reactor.readers - {service.fastPath} == service.reactor.writers == set()


def test_a_connection_is_logged_from_handshake_to_close(log: Any, service: Service) -> None:
    client = service.connect(IPv4Address("TCP", "192.0.2.7", 5)).open()
    client.send(text("hi\n\x1b[31m"))
    client.send(close(4000, "bye\x1b"))
    client.finish()
    assert log.lines()[-3:] == [
        "#1 192.0.2.7:5 connected",
        "#1 192.0.2.7:5 text, 8 bytes: 'hi\\n\\x1b[31m'",
        "#1 192.0.2.7:5 closed: 4000 'bye\\x1b'",
    ]


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (lambda c: c.finish(), "closed: 1006 'no closing handshake'"),
        (lambda c: c.service.advance(51), "closed: 1006 'ping not answered'"),
        (lambda c: (c.send(close()), c.finish()), "closed: no code ''"),
        (
            lambda c: (c.send(frame(3)), c.finish()),
            "closed: 1002 'data frame using reserved opcode 3'",
        ),
    ],
)
def test_the_log_has_the_close_code_of_each_connection(
    log: Any, client: Client, do: Any, line: str
) -> None:
    do(client)
    assert log.lines()[-1].endswith(line)


def test_a_connection_changes_its_owner_in_order() -> None:
    client = Service(isFast=False).open()
    with pytest.raises(AssertionError):
        client.protocol._handTo(Owner.RECALLED)
