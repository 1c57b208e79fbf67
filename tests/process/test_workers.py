"""A supervisor and its workers, as processes."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.certificate import tlsEndpoint
from support.process import Twistd, freePorts

from echotwist.testing.raw import request


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, ""


@pytest.mark.slow(reason="starts a supervisor and three workers")
def test_a_killed_worker_is_replaced_and_the_others_never_notice() -> None:
    admin = f"http://127.0.0.1:{freePorts(1)[0]}"
    endpoint = f"--admin=tcp:{admin.rpartition(':')[2]}:interface=127.0.0.1"

    async def echo(ws: Any, text: str) -> None:
        await ws.send_str(text)
        assert (await ws.receive(timeout=20)).data == text

    async def clients(service: Twistd) -> None:
        async with aiohttp.ClientSession() as session:
            open_ = [await session.ws_connect(service.ws) for _ in range(40)]
            await asyncio.gather(*(echo(ws, f"first {n}") for n, ws in enumerate(open_)))
            loop = asyncio.get_running_loop()
            _, metrics = await loop.run_in_executor(None, get, f"{admin}/metrics")
            shares = dict(re.findall(r'echotwist_connections_open{worker="(\d)"} (\d+)', metrics))
            assert shares.keys() == {"1", "2"}
            assert sum(map(int, shares.values())) == 40
            assert '0"' not in shares.values()  # The kernel gave some to each.
            pids = [int(pid) for pid in re.findall(r"^(\d+)", children(service), re.M)]
            os.kill(pids[0], signal.SIGKILL)
            ended = r"(?s)worker . has ended, and is restarted: .* signal 9.*worker .: pid"
            await loop.run_in_executor(None, service.expect, ended)
            left = 0
            for n, ws in enumerate(open_):
                with contextlib.suppress(ConnectionError):
                    await ws.send_str(f"again {n}")
                    left += (await ws.receive(timeout=20)).data == f"again {n}"
            assert left in (int(shares["1"]), int(shares["2"]))
            # New clients are served.
            for n in range(20):
                ws = await session.ws_connect(service.ws)
                await echo(ws, f"new {n}")
                await ws.close()

    def children(service: Twistd) -> str:
        with open(f"/proc/{service.pid}/task/{service.pid}/children") as f:
            return f.read().replace(" ", "\n")

    with Twistd("--workers=2", endpoint, ready="workers: 2, all listening") as service:
        asyncio.run(clients(service))
        assert get(f"{admin}/readyz")[0] == 200
        assert "echotwist_worker_restarts_total 1.0" in get(f"{admin}/metrics")[1]
        pids = children(service).split()
    # The supervisor has ended with status 0, and no worker is left behind.
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.slow(reason="starts a supervisor and two workers")
def test_a_failed_tls_handshake_at_a_worker_is_logged_and_counted(tmp_path: Path) -> None:
    port, adminPort = freePorts(2)
    admin = f"http://127.0.0.1:{adminPort}"
    with Twistd(
        "--workers=2",
        f"--listen={tlsEndpoint(tmp_path, str(port))}",
        f"--admin=tcp:{adminPort}:interface=127.0.0.1",
        ready="workers: 2, all listening",
    ) as service:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"SSH-2.0-x\r\n")
            assert client.recv(100) == b""
        reason = "TLS handshake failed: the client does not speak TLS"
        service.expect(rf"worker \d: 127\.0\.0\.1:\d+ dropped: {reason}")
        metrics = get(f"{admin}/metrics")[1]
        dropped = "echotwist_connections_dropped_total"
        counts = re.findall(rf'^{dropped}{{reason="{reason}",worker="\d"}} (\S+)', metrics, re.M)
        assert sorted(counts) == ["0.0", "1.0"]
        assert metrics.count(f'not_after_seconds{{file="{tmp_path}/chain.pem",worker="') == 2


@pytest.mark.slow(reason="a drain is spread over a second")
def test_a_drain_closes_the_clients_of_all_workers_with_1001() -> None:
    async def clients(service: Twistd) -> None:
        async with aiohttp.ClientSession() as session:
            open_ = [await session.ws_connect(service.ws) for _ in range(20)]
            service.process.send_signal(signal.SIGTERM)
            for ws in open_:
                message = await ws.receive(timeout=20)
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)

    with Twistd("--workers=2", ready="workers: 2, all listening") as service:
        asyncio.run(clients(service))
        assert service.wait() == 0


@pytest.mark.slow(reason="starts a supervisor and two workers")
def test_a_second_signal_ends_the_drain_of_all_workers() -> None:
    with Twistd("--workers=2", "--drain-timeout=1m", ready="workers: 2, all") as service:
        with socket.create_connection(("127.0.0.1", service.port)) as stuck:
            stuck.sendall(request())
            assert stuck.recv(1000).startswith(b"HTTP/1.1 101 ")
            service.process.send_signal(signal.SIGTERM)
            service.expect("draining, with 1 connected")
            assert service.stop() == 0
