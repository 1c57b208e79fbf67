"""Connections that come and go."""

import contextlib
import itertools
import os
import re
import socket
import struct
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from endurance.figures import MB, Figure, atMost, exactly, told
from support.probe import eventually, works
from support.process import Twistd
from support.traffic import REQUEST, together

from echotwist.testing.frames import close, text

THREADS = 8

SECONDS = 300
"""After which no further one is opened, on a slow machine."""

KEPT = 4 * MB
"""What may be added: four bytes a connection."""

GOODBYE = close(1000)


def churn(share: float) -> Sequence[Figure]:
    """A million connections, or as many as 300 s allow, are opened and dropped: connected and
    closed, connected and reset, reset in the middle of a request, closed in order after an
    upgrade, reset after an echo. Then memory, descriptors and what /metrics counts are as they
    were after the first ten thousand."""
    count = round(1_000_000 * share)
    with Twistd("--admin=tcp:0:interface=127.0.0.1", "--log-rate=10") as service:
        admin = adminPort(service)
        _churn(service, min(count, 10_000))
        before = _state(service, admin)
        began = time.monotonic()
        did = _churn(service, count)
        took = time.monotonic() - began
        after = _state(service, admin)
        works(service)
    total = sum(did.values())
    return [
        *(told(name, many) for name, many in did.items()),
        told("together, a second", round(total / took)),
        atMost("memory added, MB", (after["memory"] - before["memory"]) / MB, KEPT / MB),
        exactly("descriptors", after["descriptors"], before["descriptors"]),
        exactly("WebSocket connections open", after["open"], 0),
        # The one that asks.
        exactly("HTTP connections open, but for that of the question", after["http"], 0),
        exactly(
            "handshakes accepted and connections closed",
            (after["accepted"], after["closed"]),
            (after["accepted"], after["accepted"]),
        ),
        exactly(
            "handshakes accepted of those that the clients made",
            after["accepted"] - before["accepted"],
            did["upgraded, closed in order"] + did["upgraded, reset after an echo"],
        ),
    ]


def adminPort(service: Twistd) -> int:
    """Where --admin=tcp:0 listens; the log has the endpoint's own words."""
    with open(f"/proc/{service.pid}/net/tcp") as table:
        inodes = {line.split()[9]: int(line.split()[1].split(":")[1], 16) for line in table
                  if line.split()[3] == "0A"}  # fmt: skip
    for fd in os.listdir(f"/proc/{service.pid}/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/{service.pid}/fd/{fd}")
            if (found := re.fullmatch(r"socket:\[(\d+)\]", link)) and found[1] in inodes:
                return inodes[found[1]]
    raise AssertionError("--admin does not listen")


def metrics(port: int) -> dict[str, float]:
    """The numbers of /metrics, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _state(service: Twistd, admin: int) -> dict[str, int]:
    def now() -> dict[str, int]:
        found = metrics(admin)
        return {
            "memory": service.memory(),
            "descriptors": int(found["process_open_fds"]),
            "open": int(found["echotwist_connections_open"]),
            "http": int(found["echotwist_http_connections_open"]),
            "accepted": int(found["echotwist_connections_accepted_total"]),
            "closed": int(
                sum(
                    value
                    for name, value in found.items()
                    if name.startswith("echotwist_connections_closed_total")
                )
            ),
        }

    eventually(lambda: now()["open"] == 0 == now()["http"])
    time.sleep(1)
    return now()


def _connect(port: int, n: int) -> socket.socket:
    """From one of many addresses: none has so many ports."""
    client = socket.socket()
    client.settimeout(30)
    client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.bind((f"127.0.{n % 8}.{n // 8 % 250 + 2}", 0))
    client.connect(("127.0.0.1", port))
    return client


IP_BIND_ADDRESS_NO_PORT = 24
"""Of Linux, ip(7); Python 3.11 does not have its name."""


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _upgraded(client: socket.socket) -> None:
    client.sendall(REQUEST + b"\r\n")
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 "), answer


def connectedAndClosed(client: socket.socket) -> None:
    """Waits for the service's own end: so the other threads' ends, too, are never far behind."""
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.close()


def halfARequest(client: socket.socket) -> None:
    client.sendall(REQUEST[:70])
    _reset(client)


def closedInOrder(client: socket.socket) -> None:
    _upgraded(client)
    client.sendall(GOODBYE)
    assert client.recv(4096) == b"\x88\x02\x03\xe8"
    _reset(client)


def resetAfterAnEcho(client: socket.socket) -> None:
    _upgraded(client)
    client.sendall(text("hello"))
    assert client.recv(4096) == b"\x81\x05hello"
    _reset(client)


WAYS: list[tuple[str, Callable[[socket.socket], None], int]] = [
    ("connected, reset", _reset, 750),
    ("connected, closed", connectedAndClosed, 200),
    ("half a request, reset", halfARequest, 30),
    ("upgraded, closed in order", closedInOrder, 10),
    ("upgraded, reset after an echo", resetAfterAnEcho, 10),
]
"""And how many of a thousand do so. Handshakes take ten times as long as connections."""


def _churn(service: Twistd, count: int) -> Counter[str]:
    # Evenly mixed.
    spread = sorted(((k + 0.5) / many, name, way) for name, way, many in WAYS for k in range(many))
    cycle = [(name, way) for _, name, way in spread]
    numbers = itertools.count()
    end = time.monotonic() + SECONDS
    port = service.port

    def connections() -> Iterator[Counter[str]]:
        while (n := next(numbers)) < count and time.monotonic() < end:
            name, way = cycle[n % len(cycle)]
            way(_connect(port, n))
            yield Counter({name: 1})

    return together([connections() for _ in range(THREADS)])
