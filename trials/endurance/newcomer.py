"""What others wait for while twenty clients take all that they can get."""

import contextlib
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from endurance.beside import Beside
from endurance.figures import Figure, atMost, exactly, told
from endurance.flood import KINDS, Flood
from endurance.herd import UNDERWAY
from endurance.honest import SLOWER, Honest
from endurance.waits import Latency, Waits, favour
from support.certificate import tlsEndpoint, unverified
from support.process import Twistd

from echotwist.testing.frames import CLOSE, PONG, TEXT, Frame, close, frame, text
from echotwist.testing.raw import RawClient, request

HOSTILE = 20

HONEST = 100

WAIT = 0.1
"""Seconds that a newcomer's p99 may be, and that of /healthz."""

SECONDS = 5.0
"""For which each kind is measured."""

SETTLES = 1.0
"""Seconds before that, once all hostile clients send."""

PAUSE = 0.01
"""Seconds between a newcomer and the next, and between two questions for /healthz."""

PATIENCE = 30.0
"""Seconds after which a newcomer gives up, which is counted as a failure."""

GOODBYE = close(1000)

ANSWER = frame(PONG)


def plain(share: float) -> Sequence[Figure]:
    """20 hostile clients send without pause, and read what comes; one kind of them after the other.
    Meanwhile a newcomer connects, sends a message, has its echo, closes and is answered, again and
    again; another asks for `/healthz`, on a connection each time; and 100 honest clients, connected
    before, send ten messages a second each. Two cores carry the service and all clients: the
    hostile ones send buffers that were prepared once, at nice 10, and those whose waits are
    measured run at nice -5 where that is allowed, so that they wait for the service and not for a
    core. A wait that has not ended counts as what it has been so far, within the 5 s for which each
    kind is measured."""
    return _trial(share)


def secure(share: float) -> Sequence[Figure]:
    """The same over TLS, hostile and honest."""
    return _trial(share, isTls=True)


def crowded(share: float) -> Sequence[Figure]:
    """The same while 10,000 idle clients are connected, which answer the service's pings."""
    return _trial(share, idle=round(10_000 * share))


def withoutFastPath(share: float) -> Sequence[Figure]:
    """The same with `--no-fast-path`, where one thread of Python serves the hostile and the honest:
    there the p99 of the honest, too, must be at most 100 ms."""
    return _trial(share, "--no-fast-path")


def _trial(share: float, *options: str, isTls: bool = False, idle: int = 0) -> Sequence[Figure]:
    seconds = max(SECONDS * share, 1)
    figures = []
    with contextlib.ExitStack() as stack:
        if isTls:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = (*options, f"--listen={tlsEndpoint(folder)}")
        service = stack.enter_context(Twistd(*options))
        port = service.port
        crowd = stack.enter_context(Idle(port, idle)) if idle else None
        honest = stack.enter_context(Honest(port, HONEST, isTls))
        newcomers = stack.enter_context(Newcomers(port, isTls))
        time.sleep(SETTLES * share)
        newcomers.waits()
        honest.latency()
        time.sleep(seconds)
        base = honest.latency()
        newcomer, health, failed = newcomers.waits()
        figures += [
            told("idle: a newcomer", newcomer),
            told("idle: /healthz", health),
            told("idle: an honest echo", base),
        ]
        for name in KINDS:
            with Flood(port, name, HOSTILE, isTls) as flood:
                time.sleep(SETTLES * share)
                flood.poured()
                newcomers.waits()
                honest.latency()
                time.sleep(seconds)
                under = honest.latency()
                newcomer, health, more = newcomers.waits()
                poured = flood.poured()
            failed += more
            figures += [
                told(
                    f"{name}: sent, received",
                    f"{poured.sent / 1e6 / seconds:,.1f} and {poured.received / 1e6 / seconds:,.1f}"
                    f" MB/s, for {poured.processor / seconds:.2f} of a core; "
                    f"{poured.ended} times ended",
                ),
                _within(f"{name}: a newcomer", newcomer),
                _within(f"{name}: /healthz", health),
                *_honest(name, under, base, isFast="--no-fast-path" not in options),
            ]
            failed += newcomers.settle()
        missing = honest.missing()
        gone = crowd.gone() if crowd else 0
    return [
        *figures,
        exactly("newcomers and questions that failed", failed, 0),
        exactly("echoes that did not come", missing, 0),
        *([exactly(f"of {idle:,} idle clients dropped", gone, 0)] if idle else []),
    ]


