"""No client has the reactor for long before the others have had it."""

import functools
import itertools
import random
import ssl
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.deflate import deflated, inflated
from support.libssl import OpensslPeer
from support.memory import Client, Service
from support.recorder import Recorder
from support.secure import Peer, certified, connected
from twisted.internet.testing import MemoryReactorClock

from echotwist.http.channel import Channel
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
from echotwist.websocket.connection import Connection
from echotwist.websocket.deflate import Deflate, Deflation
from echotwist.wire.gate import OVER_BUDGET
from echotwist.wire.turns import FIRST_SLICE, PIECE, SLICE, Turns

DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def compressed(payload: bytes) -> bytes:
    return frame(BINARY, deflated(payload, zlib.Z_DEFAULT_COMPRESSION), rsv=4)


FRAGMENTS = (frame(TEXT, b"a", fin=False) + 2000 * frame(CONTINUATION, b"a", fin=False)) + frame(
    CONTINUATION
)

HEAD = GET[:-2] + b"".join(b"X-%d: x\r\n" % n for n in range(400)) + b"\r\n"

# What each of the hostile clients sends, and what the reactor must not do often in one turn.
KINDS: dict[str, tuple[bytes, tuple[tuple[type, str], ...]]] = {
    "fragments": (FRAGMENTS * 4, ((Connection, "processData"),)),
    "pings": (frame(PING) * 9000, ((Connection, "processData"),)),
    "one-byte texts": (text("a") * 9000, ((Connection, "processData"),)),
    "deflated one-byte messages": (compressed(b"a") * 5000, ((Connection, "processData"),)),
    "texts larger than what Autobahn gets at a time": (
        text("a" * 1100) * 50,
        ((Connection, "processData"),),
    ),
    "large deflated texts": (
        compressed(bytes(range(256)) * 256) * 60,
        ((Connection, "processData"),),
    ),
    "bombs": (
        compressed(bytes(15 << 20)),
        ((Deflate, "decompress_message_data"), (Deflation, "step")),
    ),
    "pipelines": (GET * 1000, ((Channel, "lineReceived"),)),
    "large heads": (HEAD * 8, ((Channel, "lineReceived"),)),
}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Counts the calls of methods of classes."""

    def count(*methods: tuple[type, str]) -> list[int]:
        found = [0]

        def counted(method: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                found[0] += 1
                return method(*arguments, **named)

            return call

        for owner, name in methods:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
        return found

    return count


def turnsUntil(service: Service, isDone: Callable[[], bool]) -> int:
    for n in range(1000):
        if isDone():
            return n
        service.turn()
    raise AssertionError("it is not done")


@pytest.mark.parametrize("kind", KINDS)
def test_a_newcomer_does_not_wait_for_what_others_have_sent(
    kind: str, counts: Callable[..., list[int]]
) -> None:
    data, methods = KINDS[kind]
    service = Service("--no-fast-path", "--log-rate=0", isFast=False, isSliced=True)
    isHttp = methods[0][0] is Channel
    how = DEFLATE if b"\xc2" in data[:1] else {}
    hostile = [service.connect() if isHttp else service.open(**how) for _ in range(20)]
    for client in hostile:
        client.socket.arriving += data
    calls = counts(*methods)
    service.turn()
    assert calls[0] <= 4 * 20 + 4  # Two frames of each client, and then of one of them.

    newcomer, health = service.connect(), service.connect()
    newcomer.socket.arriving += request() + text("hello")
    health.socket.arriving += GET
    before = calls[0]
    turns = turnsUntil(service, lambda: newcomer.socket.sent.endswith(b"\x81\x05hello"))
    turns += turnsUntil(service, lambda: health.socket.sent.endswith(b"\r\n\r\nok\n"))
    # Lines of a request are sliced here as well, and wait for 20 others.
    assert turns <= 16 * 22
    assert calls[0] - before <= turns * 4 + 20 * 3
    assert all(client.protocol.hasLeft for client in hostile)


def test_at_full_length_a_slice_is_cut_by_time() -> None:
    """Whatever the machine, some of a read is left."""
    service = Service("--log-rate=0", isFast=False)
    service.context.turns.clock = time.perf_counter
    client = service.open()
    client.socket.arriving += text("a") * 9000
    service.turn()
    assert client.protocol.hasLeft
    assert not client.reading
    service.run()
    assert client.frames() == [Frame(TEXT, b"a")] * 9000
    assert not client.protocol.hasLeft
    assert client.reading


def test_those_that_wait_take_turns() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    first, second = service.open(), service.open()
    first.socket.arriving += text("1") * 50
    second.socket.arriving += text("2") * 50
    done = []
    for _ in range(60):
        service.turn()
        done.append((len(first.frames()), len(second.frames())))
    assert {tuple(sorted(pair)) for pair in done[1:20]} == {(0, 2)}  # Two frames are a slice.
    assert sum(a for a, _ in done) == sum(b for _, b in done) == 50


def test_one_message_is_answered_at_once_while_others_wait() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    hostile, honest = service.open(), service.open()
    hostile.socket.arriving += frame(PING) * 1000
    service.turn()
    honest.socket.arriving += text("hello")
    service.turn()
    assert honest.frames() == [Frame(TEXT, b"hello")]
    assert hostile.protocol.hasLeft


def test_three_small_messages_do_not_wait_for_all_floods() -> None:
    """One that had piled up so many once waited for the first slices of thousands: five seconds."""
    service = Service("--log-rate=0", isFast=False)
    service.context.turns.clock = itertools.count().__next__  # One turn an iteration.
    hostile = [service.open() for _ in range(200)]
    honest = service.open()
    for client in hostile:
        client.socket.arriving += frame(PING) * 1000
    honest.socket.arriving += text("a") * 3
    found: list[Frame] = []
    for _ in range(20):
        service.turn()
        found += honest.frames()
    assert found == [Frame(TEXT, b"a")] * 3
    assert all(client.protocol.hasLeft for client in hostile)


def test_each_kind_has_a_third_of_the_time() -> None:
    """Large reads, and those that never end, do not wait for small ones that come again."""
    ticks = itertools.count()
    calls: list[tuple[Any, ...]] = []
    reactor: Any = SimpleNamespace(callLater=lambda delay, *call: calls.append(call))
    turns = Turns(reactor, lambda: next(ticks))  # One turn an iteration.
    taken: Counter[str] = Counter()

    class Busy:
        transport = None

        def __init__(self, name: str, size: int) -> None:
            self.name, self.size = name, size

        def takeTurn(self) -> None:
            taken[self.name] += 1
            if self.size:  # Read again, in the next iteration.
                calls.append((turns.wait, self, self.size))
            else:
                turns.wait(self)

    for _ in range(3):
        for name, size in (("small", 1), ("large", 5000), ("old", 0)):
            turns.wait(Busy(name, size), size)
    for _ in range(1000):
        due, calls[:] = calls[:], []
        for call, *arguments in due:
            call(*arguments)
    assert taken.total() == 1000
    assert taken["small"] == pytest.approx(taken["large"], rel=0.05)
    assert taken["old"] * SLICE == pytest.approx(taken["small"] * FIRST_SLICE, rel=0.05)


# Messages that take pieces.


@pytest.mark.parametrize("takeover", [False, True], ids=["", "takeover"])
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 200_000])
def test_a_large_message_is_inflated_and_deflated_in_pieces(size: int, takeover: bool) -> None:
    options = ["--context-takeover"] if takeover else []
    service = Service("--log-rate=0", *options, isFast=False, isSliced=True)
    client = service.open(**DEFLATE)
    payload = (b"piece by piece " * size)[:size]
    client.send(compressed(payload) + frame(PING, b"behind"))
    echo, pong = client.frames()
    assert (inflated(echo.payload), echo.rsv) == (payload, 4)
    assert pong == Frame(PONG, b"behind")


@pytest.mark.parametrize("options", [["--log-rate=0"], ["--log-frames"]])
def test_messages_that_are_inflated_past_autobahn_take_turns(options: list[str]) -> None:
    service = Service(*options, isFast=True, lends=False, isSliced=True)
    client = service.open(**DEFLATE)
    client.socket.arriving += compressed(b"a") * 20
    service.turn()
    assert client.protocol.hasLeft
    noise = random.Random(1).randbytes(PIECE)
    client.send(
        compressed(noise) + compressed(b"b") + compressed(bytes(3 * PIECE)) + compressed(b"c")
    )
    payloads = [inflated(echo.payload) for echo in client.frames()]
    assert payloads == [b"a"] * 20 + [noise, b"b", bytes(3 * PIECE), b"c"]
    client.send(compressed(b"d") + b"\xc1" + compressed(b"no UTF-8: \xff")[1:])
    echo, end = client.frames()
    assert inflated(echo.payload) == b"d"
    assert end.payload[:2] == (1007).to_bytes(2, "big")
    Service.closeAll()


def test_what_is_inflated_in_pieces_is_bounded(log: Any) -> None:
    service = Service("--max-message=100k", isFast=False, isSliced=True)
    client = service.open(**DEFLATE)
    client.send(compressed(bytes(200_000)) + text("never"))
    (end,) = client.frames()
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))
    assert not client.protocol.hasLeft


def test_deflate_data_that_breaks_in_a_later_piece_is_refused() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.open(**DEFLATE)
    z = zlib.compressobj(wbits=-15)
    data = z.compress(bytes(200_000)) + z.flush(zlib.Z_FULL_FLUSH) + b"\xff\xff"
    client.send(frame(BINARY, data, rsv=4) + text("never"))
    (end,) = client.frames()
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))


@pytest.mark.parametrize("takeover", [False, True], ids=["", "takeover"])
def test_what_follows_the_last_block_of_a_message_is_not_kept(takeover: bool) -> None:
    options = ["--context-takeover"] if takeover else []
    service = Service(*options, isFast=False)
    client = service.open(**DEFLATE)
    z = zlib.compressobj(wbits=-15)
    data = frame(BINARY, z.compress(b"a") + z.flush() + bytes(1 << 20), rsv=4)
    client.send(data[:-1])
    deflate = client.protocol._perMessageCompress
    assert len(deflate._decompressor.unused_data) < 1 << 16  # The rest of one read.
    assert 0 <= service.context.budget.buffered - len(deflate._decompressor.unused_data) < 50_000
    client.send(data[-1:])
    (end,) = client.frames()
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))


@pytest.mark.parametrize("isSliced", [False, True])
def test_a_large_message_is_echoed_before_the_error_behind_it(isSliced: bool) -> None:
    """Also if its end comes with the error, in a segment of their own."""
    service = Service("--log-rate=0", isFast=False, isSliced=isSliced)
    client = service.open(**DEFLATE)
    message = compressed(bytes(PIECE + 1))
    client.send(message[:-1])
    client.send(message[-1:] + frame(TEXT, b"reserved bits", rsv=3))
    echo, end = client.frames()
    assert inflated(echo.payload) == bytes(PIECE + 1)
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))


def test_a_message_in_pieces_counts_against_the_budget() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = service.open(**DEFLATE)
    client.socket.arriving += compressed(bytes(1 << 20))
    budget = service.context.budget
    sizes = []
    while service.turn():
        sizes.append(budget.buffered)
    assert max(sizes) >= 1 << 20  # Also while it is deflated.
    assert budget.buffered == 0


def test_what_is_left_counts_against_the_budget() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = service.open()
    client.socket.arriving += frame(PING) * 1000
    service.turn()
    assert service.context.budget.buffered >= 5900
    service.run()
    assert service.context.budget.buffered == 0


# Whoever ends while something is left.


@pytest.fixture
def busy() -> Client:
    """A client of which nearly all of its 51 messages are left."""
    client = Service(isFast=False, isSliced=True).open()
    client.socket.arriving += text("a") * 51
    client.service.turn()
    assert client.protocol.hasLeft
    client.received()
    return client


def test_a_drain_answers_what_is_left_first(busy: Client) -> None:
    busy.service.echo.stopService()
    busy.service.run()
    *_, end = busy.frames()
    assert busy.service.context.journal.totals.texts == 51
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))


def test_a_drain_does_not_cut_a_client_whose_turn_has_not_come(busy: Client) -> None:
    turns = busy.service.context.turns
    turns._work, work = lambda: None, turns._work  # type: ignore[method-assign]
    busy.service.echo.stopService()
    busy.service.advance(8)
    assert not busy.socket.closed
    turns._work = work  # type: ignore[method-assign]
    turns._work()
    busy.service.run()
    *_, end = busy.frames()
    assert busy.service.context.journal.totals.texts == 51
    assert (end.opcode, end.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))


def test_a_client_that_is_gone_is_not_worked_for(busy: Client) -> None:
    texts = busy.service.context.journal.totals.texts
    busy.transport.abortConnection()
    busy.service.run()
    assert busy.socket.closed
    assert busy.service.context.journal.totals.texts <= texts + 2
    assert busy.service.context.budget.buffered == 0
    busy.service.advance(2)
    assert busy.service.timers() == 0


def test_an_error_ends_what_is_left(busy: Client) -> None:
    """It is not answered, and what still arrives is discarded."""
    busy.protocol.endOverBudget()
    busy.service.run()
    (end,) = busy.frames()
    assert end.payload[:2] == (1013).to_bytes(2, "big")
    assert busy.reading
    busy.send(text("b") * 1000)
    assert busy.frames() == []
    busy.finish()
    assert busy.socket.closed


def test_a_client_that_does_not_read_is_not_worked_for() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = service.open()
    client.socket.window = 0
    client.send(binary(bytes(60_000)))
    client.send(binary(bytes(30_000)) + text("a") * 1000)
    assert client.protocol.hasLeft
    left = len(client.protocol._left)
    service.run()
    assert len(client.protocol._left) == left
    client.socket.window = float("inf")
    service.run()
    assert [len(f.payload) for f in client.frames()] == [60_000, 30_000] + [1] * 1000
    assert client.reading


def test_a_client_whose_turn_has_not_come_is_kept_alive() -> None:
    service = Service("--ping-interval=30s", "--ping-timeout=20s", isFast=False, isSliced=True)
    client = service.open()
    service.advance(31)
    assert [f.opcode for f in client.frames()] == [PING]
    turns = service.context.turns
    turns._work, work = lambda: None, turns._work  # type: ignore[method-assign]
    client.send(text("a") * 10)
    client.protocol.heard = 0  # As if it had been silent since.
    service.advance(25)
    assert not client.socket.closed
    turns._work = work  # type: ignore[method-assign]
    turns._work()
    service.run()
    assert [f for f in client.frames() if f.opcode == TEXT] == [Frame(TEXT, b"a")] * 10


def test_an_exception_in_a_turn_costs_one_connection(busy: Client, log: Any) -> None:
    busy.protocol._work = lambda data: 1 / 0
    other = busy.service.open()
    other.send(text("b") * 10)
    assert busy.socket.closed
    assert other.frames() == [Frame(TEXT, b"b")] * 10
    assert "ZeroDivisionError" in log.errors()[0]
    log.events.clear()


def test_an_exception_of_a_channel_that_has_upgraded_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    """Then the channel has no transport any more. Once that stopped the queue, for all and for
    ever."""
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    monkeypatch.setattr(Connection, "dataReceived", lambda self, data: 1 / 0)
    client = service.connect()
    client.send(GET + request() + text("early"))
    monkeypatch.undo()
    assert client.socket.closed
    other = service.open()
    other.send(text("b") * 10)
    assert other.frames() == [Frame(TEXT, b"b")] * 10
    assert "ZeroDivisionError" in log.errors()[0]
    log.events.clear()


def test_a_connection_is_lent_with_what_is_left() -> None:
    service = Service("--log-rate=0", isFast=True, isSliced=True)
    client = service.open()
    client.send(close(3000)[:1])  # Nothing that a loop would take.
    client.send(close(3000)[1:] + text("never"))
    assert client.frames() == [Frame(CLOSE, b"\x0b\xb8")]
    client = service.open()
    client.send(frame(TEXT, b"a" * 70_000, fin=False))
    client.send(frame(CONTINUATION, b"b") + text("c") * 100)
    assert [f.payload for f in client.frames()] == [b"a" * 70_000 + b"b"] + [b"c"] * 100
    assert client.protocol.isLent
    assert not client.protocol.isPausedFor(7)
    Service.closeAll()


def test_a_connection_is_read_after_a_loop_though_the_budget_had_paused_it() -> None:
    service = Service("--log-rate=0", isFast=True, isSliced=True)
    client = service.open()
    client.send(frame(TEXT, b"a" * 70_000, fin=False))
    client.socket.arriving += frame(CONTINUATION, b"b") + text("c") * 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.context.budget, "_half", 1000)  # As if others buffered the rest.
        turnsUntil(service, lambda: client.protocol.hasLeft)
        assert client.protocol.isPausedFor(OVER_BUDGET)
        turnsUntil(service, lambda: client.protocol.isLent)
    service.run()
    assert client.protocol.isLent
    assert not client.protocol.isPausedFor(OVER_BUDGET)
    Service.closeAll()


# HTTP.


def test_a_pipeline_is_answered_in_turns_and_in_order() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.socket.arriving += (GET + GET.replace(b"healthz", b"nowhere")) * 20
    service.turn()
    assert client.protocol.hasLeft
    assert not client.reading
    service.run()
    answers = client.received()
    assert answers.count(b"200 OK") == answers.count(b"404 Not Found") == 20
    assert answers.index(b"404") > answers.index(b"200")
    assert client.reading
    client.send(GET)
    assert client.received().endswith(b"ok\n")


def test_a_pipeline_is_not_read_while_the_budget_has_paused_it() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.context.budget, "_half", 1)  # As if others buffered the rest.
        client.send(GET * 30)
        assert client.protocol.isPausedFor(OVER_BUDGET)
        assert not client.reading
    assert client.received().count(b"200 OK") == 30
    service.advance(6)
    assert not client.protocol.isPausedFor(OVER_BUDGET)
    assert client.reading


def test_an_upgrade_behind_a_pipeline_comes_in_turn() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.send(GET * 3 + request() + text("early") * 5)
    client.received()
    assert len(service.connections.open) == 1
    client.send(text("late"))
    assert client.frames() == [Frame(TEXT, b"late")]


def test_a_client_that_does_not_read_its_answers_is_not_worked_for() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.socket.window = 0
    page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(page * 200)
    assert client.protocol.hasLeft
    service.run()
    client.socket.window = float("inf")
    service.run()
    assert client.received().count(b"200 OK") == 200
    assert client.reading


@pytest.mark.parametrize("isEarly", [True, False])
def test_a_client_may_stop_reading_while_it_waits(isEarly: bool) -> None:
    """Over TLS Twisted finds out later; here it says so at once."""
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.socket.arriving += GET * 10
    service.turn()
    client.protocol.pauseProducing()
    if isEarly:
        client.protocol.resumeProducing()
    else:
        service.run()
        assert client.protocol.hasLeft
        assert not client.reading
        client.protocol.resumeProducing()
    service.run()
    assert client.received().count(b"200 OK") == 10
    assert client.reading


def test_a_deadline_waits_for_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    turns = service.context.turns
    turns._work, work = lambda: None, turns._work  # type: ignore[method-assign]
    client.send(request(Forwarded="for=192.0.2.7"))
    service.advance(11)
    assert not client.socket.closed
    assert client.received() == b""
    turns._work = work  # type: ignore[method-assign]
    turns._work()
    service.run()
    client.opened()
    assert service.context.journal.totals.handshakes.sum == 11


def test_a_drain_waits_for_a_pipeline() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.socket.arriving += GET * 30
    service.turn()
    service.echo.stopService()
    service.advance(2)
    assert client.received().count(b"200 OK") == 30
    assert client.socket.fin


def test_a_channel_that_is_gone_is_not_worked_for() -> None:
    service = Service(isFast=False, isSliced=True)
    client = service.connect()
    client.socket.arriving += GET * 30
    service.turn()
    client.transport.abortConnection()
    service.run()
    assert client.socket.closed
    assert service.timers() == 0
    assert service.context.budget.buffered == 0


# TLS.


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Peer:
    make = Service.__init__
    sliced = functools.partialmethod(make, isFast=False, isSliced=True)
    monkeypatch.setattr(Service, "__init__", sliced)
    return Peer(certified(tmp_path))


def leave(peer: Peer, *writes: bytes) -> None:
    """Send these, each as a record of its own, and close_notify, in one segment."""
    for data in writes:
        peer.tls.write(data)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.client.send(peer._out.read())
    peer._in.write(peer.client.received())


def rest(peer: Peer) -> bytes:
    data = b""
    try:
        while piece := peer.tls.read(100_000):
            data += piece
    except (ssl.SSLZeroReturnError, ssl.SSLWantReadError):
        pass
    return data


def test_tls_records_are_taken_in_turns(peer: Peer) -> None:
    peer.open()
    for _ in range(50):
        peer.tls.write(text("a"))
    peer.client.socket.arriving += peer._out.read()
    peer.client.service.turn()
    assert peer.client.protocol._hasMore
    assert not peer.client.reading
    peer.client.service.run()
    peer._in.write(peer.client.received())
    assert parse(rest(peer)) == [Frame(TEXT, b"a")] * 50
    assert peer.client.reading
    peer.echo("and on")


@pytest.mark.parametrize("records", [1, 5])
def test_before_close_notify_what_is_left_is_answered(peer: Peer, records: int) -> None:
    peer.open()
    leave(peer, *[text("a") * 20] * records)
    assert parse(rest(peer)) == [Frame(TEXT, b"a")] * 20 * records
    assert peer.client.socket.closed or peer.client.socket.fin


def test_before_close_notify_a_pipeline_is_answered(peer: Peer) -> None:
    leave(peer, GET * 20)
    assert rest(peer).count(b"200 OK") == 20


def test_key_updates_are_taken_in_turns(tmp_path: Path) -> None:
    """OpenSSL works off all that it is given, and each of them takes it 6 to 13 µs."""
    service = Service(isFast=False, isSliced=True)
    peer = OpensslPeer(connected(certified(tmp_path), service=service))
    skt = peer.client.socket
    skt.arriving += peer.keyUpdates(2000) + peer.encrypted(text("behind"))
    for _ in range(3):
        service.turn()
    assert not skt.arriving
    assert 0 < len(skt.sent) < 4 * 4096
    peer.move()
    service.run()
    peer.move()
    assert peer.received() == b"\x81\x06behind"


def test_a_tls_client_that_is_gone_is_not_worked_for(peer: Peer) -> None:
    peer.open()
    for _ in range(50):
        peer.tls.write(text("a"))
    service = peer.client.service
    peer.client.socket.arriving += peer._out.read()
    service.turn()
    peer.client.transport.abortConnection()
    service.run()
    assert peer.client.socket.closed
    assert service.context.journal.totals.texts < 5
    assert service.connections.open == set()


def test_a_tls_client_that_leaves_and_never_reads_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Without pings as well: its close_notify is a FIN."""
    service = Service("--ping-interval=0", isFast=False, isSliced=True)
    peer = Peer(certified(tmp_path), service=service).open()
    peer.client.socket.window = 0
    peer.send(binary(bytes(60_000)))
    leave(peer, binary(bytes(30_000)) + text("never read") * 100)
    assert peer.connection.hasLeft
    service.advance(4)
    assert not peer.client.socket.closed
    service.advance(4)
    assert peer.client.socket.closed


