"""SIGTERM in the midst of echoes."""

import contextlib
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence

from endurance.figures import Figure, atMost, exactly, told
from endurance.herd import UNDERWAY
from support.process import Twistd
from support.traffic import REQUEST

from echotwist.testing.frames import close, text

TIMEOUT = 10
"""Seconds, the default of --drain-timeout."""

REST = 0.5
"""Seconds that a client rests after an echo: without it, the clients alone would take both cores,
and nothing but that would be measured."""

MESSAGE = text("x" * 60)

ECHO = b"\x81\x3c" + b"x" * 60

GOING_AWAY = b"\x88\x13\x03\xe9server going away"

GOODBYE = close(1001)


def withFastPath(share: float) -> Sequence[Figure]:
    """10,000 clients have echoes under way when the process gets SIGTERM: each sends its next
    message half a second after an echo. All are told 1001, and miss no echo but that of a message
    which crossed it on its way; they answer, and the process ends in time, with status 0."""
    return _drain(round(10_000 * share))


def withoutFastPath(share: float) -> Sequence[Figure]:
    """The same with 2,000 clients and `--no-fast-path`."""
    return _drain(round(2_000 * share), "--no-fast-path")


class _Client:
    def __init__(self, n: int, port: int) -> None:
        self.socket = socket.socket()
        self.socket.bind((f"127.0.0.{n % 100 + 2}", 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(REQUEST + b"\r\n")
        self.rest = b""
        self.isOpen = False
        self.sent = self.came = 0
        self.end = ""


_resting: deque[tuple[float, _Client]] = deque()


def _drain(count: int, *options: str) -> Sequence[Figure]:
    with Twistd("--log-rate=10", *options) as service:
        poll = select.epoll()
        _resting.clear()
        clients: dict[int, _Client] = {}
        for n in range(count):
            client = _Client(n, service.port)
            clients[client.socket.fileno()] = client
            poll.register(client.socket, select.EPOLLIN)
            if n % UNDERWAY == 0:  # Else they would run ahead of the service.
                _serve(poll, clients, 0)
                while sum(not c.isOpen for c in list(clients.values())[-2 * UNDERWAY :]) > UNDERWAY:
                    _serve(poll, clients, 0.1)
        every = list(clients.values())
        while not all(client.isOpen for client in every):
            _serve(poll, clients, 1)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            _serve(poll, clients, 0.1)
        echoes = sum(client.came for client in every)
        service.process.send_signal(15)
        began = time.monotonic()
        while clients and time.monotonic() < began + 2 * TIMEOUT:
            _serve(poll, clients, 0.1)
        gone = time.monotonic() - began
        status = service.wait()
        took = time.monotonic() - began
    ends = Counter(client.end or "none" for client in every)
    crossed = [client.sent - client.came for client in every]
    return [
        told("echoes in the two seconds before", echoes),
        exactly("clients that were told 1001", ends["1001"], count),
        told("messages that crossed the 1001 on their way, and were not echoed", sum(crossed)),
        exactly("clients that miss more than that one", sum(n > 1 for n in crossed), 0),
        exactly("clients that ended otherwise", ends.total() - ends["1001"], 0),
        told("seconds until all had left", round(gone, 1)),
        atMost("seconds until the process ended", took, TIMEOUT),
        exactly("exit status", status, 0),
        exactly("a traceback in the log", "Traceback" in service.log, False),
    ]


def _serve(poll: select.epoll, clients: dict[int, _Client], seconds: float) -> None:
    while _resting and _resting[0][0] <= time.monotonic():
        _, rested = _resting.popleft()
        if not rested.end:
            _say(rested)
    for fd, _ in poll.poll(min(seconds, REST / 50)):
        client = clients[fd]
        try:
            data = client.socket.recv(65536)
        except ConnectionError:
            data = b""
        client.rest += data
        if not client.isOpen and b"\r\n\r\n" in client.rest:
            head, _, client.rest = client.rest.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            client.isOpen = True
            _say(client)
        while client.rest.startswith(ECHO):
            client.rest = client.rest[len(ECHO) :]
            client.came += 1
            if not client.end and not client.rest:
                _resting.append((time.monotonic() + REST, client))
        if client.rest.startswith(b"\x88") and not client.end:
            if client.rest.startswith(GOING_AWAY):
                client.end = "1001"
                with contextlib.suppress(ConnectionError):
                    client.socket.sendall(GOODBYE)
            else:
                client.end = "another close"
        if not data:
            client.end = client.end or "no close"
            del clients[fd]
            client.socket.close()


def _say(client: _Client) -> None:
    with contextlib.suppress(ConnectionError):
        client.socket.sendall(MESSAGE)
        client.sent += 1
