"""What all clients hold together."""

import socket
from typing import Any

import pytest
from support.deflate import deflated
from support.memory import Client, Service
from twisted.internet.task import Clock

from echotwist.limits import HEADER_OVERHEAD
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    Frame,
    binary,
    frame,
    parse,
    text,
)
from echotwist.testing.raw import request
from echotwist.websocket.deflate import INFLATOR
from echotwist.wire.budget import BATCH, BATCH_INTERVAL, Budget
from echotwist.wire.gate import OVER_BUDGET
from echotwist.wire.transport import unsent


class Holder:
    def __init__(self) -> None:
        self.did: list[str] = []
        self.size = 0

    def buffered(self) -> int:
        return self.size

    def pauseReading(self, reason: int) -> None:
        assert reason == OVER_BUDGET
        self.did.append("stopped")

    def resumeReading(self, reason: int) -> None:
        assert reason == OVER_BUDGET
        self.did.append("resumed")

    def endOverBudget(self) -> None:
        self.did.append("refused")


def say(budget: Budget, holder: Holder, size: int) -> None:
    holder.size = size
    budget.account(holder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> Budget:
    """A budget of 100 bytes, half of them without backpressure, and a deadline of 5 seconds."""
    return Budget(100, 5, clock)


@pytest.fixture
def holders() -> list[Holder]:
    return [Holder() for _ in range(10)]


def test_half_of_the_memory_budget_is_shared_without_backpressure(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 45)
    say(budget, holders[1], 5)
    assert budget.buffered == 50
    assert clock.getDelayedCalls() == []
    assert holders[0].did == holders[1].did == []


def test_buffered_is_the_sum_of_the_last_reported_sizes(
    budget: Budget, holders: list[Holder]
) -> None:
    say(budget, holders[0], 45)
    say(budget, holders[0], 7)
    say(budget, holders[1], 3)
    say(budget, holders[1], 0)
    say(budget, holders[2], 0)
    assert budget.buffered == 7


def test_over_half_the_budget_backpressure_stops_the_largest_buffers(
    budget: Budget, holders: list[Holder]
) -> None:
    say(budget, holders[0], 48)
    say(budget, holders[1], 3)
    say(budget, holders[0], 49)
    say(budget, holders[0], 50)
    assert holders[0].did == ["stopped"]
    assert holders[1].did == []


def test_reading_resumes_when_others_buffer_less(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 30)
    say(budget, holders[1], 30)
    assert holders[1].did == ["stopped"]
    say(budget, holders[0], 29)
    assert holders[1].did == ["stopped"]
    say(budget, holders[0], 1)
    assert holders[1].did == ["stopped", "resumed"]
    assert clock.getDelayedCalls() == []


def test_at_the_deadline_the_largest_buffers_are_refused(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    for holder, size in zip(holders, (20, 20, 10, 30, 10), strict=False):
        say(budget, holder, size)
    clock.advance(4.9)
    assert all("refused" not in holder.did for holder in holders)
    clock.advance(0.1)
    assert [n for n, holder in enumerate(holders) if "refused" in holder.did] == [0, 3]
    assert budget.buffered == 40
    assert clock.getDelayedCalls() == []
    assert "resumed" not in holders[3].did


def test_a_paused_connection_that_is_gone_is_left_alone(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 60)
    budget.forget(holders[0])
    assert holders[0].did == ["stopped"]
    assert (budget.buffered, clock.getDelayedCalls()) == (0, [])
    budget.forget(holders[1])
    assert holders[1].did == []


def test_a_paused_connection_that_buffers_nothing_resumes(
    budget: Budget, holders: list[Holder]
) -> None:
    say(budget, holders[0], 45)
    say(budget, holders[1], 45)
    say(budget, holders[2], 9)
    assert holders[1].did == ["stopped"]
    say(budget, holders[1], 0)
    assert holders[1].did == ["stopped", "resumed"]


def test_a_buffer_that_drained_meanwhile_pauses_nobody(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 45)
    holders[0].size = 0  # It does not report this.
    say(budget, holders[1], 40)
    assert holders[1].did == []
    assert (budget.buffered, clock.getDelayedCalls()) == (40, [])


def test_a_connection_that_drained_meanwhile_is_not_refused(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    for holder, size in zip(holders, (40, 30, 20), strict=False):
        say(budget, holder, size)
    holders[0].size = 25
    clock.advance(5)
    assert "refused" not in holders[0].did
    assert "refused" in holders[1].did
    assert budget.buffered == 45
    assert clock.getDelayedCalls() == []


def test_if_enough_drained_meanwhile_nobody_is_refused(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 40)
    say(budget, holders[1], 30)
    holders[0].size = 5
    clock.advance(5)
    assert holders[1].did == ["stopped", "resumed"]
    assert clock.getDelayedCalls() == []


def test_re_reading_sizes_may_end_the_pressure(
    budget: Budget, holders: list[Holder], clock: Clock
) -> None:
    say(budget, holders[0], 40)
    say(budget, holders[1], 30)
    clock.advance(2)
    holders[0].size = 5
    say(budget, holders[1], 31)
    assert holders[1].did == ["stopped", "resumed"]
    assert clock.getDelayedCalls() == []


def test_over_the_whole_budget_the_largest_buffers_are_refused_at_once(
    budget: Budget, holders: list[Holder]
) -> None:
    say(budget, holders[0], 10)
    say(budget, holders[1], 80)
    say(budget, holders[2], 11)
    assert holders[1].did == ["stopped", "refused"]
    assert budget.buffered == 21


def test_refusals_and_resumptions_come_a_few_at_a_time(clock: Clock) -> None:
    """Otherwise ten thousand of them would keep honest clients waiting for a second."""
    budget = Budget(1200, 5, clock)
    holders = [Holder() for _ in range(100)]
    for holder in holders:
        say(budget, holder, 12)

    def count(did: str) -> int:
        return sum(did in holder.did for holder in holders)

    assert count("stopped") == 50
    clock.advance(5)
    assert (count("refused"), count("resumed")) == (BATCH, 0)
    clock.pump([BATCH_INTERVAL] * 2)
    assert (count("refused"), budget.buffered) == (50, 600)
    stopped = count("stopped") - sum(h.did == ["stopped", "refused"] for h in holders)
    assert count("resumed") == min(stopped, BATCH)
    clock.pump([BATCH_INTERVAL] * 10)
    assert count("resumed") == stopped
    assert clock.getDelayedCalls() == []


def test_resumption_stops_when_the_budget_is_exceeded_again(clock: Clock) -> None:
    budget = Budget(1000, 5, clock)
    holders = [Holder() for _ in range(50)]
    large = Holder()
    say(budget, large, 600)
    for holder in holders:
        say(budget, holder, 300)
        say(budget, holder, 1)
    assert [holder.did for holder in holders] == [["stopped"]] * 50
    say(budget, large, 0)
    assert sum("resumed" in holder.did for holder in holders) == BATCH
    say(budget, large, 501)
    say(budget, large, 0)
    assert sum("resumed" in holder.did for holder in holders) == BATCH
    say(budget, large, 501)
    clock.advance(BATCH_INTERVAL)
    assert sum("resumed" in holder.did for holder in holders) == BATCH
    say(budget, large, 0)
    clock.pump([BATCH_INTERVAL] * 3)
    assert all("resumed" in holder.did for holder in holders)


# In the service.

pytestmark = pytest.mark.usefixtures("way")

POOR = ("--max-message=100k", "--memory-budget=1200k", "--threads=1")


def half(size: int = 90_000) -> bytes:
    """The beginning of a fragmented message, which Autobahn buffers."""
    return frame(TEXT, b"x" * size, fin=False)


def refused(client: Client) -> bool:
    return any(
        f.opcode == CLOSE and f.payload[:2] == (1013).to_bytes(2, "big") for f in client.frames()
    )


def filled(service: Service, count: int) -> list[Client]:
    clients = []
    for _ in range(count):
        clients.append(service.open())
        clients[-1].send(half())
    return clients


def test_unfinished_messages_are_bounded_by_the_budget() -> None:
    service = Service(*POOR)
    most = 400 << 10 if service.isFast else 800 << 10
    clients = filled(service, 30)
    assert service.context.budget.buffered <= most
    # Those that were paused meanwhile are read then, and exceed the budget again.
    for _ in range(6):
        service.advance(4)
        assert service.context.budget.buffered <= most
    assert service.context.budget.buffered <= most / 2
    ended = [client for client in clients if refused(client)]
    assert len(ended) >= 30 - most / 90_000
    left = [client for client in clients if client not in ended]
    for client in left:
        client.send(frame(CONTINUATION, b"y"))
        assert client.frames() == [Frame(TEXT, b"x" * 90_000 + b"y")]
    assert service.context.budget.buffered == 0


def test_small_clients_notice_no_backpressure() -> None:
    service = Service(*POOR)
    honest = service.open()
    for _ in range(3):
        filled(service, 10)
        honest.send(text("x" * 1000))
        assert honest.frames() == [Frame(TEXT, b"x" * 1000)]
        honest.send(frame(TEXT, b"a", fin=False))
        honest.send(frame(CONTINUATION, b"b"))
        assert honest.frames() == [Frame(TEXT, b"ab")]
        service.advance(3)


def test_unread_echoes_are_bounded_by_the_budget() -> None:
    service = Service(*POOR)
    clients = [service.open() for _ in range(30)]
    for client in clients:
        client.socket.window = 0
        client.send(binary(bytes(90_000)) * 3)
        fastPath = service.fastPath
        assert service.context.budget.buffered <= (400 << 10 if fastPath else 800 << 10)
        if fastPath:
            fastPath.count()
            # A client that had room may have read one more.
            assert fastPath.buffered <= (400 << 10) + 300_000
    service.advance(5.1)
    aborted = [client for client in clients if client.socket.reset]
    assert len(aborted) > 10
    honest = service.open()
    honest.send(text("x"))
    assert honest.frames() == [Frame(TEXT, b"x")]


def test_the_inflater_of_a_message_counts_as_buffered() -> None:
    """Ten thousand clients that sent one byte each once cost half a gigabyte of windows."""
    service = Service(*POOR, lends=False)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.send(frame(TEXT, deflated(b"x") + b"\0\0\xff\xff", fin=False, rsv=4))
    assert service.context.budget.buffered == INFLATOR + 1
    client.send(frame(CONTINUATION, b"\0"))
    assert service.context.budget.buffered == 0
    assert len(client.frames()) == 1


def test_the_inflater_of_a_refused_message_is_freed() -> None:
    service = Service(*POOR, lends=False)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.send(frame(TEXT, deflated(b"x"), fin=False, rsv=4))
    client.protocol.endOverBudget()
    client.send(frame(CONTINUATION, b""))
    assert service.context.budget.buffered == 0
    assert refused(client)


def test_a_message_over_the_limit_is_freed_while_it_inflates() -> None:
    service = Service(*POOR)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    payload = deflated(bytes(200_000))
    client.send(frame(TEXT, payload[:50], fin=False, rsv=4) + frame(CONTINUATION, payload[50:]))
    assert service.context.budget.buffered == 0
    assert client.frames()[-1].payload[:2] == (1009).to_bytes(2, "big")


def test_context_takeover_does_not_count_as_buffered() -> None:
    service = Service(*POOR, "--context-takeover")
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.send(frame(TEXT, deflated(b"x"), fin=False, rsv=4))
    assert service.context.budget.buffered == 1


def test_a_refusal_for_memory_closes_with_1013(log: Any) -> None:
    service = Service(*POOR)
    filled(service, 10)
    service.advance(5.1)
    service.run()
    for client in service.clients:
        client.finish()
    why = "closed: 1013 'too much is waiting here for all clients together'"
    assert any(why in line for line in log.lines())


def test_a_paused_connection_is_read_again() -> None:
    service = Service(*POOR, isFast=False)
    clients = filled(service, 6)
    assert [client.reading for client in clients] == [True] * 4 + [False] * 2
    clients[5].send(frame(CONTINUATION, b"y"))
    assert clients[5].frames() == []
    for client in clients[:2]:
        client.send(frame(CONTINUATION, b"y"))
    assert clients[5].frames() == [Frame(TEXT, b"x" * 90_000 + b"y")]
    assert service.timers() == 6 + 1  # Pings, and the log's.


def test_a_read_paused_for_two_reasons_resumes_when_both_are_gone() -> None:
    service = Service(*POOR, isFast=False)
    client = service.open()
    transport = client.transport
    protocol = client.protocol
    client.socket.window = 0
    client.send(binary(bytes(90_000)))
    assert not client.reading
    protocol.pauseReading(OVER_BUDGET)
    protocol.resumeReading(OVER_BUDGET)
    assert not client.reading
    protocol.pauseReading(OVER_BUDGET)
    client.socket.window = float("inf")
    service.run()
    assert not client.reading
    assert transport.dataBuffer == b""
    protocol.resumeReading(OVER_BUDGET)
    assert client.reading


def test_a_client_that_read_while_the_process_was_stopped_is_not_refused() -> None:
    """The deadline is due before the buffered echoes can go out."""
    service = Service(*POOR, isFast=False)
    clients = [service.open() for _ in range(6)]
    for client in clients:
        client.socket.window = 0
        client.send(binary(bytes(90_000)))
    for client in clients:
        client.socket.window = float("inf")
    service.reactor.advance(20)
    service.run()
    for client in clients:
        assert client.frames() == [Frame(BINARY, bytes(90_000))]
        assert not client.socket.closed


def test_request_headers_count_as_buffered() -> None:
    service = Service(*POOR)
    client = service.connect()
    client.send(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 10 + b"ho")
    held = 11 * HEADER_OVERHEAD + 2 * (len(b"GET / HTTP/1.1") + 10 * 3) + len(b"ho")
    assert service.context.budget.buffered == held
    client.send(b"st:x\r\n\r\n")
    service.context.budget.refresh()
    assert service.context.budget.buffered == 0
    assert client.received().startswith(b"HTTP/1.1 200 ")


def test_an_upgraded_request_no_longer_counts_as_buffered() -> None:
    service = Service(*POOR)
    client = service.connect()
    client.send(request()[:-2])
    assert service.context.budget.buffered > 0
    client.send(request()[-2:])
    assert service.context.budget.buffered == 0
    assert client.received().startswith(b"HTTP/1.1 101 ")
    client.finish()


def test_slow_headers_are_bounded_by_the_budget(log: Any) -> None:
    service = Service(*POOR)
    slow = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 400
    clients = [service.connect() for _ in range(20)]
    for client in clients:
        client.send(slow)
        assert service.context.budget.buffered <= 800 << 10
    stopped = [client for client in clients if not client.reading]
    assert stopped
    service.advance(5.1)
    answers = [client.received() for client in clients]
    assert sum(answer.startswith(b"HTTP/1.1 503 ") for answer in answers) >= 10
    assert "127.0.0.1:40000 refused: 503 too much is waiting here for all clients" in log.lines()
    for client, answer in zip(clients, answers, strict=True):
        if not answer:
            client.send(b"\r\n")
            assert client.received().startswith(b"HTTP/1.1 400 ")  # It has no Host.
    service.context.budget.refresh()
    assert service.context.budget.buffered == 0


def test_unread_responses_are_bounded_by_the_budget() -> None:
    service = Service(*POOR)
    for _ in range(40):
        client = service.connect()
        client.socket.window = 0
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 60)
        held = sum(unsent(c.transport) for c in service.clients if not c.socket.closed)
        assert held <= 900_000
    service.advance(5.1)
    assert sum(client.socket.closed for client in service.clients) >= 20


def test_who_has_read_since_it_was_counted_is_not_closed() -> None:
    service = Service(*POOR, isFast=False)
    reader = service.open()
    reader.socket.window = 0
    reader.send(binary(b"y" * 90_000))
    others = [service.open() for _ in range(16)]
    for other in others[:9]:
        other.send(half(60_000))
    reader.socket.window = 60_000  # Not all, so that Twisted tells nobody.
    service.run()
    for other in others[9:]:
        other.send(half(60_000))
    assert not reader.socket.closed
    assert not reader.socket.fin
    assert any(other.socket.fin for other in others)


def test_the_budget_never_cuts_into_the_frames_of_a_lent_connection() -> None:
    """The size that the budget last knew of was sent long ago."""
    service = Service(*POOR)
    client = service.open()
    client.socket.window = 0
    client.send(frame(TEXT, b"x" * 60_000, fin=False) + frame(CONTINUATION, b""))
    client.socket.window = float("inf")
    service.run()
    client.frames()
    client.send(text("a"))
    assert client.frames() == [Frame(TEXT, b"a")]
    whole = binary(b"y" * 90_000)
    client.send(whole[:80_000])
    filled(service, 12)
    service.advance(5.1)
    echo = client.received()
    client.send(whole[80_000:])
    echo += client.received()
    first, *_ = parse(echo)
    assert first.payload in (
        b"y" * 90_000,
        b"\x03\xf5too much is waiting here for all clients together",
    )


def test_a_slow_reader_is_read_again() -> None:
    service = Service(*POOR, "--ping-interval=0")
    first = filled(service, 2 if service.isFast else 4)
    slow = service.open()
    slow.socket.window = 0
    slow.send(frame(TEXT, b"x" * 90_000, fin=False) + frame(CONTINUATION, b""))
    slow.socket.window = float("inf")
    service.run()
    for client in first:
        client.send(frame(CONTINUATION, b""))
    assert slow.frames() == [Frame(TEXT, b"x" * 90_000)]
    slow.send(text("again"))
    assert slow.frames() == [Frame(TEXT, b"again")]


def held(service: Service) -> int:
    service.fastPath.count()
    number: int = service.fastPath.buffered
    return number


def full(service: Service) -> list[Client]:
    """Have the loop buffer as much as it may, for clients that do not read."""
    clients = []
    while held(service) < 400 << 10:
        clients.append(service.open())
        clients[-1].socket.window = 0
        clients[-1].send(binary(bytes(95_000))[:-1])
    return clients


def test_backpressure_ends_for_a_client_that_sends_before_it_reads() -> None:
    service = Service(*POOR, "--ping-interval=0", isFast=True)
    hostile = full(service)
    client = service.open()
    client.socket.window = 0
    client.send(binary(bytes(90_000)))
    assert client.socket.unread()
    for each in hostile:
        each.socket.window = float("inf")
        each.send(b"x")
    service.advance(1)
    assert client.socket.unread() == 0
    client.socket.window = float("inf")
    service.run()
    assert client.frames() == [Frame(BINARY, bytes(90_000))]


def test_a_client_that_is_gone_does_not_spin_the_loop() -> None:
    service = Service(*POOR, "--ping-interval=0", isFast=True)
    client = full(service)[-1]
    client.socket.theirs.shutdown(socket.SHUT_RDWR)
    service.run()  # Comes to rest.
    assert client.socket.closed


def test_a_paused_http_channel_stays_paused() -> None:
    service = Service(isFast=False)
    client = service.connect()
    channel = client.protocol
    client.socket.window = 0
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    assert not client.reading
    channel.pauseReading(OVER_BUDGET)
    channel.resumeReading(OVER_BUDGET)
    assert not client.reading


def test_a_connection_that_ends_reads_whatever_the_budget_did_before() -> None:
    """It discards what arrives, and waits for the client's FIN."""
    service = Service(isFast=False)
    client = service.open()
    client.socket.window = 0
    client.send(binary(bytes(90_000)))
    assert not client.reading
    client.protocol._fail_connection(1002, "bad")
    client.protocol.pauseReading(OVER_BUDGET)
    client.protocol.resumeReading(OVER_BUDGET)
    assert client.reading


def test_a_channel_that_ends_reads_whatever_the_budget_did_before() -> None:
    client = Service(isFast=False).connect()
    client.socket.window = 0
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    assert not client.reading
    channel = client.protocol
    channel.loseConnection()
    channel.pauseReading(OVER_BUDGET)
    channel.resumeReading(OVER_BUDGET)
    assert client.reading


def test_keepalive_spares_a_client_that_the_budget_does_not_read() -> None:
    service = Service("--ping-interval=10s", "--ping-timeout=5s", isFast=False)
    client = service.open()
    client.protocol.pauseReading(OVER_BUDGET)
    service.advance(100)
    assert not client.socket.closed
    client.protocol.resumeReading(OVER_BUDGET)
    service.advance(100)
    assert client.socket.closed
