"""Clients that behave, in a process of their own, and how long their echoes take."""

import gc
import multiprocessing
import select
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection

from support.traffic import Peer

from echotwist.testing.frames import TEXT, frame

INTERVAL = 0.1
"""Seconds between two messages of a client: they shall use the service, and not load it."""

SIZE = 100
"""Bytes of a message."""


@dataclass(frozen=True)
class Latency:
    """Of the echoes since the last question, in seconds. `due` are still to come."""

    count: int
    p50: float
    p99: float
    most: float
    due: int

    def __str__(self) -> str:
        return (
            f"{self.p50 * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms, most {self.most * 1e3:.1f} ms "
            f"of {self.count:,}"
        )


class Honest:
    """Use with `with`. A client that is dropped, or gets not its own echo, is a failure."""

    def __init__(self, port: int, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, port, count), daemon=True)
        self._process.start()
        theirs.close()

    def latency(self) -> Latency:
        self._pipe.send("latency")
        assert self._pipe.poll(60), "the honest clients are stuck"
        found = self._pipe.recv()
        assert isinstance(found, Latency), found
        return found

    def __enter__(self) -> "Honest":
        self.latency()  # All are connected.
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()


def _run(pipe: Connection, port: int, count: int) -> None:
    try:
        _talk(pipe, port, count)
    except EOFError:
        pass  # It is over.
    except BaseException as failure:
        pipe.send(f"an honest client failed: {failure!r}")


def _talk(pipe: Connection, port: int, count: int) -> None:
    sockets = [Peer(port).socket for _ in range(count)]
    gc.disable()  # A pause of this process is none of the service.
    message = frame(TEXT, b"h" * SIZE)
    echo = bytes([0x81, SIZE]) + b"h" * SIZE
    poll = select.epoll()
    poll.register(pipe.fileno(), select.EPOLLIN)
    clients = {s.fileno(): (s, deque[float](), bytearray()) for s in sockets}
    for fd in clients:
        poll.register(fd, select.EPOLLIN)
    took: list[float] = []
    turn = deque(clients.values())
    at = time.monotonic()
    while True:
        now = time.monotonic()
        while at <= now:
            at += INTERVAL / count
            client, sent, _ = turn[0]
            turn.rotate(-1)
            sent.append(time.monotonic())
            assert client.send(message) == len(message), "an honest client is not read"
        for fd, _ in poll.poll(max(at - time.monotonic(), 0)):
            if fd == pipe.fileno():
                pipe.recv()
                due = sum(len(sent) for _, sent, _ in clients.values())
                took.sort()
                some = took or [0.0]
                pipe.send(
                    Latency(
                        len(took),
                        some[len(some) // 2],
                        some[len(some) * 99 // 100],
                        some[-1],
                        due,
                    )
                )
                took.clear()
                continue
            client, sent, rest = clients[fd]
            data = client.recv(65536)
            now = time.monotonic()
            assert data, "an honest client was dropped"
            rest += data
            while len(rest) >= len(echo):
                # Pings do not come: it is never silent.
                assert rest[: len(echo)] == echo, "another message came back"
                del rest[: len(echo)]
                took.append(now - sent.popleft())
