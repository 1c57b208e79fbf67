"""The wall clock, set while the process runs."""

import contextlib
import datetime
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from endurance.churn import adminPort, metrics
from endurance.figures import Figure, Unavailable, exactly, told
from support.probe import works
from support.process import Twistd

from echotwist.testing.frames import text
from echotwist.testing.raw import RawClient

CLIENTS = 20

SILENT = 3.0
"""Seconds in which nobody says anything after a jump; pings come each second then."""


def forward(share: float) -> Sequence[Figure]:
    """The wall clock jumps one hour forward (by libfaketime), and then back. Those connected, on
    the fast path and with Autobahn, stay so: a clock that is set is no reason to drop anybody."""
    return _jumps("+3600", "+0")


def backward(share: float) -> Sequence[Figure]:
    """The wall clock jumps one hour back, and then forward to what it was. Nobody is dropped. But
    Twisted's timers are the wall clock's (reactor.seconds() is time.time()): those that ran when it
    jumped are an hour late, so that connections which Autobahn serves are sent no pings until
    then."""
    return _jumps("-3600", "+0")


def _jumps(*offsets: str) -> Sequence[Figure]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise Unavailable("libfaketime is not installed (Debian: faketime)")
    figures: list[Figure] = []
    for isFast in (True, False):
        way = "fast path" if isFast else "Autobahn"
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            offset = Path(folder) / "offset"
            offset.write_text("+0\n")
            service = stack.enter_context(
                Twistd(
                    "--admin=tcp:0:interface=127.0.0.1",
                    "--ping-interval=1s",
                    "--ping-timeout=2s",
                    *([] if isFast else ["--no-fast-path"]),
                    env={
                        "LD_PRELOAD": str(library),
                        "FAKETIME_TIMESTAMP_FILE": str(offset),
                        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                        "FAKETIME_NO_CACHE": "1",
                    },
                )
            )
            admin = adminPort(service)
            clients = [stack.enter_context(service.connect()) for _ in range(CLIENTS)]
            for client in clients:
                client.send(text("before"))
                client.socket.settimeout(0.1)
            for jump in offsets:
                offset.write_text(jump + "\n")
                alive, pings = _stay(clients)
                figures += [
                    exactly(f"{way}: connected after {jump} s", alive, CLIENTS),
                    told(f"{way}: pings to them in {SILENT:.0f} s after {jump} s", pings),
                ]
                if jump == offsets[0]:
                    service.expect("'after'")
                    seen = datetime.datetime.fromisoformat(service.lines[-1].split()[0])
                    off = seen.timestamp() - time.time()
                    assert abs(off - float(jump)) < 60, "the clock did not jump"
            works(service)
            found = metrics(admin)['echotwist_connections_closed_total{code="1006"}']
            figures.append(exactly(f"{way}: connections that were dropped", int(found), 0))
    return figures


def _stay(clients: Sequence[RawClient]) -> tuple[int, int]:
    """For a while each answers its pings, and says nothing else. Returns how many are echoed
    something in the end, and how many pings came."""
    end = time.monotonic() + SILENT
    gone: set[RawClient] = set()
    pings = 0
    while time.monotonic() < end:
        for client in clients:
            if client not in gone:
                with contextlib.suppress(TimeoutError):
                    client.socket.settimeout(0.005)
                    try:
                        data = client.socket.recv(4096)
                    except ConnectionError:
                        data = b""
                    if not data:
                        gone.add(client)
                    elif b"\x89\x00" in data:
                        pings += 1
                        client.send(b"\x8a\x80\0\0\0\0")
    alive = 0
    for client in clients:
        with contextlib.suppress(OSError):
            client.socket.settimeout(5)
            client.send(text("after"))
            data = b""
            while not data.endswith(b"\x81\x05after"):
                more = client.socket.recv(4096)
                if not more:
                    break
                data += more
            alive += data.endswith(b"\x81\x05after")
    return alive, pings
