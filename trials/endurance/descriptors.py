"""Descriptors that run out."""

import contextlib
import os
import resource
import socket
import time
import urllib.request
from collections.abc import Sequence

from endurance.churn import adminPort, metrics
from endurance.figures import Figure, atMost, exactly, told
from support.probe import eventually, works
from support.process import Twistd

from echotwist.testing.frames import TEXT, Frame, parse, text
from echotwist.testing.raw import request

LIMIT = 200
"""ulimit -n: with one thread, 98 connections and 51 more to be told 503."""

BUSY = 0.2
"""Of a core. Who polls what it cannot accept takes all of it."""

CROWD = 400

_TICK = os.sysconf("SC_CLK_TCK")


def fullHouse(share: float) -> Sequence[Figure]:
    """With `ulimit -n 200` the connections are all taken, and 400 more clients come and stay. They
    are told 503 or dropped; those that were there first are served, /healthz of --admin answers,
    and the process does not spin. When the clients have left, all is as before."""
    limit = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"]
    with Twistd(
        "--admin=tcp:0:interface=127.0.0.1", "--threads=1", before=limit
    ) as service, contextlib.ExitStack() as stack:  # fmt: skip
        admin = adminPort(service)
        idle = service.descriptors()
        room = int(metrics(admin)["echotwist_connections_max"])
        first = [stack.enter_context(service.connect()) for _ in range(room)]
        told503 = dropped = 0
        for _ in range(CROWD):
            try:  # Some are dropped before they know that they are connected.
                client = stack.enter_context(service.connect(upgrade=False))
                client.send(request())
                answered = client.socket.recv(4096).startswith(b"HTTP/1.1 503 ")
            except ConnectionError:
                answered = False
            told503 += answered
            dropped += not answered
        most = service.descriptors()
        began = time.monotonic()
        busy = _busy(service, max(5 * share, 1))
        health = _healthz(admin)
        took = time.monotonic() - began
        for client in first:
            client.send(text("x"))
        served = sum(parse(client.read(3)) == [Frame(TEXT, b"x")] for client in first)
        stack.close()
        eventually(lambda: service.descriptors() == idle)
        left = service.descriptors()
        works(service)
        lines = len(service.lines)
    return [
        exactly("connected first, and served all the time", served, room),
        told(f"of {CROWD} more, told 503, and dropped", f"{told503}, {dropped}"),
        exactly("neither", CROWD - told503 - dropped, 0),
        atMost("descriptors in use", most, LIMIT - 1),
        atMost(f"processor time in a full house of {took:.0f} s, of a core", busy, BUSY),
        exactly("/healthz of --admin", health, 200),
        exactly("descriptors when all have left", left, idle),
        told("lines of the log", lines),
    ]


def belowWhatIsInUse(share: float) -> Sequence[Figure]:
    """`prlimit` lowers the limit of the live process below the descriptors that it has, so that
    accept() fails with EMFILE. Connections that are open are served; the process neither spins nor
    floods its log, and takes new ones when the limit is raised again."""
    with Twistd("--admin=tcp:0:interface=127.0.0.1", "--threads=1") as service:
        with contextlib.ExitStack() as stack:
            works(service)
            clients = [stack.enter_context(service.connect()) for _ in range(20)]
            before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (10, before[1]))
            lines = len(service.lines)
            waiting = []
            for _ in range(50):
                late = socket.create_connection(("127.0.0.1", service.port), timeout=20)
                late.sendall(request())
                waiting.append(stack.enter_context(late))
            seconds = max(5 * share, 1)
            busy = _busy(service, seconds)
            added = len(service.lines) - lines
            for client in clients:
                client.send(text("x"))
            served = sum(parse(client.read(3)) == [Frame(TEXT, b"x")] for client in clients)
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
            began = time.monotonic()
            works(service)
            recovered = time.monotonic() - began
            came = 0
            for late in waiting:
                with contextlib.suppress(OSError):
                    came += late.recv(4096).startswith(b"HTTP/1.1 101 ")
        lines = len(service.lines)
        traceback = "Traceback" in service.log
    return [
        exactly("open connections that were served meanwhile", served, 20),
        atMost(f"processor time in {seconds:.0f} s, of a core", busy, BUSY),
        # Twisted's own, tcp.py, at info.
        atMost("lines of the log for each client that is dropped so", added / 50, 3),
        exactly("a traceback in the log", traceback, False),
        atMost("seconds until it takes a new one, after the limit is raised", recovered, 2),
        told("of 50 that came meanwhile, answered then", came),
    ]


def _healthz(admin: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/healthz", timeout=20) as answer:
        return int(answer.status)


def _busy(service: Twistd, seconds: float) -> float:
    """The share of a core that it takes."""

    def ticks() -> int:
        with open(f"/proc/{service.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / _TICK / seconds