def _honest(name: str, under: Latency, base: Latency, isFast: bool) -> Sequence[Figure]:
    slower = under.p99 / base.p99
    what = f"{name}: its p99, to that before"
    if isFast:
        return [
            told(f"{name}: an honest echo", under),
            atMost(what, slower, SLOWER, " x"),
        ]
    return [_within(f"{name}: an honest echo", under), told(what, f"{slower:.1f} x")]


def _within(what: str, wait: Latency) -> Figure:
    return Figure(what, str(wait), f"p99 at most {WAIT * 1e3:.0f} ms", wait.p99 <= WAIT)


class Newcomers(Beside):
    """Two that connect again and again: one for an echo, one for /healthz. Use with `with`."""

    def __init__(self, port: int, isTls: bool) -> None:
        super().__init__(_come, port, isTls)

    def waits(self) -> tuple[Latency, Latency, int]:
        """Since the last question: for an echo, for /healthz, and how many of both failed."""
        return cast("tuple[Latency, Latency, int]", self.ask())

    def settle(self) -> int:
        """Wait until both are served again as they should be. Returns how many failed."""
        end, failed = time.monotonic() + PATIENCE, 0
        while time.monotonic() < end:
            time.sleep(0.3)
            newcomer, health, more = self.waits()
            failed += more
            if newcomer.most <= WAIT >= health.most:
                break
        return failed


class _Newcomer(threading.Thread):
    def __init__(self, once: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._once = once
        self.waits = Waits()
        self.began: float | None = None
        self.failed = 0

    def run(self) -> None:
        while True:
            self.began = began = time.monotonic()
            try:
                self._once()
            except (OSError, EOFError, AssertionError):
                self.failed += 1
            else:
                self.waits.ended(began)
            self.began = None
            time.sleep(PAUSE)


def _come(pipe: Connection, port: int, isTls: bool) -> None:
    favour()
    url = f"ws{'s' * isTls}://127.0.0.1:{port}/echo"
    context = unverified() if isTls else None

    def echo() -> None:
        with RawClient(url, context=context, timeout=PATIENCE) as client:
            client.send(text("hello"))
            assert client.frame() == Frame(TEXT, b"hello")
            client.send(GOODBYE)
            assert client.frame().opcode == CLOSE

    def health() -> None:
        with RawClient(url, upgrade=False, context=context, timeout=PATIENCE) as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.until(b"ok\n").startswith(b"HTTP/1.1 200 ")

    both = [_Newcomer(echo), _Newcomer(health)]
    for newcomer in both:
        newcomer.start()
    pipe.send(None)
    while True:
        pipe.recv()
        waits = []
        for newcomer in both:
            began = newcomer.began
            waits.append(newcomer.waits.latency([] if began is None else [began]))
        failed = sum(newcomer.failed for newcomer in both)
        for newcomer in both:
            newcomer.failed = 0
        pipe.send((*waits, failed))


class Idle(Beside):
    """`count` clients that say nothing, and answer pings. Use with `with`."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(_idle, port, count)

    def gone(self) -> int:
        """How many the service has dropped."""
        return cast("int", self.ask())


def _idle(pipe: Connection, port: int, count: int) -> None:
    clients: dict[int, socket.socket] = {}
    poll = select.epoll()
    for n in range(0, count, UNDERWAY):
        some = [_connected(n + i, port) for i in range(min(UNDERWAY, count - n))]
        for client in some:
            client.sendall(request())
        for client in some:
            head = client.recv(4096)
            assert head.startswith(b"HTTP/1.1 101 "), head
            assert head.endswith(b"\r\n\r\n"), head
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
    poll.register(pipe.fileno(), select.EPOLLIN)
    pipe.send(None)
    while True:
        for fd, _ in poll.poll():
            if fd == pipe.fileno():
                pipe.recv()
                pipe.send(count - len(clients))
                continue
            try:
                if clients[fd].recv(4096):  # A ping.
                    clients[fd].sendall(ANSWER)
                    continue
            except ConnectionError:
                pass
            clients.pop(fd).close()


def _connected(n: int, port: int) -> socket.socket:
    client = socket.socket()
    client.settimeout(PATIENCE)
    # From many addresses, for none has so many ports.
    client.bind((f"127.0.0.{n % 100 + 2}", 0))
    client.connect(("127.0.0.1", port))
    return client
