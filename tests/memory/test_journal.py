from dataclasses import dataclass
from inspect import isfunction
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from echotwist.listen import tls
from echotwist.observe.journal import DROP_REASONS, Journal, preview


@dataclass
class Connection:
    number: int = 1
    address: str = "192.0.2.1:5"


PEER = Connection()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def messages(journal: Journal, count: int, payload: bytes = b"hello") -> None:
    for _ in range(count):
        journal.message(PEER, payload, False)


def test_a_message_is_a_line(clock: Clock, log: Any) -> None:
    messages(Journal(100, clock), 1)
    assert log.lines() == ["#1 192.0.2.1:5 text, 5 bytes: 'hello'"]


def test_a_line_tells_machines_what_it_tells_people(clock: Clock, log: Any) -> None:
    messages(Journal(100, clock), 1)
    (event,) = log.events
    got = {name: event[name] for name in ("number", "peer", "type", "size")}
    assert got == {"number": 1, "peer": "192.0.2.1:5", "type": "text", "size": 5}


def test_the_log_rate_shows_the_first_lines_of_a_second_and_counts_the_rest(
    clock: Clock, log: Any
) -> None:
    journal = Journal(3, clock)
    messages(journal, 1000)
    journal.connected(PEER)
    journal.closed(PEER, 1000, "bye")
    journal.refused("192.0.2.9:1", 400, "why")
    journal.dropped("192.0.2.9:2", "why")
    assert len(log.lines()) == 3
    clock.advance(1)
    assert log.lines()[3:] == [
        "and in this second 997 messages (4,985 bytes), 1 connected, 1 closed, 1 refused, 1 dropped"
    ]


def test_every_event_is_logged_or_counted(clock: Clock, log: Any) -> None:
    journal = Journal(10, clock)
    for _ in range(50):
        messages(journal, 7)
        clock.advance(0.1)
    clock.advance(2)
    shown = sum("text" in line for line in log.lines())
    counted = sum(e.get("messages", 0) for e in log.events)
    assert shown + counted == 350
    assert shown <= 10 * 6


EVENTS = {
    "connected": (PEER,),
    "message": (PEER, b"hello", False),
    "closed": (PEER, 1000, "bye"),
    "refused": ("192.0.2.9:1", 400, "why"),
    "dropped": ("192.0.2.9:2", "why"),
}
"""Each method that logs an event, and its arguments."""


def test_every_kind_of_event_over_the_rate_is_counted(clock: Clock, log: Any) -> None:
    methods = {name for name, value in vars(Journal).items() if isfunction(value)}
    public = {name for name in methods if not name.startswith("_")}
    # Frames are not counted: --log-frames is for a look at a few of them.
    assert public - {"count", "flush", "frame"} == set(EVENTS)
    journal = Journal(1, clock)
    messages(journal, 1)
    for name, arguments in EVENTS.items():
        getattr(journal, name)(*arguments)
    journal.flush()
    *_, summary = log.events
    counted = {name: summary[name] for name in ("messages", *EVENTS) if name != "message"}
    assert counted == dict.fromkeys(counted, 1)


def test_a_second_later_lines_are_logged_again(clock: Clock, log: Any) -> None:
    journal = Journal(2, clock)
    messages(journal, 2)
    clock.advance(1)
    messages(journal, 2)
    assert len(log.lines()) == 4


def test_the_log_rate_runs_no_timer_when_idle(clock: Clock) -> None:
    journal = Journal(2, clock)
    assert clock.getDelayedCalls() == []
    messages(journal, 5)
    clock.advance(1)
    clock.advance(1)
    assert clock.getDelayedCalls() == []


def test_suppressed_lines_can_be_reported_at_once(clock: Clock, log: Any) -> None:
    journal = Journal(1, clock)
    journal.flush()
    assert log.lines() == []
    messages(journal, 3)
    journal.flush()
    assert log.lines()[1:] == [
        "and in this second 2 messages (10 bytes), 0 connected, 0 closed, 0 refused, 0 dropped"
    ]
    assert clock.getDelayedCalls() == []
    journal.flush()
    assert len(log.lines()) == 2


def test_logging_can_be_turned_off(clock: Clock, log: Any) -> None:
    journal = Journal(0, clock)
    messages(journal, 5)
    journal.connected(PEER)
    journal.closed(PEER, 1000, "")
    journal.refused("x", 400, "")
    journal.dropped("x", "")
    clock.advance(2)
    journal.flush()
    assert log.lines() == []
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ("hello", "'hello'"),
        ("", "''"),
        ("Grüße, 世界 🙂", "'Grüße, 世界 🙂'"),
        ("a\nb\r\n", r"'a\nb\r\n'"),
        ("\x1b[2J\x07\x00\x7f", r"'\x1b[2J\x07\x00\x7f'"),
        ("\x85\x9b\u2028\u202e\u200b\ufeff", r"'\x85\x9b\u2028\u202e\u200b\ufeff'"),
        ("it's", '''"it's"'''),
        ("back\\slash", r"'back\\slash'"),
        ("{format} %s", "'{format} %s'"),
        ("x" * 64, "'" + "x" * 64 + "'"),
        ("x" * 65, "'" + "x" * 64 + "'..."),
        ("🙂" * 64, "'" + "🙂" * 64 + "'"),
        ("🙂" * 65, "'" + "🙂" * 64 + "'..."),
        ("x" + "🙂" * 1000, "'x" + "🙂" * 63 + "'..."),
    ],
)
def test_text_messages_are_logged_in_printable_characters(payload: str, shown: str) -> None:
    assert preview(payload.encode(), False, len(payload.encode())) == shown


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", ""),
        (b"\x00\xff", "00 ff"),
        (bytes(16), "00 " * 15 + "00"),
        (bytes(17), "00 " * 16 + "..."),
    ],
)
def test_binary_messages_are_logged_in_hexadecimal(payload: bytes, shown: str) -> None:
    assert preview(payload, True, len(payload)) == shown


def test_a_client_cannot_inject_a_log_format(clock: Clock, log: Any) -> None:
    journal = Journal(9, clock)
    hostile = "{log_time.__class__} {0}"
    journal.message(PEER, hostile.encode(), False)
    journal.closed(PEER, 4000, hostile)
    assert log.lines() == [
        "#1 192.0.2.1:5 text, 24 bytes: '{log_time.__class__} {0}'",
        "#1 192.0.2.1:5 closed: 4000 '{log_time.__class__} {0}'",
    ]


def test_the_documents_have_every_drop_reason() -> None:
    operations = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for why in (*DROP_REASONS, *tls.DROP_REASONS):
        short = why.removeprefix("TLS handshake failed: ")  # A row has several of them.
        assert f"`{why}`" in operations or f"`{short}`" in operations, why
