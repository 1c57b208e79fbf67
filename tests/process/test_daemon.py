"""The twistd around a process: its errors, SIGUSR1, logrotate."""

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from support.probe import eventually, isHealthy
from support.process import TWISTD, Twistd, freePorts, needs, waitUntilGone

NOBODY = 4_000_000_000


def ended(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TWISTD[0], *command], capture_output=True, text=True, cwd=cwd, timeout=30, check=False
    )


@pytest.mark.parametrize("nodaemon", [["-n"], []])
@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--logfile=/nonexistent/x", "--logfile /nonexistent/x: No such file or directory"),
        (f"--uid={NOBODY}", f"--uid {NOBODY}: there is no such user"),
        ("--chroot=/nonexistent", "--chroot /nonexistent: No such file or directory"),
        ("--pidfile=/nonexistent/x", "--pidfile /nonexistent: No such file or directory"),
    ],
)
def test_bad_twistd_options_are_one_clear_line_of_the_process(
    nodaemon: list[str], option: str, why: str, tmp_path: Path
) -> None:
    run = ended("--pidfile=", *nodaemon, option, "echotwist", "--port=0", cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"echotwist: {why}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [[], ["--workers=2"]])
def test_a_daemon_that_cannot_start_says_why_in_words(workers: list[str], tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = ended("echotwist", f"--port={port}", *workers, cwd=tmp_path)
    said = f"echotwist: cannot listen on port {port}: Address already in use\n"
    assert (run.returncode, run.stdout, run.stderr) == (1, "", said)
    # The parent waits neither for the log nor until the pid file is gone.
    eventually(lambda: [each.name for each in tmp_path.iterdir()] == ["twistd.log"])
    eventually(lambda: said in (tmp_path / "twistd.log").read_text())


# SIGUSR1.


def hasHandler(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigCgt:\s+(\w+)", status, re.M)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("form", [[], ["--logger=echotwist.logs.json"], ["--logfile=log"]])
def test_sigusr1_does_not_end_the_service(form: Sequence[str], tmp_path: Path) -> None:
    if form == ["--logfile=log"]:
        (port,) = freePorts(1)
        process = subprocess.Popen(
            [*TWISTD, "-n", *form, "echotwist", f"--port={port}"], cwd=tmp_path
        )
        try:
            log = tmp_path / "log"
            eventually(lambda: log.exists() and "taking up to" in log.read_text())
            process.send_signal(signal.SIGUSR1)
            isHealthy(port)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
        return
    with Twistd(options=form) as service:
        service.process.send_signal(signal.SIGUSR1)
        isHealthy(int(re.findall(r"localhost:(\d+)", service.log)[0]))


@pytest.mark.slow(reason="starts a supervisor and two workers")
def test_sigusr1_ends_neither_the_supervisor_nor_a_worker() -> None:
    with Twistd("--workers=2", ready="all listening") as service:
        pids = [int(pid) for pid in re.findall(r"worker \d: pid (\d+)", service.log)]
        assert len(pids) == 2
        for pid in (service.pid, *pids):
            os.kill(pid, signal.SIGUSR1)
        isHealthy(int(re.findall(r"localhost:(\d+)", service.log)[0]))
        for pid in (service.pid, *pids):
            assert hasHandler(pid, signal.SIGUSR1)
            os.kill(pid, 0)
        assert "has ended" not in service.log


@contextlib.contextmanager
def running(folder: Path, *arguments: str, twistd: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """A daemon in `folder`, its pid and port."""
    (port,) = freePorts(1)
    run = ended(
        f"--pidfile={folder}/pid", f"--logfile={folder}/log", *twistd,
        "echotwist", f"--port={port}", *arguments, cwd=folder,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    pid = int((folder / "pid").read_text())
    try:
        eventually(lambda: "taking up to" in (folder / "log").read_text())
        yield pid, port
    finally:
        os.kill(pid, signal.SIGTERM)
        waitUntilGone(pid)


def visit(port: int, count: int = 1) -> None:
    """Each visit is refused, which is a line of the log."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass


# logrotate.

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def recipe(what: str) -> str:
    """The recipe for logrotate in docs/operations.md with this word in it."""
    blocks = re.findall(r"```\n(/[^`]*\n\})\n```", OPERATIONS.read_text())
    (found,) = (block for block in blocks if what in block)
    return str(found)


def logrotate(folder: Path, configuration: str) -> None:
    program = needs("logrotate", "logrotate")
    for was, now in (("/var/log/echotwist.log", "log"), ("/run/echotwist.pid", "pid")):
        configuration = configuration.replace(was, str(folder / now))
    (folder / "conf").write_text(configuration + "\n")
    (folder / "conf").chmod(0o644)
    run = subprocess.run(
        [program, "--force", f"--state={folder}/state", str(folder / "conf")],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow(reason="the names of rotated files have the second")
@pytest.mark.parametrize("what", ["USR1", "copytruncate"])
def test_logrotate_rotates_the_log_as_documented(what: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tmp_path.chmod(0o755)

    def hasRefused(count: int) -> bool:
        return log.exists() and log.read_text().count(" refused: 426 ") == count

    with running(tmp_path) as (pid, port):
        log.chmod(0o640)
        for turn in (1, 2):
            visit(port, turn)
            eventually(partial(hasRefused, turn))
            logrotate(tmp_path, recipe(what))
            if turn == 1:
                time.sleep(1.1)  # The names of rotated files have the second.
        visit(port, 3)
        eventually(partial(hasRefused, 3))
        assert "\0" not in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o640
        os.kill(pid, 0)
    rotated = sorted(each for each in tmp_path.iterdir() if each.name.startswith("log-"))
    assert len(rotated) == 2
    if what == "USR1":  # Nothing was lost.
        subprocess.run(["gunzip", *rotated[:1]], check=True)
        whole = rotated[0].with_suffix("").read_text() + rotated[1].read_text() + log.read_text()
        assert whole.count(" refused: 426 ") == 6
        assert "starting up" in whole
        assert "Server Shut Down" in whole


@pytest.mark.slow(reason="starts a daemon, which gives up root")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_logrotate_rotates_the_log_of_a_service_that_dropped_root() -> None:
    """It opened its log as root, and reopens it as the user nobody."""
    with tempfile.TemporaryDirectory() as name:  # The user nobody may not enter pytest's own.
        folder = Path(name)
        folder.chmod(0o755)
        log = folder / "log"
        with running(folder, twistd=["--uid=nobody"]) as (_, port):
            assert log.stat().st_uid == pwd.getpwnam("nobody").pw_uid
            logrotate(folder, recipe("USR1"))
            visit(port, 1)
            eventually(lambda: " refused: 426 " in log.read_text())
        assert "stays in the same file" not in "".join(
            each.read_text() for each in folder.glob("log*")
        )


# A folder that the user of the service may not write.


@pytest.mark.slow(reason="starts two daemons, and the documented wait looks once a second")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_documented_wait_ends_even_if_the_pid_file_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (port,) = freePorts(1)
    run = ended(
        "--pidfile=one.pid", "--logfile=one.log", "--uid=nobody", "echotwist", f"--port={port}",
        cwd=tmp_path,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    isHealthy(port)
    (stop,) = set(re.findall(r"^(pid=.*one\.pid.*)$", OPERATIONS.read_text(), re.M))
    began = time.monotonic()
    subprocess.run(["sh", "-c", stop], cwd=tmp_path, timeout=20, check=True)
    assert time.monotonic() - began < 10
    assert (tmp_path / "one.pid").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "one.pid").read_text()), 0)
    # The next daemon takes the pid file over.
    run = ended(
        "--pidfile=one.pid", "--logfile=one.log", "--uid=nobody", "echotwist", f"--port={port}",
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0
    assert run.stderr.startswith("Removing stale pidfile ")
    isHealthy(port)
    subprocess.run(["sh", "-c", stop], cwd=tmp_path, timeout=20, check=True)
