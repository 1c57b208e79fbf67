"""Runs the Autobahn testsuite against the service, and is strict about its report.

    python trials/conformance/run.py             all 517 cases, compression on
    python trials/conformance/run.py core        the 247 core cases without compression
    python trials/conformance/run.py tls         the 247 core cases over TLS
    python trials/conformance/run.py autobahn    the 247 core cases without the fast path

`kosoku` runs the testsuite's own cases on Python 3. Its exit status takes NON-STRICT for a
pass; here only OK is one, and INFORMATIONAL for the three cases that have no other outcome. And
the fast path must have echoed its part: a run proves nothing of what it does not reach.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kosoku import FailureError, run_fuzzingclient
from support.certificate import tlsEndpoint

# 9 sends large messages; 12 and 13 are permessage-deflate.
NOT_CORE = ["9.*", "12.*", "13.*"]

INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

RUNS: dict[str, tuple[int, float, list[str], list[str]]] = {
    # Cases, the least share of the fast path in the echoes, cases left out, options of the service.
    # Sections 12 and 13 have messages of 128 KB, which are Autobahn's.
    "all": (517, 0.7, [], []),
    "core": (247, 0.8, NOT_CORE, ["--no-compression"]),
    "tls": (247, 0.8, NOT_CORE, []),
    "autobahn": (247, 0, NOT_CORE, ["--no-fast-path"]),
}


def main(name: str) -> None:
    cases, least, exclude, options = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        admin = f"{folder}/admin"
        options = [*options, f"--admin=unix:{admin}"]
        if name == "tls":
            options = [*options, f"--listen={tlsEndpoint(Path(folder))}"]
        else:
            options = [*options, "--port=0"]
        twistd = Path(sysconfig.get_path("scripts")) / "twistd"
        service = subprocess.Popen(
            [twistd, "-n", "--pidfile=", "echotwist", "--log-rate=0", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            results = asyncio.run(run(addressOf(service), exclude))
            fast, every = echoed(admin)
        finally:
            service.send_signal(signal.SIGTERM)
            rest, _ = service.communicate(timeout=30)
    faults = []
    for result in results:
        verdicts = {result.behavior.value, result.behavior_close.value}
        if verdicts != {"INFORMATIONAL" if result.case_id in INFORMATIONAL else "OK"}:
            faults.append(
                f"{result.case_id}: {result.behavior.value}, close {result.behavior_close.value}"
            )
    if len(results) != cases:
        faults.append(f"{len(results)} cases were run instead of {cases}")
    if fast < least * every:
        faults.append(f"the fast path has echoed less than {least:.0%} of the messages")
    if service.returncode or "Traceback" in rest:
        faults.append(f"the service ended with {service.returncode}:\n{rest}")
    behaviors = dict(Counter(result.behavior.value for result in results))
    print(f"{name}: {behaviors}, {fast:,} of {every:,} echoes by the fast path", *faults, sep="\n")
    sys.exit(bool(faults))


async def run(address: str, exclude: list[str]) -> list[Any]:
    async with contextlib.AsyncExitStack() as stack:
        if address.startswith("wss:"):
            address = await stack.enter_async_context(plainFront(address))
        try:
            # A case a core: one that waits for a core runs into its time limit.
            cores = os.cpu_count() or 1
            return list(await run_fuzzingclient(address, None, exclude or None, cores))
        except FailureError as failure:
            return list(failure.results)


@contextlib.asynccontextmanager
async def plainFront(address: str) -> AsyncIterator[str]:
    """A plain port before a TLS one: kosoku speaks no TLS."""
    url = urlsplit(address)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tlsReader, tlsWriter = await asyncio.open_connection(url.hostname, url.port, ssl=context)
        await asyncio.gather(pump(reader, tlsWriter), pump(tlsReader, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{url.path}"


def echoed(admin: str) -> tuple[int, int]:
    """How many messages the fast path has echoed, and how many the service has."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(admin)
        asking.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
    fast = re.findall(r"^echotwist_fastpath_messages_total{.*} (\d+)", answer, re.M)
    every = re.findall(r'^echotwist_messages_total{direction="sent",.*} (\d+)', answer, re.M)
    assert fast, answer
    assert every, answer
    return sum(map(int, fast)), sum(map(int, every))


def addressOf(service: "subprocess.Popen[str]") -> str:
    assert service.stdout is not None
    for line in service.stdout:
        if match := re.search(r"WebSocket client to (\S+)", line):
            return match[1]
    raise SystemExit("the service did not start")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all")
