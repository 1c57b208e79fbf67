"""Clients that send without pause, and read what comes."""

import contextlib
import json
import os
import random
import resource
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from select import POLLIN, POLLOUT, poll
from typing import cast

from endurance.beside import Beside
from support.certificate import unverified
from support.deflate import OFFER, deflated

from echotwist.testing.frames import BINARY, CONTINUATION, PING, TEXT, frame
from echotwist.testing.raw import RawClient

NICE = 10
"""Of their process. They share two cores with the service and with the clients whose waits are
measured: these must wait for the service, not for a core that a hostile client has."""

SENDS = 1 << 18
"""Bytes that are prepared, at least, and sent over and over. The kernel takes as much in one go, so
that these clients cost little."""

RECEIVES = 32 << 10
"""Bytes that must have come before a client looks at them (SO_RCVLOWAT), for the same reason."""

AGAIN = 0.05
"""Seconds after which a client that the service has ended comes again."""

COMES = 60.0
"""Seconds within which all must have come in: those that came first hold up the others."""


def _deflated(payload: bytes) -> bytes:
    """The frame of a text, compressed as a browser does: zlib's default level and window."""
    return frame(TEXT, deflated(payload, zlib.Z_DEFAULT_COMPRESSION), rsv=4)


def _records(size: int) -> bytes:
    """JSON of so many bytes, which zlib makes a fifth of."""
    rng = random.Random(size)
    records = [
        {"id": n, "user": f"user{rng.randrange(10_000)}", "price": rng.randrange(100_000) / 100,
         "tags": rng.sample(["new", "sale", "sold", "books", "music", "garden"], 3)}
        for n in range(size // 80)
    ]  # fmt: skip
    return json.dumps(records).encode()[:size].ljust(size)


@dataclass(frozen=True)
class Kind:
    """What each client sends, over and over. Without `upgrade` it is no WebSocket client."""

    unit: Callable[[], bytes]
    extensions: str | None = None
    upgrade: bool = True

    def data(self) -> bytes:
        """Whole units."""
        unit = self.unit()
        return unit * -(-SENDS // len(unit))


KINDS = {
    "messages in 3,000 one-byte fragments": Kind(
        lambda: (
            frame(BINARY, b"x", fin=False)
            + frame(CONTINUATION, b"x", fin=False) * 2998
            + frame(CONTINUATION, b"x")
        )
    ),
    "pings": Kind(lambda: frame(PING)),
    "one-byte texts, deflated": Kind(lambda: _deflated(b"x"), OFFER),
    "64 KB texts, deflated as a browser does": Kind(lambda: _deflated(_records(1 << 16)), OFFER),
    # 15 KB on the wire. As text, which must be checked for UTF-8, too.
    "15 MB of zeros, deflated": Kind(lambda: _deflated(bytes(15 * 2**20)), OFFER),
    "GET / pipelined, 300 at a time": Kind(
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300, upgrade=False
    ),
}


@dataclass(frozen=True)
class Poured:
    """What the clients have done since the last question. `processor` is in seconds."""

    sent: int
    received: int
    ended: int
    processor: float


class Flood(Beside):
    """`count` clients of the kind with this name. Use with `with`; all are sending within it."""

    def __init__(self, port: int, name: str, count: int, isTls: bool = False) -> None:
        super().__init__(_run, port, name, count, isTls)

    def poured(self) -> Poured:
        """Since the last question."""
        return cast("Poured", self.ask())


def _run(pipe: Connection, port: int, name: str, count: int, isTls: bool) -> None:
    os.nice(NICE)
    kind = KINDS[name]
    data = kind.data()
    clients = [_Client(port, kind, data, isTls) for _ in range(count)]
    for client in clients:
        threading.Thread(target=client.run, daemon=True).start()
    end = time.monotonic() + COMES
    while not all(client.sent for client in clients):
        assert time.monotonic() < end, f"{name}: not all are sending"
        time.sleep(0.01)
    pipe.send(None)
    before = Poured(0, 0, 0, 0)
    while True:
        pipe.recv()
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = Poured(
            sum(client.sent for client in clients),
            sum(client.received for client in clients),
            sum(client.ended for client in clients),
            used.ru_utime + used.ru_stime,
        )
        pipe.send(
            Poured(
                now.sent - before.sent,
                now.received - before.received,
                now.ended - before.ended,
                now.processor - before.processor,
            )
        )
        before = now


NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Client:
    """On a thread of its own: one that is ended and waits to come again stops no other."""

    def __init__(self, port: int, kind: Kind, data: bytes, isTls: bool) -> None:
        self._url = f"ws{'s' * isTls}://127.0.0.1:{port}/echo"
        self._context = unverified() if isTls else None
        self._kind = kind
        self._data = data
        self.sent = self.received = self.ended = 0

    def run(self) -> None:
        while True:
            try:
                with RawClient(
                    self._url,
                    upgrade=self._kind.upgrade,
                    context=self._context,
                    timeout=60,
                    Sec_WebSocket_Extensions=self._kind.extensions,
                ) as client:
                    if self._kind.extensions:
                        assert b"permessage-deflate" in client.head
                        # What was prepared has the largest window.
                        assert b"client_max_window_bits" not in client.head
                    self._pour(client.socket)
            except (OSError, EOFError):
                self.ended += 1
                time.sleep(AGAIN)

    def _pour(self, skt: socket.socket) -> None:
        skt.setblocking(False)
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, RECEIVES)
        ready = poll()
        ready.register(skt, POLLIN | POLLOUT)
        view, at = memoryview(self._data), 0
        into = bytearray(1 << 18)
        while True:
            ready.poll()
            with contextlib.suppress(*NOT_NOW):
                n = skt.send(view[at:])
                at = (at + n) % len(view)
                self.sent += n
            with contextlib.suppress(*NOT_NOW):
                while n := skt.recv_into(into):
                    self.received += n
                raise EOFError
