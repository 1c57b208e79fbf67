"""docs/lab.md: its commands are run as they stand, against the service as a process."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from support.process import Twistd, needs

DOCUMENT = (Path(__file__).parents[2] / "docs/lab.md").read_text()

EXAMPLES: dict[str, str] = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", DOCUMENT, re.M | re.S))


def example(name: str, service: Twistd) -> str:
    return EXAMPLES[name].replace("localhost:8080", f"127.0.0.1:{service.port}")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def test_a_harness_runs_cases_and_there_is_a_report(tmp_path: Path) -> None:
    with Twistd() as service:
        everything = 'range(1, int(ask("/getCaseCount")) + 1)'
        harness = example("harness.py", service)
        assert everything in harness
        ids = [case["id"] for case in get(f"http://127.0.0.1:{service.port}/lab/cases")]
        some = [ids.index(name) + 1 for name in ("H20", "F01", "F31", "X08")]
        script = tmp_path / "harness.py"
        script.write_text(harness.replace(everything, repr(some)))
        subprocess.run([sys.executable, "-W", "error", script], check=True, timeout=60)
        found = get(f"http://127.0.0.1:{service.port}/lab/report?agent=mine&format=json")["mine"]
    assert {name: each["behavior"] for name, each in found.items()} == dict.fromkeys(
        ["H20", "F01", "F31", "X08"], "OK"
    )


def test_a_trace_is_shown(tmp_path: Path) -> None:
    needs("curl", "curl")
    with Twistd() as service:
        script = tmp_path / "trace.sh"
        script.write_text(example("trace.sh", service).replace("python3", sys.executable))
        shown = subprocess.run(
            ["sh", "-e", script], check=True, timeout=60, capture_output=True, text=True
        ).stdout
    assert re.search("server  text, FIN, payload length 5: 'hello'", shown)
    assert re.search(r"client  text, FIN, (RSV1, )?masked, payload length \d+", shown)


def test_every_example_is_run() -> None:
    assert list(EXAMPLES) == ["harness.py", "trace.sh"]
