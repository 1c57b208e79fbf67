"""`echotwist probe URL --serve ENDPOINT` as a process; promtool reads what it serves."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.process import needs, served

from echotwist.testing.logged import LoggedProcess


@contextmanager
def exporting(url: str, *options: str) -> Iterator[tuple[LoggedProcess, list[str], str]]:
    """The process, the lines that it says, and where it serves."""
    lines: list[str] = []
    command = [sys.executable, "-m", "echotwist.probe", url, *options]
    process = LoggedProcess([*command, "--serve=tcp:0:interface=127.0.0.1"], lines.append)
    try:
        where = process.until(lambda: re.search(r"on (http\S+)/metrics", "\n".join(lines)), 30)
        assert where, lines
        yield process, lines, where[1]
    finally:
        process.process.kill()
        process.wait()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        body: bytes = response.read()
    return body


def test_promtool_accepts_the_metrics() -> None:
    promtool = needs("promtool", "prometheus")
    with (
        served() as service,
        exporting(service.url, "--for=1s", "--only=handshake,flow,idle") as (process, lines, where),
    ):
        assert b"_success" not in get(where + "/metrics")
        assert process.until(lambda: any(": clean, in " in line for line in lines), 60), lines
        body = get(where + "/metrics")
        assert b"\nechotwist_probe_success 1.0\n" in body
        assert b'\nechotwist_probe_round_trip_seconds{kind="message"} ' in body
        told = subprocess.run(
            [promtool, "check", "metrics"], input=body, capture_output=True, timeout=60
        )
        assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")
        assert service.url.encode() in get(where + "/")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert len(lines) == 2, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_a_probe(number: int) -> None:
    with served() as service, exporting(service.url, "--for=1h") as (process, lines, _):
        service.expect("connected", timeout=30)
        process.process.send_signal(number)
        assert process.wait(20) == 0
        assert len(lines) == 1, lines
