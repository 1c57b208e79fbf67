"""docs/testing.md: its examples are taken from there and run, where their languages are."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import SCRIPTS, needs

DOCUMENT = Path(__file__).parents[2] / "docs/testing.md"

EXAMPLES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S))

PYTEST = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:randomly"]

ASYNCIO = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


def node(folder: Path) -> list[str]:
    needs("npm", "npm")
    subprocess.run(
        ["npm", "install", "--silent", "--no-fund", "ws@8"], cwd=folder, check=True, timeout=300
    )
    return ["node", "--test"]


def go(folder: Path) -> list[str]:
    go = needs("go", "golang-go")
    if not Path("/usr/share/gocode/src/github.com/gorilla/websocket").exists():
        pytest.skip(
            "gorilla/websocket is not installed (Debian: golang-github-gorilla-websocket-dev)"
        )
    return [go, "test", "-v"]


def java(folder: Path) -> list[str]:
    needs("javac", "default-jdk-headless")
    return [needs("java", "default-jdk-headless"), "EchoTest.java"]


def shell(folder: Path) -> list[str]:
    needs("jq", "jq")
    needs("curl", "curl")
    return ["sh", "echo.sh"]


def plain(folder: Path) -> list[str]:
    return [*PYTEST, "-p", "no:asyncio", "-p", "no:twisted"]


def withAsyncio(folder: Path) -> list[str]:
    (folder / "pytest.ini").write_text(ASYNCIO)
    return [*PYTEST, "-p", "no:twisted"]


def unittest(folder: Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "unittest"]


def trial(folder: Path) -> list[str]:
    return [sys.executable, "-m", "twisted.trial", f"--temp-directory={folder}/_", "test_trial"]


def script(folder: Path) -> list[str]:
    return [sys.executable, "-W", "error", "echo_asyncio.py"]


HOW: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "test_client.py": (plain, "^4 passed"),
    "test_unittest.py": (unittest, "^Ran 1 test"),
    "echo_asyncio.py": (script, "^done$"),
    "test_asyncio.py": (withAsyncio, "^1 passed"),
    "test_trial.py": (trial, r"^PASSED \(successes=1\)"),
    "echo.test.mjs": (node, "^# pass 1$"),
    "echo_test.go": (go, "^--- PASS: TestAMessageComesBack"),
    "EchoTest.java": (java, "^done$"),
    "echo.sh": (shell, "^ok$"),
    "test_wire.py": (plain, "^2 passed"),
}
"""By what each is run, and what it says then."""


def test_every_example_is_run() -> None:
    assert list(EXAMPLES) == list(HOW)


@pytest.mark.slow(reason="starts compilers, package managers and services")
@pytest.mark.parametrize("name", HOW)
def test_an_example_works(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(EXAMPLES[name])
    prepare, said = HOW[name]
    command = prepare(tmp_path)
    run = subprocess.run(
        command,
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={
            **os.environ,
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            # Debian's packages of Go's modules, without the network.
            "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
            "GOCACHE": f"{tmp_path}/go",
        },
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(said, run.stdout + run.stderr, re.M), run.stdout + run.stderr
