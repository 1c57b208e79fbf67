"""The fast path beside Autobahn: the same bytes in, the same bytes out; and who owns what when."""

import importlib.util
import os
import random
import resource
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from socket import socket, socketpair
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.deflate import deflated, inflated
from support.differential import outcome, segments
from support.memory import Client, Hung, Service, Unthreaded
from support.secure import certified
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from echotwist.fastpath import _loop, lending
from echotwist.fastpath._loop import Loop, echoFrames, parseCompressedFrame
from echotwist.fastpath.lending import HANG, FastPath
from echotwist.fastpath.sources import NAMES
from echotwist.fatal import Fatal
from echotwist.listen.certificate import Certificate
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

HOLD = 65536
"""Bytes of payload above which a frame is passed on as it comes."""

small = st.binary(max_size=200)
sizes = st.sampled_from([0, 1, 125, 126, 127, 300, 65535, 65536])
opcodes = st.sampled_from([TEXT, BINARY])


def filled(opcode: int, size: int, seed: int) -> bytes:
    """A payload of this size; if it is text, of characters of all lengths."""
    if opcode == BINARY:
        return random.Random(seed).randbytes(size)
    characters = "aé€🙂"[seed % 4] * (size // 4)
    return (characters.encode() + b"x" * size)[:size].decode("utf-8", "ignore").encode().ljust(size)


whole = st.builds(lambda o, n, s: frame(o, filled(o, n, s)), opcodes, sizes, st.integers(0, 99))
odd = st.one_of(
    # Fragments, whole or not.
    st.builds(lambda o, p: frame(o, p, fin=False), opcodes, small),
    st.builds(lambda p, fin: frame(CONTINUATION, p, fin=fin), small, st.booleans()),
    st.builds(
        lambda o, p, q: frame(o, p, fin=False) + frame(CONTINUATION, q), opcodes, small, small
    ),
    # Control frames.
    st.builds(lambda o, p: frame(o, p), st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.builds(frame, st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=130)),
    st.just(close(1000, "bye")),
    # Text that may be UTF-8.
    st.builds(lambda p: frame(TEXT, p), small),
    st.builds(
        lambda s, p, n: frame(TEXT, (filled(TEXT, n, s) + p)[-HOLD:]),
        st.integers(0, 3),
        small,
        sizes,
    ),
    # Valid and invalid headers.
    st.builds(lambda o, r, f: frame(o, b"x", rsv=r, fin=f), st.integers(0, 15), st.integers(0, 7),
              st.booleans()),
    st.builds(lambda n: bytes([0x82, 0xFE]) + n.to_bytes(2, "big") + bytes(4 + n % 200),
              st.integers(0, 65535)),
    st.builds(lambda n: bytes([0x82, 0xFF]) + n.to_bytes(8, "big") + bytes(100),
              # None that is above HOLD and allowed: the next test has those, which are half echoed.
              st.one_of(st.integers(0, HOLD), st.integers(2**20 + 1, 2**64 - 1))),
    small,
)  # fmt: skip


class Stream(bytes):
    """With a repr() that can be read."""

    def __repr__(self) -> str:
        return repr(bytes(self)) if len(self) < 400 else f"<{bytes(self[:400])!r}... {len(self)}>"


streams = st.lists(st.one_of(whole, whole, whole, odd), max_size=10).map(b"".join).map(Stream)
cuts = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 70_000)), max_size=40)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certified(tmp_path_factory.mktemp("tls"))


both = settings(suppress_health_check=list(HealthCheck), max_examples=3 * settings().max_examples)


