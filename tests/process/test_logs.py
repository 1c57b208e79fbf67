"""What a process logs."""

import json
import os
import socket
import subprocess

import pytest
from support.process import TWISTD

from echotwist.testing.frames import close, text
from echotwist.testing.raw import request


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_process_logs_json_and_nothing_else(encoding: str) -> None:
    process = subprocess.Popen(
        [*TWISTD, "-n", "--logger=echotwist.logs.json", "echotwist", "--port=0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if "where" in events[-1]:
                break
        where = events[-1]["where"]
        with socket.create_connection(("127.0.0.1", int(where.split(":")[1])), timeout=20) as s:
            s.sendall(request() + text("Grüße\n") + close(1000))
            while s.recv(1000):
                pass
        process.terminate()
        rest, _ = process.communicate(timeout=20)
        events += map(json.loads, rest.splitlines())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 0
    (message,) = [event for event in events if event.get("event") == "message"]
    assert (message["number"], message["size"]) == (1, 8)
    assert events[-1]["message"] == "Server Shut Down."
