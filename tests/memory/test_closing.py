"""How a connection ends: what a client is given time for, what it is not, and what the log says."""

import contextlib
import itertools
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memory import Client, Service
from support.secure import Peer as Secured
from support.secure import certified
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from echotwist.testing.frames import BINARY, CLOSE, TEXT, Frame, binary, close, frame, length, text
from echotwist.wire.deadline import STEPS, Deadline

BYE = Frame(CLOSE, b"\x03\xe8bye")

GOING_AWAY = Frame(CLOSE, b"\x03\xe9server going away")


def ended(log: Any) -> str:
    """How the log says that the last connection ended."""
    *_, line = (line for line in log.lines() if " closed: " in line)
    return str(line).split(" closed: ")[1]


def reading(client: Client, rate: int) -> Iterator[float]:
    """Have the client read `rate` bytes a second. Yields the seconds that have passed."""
    for seconds in itertools.count(1):
        client.socket.window = rate
        client.service.advance(1)
        yield seconds
        assert seconds < 1000


@pytest.mark.usefixtures("way")
def test_a_slow_reader_gets_its_whole_echo_and_the_close(client: Client, log: Any) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + close(1000, "bye"))
    for seconds in reading(client, 2000):  # noqa: B007
        assert not client.socket.closed
        if client.socket.fin and len(client.socket.sent) > 60_000:
            break
    assert seconds >= 29
    assert client.frames() == [Frame(BINARY, bytes(60_000)), BYE]
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset
    assert ended(log) == "1000 'bye'"
    assert client.service.timers() <= 1


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sent", [b"", b"x"], ids=["silent", "still sending"])
def test_a_client_that_stops_reading_after_its_close_is_aborted_and_logged_1006(
    client: Client, log: Any, sent: bytes
) -> None:
    """Bytes that it sends do not count as progress."""
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + close(1000, "bye"))
    for seconds in reading(client, 2000):
        client.send(sent)
        if seconds == 8:
            break
    client.socket.window = 0
    for _ in range(49):
        client.send(sent)
        assert not client.socket.closed
        client.service.advance(0.1)
    client.service.advance(1.2)
    assert client.socket.reset
    assert ended(log) == "1006 'not read to the end'"
    assert client.service.timers() <= 1


@pytest.mark.usefixtures("way")
def test_a_client_that_read_everything_has_the_close_timeout_to_disconnect(
    client: Client, log: Any
) -> None:
    """Everything was delivered and both close frames were sent: the WebSocket ended cleanly."""
    client.send(text("x") + close(1000, "bye"))
    for _ in range(49):
        assert not client.socket.closed
        client.send(b"more")
        client.service.advance(0.1)
    client.service.advance(1.2)
    assert client.frames() == [Frame(TEXT, b"x"), BYE]
    assert client.socket.reset
    assert ended(log) == "1000 'bye'"


@pytest.mark.usefixtures("way")
def test_a_client_that_leaves_before_its_echo_is_logged_1006(client: Client, log: Any) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + close(1000, "bye"))
    client.transport.connectionLost(Failure(ConnectionLost()))
    assert ended(log) == "1006 'not read to the end'"


@pytest.mark.usefixtures("way")
def test_a_slow_reader_gets_the_close_frame_of_an_error(client: Client, log: Any) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + frame(3))
    for _ in reading(client, 4000):
        assert not client.socket.closed
        if client.socket.fin and len(client.socket.sent) > 60_000:
            break
    echo, last = client.frames()
    assert (len(echo.payload), last.payload[:2]) == (60_000, b"\x03\xea")


@pytest.mark.usefixtures("way")
def test_the_budget_may_abort_a_closing_connection(client: Client, log: Any) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)) + close(1000, "bye"))
    assert client.service.context.budget.buffered >= 50_000
    client.protocol.endOverBudget()
    client.service.run()
    assert client.socket.reset
    assert ended(log).startswith("1013 ")


@pytest.mark.usefixtures("way")
def test_a_drain_waits_for_a_slow_reader(client: Client, log: Any) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)))
    client.service.echo.stopService()
    for seconds in reading(client, 8000):  # noqa: B007
        assert not client.socket.closed
        if len(client.socket.sent) > 60_004:
            break
    assert 7 <= seconds < 10
    assert client.frames() == [Frame(BINARY, bytes(60_000)), GOING_AWAY]
    client.send(close(1001))
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset
    assert ended(log) == "1001 ''"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("rate", "limit"), [(0, 5), (1000, 10)])
def test_a_drain_aborts_a_slow_reader_at_its_limit(
    client: Client, log: Any, rate: int, limit: int
) -> None:
    client.socket.window = 0
    client.send(binary(bytes(60_000)))
    client.service.echo.stopService()
    for seconds in reading(client, rate):
        if seconds == limit - 1:
            break
    assert not client.socket.closed
    client.socket.window = rate
    client.service.advance(1.1)
    assert client.socket.reset
    assert ended(log) == "1006 'not read to the end'"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [30_000, 1_000_000])
