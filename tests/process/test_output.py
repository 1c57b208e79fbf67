"""Processes with a log that is not read."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from support.probe import eventually, isHealthy
from support.process import TWISTD, Twistd

from echotwist.testing.frames import text
from echotwist.testing.raw import request


def test_queued_log_lines_are_written_at_exit_and_not_again_by_a_child() -> None:
    code = (
        "import os, sys; from echotwist.observe.output import Stream\n"
        "log = Stream(1, None)\n"
        "for n in range(1000): log.write(f'{n}\\n')\n"
        "if child := os.fork():\n"
        "    os.waitpid(child, 0)\n"
        "    log.write('parent\\n')\n"
        "else:\n"
        "    log.write('child\\n')\n"
        "sys.exit()\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    written = run.stdout.splitlines()
    written.remove("child")
    assert written == [*map(str, range(1000)), "parent"]


FLOOD = 12_000
"""Messages whose lines, of some 140 characters, are more than a pipe and LOG_QUEUE_CHARACTERS."""


LOGGED = ("--log-rate=1000000", "--no-fast-path")
"""Every message: the fast path counts some."""


def flood(port: int) -> None:
    """Send messages that are each echoed and logged."""
    message = text("x" * 64)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request())
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        client.settimeout(20)
        for _ in range(FLOOD // 100):
            client.sendall(message * 100)
            left = 100 * 66
            while left:
                left -= len(client.recv(left))


FORMS = {
    "text": [],
    "json": ["--logger=echotwist.logs.json"],
    "journald": ["--logger=echotwist.logs.journald"],
    "a device": ["--logfile=/dev/stdout"],
}


def numbers(log: str) -> int:
    return sum(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) lines of", log))


@pytest.mark.slow(reason="12,000 messages, each logged; at its end it gives the reader a second")
@pytest.mark.parametrize("form", FORMS)
def test_a_service_with_a_stalled_log_reader_goes_on_and_drains(form: str) -> None:
    with Twistd(*LOGGED, options=FORMS[form]) as service:
        port = loggedPort(service)
        service.isRead.clear()
        flood(port)
        isHealthy(port)
        # A drain without clients, and a second for the last lines of the log.
        assert service.stop() == 0


@pytest.mark.parametrize("form", FORMS)
def test_lost_log_lines_are_counted_exactly(form: str) -> None:
    with Twistd(*LOGGED, options=FORMS[form]) as service:
        port = loggedPort(service)
        service.isRead.clear()
        flood(port)
        service.isRead.set()
        eventually(lambda: "lines of the log were lost while nobody read it" in service.log)
        isHealthy(port)
    shown = sum(" text, " in line for line in service.lines)
    ends = sum(bool(re.search(r"127.0.0.1:\d+ (connected|closed)", line)) for line in service.lines)
    assert shown + ends + numbers(service.log) == FLOOD + 2
    # No line is cut.
    assert all("x" * 64 in line for line in service.lines if " text, " in line)


def loggedPort(service: Twistd) -> int:
    service.expect("taking up to")
    found = re.search(r"localhost:(\d+)", service.log)
    assert found
    return int(found[1])


@pytest.mark.slow(reason="12,000 messages, each logged")
@pytest.mark.parametrize("form", FORMS)
def test_a_service_whose_log_reader_is_gone_goes_on(form: str) -> None:
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*TWISTD, "-n", *FORMS[form], "echotwist", "--port=0", *LOGGED], stdout=writer
        )
    finally:
        os.close(writer)
    try:
        log = ""
        while not (found := re.search(r"localhost:(\d+)(.|\n)*taking up to", log)):
            more = os.read(reader, 4096).decode()
            assert more, log
            log += more
        os.close(reader)
        isHealthy(int(found[1]))
        flood(int(found[1]))
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow(reason="72,000 messages, each logged")
def test_workers_go_on_while_their_supervisor_is_stopped() -> None:
    with Twistd("--workers=2", *LOGGED, ready="all listening") as service:
        port = loggedPort(service)
        os.kill(service.pid, signal.SIGSTOP)
        try:
            # The kernel gives a connection to either worker.
            for _ in range(6):
                flood(port)
            isHealthy(port)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        eventually(lambda: "lines of the log were lost while nobody read it" in service.log)
        assert re.search("worker [12]: [0-9,]+ lines of the log were lost", service.log)


@pytest.mark.slow(reason="24,000 messages, each logged, in two workers")
def test_a_supervisor_with_a_stalled_log_reader_goes_on_and_drains() -> None:
    with Twistd("--workers=2", *LOGGED, ready="all listening") as service:
        port = loggedPort(service)
        service.isRead.clear()
        for _ in range(2):
            flood(port)
        isHealthy(port)
        assert service.stop() == 0