# The queue itself.


class Worker:
    transport: Any = None

    def __init__(self, turns: Turns, many: int, done: list[Any]) -> None:
        self.turns, self.left, self.done = turns, many, done

    def takeTurn(self) -> None:
        self.done.append(self)
        self.left -= 1
        if self.left:
            self.turns.wait(self)


def test_an_idle_queue_has_no_timer() -> None:
    service = Service("--log-rate=0", isFast=False)
    turns = service.context.turns
    assert service.timers() == 0
    done: list[Any] = []
    workers = [Worker(turns, many, done) for many in (3, 1)]
    for worker in workers:
        turns.wait(worker)
    assert service.timers() == 1
    service.run()
    assert done == [workers[0], workers[1], workers[0], workers[0]]
    assert service.timers() == 0


def test_a_turn_of_the_queue_is_bounded() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    done: list[Any] = []
    for _ in range(10):
        service.context.turns.wait(Worker(service.context.turns, 1, done))
    for n in range(10):
        service.turn()
        assert len(done) == n + 1


def test_what_loops_return_is_handled_for_a_while() -> None:
    """All clients that leave at once come back in one read of the reactor."""
    recorder = Recorder()
    service = Service("--log-rate=0", isFast=True)
    clients = service.crowd(10, text("lend me"))
    assert all(client.protocol.isLent for client in clients)
    service.fastPath.clock = service.context.turns.clock = iter(range(10_000)).__next__
    for client in clients:
        client.socket.arriving += close(1000)
    most, before = 0, 10
    while service.turn():
        lent = service.fastPath.lent
        most, before = max(most, before - lent), lent
    assert most <= 2
    assert all(client.frames()[-1].opcode == CLOSE for client in clients)
    assert service.fastPath._handling is None
    Service.closeAll()
    assert recorder.events == []


