"""What waits for a client that does not read: whole, in order, and counted."""

import os
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from echotwist.fastpath._loop import Loop
from echotwist.testing.frames import BINARY, binary, length

PAYLOAD = os.urandom(3 << 20)
"""More than the kernel and one call of sendmsg() take."""

MESSAGE = binary(PAYLOAD)
ECHO = bytes([0x80 | BINARY]) + length(len(PAYLOAD), masked=False) + PAYLOAD


class Lent:
    """A loop, and the client of its only connection."""

    def __init__(self) -> None:
        self._events = os.eventfd(0)
        self._loop = Loop(1 << 30, 1 << 20, 1 << 40, 0, 0, self._events)
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # The least that there is.
        self._loop.lend(self._ours.fileno(), 1, b"", None)
        self.turn()

    def __enter__(self) -> "Lent":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.stop()
        self.turn()
        self._ours.close()
        self._theirs.close()
        os.close(self._events)

    @property
    def buffered(self) -> int:
        return self._loop.takeCounts()[-1]

    def turn(self) -> None:
        """Until nothing is ready."""
        while self._loop.turn(0):
            pass

    def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._theirs.send(data) :]
            except BlockingIOError:
                assert self._loop.turn(0)
        self.turn()

    def receive(self, most: int) -> bytes:
        """What is there, up to `most` bytes."""
        received = b""
        while len(received) < most:
            try:
                received += self._theirs.recv(most - len(received))
            except BlockingIOError:
                break
            self.turn()
        return received

    def taken(self) -> bytes:
        """What is unsent of the connection, which is taken back."""
        self._loop.recall(self._ours.fileno(), 1, True)
        self.turn()
        (event,) = self._loop.takeEvents()
        assert event[0] == "returned"
        unsent: Any = event[-2]
        assert isinstance(unsent, bytes)
        return unsent


steps = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.integers(1, 100), st.integers(1, 70_000), st.integers(1, 1 << 20)),
    ),
    max_size=25,
)


@settings(suppress_health_check=list(HealthCheck))
@given(steps)
@example([(True, 1 << 20)] * 3 + [(False, 1 << 20)] * 3)
@example([(True, 100_000)] + [(True, 1)] * 200 + [(True, 70_000)] + [(False, 1000)] * 30)
def test_what_a_client_does_not_read_waits_for_it_in_order(steps: list[tuple[bool, int]]) -> None:
    with Lent() as lent:
        sent = 0
        received = b""
        for isSend, size in steps:
            if isSend:
                lent.send(MESSAGE[sent : sent + size])
                sent = min(sent + size, len(MESSAGE))
            else:
                received += lent.receive(size)
        assert ECHO.startswith(received)
        buffered = lent.buffered
        unsent = lent.taken()
        # What describes the chunks, and room in the last one; and the first may be sent in part.
        more = 4096 + 100 + (65536 if received else 0)
        assert len(unsent) <= buffered <= len(unsent) * 1.01 + more
        assert lent.buffered == 0
        # A server's header is shorter by the mask.
        assert received + lent.receive(len(ECHO)) + unsent == ECHO[: sent - 4 if sent >= 14 else 0]


def test_a_reader_gets_all_of_it_and_the_memory_is_free_again() -> None:
    with Lent() as lent:
        for _ in range(3):
            lent.send(MESSAGE)
            assert lent.buffered > len(PAYLOAD) - (1 << 20)
            assert lent.receive(len(ECHO)) == ECHO
            assert lent.buffered == 0


@pytest.mark.parametrize("size", [10_000, 60_000])
def test_a_little_takes_no_more_than_it_needs(size: int) -> None:
    with Lent() as lent:
        lent.send(binary(bytes(size)))
        buffered = lent.buffered
        unsent = lent.taken()
        assert 0 < len(unsent) < size
        assert len(unsent) < buffered < len(unsent) + 100


def test_memory_is_counted_down_as_a_client_reads() -> None:
    with Lent() as lent:
        lent.send(MESSAGE)
        left = len(ECHO)
        while (before := lent.buffered) > 1 << 20:
            left -= len(lent.receive(200_000))
            assert lent.buffered < before
            assert lent.buffered < left * 1.01 + 4096 + 65536
