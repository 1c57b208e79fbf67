"""Clients that behave, and how long their echoes take."""

import gc
import math
import select
import ssl
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import cast

from endurance.beside import Beside
from endurance.waits import Latency, Waits, favour
from support.traffic import Peer

from echotwist.testing.frames import TEXT, frame

INTERVAL = 0.1
"""Seconds between two messages of a client: they shall use the service, and not load it."""

SIZE = 100
"""Bytes of a message."""

SLOWER = 5
"""Times that their p99 may take, under an attack, of what it took before."""


REST = 10.0
"""Seconds to wait for echoes that are missing."""

MISSING = "missing"


class Honest(Beside):
    """Use with `with`. A client that is dropped, or gets not its own echo, is a failure."""

    def __init__(self, port: int, count: int, isTls: bool = False) -> None:
        super().__init__(_talk, port, count, isTls)

    def missing(self) -> int:
        """They stop. Returns how many echoes have not come until REST."""
        return cast("int", self.ask(MISSING))

    def latency(self) -> Latency:
        """Of the echoes since the last question."""
        return cast("Latency", self.ask())


def _talk(pipe: Connection, port: int, count: int, isTls: bool) -> None:
    favour()
    sockets = [Peer(port, isTls).socket for _ in range(count)]
    gc.disable()  # A pause of this process is none of the service.
    message = frame(TEXT, b"h" * SIZE)
    echo = bytes([0x81, SIZE]) + b"h" * SIZE
    poll = select.epoll()
    poll.register(pipe.fileno(), select.EPOLLIN)
    clients = {s.fileno(): (s, deque[float](), bytearray()) for s in sockets}
    for fd in clients:
        poll.register(fd, select.EPOLLIN)
    waits = Waits()
    turn = deque(clients.values())
    at = time.monotonic()
    until = math.inf
    pipe.send(None)
    while True:
        now = time.monotonic()
        if until < math.inf:
            due = sum(len(sent) for _, sent, _ in clients.values())
            if not due or now > until:
                pipe.send(due)
                until = math.inf
        while at <= now:
            at += INTERVAL / count
            client, sent, _ = turn[0]
            turn.rotate(-1)
            sent.append(time.monotonic())
            assert client.send(message) == len(message), "an honest client is not read"
        for fd, _ in poll.poll(min(max(at - time.monotonic(), 0), 1)):
            if fd == pipe.fileno():
                if pipe.recv() == MISSING:
                    at, until = math.inf, time.monotonic() + REST
                    continue
                pipe.send(waits.latency(began for _, sent, _ in clients.values() for began in sent))
                continue
            client, sent, rest = clients[fd]
            try:
                data = client.recv(65536)
            except ssl.SSLWantReadError:
                continue  # A part of a record.
            assert data, "an honest client was dropped"
            rest += data
            while len(rest) >= len(echo):
                # Pings do not come: it is never silent.
                assert rest[: len(echo)] == echo, "another message came back"
                del rest[: len(echo)]
                waits.ended(sent.popleft())
