"""Workers that are killed."""

import asyncio
import os
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Sequence
from functools import partial

from endurance.figures import Figure, atMost, exactly, told
from support.probe import eventually
from support.process import Twistd, freePorts
from support.traffic import REQUEST

from echotwist.testing.frames import TEXT, Frame, parse, text

CLIENTS = 500

KILLS = 6

PAUSE = 0.01
"""Seconds between an echo and a client's next message."""


def workers(share: float) -> Sequence[Figure]:
    """With `--workers=2`, 500 clients send, wait for the echo and send again, and one worker after
    the other is killed (-9). Its clients connect again; those of the other one notice nothing; it
    is replaced."""
    clients = max(round(CLIENTS * share), 20)
    (admin,) = freePorts(1)
    with Twistd(
        "--workers=2", f"--admin=tcp:{admin}:interface=127.0.0.1", "--log-rate=0",
        ready="workers: 2, all listening",
    ) as service:  # fmt: skip
        return asyncio.run(_trial(service, admin, clients))


async def _trial(service: Twistd, admin: int, clients: int) -> Sequence[Figure]:
    counts: Counter[str] = Counter()
    tasks = [asyncio.create_task(_client(service.port, counts)) for _ in range(clients)]
    lost, away = 0, []
    loop = asyncio.get_running_loop()
    for kill in range(KILLS):
        shares = await asyncio.to_thread(_shares, admin, clients)
        worker = str(kill % 2 + 1)
        # The last one that it was said of.
        pid = int(re.findall(rf"worker {worker}: pid (\d+)", service.log)[-1])
        os.kill(pid, signal.SIGKILL)
        lost += shares[worker]
        began = loop.time()
        await asyncio.to_thread(eventually, partial(_isStarted, service, worker, kill // 2 + 2), 40)
        away.append(loop.time() - began)
    await asyncio.to_thread(_shares, admin, clients)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [
        told("workers killed", KILLS),
        told("echoes", counts["echoes"]),
        exactly("connections lost, of as many that the killed ones had", counts["lost"], lost),
        exactly("wrong echoes", counts["wrong"], 0),
        told("connections that were cut before they were upgraded", counts["cut"]),
        atMost("seconds until another process is started, at the most", max(away), 35),
    ]


def _isStarted(service: Twistd, worker: str, times: int) -> bool:
    return len(re.findall(rf"worker {worker}: pid \d+", service.log)) >= times


def _shares(admin: int, clients: int) -> dict[str, int]:
    """How many connections each worker has, as soon as all clients are connected."""
    shares: dict[str, int] = {}

    def all_() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
            found = re.findall(
                r'^echotwist_connections_open{worker="(\d)"} (\d+)', answer.read().decode(), re.M
            )
        shares.update({worker: int(count) for worker, count in found})
        return len(found) == 2 and sum(shares.values()) == clients

    eventually(all_, 60)
    return shares


async def _client(port: int, counts: Counter[str]) -> None:
    n = 0
    while True:
        isOpen = False
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            isOpen = True
            while True:
                n += 1
                payload = b"%020d" % n
                writer.write(text(payload.decode()))
                echo = await reader.readexactly(22)
                counts["echoes"] += 1
                counts["wrong"] += parse(echo) != [Frame(TEXT, payload)]
                await asyncio.sleep(PAUSE)
        except (OSError, asyncio.IncompleteReadError):
            counts["lost" if isOpen else "cut"] += 1
            writer.close()
            await asyncio.sleep(PAUSE)
