"""`echotwist probe` as a process, and the examples of docs/probe.md."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.process import SCRIPTS

from echotwist.testing import ServiceProcess

DOCUMENT = Path(__file__).parents[2] / "docs/probe.md"

PROBE = [[str(SCRIPTS / "echotwist"), "probe"], [sys.executable, "-m", "echotwist.probe"]]


@pytest.mark.parametrize("command", PROBE, ids=["echotwist", "python -m"])
def test_the_command_probes(command: list[str]) -> None:
    with ServiceProcess() as service:
        done = subprocess.run(
            [*command, service.url, "--for=3s", "--json"], capture_output=True, timeout=120
        )
    assert done.stderr == b""
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_it_print_what_is_known(number: signal.Signals) -> None:
    with ServiceProcess() as service:
        command = [*PROBE[0], service.url, "--for=10m", "--only=idle", "--header=X-Test: signal"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                service.expect("closed: 1000")  # One handshake has been measured.
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
    assert err == b""
    assert b"interrupted" in out
    assert process.returncode == 2


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"^```python (?:test_ingress.py)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S
    )
    assert "seconds=65" in example
    (tmp_path / "test_ingress.py").write_text(example.replace("seconds=65", "seconds=2"))
    with ServiceProcess() as service:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:twisted"],
            cwd=tmp_path, env={**os.environ, "CANARY": service.url}, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout
