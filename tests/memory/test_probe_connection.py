"""A connection of the probe is bounded, whatever the other end sends."""

from collections.abc import Coroutine
from typing import Any

import pytest
from OpenSSL import SSL
from support.path import Transport, takeMasked, unmasking
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from echotwist.probe.connection import MOST_WAITING, Connection, Ended
from echotwist.testing.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame


@pytest.fixture
def connection() -> Connection:
    """An open WebSocket."""
    reactor = Clock()
    connection = Connection(reactor, lambda connection: None)
    transport = Transport(reactor)
    transport.protocol = connection
    connection.makeConnection(transport)
    connection.open()
    return connection


def wire(connection: Connection) -> Any:
    return connection.transport


def outcome(waiting: Coroutine[Any, Any, Any]) -> list[Any]:
    """Has the result, or the failure, once there is one."""
    found: list[Any] = []
    Deferred.fromCoroutine(waiting).addBoth(found.append)
    return found


def test_pings_of_who_does_not_read_are_not_answered_but_for_the_last(
    connection: Connection,
) -> None:
    connection.pauseProducing()
    for number in range(1000):
        connection.dataReceived(unmasking(Frame(PING, b"%d" % number)))
    assert wire(connection).written == b""
    connection.resumeProducing()
    taken = takeMasked(wire(connection).written)
    assert taken is not None
    assert taken[0] == Frame(PONG, b"999")
    assert taken[1] == len(wire(connection).written)
    connection.resumeProducing()
    assert taken[1] == len(wire(connection).written)
    connection.stopProducing()


def test_what_nobody_asks_for_stops_the_reading(connection: Connection) -> None:
    flood = unmasking(Frame(TEXT, b"")) * 10_000
    read = 0
    while not wire(connection).isPaused:
        connection.dataReceived(flood)
        read += len(flood)
        assert read < 1_000_000, "small frames cost more memory than their payload"
    found = outcome(connection.frame(20))
    assert found[0].frame == Frame(TEXT, b"")
    for _ in range(read // 2):
        outcome(connection.frame(20))
    assert not wire(connection).isPaused


def test_a_frame_that_is_announced_too_large_stops_the_reading(connection: Connection) -> None:
    connection.dataReceived(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"))
    for _ in range(MOST_WAITING >> 20):
        assert not wire(connection).isPaused
        connection.dataReceived(bytes(1 << 20))
    assert wire(connection).isPaused


def test_a_message_that_does_not_end_is_broken(connection: Connection) -> None:
    found = outcome(connection.message(20))
    connection.dataReceived(unmasking(Frame(BINARY, b"", False)))
    piece = unmasking(Frame(CONTINUATION, bytes(1 << 20), False))
    for _ in range(100):
        if found:
            break
        connection.dataReceived(piece)
    (failure,) = found
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, Ended)
    assert failure.value.end.reason == "a message does not end"


def test_what_comes_behind_a_close_frame_is_not_kept(connection: Connection) -> None:
    connection.dataReceived(unmasking(Frame(CLOSE, b"\x03\xe8")))
    flood = bytes(1 << 20)
    for _ in range(10):
        connection.dataReceived(flood)
    assert not connection.hasMore
    assert not wire(connection).isPaused


class Handle:
    """Of a TLS connection that has got a close_notify, or not."""

    def __init__(self, shutdown: int) -> None:
        self._shutdown = shutdown

    def get_shutdown(self) -> int:
        return self._shutdown


ALERT = SSL.Error([("SSL routines", "", "tlsv13 alert certificate required")])


@pytest.mark.parametrize(
    ("shutdown", "reason", "how", "words"),
    [
        (SSL.RECEIVED_SHUTDOWN, ConnectionDone(), "closeNotify", "TLS's close_notify"),
        (0, ConnectionLost(), "eof", "an end without TLS's close_notify"),
        (0, ALERT, "broken", "an error: tlsv13 alert certificate required"),
    ],
)
def test_the_end_of_tls_is_told(
    connection: Connection, shutdown: int, reason: Exception, how: str, words: str
) -> None:
    wire(connection).startTLS = lambda options: None
    wire(connection).getHandle = lambda: Handle(shutdown)
    outcome(connection.startTls(None))
    connection.handshakeCompleted()
    connection.connectionLost(Failure(reason))
    assert connection.end is not None
    assert (connection.end.how, connection.end.words()) == (how, words)
