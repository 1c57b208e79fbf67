"""--announce, of processes."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from support.process import TWISTD, Twistd, waitUntilGone


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "echotwist.json"


def wait(file: Path) -> None:
    subprocess.run(
        ["timeout", "20", "sh", "-c", f"until [ -e '{file}' ]; do sleep 0.02; done"], check=True
    )


@pytest.mark.parametrize("workers", [[], ["--workers=2"]], ids=["alone", "workers"])
def test_a_process_announces_itself(file: Path, workers: list[str]) -> None:
    with Twistd(*workers, f"--announce={file}", ready="listening" if workers else "taking") as one:
        wait(file)
        said = json.loads(file.read_text())
        assert said["pid"] == one.pid
        assert said["page"].startswith("http://localhost:")
        one.stop()
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--workers=2"]], ids=["alone", "workers"])
def test_a_start_that_fails_leaves_nothing_and_status_1(file: Path, arguments: list[str]) -> None:
    run = subprocess.run(
        [*TWISTD, "-n", "echotwist", "--port=0", f"--announce={file}/x/y", *arguments],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    said = [line for line in (run.stdout + run.stderr).splitlines() if "echotwist: " in line]
    assert len(said) == 1
    assert said[0].endswith(f"echotwist: --announce {file}/x/y: No such file or directory")
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--reactor=epoll"], ["--reactor=poll"]])
@pytest.mark.parametrize("number", [3, 4, 5, 7, 9])
def test_a_descriptor_that_was_not_passed_on_is_one_line_and_status_1(
    options: list[str], number: int
) -> None:
    """The reactor would open its own under such a number, and --reactor has opened them already."""
    run = subprocess.run(
        [*TWISTD, "-n", *options, "echotwist", "--port=0", f"--announce=fd:{number}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert re.fullmatch(
        rf"echotwist: --announce 'fd:{number}': (Bad file descriptor|was not passed on by the "
        r"parent process|is open for reading only) \(see twistd echotwist --help\)\n",
        run.stdout + run.stderr,
    )


def test_a_line_that_cannot_be_written_is_one_line_and_status_1(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    pid = tmp_path / "pid"
    try:
        run = subprocess.run(
            [TWISTD[0], f"--pidfile={pid}", "-n", "echotwist", "--port=0", f"--announce=fd:{full}"],
            capture_output=True, text=True, timeout=30, check=False, pass_fds=[full],
        )  # fmt: skip
    finally:
        os.close(full)
    assert run.returncode == 1
    said = [line for line in (run.stdout + run.stderr).splitlines() if "--announce" in line]
    assert len(said) == 1
    assert said[0].endswith(f"echotwist: --announce fd:{full}: No space left on device")
    assert "Traceback" not in run.stdout + run.stderr
    assert not pid.exists()


def test_a_full_pipe_does_not_hang_it() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(theirs, b"x" * 65536):
            pass
    os.set_blocking(theirs, True)
    with Twistd(f"--announce=fd:{theirs}", passed=[theirs], check=False) as one:
        assert one.wait(20) == 1
    assert f"echotwist: --announce fd:{theirs}: has no room for the line" in one.log
    assert os.get_blocking(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_killed_process_leaves_it_and_the_next_one_replaces_it(file: Path) -> None:
    with Twistd(f"--announce={file}", check=False) as killed:
        wait(file)
        killed.stop(signal.SIGKILL)
    assert json.loads(file.read_text())["pid"] == killed.pid
    with Twistd(f"--announce={file}", ready="taking") as one:
        wait(file)
        assert json.loads(file.read_text())["pid"] == one.pid


def test_a_daemon_announces_the_process_that_serves(file: Path) -> None:
    pid = file.with_name("pid")
    run = subprocess.run(
        [TWISTD[0], f"--pidfile={pid}", f"--logfile={file.with_name('log')}", "--umask=027",
         "echotwist", "--listen=tcp:0:interface=127.0.0.1", f"--announce={file}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    wait(file)
    try:
        assert json.loads(file.read_text())["pid"] == int(pid.read_text())
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    finally:
        daemon = pid.read_text()
        os.kill(int(daemon), signal.SIGTERM)
        waitUntilGone(int(daemon))
    assert not file.exists()
