"""Makes what is released, and tries it on each Python that is supported.

    tox -e release                   all of them; one that is not installed is a failure
    tox -e release -- 3.11 3.13      these

The sdist and the wheel go to `dist/`. The wheel is built from the sdist, as pip does it without a
wheel; auditwheel gives it the oldest manylinux tag that its symbols allow. Then each Python gets an
empty virtual environment with that wheel alone, and the service must echo there on the fast path.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]

DIST = ROOT / "dist"

START = 60
"""Seconds for the service to start, with a Python that has compiled none of its modules yet."""


class Failed(SystemExit):
    """Ends the script with one line and status 1."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Returns what `command` prints. Raises Failed, with that, if it fails or takes 10 minutes."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    if done.returncode:
        raise Failed(f"{done.stdout}\n{' '.join(map(str, command))}: status {done.returncode}")
    return done.stdout


def build() -> Path:
    """Build the sdist and the manylinux wheel. Returns the wheel. Raises Failed."""
    # An sdist has what lies in the folder, and a release what was committed.
    if changes := run("git", "status", "--porcelain"):
        raise Failed(f"not committed:\n{changes}")
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--outdir", folder, ".")
        (sdist,) = Path(folder).glob("*.tar.gz")
        (wheel,) = Path(folder).glob("*-abi3-linux_*.whl")
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, wheel)
        shutil.copy(sdist, DIST)
    (wheel,) = DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())
    return wheel


def tryOn(python: str, wheel: Path) -> None:
    """Install `wheel` for `python` in an empty environment, and have it echo. Raises Failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "venv", cwd=folder)
        pip = folder / "venv/bin/pip"
        run(pip, "install", "--quiet", "--only-binary=echotwist", wheel, cwd=folder)
        run(pip, "check", cwd=folder)
        log = folder / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [folder / "venv/bin/twistd", "-n", "--pidfile=", "echotwist", "--port=0",
                 "--admin=tcp:0:interface=127.0.0.1"],
                cwd=folder, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            echoes(process, log)
            process.terminate()
            status = process.wait(20)
        finally:
            process.kill()
            process.wait()
        if status or "Traceback" in log.read_text():
            raise Failed(f"{log.read_text()}\n{python}: the service ended with status {status}")


def echoes(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises Failed if the service does not start, or its fast path does not echo."""
    for _ in range(START * 10):
        if "taking up to" in log.read_text():  # The last line of the start.
            break
        try:
            process.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            pass
    text = log.read_text()
    url = re.search(r"client to (ws://\S+)", text)
    admin = re.search(r"AdminSite starting on (\d+)", text)
    if url is None or admin is None or "fast path: threads: " not in text:
        raise Failed(f"{text}\nthe service did not start with the fast path")
    if "compressed messages stay" in text:
        raise Failed(f"{text}\nthe wheel was built without zlib")
    messages: Sequence[str | bytes] = ("hello", "", bytes(range(256)), "ä" * 100_000)
    # Without compression, which would keep a client's messages above 64 KB from the fast path.
    with connect(url[1], compression=None, open_timeout=20, close_timeout=20) as client:
        for message in messages:
            client.send(message)
            if client.recv(timeout=20) != message:
                raise Failed(f"another echo than {message[:20]!r}...")
    with urllib.request.urlopen(f"http://127.0.0.1:{admin[1]}/metrics", timeout=20) as answer:
        metrics = answer.read().decode()
    expected = f'echotwist_fastpath_messages_total{{kind="plain",tls="false"}} {len(messages)}.0'
    if expected not in metrics.splitlines():
        raise Failed(f"{metrics}\n/metrics does not have {expected!r}")


def find(version: str) -> str | None:
    """The first Python of that version on PATH that runs; pyenv's shims may not."""
    for folder in os.environ["PATH"].split(os.pathsep):
        python = f"{folder}/python{version}"
        found = shutil.which(python)
        if found and not subprocess.run([found, "-c", ""], capture_output=True).returncode:
            return found
    return None


def main(versions: Sequence[str]) -> None:
    wheel = build()
    print(*sorted(file.name for file in DIST.iterdir()), sep="\n")
    missing = []
    for version in versions:
        if (python := find(version)) is None:
            missing.append(version)
            print(f"Python {version}: NOT TRIED, it is not installed")
        else:
            tryOn(python, wheel)
            print(f"Python {version}: serves, and echoes on the fast path")
    if missing:
        raise Failed(f"not tried: {', '.join(missing)}")


if __name__ == "__main__":
    main(sys.argv[1:])