def test_a_stop_handles_all_that_loops_return() -> None:
    service = Service("--log-rate=0", isFast=True)
    clients = service.crowd(5, text("lend me"))
    service.fastPath.clock = iter(range(10_000)).__next__
    for client in clients:
        client.socket.arriving += close(1000)
        client.socket.move()
    for loop in service._loops():
        for _ in range(5):
            loop.turn(0)
    service.fastPath.doRead()
    assert service.fastPath._handling is not None
    service.fastPath.stop()
    assert service.fastPath.lent == 0
    assert service.fastPath._handling is None
    service.run()
    assert all(client.frames()[-1].opcode == CLOSE for client in clients)


@pytest.mark.parametrize("isSliced", [False, True])
def test_what_follows_a_request_is_judged_alike_in_slices(isSliced: bool) -> None:
    """It may still become a line. A slice that ended before it once made it another first line."""
    service = Service(isFast=False, isSliced=isSliced)
    client = service.connect()
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\x88\x82")
    assert client.received().endswith(b"\r\n\r\nok\n")
    assert not client.socket.fin


def test_a_crowd_with_large_reads_takes_turns(counts: Callable[..., list[int]]) -> None:
    """A newcomer once waited for all of them, a millisecond each: none had anything left."""
    service = Service("--log-rate=0", isFast=False)
    clients = [service.open() for _ in range(30)]
    calls = counts((Connection, "onMessageEnd"))
    service.context.turns.clock = itertools.count().__next__  # One turn an iteration.
    for client in clients:
        client.socket.arriving += binary(bytes(60_000))
    for done in range(1, 6):
        service.turn()
        assert calls[0] <= 2 * done
    service.run()
    assert calls[0] == len(clients)
    for client in clients:
        assert client.frames() == [Frame(BINARY, bytes(60_000))]