def test_a_drain_lets_a_client_finish_the_message_it_is_sending(client: Client, size: int) -> None:
    """It cannot answer before that; and no close frame fits inside a frame that is streaming."""
    message = frame(BINARY, bytes(size), fin=size > 65536)
    client.send(message[: size // 2])
    client.service.echo.stopService()
    for n in range(size // 2, size // 2 + 8):
        client.service.advance(1)
        client.send(message[n : n + 1])
    assert not client.socket.closed
    client.send(message[size // 2 + 8 :])
    *_, last = client.frames()
    assert last == GOING_AWAY
    client.send(close(1001))
    client.finish()
    assert client.socket.closed
    assert not client.socket.reset


@pytest.mark.usefixtures("way")
def test_a_drain_aborts_a_client_that_sends_and_never_answers_the_close(
    client: Client, log: Any
) -> None:
    client.service.echo.stopService()
    for _ in range(49):
        client.service.advance(0.1)
        assert not client.socket.closed
        client.send(text("x"))
    client.service.advance(1.1)
    assert client.socket.reset
    assert ended(log) == "1006 'no closing handshake'"


def test_a_slow_reader_gets_the_whole_page() -> None:
    client = Service(isFast=False).connect()
    client.socket.window = 0
    client.send(b"GET /websockets.js HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    for seconds in reading(client, 200):  # noqa: B007
        assert not client.socket.reset
        head, _, body = bytes(client.socket.sent).partition(b"\r\n\r\n")
        if b"Content-Length: %d\r\n" % len(body) in head:
            break
    assert seconds > 10
    assert client.socket.fin


def test_a_deadline_is_extended_by_progress() -> None:
    clock = Clock()
    moves: list[int] = []
    late: list[int] = []
    deadline = Deadline(clock, 5, lambda: bool(moves and moves.pop()), lambda: late.append(1))
    clock.pump([0.25] * 19)
    moves.append(1)
    clock.pump([0.25] * 19)
    assert late == []
    assert deadline.active()
    clock.pump([0.25] * 2)
    assert late == [1]
    assert not deadline.active()
    assert clock.getDelayedCalls() == []


def test_a_deadline_can_be_cancelled() -> None:
    clock = Clock()
    late: list[int] = []
    deadline = Deadline(clock, 5, lambda: False, lambda: late.append(1))
    clock.advance(2)
    deadline.cancel()
    assert not deadline.active()
    assert clock.getDelayedCalls() == []


def test_a_deadline_allows_for_a_stopped_process() -> None:
    """Except for one step of the deadline."""
    clock, late = Clock(), []
    Deadline(clock, 5, lambda: False, lambda: late.append(clock.seconds()))
    clock.advance(60)
    for _ in range(50):
        clock.advance(0.1)
    assert late == [pytest.approx(60 + 5 - 5 / STEPS, abs=0.2)]


# The end of a client that does not read, as its kernel or its TLS says it.


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    """A connection over TLS without keepalive, to a service in memory."""
    peer = Secured(certified(tmp_path), options=["--ping-interval=0"])
    peer.open()
    peer.client.socket.window = 0
    return peer


def leave(secured: Any, size: int) -> None:
    """Send a message, and close_notify behind it."""
    secured.tls.write(binary(bytes(size)))
    with pytest.raises(ssl.SSLWantReadError):
        secured.tls.unwrap()
    secured.client.send(secured._out.read())


@pytest.mark.parametrize("size", [60_000, 300_000], ids=["not paused", "paused"])
def test_after_close_notify_a_client_that_reads_gets_its_echo(
    secured: Any, size: int, log: Any
) -> None:
    leave(secured, size)
    for _ in reading(secured.client, 30_000):
        if secured.client.socket.closed:
            break
    assert not secured.client.socket.reset
    secured._in.write(secured.client.received())
    echo = b""
    with contextlib.suppress(ssl.SSLZeroReturnError):
        while True:
            echo += secured.tls.read(100_000)
    assert echo == server(size)
    assert ended(log) == "1006 'no closing handshake'"
    assert secured.client.service.timers() <= 1


@pytest.mark.parametrize("size", [60_000, 300_000], ids=["not paused", "paused"])
def test_after_close_notify_a_client_that_does_not_read_is_aborted(
    secured: Any, size: int, log: Any
) -> None:
    leave(secured, size)
    secured.client.service.advance(4.9)
    assert not secured.client.socket.closed
    secured.client.service.advance(1.2)
    assert secured.client.socket.closed
    assert ended(log) == "1006 'not read to the end'"
    assert secured.client.service.timers() <= 1


def server(size: int) -> bytes:
    """A server's frame of so many zeros."""
    return b"\x82" + length(size, masked=False) + bytes(size)
