"""Hostile scripts at /lab, beside /echo."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from endurance.churn import adminPort, metrics
from endurance.figures import MB, Figure, atMost, exactly, told
from endurance.honest import Honest
from support.probe import eventually, works
from support.process import Twistd

from echotwist.lab.steps import STEPS
from echotwist.testing.frames import PING, close, frame, text
from echotwist.testing.raw import request

THREADS = 32

LATE = 0.1
"""Seconds that the p99 of an honest echo may be."""

KEPT = 16 * MB
"""Four rounds of 45,000 left 96.9, 96.7, 96.8 and 96.8 MB (measured)."""

SECONDS = 300
"""After which no further one is opened, on a slow machine."""

WILD = [
    *("", "0", "1", "-1", "1e9", "10m", "999999999999999", "16M", "1G", "no", "rst", "twice"),
    *("%00", "%ff%fe", "8900", "81fe", "827f4000000000000000", "a" * 200, "X:%0d%0aY: z", "\\"),
]
"""Values that a step may have, or may not."""

KINDS = [
    *("flood=8900", "fill=16M", "fragment=1&fill=1M", "compress=bomb&send=a", "chop=1&fill=1M"),
    *("push=1ms", "headers=100000", "headers=1000,4k", "hang", "stall=10m", "wait=10m&send=a"),
    *("pong=10m", "hold=1m", "reply-close=chatter", "garbage", "echo=1000000", "rate=1&fill=16M"),
    *("frame=" + "89" * 3000, "&".join(["send=a"] * 200), "split=1&headers=1000"),
]
"""Scripts that cost most."""


def hostile(share: float) -> Sequence[Figure]:
    """A hundred thousand requests for scripts, by 32 clients at a time that never pause: half of
    them at random, right and wrong, and half that flood, bomb, chop, hang and hold. Each then sends
    messages, pings and a close, reads some or nothing, and ends by a FIN or a reset; one in a
    hundred stays. Meanwhile 100 honest clients at /echo send ten messages a second each.

    Those that stay make the heap as large as it gets, and it stays so: the second half, beside the
    honest, must add nothing for good to what the first has left.
    """
    count = round(100_000 * share)
    with Twistd("--admin=tcp:0:interface=127.0.0.1", "--log-rate=10") as service:
        admin = adminPort(service)
        fresh = service.memory()
        _ask(service.port, count // 2)
        eventually(lambda: metrics(admin)["echotwist_connections_open"] == 0, 120)
        time.sleep(1)
        before, open_ = service.memory(), service.descriptors()
        with Honest(service.port, 100) as honest:
            time.sleep(4)
            idle = honest.latency()
            began = time.monotonic()
            statuses = _ask(service.port, count // 2)
            took = time.monotonic() - began
            under = honest.latency()
            missing = honest.missing()
        eventually(lambda: metrics(admin)["echotwist_connections_open"] == 0, 120)
        time.sleep(1)
        after, left = service.memory(), service.descriptors()
        works(service)
    return [
        told("answers", ", ".join(f"{n:,} x {status}" for status, n in statuses.most_common())),
        told("together, a second", round(statuses.total() / took)),
        told("an honest echo before", idle),
        told("an honest echo beside them", under),
        atMost("its p99, ms", under.p99 * 1000, LATE * 1000),
        exactly("echoes that did not come", missing, 0),
        told("memory at first, after a half, after all, MB", _shown(fresh, before, after)),
        atMost("memory added by the second half, MB", (after - before) / MB, KEPT / MB),
        exactly("descriptors", left, open_),
        exactly("a traceback in the log", "Traceback" in service.log, False),
    ]


def _shown(*sizes: int) -> str:
    return ", ".join(str(round(size / MB)) for size in sizes)


def _ask(port: int, count: int) -> Counter[str]:
    """Ask for so many scripts. Returns how many had which answer."""
    statuses: Counter[str] = Counter()
    until = time.monotonic() + SECONDS

    def ask(seed: int) -> None:
        scripts = _scripts(random.Random(seed))
        kept: list[socket.socket] = []
        for n in range(count // THREADS):
            if time.monotonic() > until:
                break
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), timeout=10)
                client.sendall(
                    request(f"/lab?{next(scripts)}", Sec_WebSocket_Extensions="permessage-deflate")
                )
                client.settimeout(0.2)
                answer = b""
                with contextlib.suppress(TimeoutError):
                    answer = client.recv(4096)
                statuses[answer[9:12].decode("latin-1") or "nothing yet"] += 1
                with contextlib.suppress(OSError):
                    client.sendall(text("a") * 10 + frame(PING) * 10 + close(1000) * (n % 2))
                if n % 100:
                    client.close()
                else:
                    kept.append(client)
        for client in kept:
            client.close()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def _scripts(rng: random.Random) -> Iterator[str]:
    names = [name for name in STEPS if name != "case"]
    while True:
        if rng.random() < 0.5:
            yield rng.choice(KINDS)
        else:
            chosen = rng.choices(names, k=rng.randrange(1, 6))
            yield "&".join(f"{name}={rng.choice(WILD)}" for name in chosen).replace(" ", "%20")