@both
@given(streams, cuts, st.booleans())
@example(text("x") + frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xa9"), [3], False)
@example(text("x") + frame(TEXT, b"\xed\xa0\x80" + b"y" * 300)[:20], [], False)
def test_the_fast_path_answers_any_bytes_as_autobahn_does(
    certificate: Certificate, stream: bytes, sizes: list[int], isFinished: bool
) -> None:
    slow, fast = (outcome(stream, sizes, isFinished, isFast) for isFast in (False, True))
    assert fast == slow
    secured = outcome(stream, sizes, isFinished, False, certificate=certificate)
    assert outcome(stream, sizes, isFinished, True, certificate=certificate) == secured
    sliced = outcome(stream, sizes, isFinished, False, certificate=certificate, isSliced=True)
    assert sliced == secured
    assert replace(slow, fin=secured.fin, closed=secured.closed, reset=secured.reset) == secured
    assert outcome(stream, sizes, isFinished, isFast=True, lends=False) == slow
    assert outcome(stream, sizes, isFinished, isFast=False, isSliced=True) == slow
    assert outcome(stream, sizes, isFinished, isFast=True, lends=False, isSliced=True) == slow
    assert outcome(stream, sizes, isFinished, isFast=True, holds=False) == slow


@both
@given(
    st.lists(st.one_of(whole, st.builds(
        lambda o, n, s: frame(o, filled(o, n, s)),
        opcodes, st.sampled_from([HOLD + 1, 100_000, 300_000]), st.integers(0, 99),
    )), max_size=4).map(b"".join).map(Stream),
    cuts, st.integers(0, 400_000), st.booleans(),
)  # fmt: skip
def test_a_truncated_large_frame_is_half_echoed(
    stream: bytes, sizes: list[int], missing: int, isFinished: bool
) -> None:
    """And whole frames are echoed whole."""
    stream = stream[: len(stream) - missing]
    slow, fast = (outcome(stream, sizes, isFinished, isFast) for isFast in (False, True))
    assert fast.received.startswith(slow.received)
    half = fast.received[len(slow.received) :]
    assert len(half) <= 300_014
    assert not half or half[1] == 127
    assert (fast.messages, fast.bytes) == (slow.messages, slow.bytes)
    assert fast.closed == slow.closed


# What happens once the beginning of a frame is sent.


@pytest.fixture
def service() -> Service:
    return Service(isFast=True)


def lentBy(service: Service) -> Client:
    client = service.open()
    client.send(text("lend me"))
    assert client.frames() == [Frame(TEXT, b"lend me")]
    assert client.protocol.isLent
    return client


@pytest.fixture
def lent(service: Service) -> Client:
    return lentBy(service)


MakePairs = Callable[[int], list[tuple[socket, socket]]]


@pytest.fixture
def makePairs() -> Iterator[MakePairs]:
    """So many sockets for a loop, each with that of its client."""
    with ExitStack() as stack:

        def makePairs(count: int) -> list[tuple[socket, socket]]:
            pairs = [socketpair() for _ in range(count)]
            for ours, theirs in pairs:
                stack.enter_context(ours).setblocking(False)
                stack.enter_context(theirs)
            return pairs

        yield makePairs


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    Service.closeAll()


LARGE = 3_000_000

GOING_AWAY = Frame(CLOSE, b"\x03\xe9server going away")


def half(opcode: int = BINARY, payload: bytes = bytes(LARGE)) -> tuple[bytes, bytes]:
    """The halves of a large frame."""
    whole = frame(opcode, payload)
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


def test_a_large_frame_is_streamed_back_as_it_arrives(lent: Client) -> None:
    first, second = half()
    lent.send(first)
    begun = lent.received()
    assert len(begun) == len(first) - 4
    lent.send(second)
    lent.socket.sent[:0] = begun
    assert lent.frames() == [Frame(BINARY, bytes(LARGE))]
    assert lent.protocol.isLent


def test_a_client_may_send_a_large_message_before_it_reads(lent: Client) -> None:
    """As the Autobahn testsuite does: if the service stopped reading, both would wait for ever."""
    lent.socket.window = 0
    lent.send(frame(BINARY, bytes(LARGE)) + text("next"))
    assert lent.socket.arriving == b""
    lent.send(text("not read"))
    assert not lent.reading
    lent.socket.window = float("inf")
    lent.service.run()
    assert lent.frames() == [
        Frame(BINARY, bytes(LARGE)), Frame(TEXT, b"next"), Frame(TEXT, b"not read")
    ]  # fmt: skip


def test_backpressure_lets_one_large_message_wait_for_a_client_that_never_reads(
    lent: Client,
) -> None:
    lent.socket.window = 0
    lent.send(frame(BINARY, bytes(LARGE)) * 5)
    assert 4 * LARGE - 500_000 < len(lent.socket.arriving) <= 4 * LARGE + 100


CROWDED = ("--max-message=1M", "--memory-budget=8M", "--close-timeout=5s")
"""The loops have a third of that memory, together."""

MEGABYTE = frame(BINARY, bytes(1 << 20))


def unread(service: Service) -> Client:
    """It does not read."""
    client = lentBy(service)
    client.socket.window = 0
    return client


def test_loops_share_their_memory() -> None:
    """A part for each was less than a message: a client that sent that before it read waited for
    its loop, and the loop for the client."""
    client = unread(Service(*CROWDED, "--threads=16", isFast=True))
    client.send(MEGABYTE)
    assert client.socket.arriving == b""
    client.socket.window = float("inf")
    client.service.run()
    assert client.frames() == [Frame(BINARY, bytes(1 << 20))]
    assert client.protocol.isLent


@pytest.mark.parametrize("threads", [1, 3])
def test_memory_that_is_not_given_back_is_taken_back(threads: int, log: Any) -> None:
    """From those who buffer the most, one for each close timeout."""
    service = Service(*CROWDED, f"--threads={threads}", isFast=True)
    holders = [unread(service) for _ in range(6)]
    for holder in holders:
        holder.send(MEGABYTE[:-1])
    honest = unread(service)
    honest.send(MEGABYTE)
    assert honest.socket.arriving
    service.fastPath.count()
    assert 2_500_000 < service.fastPath.buffered < 3_500_000
    service.advance(4.9)
    assert not any(holder.socket.closed for holder in holders)
    service.advance(0.2)
    assert sum(holder.socket.closed for holder in holders) == 1
    service.advance(10)
    assert sum(holder.socket.closed for holder in holders) == 3
    said = "closed: 1013 'too much is waiting here for all clients together'"
    assert sum(said in line for line in log.lines()) == 3
    honest.socket.window = float("inf")
    service.run()
    assert honest.frames() == [Frame(BINARY, bytes(1 << 20))]
    # Until nobody waits.
    for _ in range(2):
        service.advance(10)
        assert sum(holder.socket.closed for holder in holders) == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_taken_back_first_from_those_who_lose_nothing(threads: int) -> None:
    """The reactor has its own half for them. They send a little now and then."""
    service = Service(*CROWDED, f"--threads={threads}", isFast=True)
    begun = frame(BINARY, bytes(60_000))
    holders = [service.open() for _ in range(50)]
    for holder in holders:
        holder.send(begun[:100])
    honest = unread(service)
    honest.send(MEGABYTE)
    assert honest.socket.arriving
    for n in range(14):
        service.advance(1)
        for holder in holders:
            holder.send(begun[100 + n : 101 + n])
    assert not honest.socket.arriving
    honest.socket.window = float("inf")
    service.run()
    assert honest.frames() == [Frame(BINARY, bytes(1 << 20))]
    for holder in holders:
        holder.send(begun[114:])
        assert holder.frames() == [Frame(BINARY, bytes(60_000))]


def test_who_reads_slowly_is_left_alone_when_nobody_waits() -> None:
    service = Service(*CROWDED, "--threads=1", isFast=True)
    slow = [unread(service) for _ in range(2)]
    for each in slow:
        each.send(MEGABYTE[:-1])
    quick = unread(service)
    quick.send(MEGABYTE)
    (loop,) = service._loops()
    assert loop.due() == service.reactor.seconds() + 5  # It waits for memory.
    quick.socket.window = float("inf")
    service.run()
    assert quick.frames() == [Frame(BINARY, bytes(1 << 20))]
    for _ in range(4):
        service.advance(5)
        assert not any(each.socket.closed for each in slow)


def holds(loop: Any, theirs: Any, least: int) -> None:
    """Have a client send a megabyte that it does not read, until the loop holds so much of it."""
    before, rest = loop.takeCounts()[-1], MEGABYTE
    while loop.takeCounts()[-1] < before + least:
        with suppress(BlockingIOError):
            rest = rest[theirs.send(rest[:10_000]) :]
        loop.turn(0)


def test_a_loop_that_is_late_takes_nothing_back(makePairs: MakePairs) -> None:
    """As after SIGSTOP: others have read meanwhile."""
    loop = Loop(1 << 20, 1 << 20, 300_000, 0, 0, os.eventfd(0), patience=5)
    pairs = makePairs(2)
    for number, (ours, theirs) in enumerate(pairs):
        theirs.setblocking(False)
        loop.lend(ours.fileno(), number, b"")
    holds(loop, pairs[0][1], 300_000)
    loop.turn(0)
    assert loop.due() == 5
    loop.turn(5)
    assert loop.takeEvents() == [("short",)]
    while loop.takeCounts()[-1]:
        with suppress(BlockingIOError):
            pairs[0][1].recv(1 << 20)
        loop.turn(5)
    holds(loop, pairs[1][1], 20_000)
    loop.shed()
    loop.turn(5)
    assert loop.takeEvents() == []
    assert loop.lent == 2


def test_a_loop_looks_for_the_memory_of_others(makePairs: MakePairs) -> None:
    """Nobody wakes it up."""
    first = Loop(1 << 20, 1 << 20, 300_000, 0, 0, os.eventfd(0))
    loops = [first, Loop(1 << 20, 1 << 20, 300_000, 0, 0, os.eventfd(0), beside=first)]
    pairs = makePairs(2)
    for number, (loop, (ours, theirs)) in enumerate(zip(loops, pairs, strict=True)):
        theirs.setblocking(False)
        loop.lend(ours.fileno(), number, b"")
        rest = MEGABYTE
        for _ in range(200):
            with suppress(BlockingIOError):
                rest = rest[theirs.send(rest) :]
            loop.turn(0)
        assert rest
    assert 300_000 <= sum(loop.takeCounts()[-1] for loop in loops) < 700_000
    assert loops[1].due() == 0.01
    # The other gives all back: its client goes.
    first.stop()
    first.turn(0)
    assert loops[1].due() == 0.01
    before = loops[1].takeCounts()[-1]
    loops[1].turn(0.01)
    assert loops[1].turn(0.02)
    assert loops[1].takeCounts()[-1] > before


@pytest.mark.parametrize("ends", [True, False])
def test_a_slow_reader_gets_all_of_a_large_message(lent: Client, ends: bool) -> None:
    payload = random.Random(1).randbytes(1_000_000)
    received = b""
    for segment in segments(frame(BINARY, payload) * 3, [10_000] * 310):
        lent.socket.window = 7_000
        lent.send(segment)
        received += lent.received()
    if ends:
        lent.finish()
    lent.socket.window = float("inf")
    lent.service.run()
    lent.socket.sent[:0] = received
    assert lent.frames() == [Frame(BINARY, payload)] * 3


def test_a_large_message_is_logged_when_it_is_whole(lent: Client, log: Any) -> None:
    first, second = half(TEXT, "é".encode() * (LARGE // 2))
    lent.send(first)
    before = log.lines()
    lent.send(second)
    shown = "é" * 64
    assert log.lines() == [
        *before, f"#1 127.0.0.1:40000 text, 3,000,000 bytes: '{shown}'..."
    ]  # fmt: skip


def test_invalid_utf8_in_a_frame_half_echoed_drops_the_connection(lent: Client, log: Any) -> None:
    first, _ = half(TEXT, b"x" * LARGE)
    lent.send(first)
    sent = len(lent.received())
    lent.send(b"\xff" * 1000)
    assert lent.received() == b""
    assert lent.socket.fin
    assert sent == len(first) - 4
    lent.finish()
    assert lent.socket.closed
    assert log.lines()[-1] == (
        "#1 127.0.0.1:40000 closed: 1007 'invalid UTF-8 in a frame half echoed'"
    )


def test_invalid_utf8_at_the_start_of_a_large_frame_is_1007(lent: Client) -> None:
    payload = b"x" * 100 + b"\xff" + b"x" * LARGE
    lent.send(frame(TEXT, payload)[:1000])
    assert lent.frames()[-1].payload[:2] == b"\x03\xef"


def test_utf8_is_checked_to_the_last_byte_of_a_large_text(lent: Client) -> None:
    lent.send(frame(TEXT, b"x" * LARGE + b"\xc3"))
    assert lent.received()
    assert lent.socket.fin


def test_a_drain_waits_for_the_end_of_a_streaming_frame(service: Service, lent: Client) -> None:
    first, second = half()
    lent.send(first)
    begun = lent.received()
    service.echo.stopService()
    service.advance(1)
    assert lent.received() == b""
    lent.send(second)
    lent.socket.sent[:0] = begun
    assert lent.frames() == [
        Frame(BINARY, bytes(LARGE)),
        Frame(CLOSE, b"\x03\xe9server going away"),
    ]


def test_an_unfinished_frame_is_dropped_at_the_close_timeout(
    service: Service, lent: Client
) -> None:
    lent.send(half()[0])
    service.echo.stopService()
    service.advance(4.9)
    assert not lent.socket.closed
    service.advance(0.2)
    assert lent.socket.closed
    assert lent.socket.reset


def test_a_drain_of_many_ends_in_order(service: Service) -> None:
    clients = [service.open() for _ in range(50)]
    for client in clients:
        client.send(text("x"))
    done: list[Any] = []
    service.echo.stopService().addBoth(done.append)
    service.advance(1)
    for client in clients:
        assert client.frames()[-1] == GOING_AWAY
        client.send(close(1001))
        client.finish()
    service.advance(0.1)
    assert done == [None]
    assert not service.fastPath.isRunning


def test_a_fin_inside_a_frame_ends_the_connection(lent: Client) -> None:
    lent.send(half()[0])
    lent.received()
    lent.finish()
    assert lent.received() == b""
    assert lent.socket.closed


def test_no_keepalive_ping_is_sent_inside_a_frame(service: Service, lent: Client) -> None:
    first, second = half()
    lent.send(first)
    begun = lent.received()
    service.advance(31)
    assert lent.received() == b""
    lent.send(second)
    lent.socket.sent[:0] = begun
    assert lent.frames() == [Frame(BINARY, bytes(LARGE))]
    service.advance(30)
    assert lent.frames() == [Frame(PING, b"")]


def test_a_client_that_stalls_inside_a_frame_is_aborted(
    service: Service, lent: Client, log: Any
) -> None:
    lent.send(half()[0])
    service.advance(51)
    assert lent.socket.closed
    assert log.lines()[-1] == "#1 127.0.0.1:40000 closed: 1006 'ping not answered'"


# Who owns it.


def test_a_recall_may_cross_a_return(service: Service, lent: Client) -> None:
    """The client's close is on its way back when the drain asks for the connection."""
    lent.socket.arriving += close(1000, "bye")
    lent.socket.move()
    (loop,) = [thread.loop for _, thread in service.fastPath._running if thread.loop.lent]
    loop.turn(0)
    lent.protocol.goAway()
    service.run()
    assert lent.frames() == [Frame(CLOSE, b"\x03\xe8bye")]
    lent.finish()
    assert lent.socket.closed
    assert loop.lent == 0


def test_an_abort_follows_a_recall(service: Service, lent: Client) -> None:
    lent.send(half()[0])
    lent.protocol.goAway()
    lent.protocol.abort()
    service.run()
    assert lent.socket.closed
    assert lent.socket.reset


def test_unsent_echoes_go_out_before_the_close(service: Service, lent: Client) -> None:
    lent.socket.window = 0
    lent.send(binary(bytes(60_000)) * 3)
    lent.protocol.goAway()
    service.run()
    lent.socket.window = float("inf")
    service.run()
    *echoes, last = lent.frames()
    assert echoes == [Frame(BINARY, bytes(60_000))] * 3
    assert last == GOING_AWAY


def test_a_connection_is_lent_again_after_a_large_fragmented_message(lent: Client) -> None:
    payload = b"a" * (HOLD + 1)
    for _ in range(3):
        lent.send(frame(TEXT, payload[:-1], fin=False) + frame(CONTINUATION, payload[-1:]))
        assert not lent.protocol.isLent
        lent.send(text("c"))
        assert lent.protocol.isLent
        assert lent.frames() == [Frame(TEXT, payload), Frame(TEXT, b"c")]


@pytest.mark.parametrize(
    "first",
    [frame(PING, b"p"), frame(PONG, b"p"), frame(TEXT, b"a", fin=False),
     frame(BINARY, b"", fin=False)],
    ids=["ping", "pong", "text", "binary"],
)  # fmt: skip
def test_a_connection_is_lent_whatever_ordinary_frame_comes_first(
    service: Service, first: bytes
) -> None:
    client = service.open()
    client.send(first)
    assert client.protocol.isLent


def test_fragments_are_collected_by_the_loop(lent: Client) -> None:
    """In one read or in several, with control frames between them."""
    whole = frame(TEXT, b"a\xe2", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"\x82\xac")
    answer = [Frame(PONG, b"p"), Frame(TEXT, "a€".encode())]
    for segment in (None, 1, 2, 7, 9):
        lent.send(whole, segment=segment)
        assert lent.frames() == answer
    lent.send(whole * 3)
    assert lent.frames() == answer * 3
    # The end of one that began in an earlier read, behind another answer and before a third.
    lent.send(frame(BINARY, bytes(300), fin=False))
    lent.send(frame(PING, b"1") + frame(CONTINUATION, bytes(300)) + text("2"))
    assert lent.frames() == [Frame(PONG, b"1"), Frame(BINARY, bytes(600)), Frame(TEXT, b"2")]
    assert lent.protocol.isLent


def test_what_follows_fragments_wrongly_is_autobahns(lent: Client) -> None:
    """With the fragments that the loop had collected."""
    lent.send(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False))
    lent.send(text("no continuation"))
    [failure] = lent.frames()
    assert failure.payload[:2] == (1002).to_bytes(2, "big")


def test_a_message_goes_on_with_autobahn_after_its_first_fragments(
    service: Service, lent: Client
) -> None:
    """Here because of a recall; UTF-8 goes on, too."""
    lent.send(frame(TEXT, b"a\xe2", fin=False) + frame(CONTINUATION, b"\x82", fin=False)[:-1])
    service.fastPath.recall(lent.protocol, atOnce=True)
    service.run()
    assert not lent.protocol.isLent
    lent.send(frame(CONTINUATION, b"\x82", fin=False)[-1:] + frame(CONTINUATION, b"\xac"))
    assert lent.frames() == [Frame(TEXT, "a€".encode())]


@pytest.mark.parametrize("isFast", [False, True])
@pytest.mark.parametrize("split", [0, 500])
def test_small_fragments_count_the_same_in_the_loop(isFast: bool, split: int) -> None:
    """Also those before the connection was returned. 1,024 empty ones are allowed."""
    service = Service("--max-message=1000", isFast=isFast)
    client = service.open()
    client.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 1000)
    if split and isFast:
        service.fastPath.recall(client.protocol, atOnce=True)
        service.run()
    client.send(frame(CONTINUATION, b"", fin=False) * 23)
    assert client.frames() == []
    client.send(frame(CONTINUATION, b"x", fin=False))
    [failure] = client.frames()
    assert failure.payload[2:] == b"a message has too many fragments under 64 bytes"


def test_a_message_that_ends_with_an_allowed_small_fragment_is_echoed(lent: Client) -> None:
    lent.send(frame(TEXT, b"x", fin=False) * 1)
    lent.send(frame(CONTINUATION, b"", fin=False) * 3000 + frame(CONTINUATION, b"y"))
    assert lent.frames() == [Frame(TEXT, b"xy")]
    assert lent.protocol.isLent


# Slices.


def test_input_that_takes_long_is_answered_in_slices(service: Service, lent: Client) -> None:
    """So that those who ask for little need not wait for the end of it."""
    other = service.open()
    other.send(text("lend me too"))
    other.received()
    flood = frame(PING, b"") * 30_000
    lent.socket.arriving += flood
    lent.socket.move()
    other.socket.arriving += text("quick")
    other.socket.move()
    for _ in range(3):
        service._turnLoops()
        other.socket.move()
    assert other.frames() == [Frame(TEXT, b"quick")]
    lent.socket.move()
    assert 0 < len(lent.received()) < 2 * 10_000
    service.run()
    assert lent.protocol.isLent


def test_one_that_sends_without_end_delays_no_other(service: Service, makePairs: MakePairs) -> None:
    """Each slice is bounded: so many pings, compressed or fragmented messages at most."""
    loop = Loop(1 << 20, 1 << 20, 1 << 30, 0, 0, os.eventfd(0))
    pairs = makePairs(2)
    tiny = frame(TEXT, deflated(b"x"), rsv=4)
    for number, (ours, theirs) in enumerate(pairs):
        theirs.send(tiny * 2000 if number else tiny)
        loop.lend(ours.fileno(), number, b"", (15, 8))
    for _ in range(3):
        loop.turn(0)
    sizes = [len(theirs.recv(1 << 20)) for _, theirs in pairs]
    echo = len(tiny) - 4
    assert sizes[0] == echo
    assert echo <= sizes[1] < 300 * echo
    while sizes[1] < 2000 * echo:
        loop.turn(0)
        sizes[1] += len(pairs[1][1].recv(1 << 20))


# A block with Huffman codes of its own that ends at once, in 93 bits (RFC 1951, 3.2.7). To read the
# codes takes zlib as long as to inflate some 200 bytes.
_EMPTY_BLOCK = 0x3AFFFA0000000000501C004


def dear(size: int) -> bytes:
    """A compressed message of about `size` bytes that says nothing."""
    many = size * 8 // 93
    bits = sum(_EMPTY_BLOCK << 93 * n for n in range(many))
    return frame(BINARY, bits.to_bytes((93 * many + 3 + 7) // 8, "little"), rsv=4)


@pytest.mark.parametrize("kind", ["compressed", "first", "passing", "begun"])
def test_many_that_are_costly_take_turns(kind: str, makePairs: MakePairs) -> None:
    """One turn is not for all that have sent, each of whom costs as much as a turn has time for;
    nor for all that are lent at once, each with its first message."""
    loop = Loop(1 << 24, 1 << 20, 1 << 30, 0, 0, os.eventfd(0))
    pairs = makePairs(40)
    large = frame(BINARY, bytes(1 << 20))
    sent = large[:150_000] if kind in ("passing", "begun") else dear(20_000)
    lent = {"passing": 20, "first": len(sent)}.get(kind, 0)
    deflate = None if kind in ("passing", "begun") else (15, 8)
    for number, (ours, theirs) in enumerate(pairs):
        theirs.setblocking(False)
        theirs.send(sent[lent:])
        loop.lend(ours.fileno(), number, sent[:lent], deflate)
    received = [0] * len(pairs)

    def turn() -> int:
        """Returns how many have got something, beside the header."""
        loop.turn(0)
        many = 0
        for n, (_, theirs) in enumerate(pairs):
            with suppress(BlockingIOError):
                received[n] += (got := len(theirs.recv(1 << 20)))
                many += got > 2
        return many

    adopted = turn()
    first = turn()
    assert adopted < 20 or kind == "passing"
    if kind == "begun":  # It was not known that they are costly, but they were read little.
        assert sum(received) < 20 * 150_000
    else:
        assert first < 20
    for _ in range(200):
        assert turn() < 20
    assert set(received) == {3 if deflate else 150_000 - 4}


def test_rests_are_within_the_budget(makePairs: MakePairs) -> None:
    """Of all that has come at once, the loop keeps what it may, and returns the others."""
    loop = Loop(1 << 20, 1 << 20, 200_000, 0, 0, os.eventfd(0))
    pairs = makePairs(20)
    flood = frame(PING, b"") * 10_000
    for number, (ours, _) in enumerate(pairs):
        loop.lend(ours.fileno(), number, flood)
    loop.turn(0)
    *_, buffered = loop.takeCounts()
    assert 100_000 < buffered <= 200_000
    returned: list[Any] = loop.takeEvents()
    assert {why for _, _, why, *_ in returned} == {"full"}
    assert 0 < loop.lent == 20 - len(returned)
    while loop.due() == 0:
        loop.turn(0)
    for _, number, _, begun, _, unjudged, unsent, _ in returned:
        echoed = pairs[number][1].recv(1 << 20) + unsent
        assert (len(unjudged), begun) == (60_000 - 3 * len(echoed), b"")
    assert loop.takeCounts()[-1] == 0


@pytest.mark.parametrize("how", ["recall", "fin", "close", "unread"])
def test_a_rest_that_waits_is_lost_in_no_case(lent: Client, how: str) -> None:
    """What was read and not answered yet is returned, and Autobahn answers it."""
    service = lent.service
    flood = frame(PING, b"12") * 20_000
    if how == "close":
        flood += close(1000)
    lent.socket.arriving += flood
    if how == "unread":
        lent.socket.window = 100
    while lent.socket.move():
        pass
    service._turnLoops()
    if how == "recall":
        service.fastPath.recall(lent.protocol, atOnce=True)
    elif how == "fin":
        lent.socket.peerDone = True
    service.run()
    lent.socket.window = float("inf")
    service.run()
    frames = lent.frames()
    assert frames[:20_000] == [Frame(PONG, b"12")] * 20_000
    assert [f.opcode for f in frames[20_000:]] == ([CLOSE] if how == "close" else [])
    service.fastPath.count()
    assert service.fastPath.buffered == 0


def test_loops_share_the_connections_evenly(service: Service) -> None:
    loops = [thread.loop for _, thread in service.fastPath._running]
    for _ in range(len(loops) * 5):
        service.open().send(text("x"))
    assert [loop.lent for loop in loops] == [5] * len(loops)


@pytest.mark.parametrize(
    "options",
    [["--no-fast-path"], ["--no-compression"], [], ["--context-takeover"]],
    ids=["off", "plain", "deflate", "takeover"],
)
def test_connections_without_context_takeover_are_lent(options: list[str]) -> None:
    service = Service(*options, isFast="--no-fast-path" not in options)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.send(text("x"))
    assert len(client.frames()) == 1
    assert client.protocol.isLent == (options in (["--no-compression"], []))


# The log.


def test_the_first_messages_of_a_second_are_logged_and_the_rest_counted(log: Any) -> None:
    service = Service("--log-rate=3", isFast=True)
    client = service.open()
    client.send(text("1") + text("2") + text("3") + text("4"))
    client.send(binary(b"56") * 100)
    service.advance(1)
    client.send(text("next"))
    service.advance(1)
    client.send(text("after"))
    assert log.lines() == [
        "#1 127.0.0.1:40000 connected",
        "#1 127.0.0.1:40000 text, 1 bytes: '1'",
        "#1 127.0.0.1:40000 text, 1 bytes: '2'",
        "and in this second 102 messages (202 bytes), 0 connected, 0 closed, 0 refused, 0 dropped",
        "#1 127.0.0.1:40000 text, 4 bytes: 'next'",
        "#1 127.0.0.1:40000 text, 5 bytes: 'after'",
    ]


def test_a_log_that_is_off_costs_no_report(log: Any) -> None:
    service = Service("--log-rate=0", isFast=True)
    client = service.open()
    client.send(text("1") * 1000)
    service.advance(2)
    assert log.lines() == []
    assert service.timers() == 0


def test_what_a_loop_reports_at_once_is_bounded_at_a_high_log_rate(log: Any) -> None:
    """100,000 lines would keep the reactor busy for seconds."""
    service = Service("--log-rate=100000", isFast=True)
    client = service.open()
    client.send(text("lend me"))
    before = len(log.lines())
    client.socket.arriving += text("x") * 5000
    while client.socket.move():
        pass
    for loop, _ in service.fastPath._running:
        for _ in range(400):
            loop.turn(0)
            client.socket.move()
    service.fastPath.doRead()
    while service.reactor.callDue():
        pass
    assert len(log.lines()) == before + 1000


@pytest.mark.parametrize("cut", [14, 15, 100, 273, 274])
def test_the_preview_of_a_large_message_does_not_depend_on_its_segments(
    lent: Client, log: Any, cut: int
) -> None:
    data = frame(TEXT, "🙂".encode() * 100_000)
    for segment in (data[:cut], data[cut : cut + 1], data[cut + 1 : 280], data[280:]):
        lent.send(segment)
    assert log.lines()[-1] == f"#1 127.0.0.1:40000 text, 400,000 bytes: '{'🙂' * 64}'..."


# Found by a hostile reader.


def test_a_keepalive_ping_that_did_not_fit_is_sent_when_the_client_reads(
    service: Service, lent: Client
) -> None:
    """It was silent for an interval and its echoes waited, so no ping was sent; when it had read
    them all, nothing more could move, and it was aborted for a ping that it never got."""
    lent.socket.window = 0
    lent.send(binary(bytes(60_000)))
    service.advance(31)
    lent.socket.window = float("inf")
    service.run()
    assert lent.frames() == [Frame(BINARY, bytes(60_000))]
    service.advance(20)
    assert lent.frames() == [Frame(PING, b"")]
    lent.send(frame(PONG))
    service.advance(29)
    assert not lent.socket.closed


def test_keepalive_aborts_nobody_before_all_pongs_are_read() -> None:
    """epoll reports 256 at a time; the others have answered, too."""
    service = Service("--threads=1", isFast=True)
    clients = service.crowd(260, text("x"))
    assert all(client.protocol.isLent for client in clients)
    service.advance(30 + 11)
    for client in clients:
        assert client.frames() == [Frame(TEXT, b"x"), Frame(PING, b"")]
        client.socket.theirs.send(frame(PONG))
    service.reactor.advance(60)  # The process was stopped.
    service.run()
    assert [client.socket.closed for client in clients] == [False] * 260
    Service.closeAll()  # All these descriptors.


def test_a_silent_client_is_dropped_however_many_others_send(makePairs: MakePairs) -> None:
    """epoll tells of 256 at a time. With more that always send, it never tells of all at once."""
    loop = Loop(1 << 20, 1 << 20, 1 << 30, 10, 10, os.eventfd(0))
    pairs = makePairs(300)
    _, silent = pairs[0]
    for number, (ours, theirs) in enumerate(pairs):
        theirs.setblocking(False)
        loop.lend(ours.fileno(), number, text("x"))
    loop.turn(0)
    for now in range(1, 40):
        for _, theirs in pairs[1:]:
            with suppress(BlockingIOError):
                theirs.recv(1 << 16)
            theirs.send(text("x"))
        assert loop.turn(now) == 256
    assert silent.recv(100) == b"\x81\x01x\x89\x00"
    assert [event[1:3] for event in loop.takeEvents()] == [(0, "unanswered")]


def test_a_recall_is_obeyed_between_two_large_frames(service: Service, lent: Client) -> None:
    """Almost every read ends inside a frame, and the recall once waited for ever."""
    frames = frame(BINARY, bytes(100_000)) * 30
    lent.socket.window = 150_000
    lent.send(frames)
    assert lent.protocol.isLent
    lent.protocol.goAway()
    lent.socket.window = float("inf")
    service.run()
    received = lent.frames()
    assert received[-1] == GOING_AWAY
    assert len(received) < 20


def test_a_drain_does_not_undo_an_abort(service: Service, lent: Client) -> None:
    """A second SIGTERM, and the drain goes on to ask clients to leave."""
    lent.protocol.abort()
    lent.protocol.goAway()
    service.run()
    assert lent.socket.closed
    assert lent.socket.reset


def test_an_exception_in_a_loop_costs_one_connection(
    service: Service, lent: Client, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise Twisted would never read the loops' events again."""
    other = service.open()
    other.send(text("x"))
    number = lent.protocol.number
    monkeypatch.setattr(lent.protocol, "_read", lambda data: 1 / 0, raising=False)
    lent.send(close(1000))
    other.send(text("y") + close(1000))
    assert lent.socket.closed
    assert [f.opcode for f in other.frames()] == [TEXT, TEXT, CLOSE]
    assert len(log.errors()) == 1
    assert log.errors()[0].startswith(f"#{number} what came back")
    assert "ZeroDivisionError" in log.errors()[0]
    log.events.clear()


def test_an_exception_while_a_loop_has_the_connection_aborts_it_once_it_is_back(
    service: Service, lent: Client, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop would go on with a descriptor that soon is another client's."""
    owners = []
    abort = lent.protocol.transport.abortConnection

    def abortConnection() -> None:
        owners.append(lent.protocol.isLent)
        abort()

    monkeypatch.setattr(lent.protocol.transport, "abortConnection", abortConnection)
    monkeypatch.setattr(service.context.journal, "message", lambda *args: 1 / 0)
    lent.send(text("x"))
    service.run()
    assert lent.socket.closed
    assert owners == [False]
    assert service.fastPath.lent == 0
    assert "ZeroDivisionError" in log.errors()[0]
    log.events.clear()


def test_threads_that_cannot_start_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("--threads=3", isFast=True)
    fastPath = FastPath(service.reactor, service.context.limits, service.context.journal, 3)
    running: list[Any] = []

    class Failing(Unthreaded):
        def start(self) -> None:
            if len(running) == 2:
                raise RuntimeError("can't start new thread")
            running.append(self)

    fastPath.Thread = Failing  # type: ignore[assignment]
    service.fastPath.stop()
    service.echo.fastPath = fastPath
    with pytest.raises(Fatal, match="cannot start 3 threads: can't start new thread"):
        service.echo.startService()
    assert not fastPath.isRunning
    assert fastPath.fileno() == -1
    assert service.reactor.readers == set()


def test_a_hanging_loop_is_logged_until_it_goes_on(log: Any) -> None:
    service = Service("--threads=3", "--log-rate=0", "--admin=tcp:1", isFast=True)
    fastPath = service.fastPath
    admin = Service.connect(service)

    def health() -> bytes:
        admin.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        received: bytes = admin.received()
        return received[9:12] + received.rpartition(b"\r\n")[2]

    _, thread = fastPath._running[1]
    loop, thread.loop = thread.loop, Hung()
    assert health() == b"200ok\n"
    service.advance(HANG - 0.1)
    assert health() == b"200ok\n"
    service.advance(0.1)
    for _ in range(2):
        assert fastPath.hanging() == [2]
        assert health() == b"503thread 2 of the fast path hangs\n"
    thread.loop = loop
    service.run()
    assert health() == b"200ok\n"
    assert log.lines() == [
        "thread 2 of the fast path hangs: no answer in 10 s",
        "thread 2 of the fast path goes on",
    ]
    log.events.clear()


def test_a_process_that_was_stopped_does_not_count_as_hanging() -> None:
    """As on a machine that slept: the answers are there, but have not been read."""
    service = Service("--threads=2", isFast=True)
    fastPath = service.fastPath
    assert fastPath.hanging() == []
    for _, thread in fastPath._running:
        thread.loop.turn(service.reactor.seconds())
    service.reactor.rightNow += 3600
    assert fastPath.hanging() == []


def test_a_loop_that_cannot_be_made_closes_nothing() -> None:
    with pytest.raises(OverflowError):
        Loop(-1, 0, 0, 0, 0, 0)
    os.fstat(0)


def test_without_descriptors_a_loop_is_an_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for more in (0, 1):  # For neither, and for one of the two.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                Loop(1, 0, 0, 0, 0, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def importedAgain() -> Any:
    spec = importlib.util.spec_from_file_location("another", lending.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hash_is_of_all_the_sources() -> None:
    folder = Path(_loop.__file__).parent
    found = {path.name for path in folder.iterdir() if path.suffix in (".pyx", ".pxd", ".h")}
    assert set(NAMES) == found


def test_a_compiled_part_without_a_checksum_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(_loop, "sources")
    assert importedAgain().whyNot == f"{_loop.__file__} was compiled from other sources"


def test_a_compiled_part_without_its_sources_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some images strip them, which once was a traceback."""
    spec = importlib.util.spec_from_file_location("another", lending.__file__)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(tmp_path / "lending.py")
    assert spec.loader is not None
    code = compile(Path(lending.__file__).read_text(), lending.__file__, "exec")
    exec(code, module.__dict__)
    missing = tmp_path / "_loop.pyx"
    assert module.whyNot == (
        f"its source {missing} cannot be read, to compare: No such file or directory"
    )


def test_a_compiled_part_that_python_cannot_load_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "echotwist.fastpath._loop":
                raise ImportError("invalid ELF header")

    monkeypatch.delitem(sys.modules, "echotwist.fastpath._loop")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert importedAgain().whyNot == "the compiled part cannot be loaded: invalid ELF header"


def test_without_the_compiled_part_there_is_no_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "echotwist.fastpath._loop", None)
    module = importedAgain()
    assert module.whyNot == "it is not compiled here"
    monkeypatch.setattr(lending, "whyNot", module.whyNot)
    service = Service(isFast=True)
    assert service.fastPath is None
    client = service.open()
    client.send(text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]


def test_a_fast_path_without_zlib_leaves_compressed_messages_to_the_reactor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_loop, "hasZlib", False)
    module = importedAgain()
    assert module.whyNot == ""
    assert module.whyNotDeflate == "the fast path was compiled without zlib"
    monkeypatch.setattr(lending, "whyNotDeflate", module.whyNotDeflate)
    client = Service(isFast=True).open(**DEFLATE)
    client.send(frame(TEXT, deflated(b"x"), rsv=4))
    assert messages(client.frames()) == [b"x"]


def test_the_fast_path_has_a_log_prefix(service: Service) -> None:
    fastPath = service.fastPath
    assert fastPath.logPrefix() == "echotwist fast path"
    fastPath.connectionLost(Failure(ConnectionDone()))
    assert fastPath.isRunning


# What is not lent.


def test_whole_uncompressed_frames_are_echoed_in_place() -> None:
    frames = text("é") + binary(bytes(70_000)) + frame(PING, b"p") + frame(PONG, b"q")
    for rest in (b"", b"\x81", text("cut")[:-1], frame(TEXT, b"\xff"), frame(TEXT, b"", fin=False)):
        echo, used, messages = echoFrames(frames + rest, 70_000)
        assert parse(echo) == [
            Frame(TEXT, "é".encode()), Frame(BINARY, bytes(70_000)), Frame(PONG, b"p")
        ]  # fmt: skip
        assert (used, messages) == (len(frames), (1, 2, 1, 70_000))
    assert echoFrames(frames, 69_999)[1] == len(text("é"))
    assert echoFrames(b"", 1) == (b"", 0, (0, 0, 0, 0))


def test_a_pong_outside_the_fast_path_is_not_answered() -> None:
    service = Service("--log-rate=0", isFast=True, lends=False)
    client = service.open()
    client.send(text("x") + frame(PONG))
    client.send(frame(PONG) + text("y")[:-1])
    client.send(text("y")[-1:])
    assert client.frames() == [Frame(TEXT, b"x"), Frame(TEXT, b"y")]


def test_a_frame_outside_the_fast_path_may_be_segmented() -> None:
    service = Service("--log-rate=0", isFast=True, lends=False)
    client = service.open()
    client.send(text("cut"), segment=4)
    assert client.frames() == [Frame(TEXT, b"cut")]


def test_no_connection_is_lent_while_an_echo_of_autobahns_waits(service: Service) -> None:
    client = service.open()
    client.socket.window = 0
    large = bytes(HOLD + 1)
    client.send(frame(BINARY, large, fin=False) + frame(CONTINUATION, b""))
    client.send(text("x"))
    assert not client.protocol.isLent
    client.socket.window = float("inf")
    service.run()
    assert client.frames() == [Frame(BINARY, large), Frame(TEXT, b"x")]


DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}


def messages(frames: list[Frame]) -> list[bytes]:
    """Each frame must be compressed."""
    assert {f.rsv for f in frames} == {4}
    return [inflated(f.payload) for f in frames]


def test_whole_compressed_messages_are_found() -> None:
    message = frame(BINARY, b"payload", rsv=4)
    assert parseCompressedFrame(message + b"rest", 7) == (True, b"payload", len(message))
    large = frame(TEXT, bytes(70_000), rsv=4)
    assert parseCompressedFrame(large, 70_000) == (False, bytes(70_000), len(large))
    for other in (b"", b"\xc1", message[:5], message[:-1], binary(b"plain"), frame(PING, rsv=4),
                  frame(BINARY, b"x", fin=False, rsv=4), frame(BINARY, b"12345678", rsv=4),
                  frame(BINARY, b"x", rsv=6), b"\xc2\x07payload"):  # fmt: skip
        assert parseCompressedFrame(other, 7) is None


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000])
def test_compressed_messages_come_back_compressed(size: int) -> None:
    service = Service(isFast=True)
    client = service.open(**DEFLATE)
    payload = random.Random(size).randbytes(size)
    client.send(frame(BINARY, deflated(payload), rsv=4) + frame(TEXT, deflated(b"t"), rsv=4))
    assert messages(client.frames()) == [payload, b"t"]


def test_errors_in_compressed_messages_are_left_to_autobahn() -> None:
    for options, payload, code in (
        ([], b"\xff\xff", 1007),
        ([], deflated(b"\xff"), 1007),
        ([], deflated(b"cut" * 100)[:-9], 1007),
        (["--max-message=100"], deflated(bytes(101)), 1009),
    ):
        service = Service(*options, isFast=True)
        client = service.open(**DEFLATE)
        client.send(frame(TEXT, deflated(b"right"), rsv=4) + frame(TEXT, payload, rsv=4))
        right, end = client.frames()
        assert messages([right]) == [b"right"]
        assert (end.opcode, int.from_bytes(end.payload[:2], "big")) == (CLOSE, code)


def test_an_echo_may_be_longer_than_its_message() -> None:
    """A client may compress better than the service's level 1 does."""
    words = [random.Random(n).randbytes(12).hex().encode() for n in range(300)]
    payload = b" ".join(random.Random(1).choices(words, k=25_000))
    best = zlib.compressobj(9, wbits=-15)
    data = (best.compress(payload) + best.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(data) < 65_000
    client = Service(isFast=True).open(**DEFLATE)
    client.send(frame(BINARY, data, rsv=4))
    (echo,) = client.frames()
    assert len(echo.payload) > 65_536
    assert messages([echo]) == [payload]