@pytest.mark.parametrize("isTls", [False, True])
def test_a_connection_that_was_aborted_has_no_turn(isTls: bool, tmp_path: Path, log: Any) -> None:
    """It once was lent, and its descriptor closed under the loop: the next client's TLS broke."""
    if isTls:
        peer = Peer(certified(tmp_path), service=Service(isFast=True)).open()
        client, connection = peer.client, peer.connection
    else:
        client = Service(isFast=True).open()
        connection = client.protocol
    service = client.service
    connection.waitForTurn(text("lend me"))
    connection.abort()
    service.context.turns._work()
    assert not connection.isLent
    service.run()
    assert client.socket.closed
    assert service.fastPath.lent == 0
    service.advance(60)
    assert service.timers() == 0


def test_a_connection_that_was_aborted_is_not_lent() -> None:
    """Whoever aborted it."""
    client = Service(isFast=True).open()
    client.transport.abortConnection()
    client.protocol.dataReceived(text("lend me"))
    assert not client.protocol.isLent


@pytest.mark.parametrize("isTls", [False, True])
def test_what_comes_after_the_rest_waits_for_a_loop(isTls: bool, tmp_path: Path) -> None:
    """The rest may have the connection lent. A close frame once went out from under the loop, and
    over TLS with a number that the loop had used."""
    service = Service(isFast=True)
    peer: Any
    if isTls:
        peer = Peer(certified(tmp_path), service=service).open()
        connection = peer.connection
    else:
        peer = service.open()
        connection = peer.protocol
    connection.waitForTurn(text("lend me"))
    connection.goAway()
    service.context.turns._work()
    assert connection.isLent
    service.run()
    assert not connection.isLent
    assert peer.frames() == [Frame(TEXT, b"lend me"), Frame(CLOSE, b"\x03\xe9server going away")]


def test_those_that_were_just_read_have_every_other_turn() -> None:
    """Honest clients with two messages in a read once waited for thousands that flood."""
    reactor = MemoryReactorClock()
    turns = Turns(reactor, itertools.count().__next__)  # One turn an iteration.
    took = []

    class Flood:
        transport = None

        def __init__(self, name: str) -> None:
            self.name = name

        def takeTurn(self) -> None:
            took.append(self.name)
            if self.name.startswith("flood"):
                turns.wait(self)

    for n in range(50):
        turns.wait(Flood(f"flood {n}"))
    for _ in range(120):
        turns._work()
    turns.wait(Flood("honest"))
    before = len(took)
    turns._work()
    turns._work()
    assert "honest" in took[before:]
    for _ in range(100):
        turns._work()
    assert {f"flood {n}" for n in range(50)} == set(took[-60:])
