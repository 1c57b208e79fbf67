"""The twistd around the service: its options, its errors, its signals, its log's file."""

import contextlib
import errno
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.attack import eventually, isHealthy
from support.process import TWISTD, Twistd, freePorts, needs, waitUntilGone
from twisted.application.service import Application
from twisted.logger import ILogObserver
from twisted.scripts._twistd_unix import ServerOptions

from echotwist.fatal import Fatal
from echotwist.logs import Log
from echotwist.observe.output import LogFile, Stream
from echotwist.operate import daemon
from echotwist.operate.daemon import Daemon, checkTwistdOptions


def options(*arguments: str, debug: bool = False) -> ServerOptions:
    """twistd's options. Its own --debug would change how Twisted fails from then on."""
    made = ServerOptions()
    made.parseOptions(["--pidfile=", *arguments])
    made["debug"] = debug
    return made


@pytest.fixture(autouse=True)
def usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    """twistd's runner, which the test may patch."""
    from twisted.scripts._twistd_unix import UnixApplicationRunner

    for name in ("_waitForStart", "_formatChildException"):
        monkeypatch.setattr(UnixApplicationRunner, name, getattr(UnixApplicationRunner, name))
    return UnixApplicationRunner


def observer(*arguments: str, debug: bool = False) -> Any:
    application: Any = Application("echotwist")
    Daemon(options(*arguments, debug=debug)).setServiceParent(application)
    return application.getComponent(ILogObserver, None)


# The log.


def test_the_log_goes_to_standard_output_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open(tmp_path / "stdout", "w") as output:
        monkeypatch.setattr(sys, "__stdout__", output)
        for arguments in (["-n"], ["-n", "--logfile=-"]):
            assert isinstance(observer(*arguments).output, Stream)
        assert isinstance(observer(debug=True).output, Stream)
    assert isinstance(observer("-n", "--logfile=log").output, LogFile)
    assert isinstance(observer().output, LogFile)
    assert isinstance(observer("--logfile=/dev/null").output, Stream)
    assert {each.name for each in tmp_path.iterdir()} == {"stdout", "log", "twistd.log"}


def test_the_log_file_belongs_to_the_user_of_uid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: given.append((uid, gid)))
    observer("-n", f"--logfile={tmp_path}/log", "--uid=65534")
    assert given == [(65534, -1)]


@pytest.mark.parametrize("option", ["--syslog", "--logger=echotwist.logs.json"])
def test_syslog_and_other_loggers_are_left_to_twistd(option: str) -> None:
    assert observer("-n", option) is None


def test_without_twistd_there_is_no_log_of_ours() -> None:
    application: Any = Application("echotwist")
    Daemon({}).setServiceParent(application)
    assert application.getComponent(ILogObserver, None) is None
    Daemon({}).setServiceParent(Daemon({}))
    checkTwistdOptions({})


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--logfile=/nonexistent/log"], "--logfile /nonexistent/log: No such file or directory"),
        (["--logfile=/"], "--logfile /: Is a directory"),
        (["--logfile=-"], "--logfile=-: a daemon has no standard output; give a file, or -n"),
    ],
)
def test_a_log_file_that_cannot_be_opened_is_one_line(arguments: list[str], why: str) -> None:
    with pytest.raises(Fatal, match=re.escape(f"echotwist: {why}")):
        observer(*arguments)


def test_sigusr1_reopens_the_log_file_and_does_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write: Log = observer(f"--logfile={log}")
    event: Any = {"log_format": "line"}
    write(event)
    log.rename(tmp_path / "moved")
    signal.raise_signal(signal.SIGUSR1)
    write(event)
    assert log.read_text() == (tmp_path / "moved").read_text() == "- [-#-] line\n"


def test_sigusr1_without_a_log_file_does_nothing_and_a_foreign_handler_stays() -> None:
    observer("-n", "--logger=echotwist.logs.json")
    handler: Any = signal.getsignal(signal.SIGUSR1)
    assert handler
    signal.raise_signal(signal.SIGUSR1)
    observer("-n", "--logger=echotwist.logs.json")
    assert signal.getsignal(signal.SIGUSR1) is handler


# What twistd is told.


def refusal(*arguments: str) -> str:
    with pytest.raises(Fatal) as refused:
        checkTwistdOptions(options(*arguments))
    message = str(refused.value)
    assert "\n" not in message
    return message.removeprefix("echotwist: ")


NOBODY = 4_000_000_000


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        (f"--uid={NOBODY}", f"--uid {NOBODY}: there is no such user"),
        ("--uid=-1", "--uid -1: there is no such user"),
        (f"--uid={2**70}", f"--uid {2**70}: there is no such user"),
        ("--gid=-1", "--gid -1: there is no such group"),
        (f"--gid={2**32}", f"--gid {2**32}: there is no such group"),
        ("--chroot=/nonexistent", "--chroot /nonexistent: No such file or directory"),
        ("--chroot=/etc/passwd", "--chroot /etc/passwd: Not a directory"),
        ("--rundir=/nonexistent", "--rundir /nonexistent: No such file or directory"),
        ("--umask=1000", "--umask 1000: takes a mask from 0 to 777, in octal"),
        ("--umask=-1", "--umask -1: takes a mask from 0 to 777, in octal"),
        ("--pidfile=/nonexistent/pid", "--pidfile /nonexistent: No such file or directory"),
        ("--pidfile=/", "--pidfile /: is not a regular file"),
    ],
)
def test_a_twistd_option_that_would_fail_is_one_line(argument: str, why: str, runner: Any) -> None:
    assert refusal(argument) == why


@pytest.mark.usefixtures("runner")
def test_folders_are_looked_for_below_chroot(tmp_path: Path) -> None:
    if os.geteuid():
        assert refusal(f"--chroot={tmp_path}") == f"--chroot {tmp_path}: only root may do this"
        return
    (tmp_path / "run").mkdir()
    checkTwistdOptions(options(f"--chroot={tmp_path}", "--rundir=/run", "--pidfile=/run/pid"))
    checkTwistdOptions(options(f"--chroot={tmp_path}", "--rundir=run", "--pidfile=/pid"))
    assert refusal(f"--chroot={tmp_path}", "--rundir=/etc").startswith("--rundir /etc: No such")
    assert refusal(f"--chroot={tmp_path}", "--pidfile=/etc/pid").startswith("--pidfile /etc: No")


@pytest.mark.usefixtures("runner")
def test_uid_without_root_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    checkTwistdOptions(options(f"--uid={os.getuid()}", f"--gid={os.getgid()}"))
    for option in (f"--uid={pwd.getpwnam('nobody').pw_uid}", "--gid=12345"):
        assert refusal(option) == "--uid, --gid: only root may change to another user or group"
    assert refusal("--chroot=/") == "--chroot /: only root may do this"


@pytest.mark.usefixtures("runner")
def test_a_folder_that_may_not_be_entered_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # Root may access everything.
    assert refusal(f"--rundir={tmp_path}") == f"--rundir {tmp_path}: Permission denied"


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize(
    "content",
    [b"", b" ", b"-5", b"+5", b"0", b"00", b"x", b"1_0", b"12345678901234567890", b"1 2",
     b"\xff", "٣".encode(), b"9" * 5000],
)  # fmt: skip
def test_a_pid_file_without_a_process_id_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_bytes(content)
    assert refusal(f"--pidfile={file}") == (
        f"--pidfile {file}: holds no process id; remove it unless a twistd uses it"
    )
    assert file.read_bytes() == content


@pytest.mark.usefixtures("runner")
def test_a_pid_file_of_a_running_process_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pid"
    file.write_text(f"{os.getppid()}\n")
    assert refusal(f"--pidfile={file}").startswith(
        f"--pidfile {file}: process {os.getppid()} is running, maybe as another twistd; "
    )

    def kill(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(os, "kill", kill)  # Root may signal every process.
    assert refusal(f"--pidfile={file}").startswith(f"--pidfile {file}: process ")


@pytest.mark.usefixtures("runner")
def test_a_pid_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pid"
    file.touch()

    def refuse(*_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # Root may read everything.
    with pytest.raises(Fatal) as refused:
        daemon._checkPidFile(str(file), "")
    assert str(refused.value) == f"echotwist: --pidfile {file}: Permission denied"


@pytest.mark.usefixtures("runner")
def test_a_stale_pid_file_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    gone = subprocess.Popen(["true"])
    gone.wait()
    file.write_text(str(gone.pid))
    checkTwistdOptions(options(f"--pidfile={file}"))
    file.write_text(str(os.getpid()))
    checkTwistdOptions(options(f"--pidfile={file}"))
    assert not file.exists()


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
    assert [each.name for each in tmp_path.iterdir()] == ["twistd.log"]
    # The parent does not wait for the log.
    eventually(lambda: said in (tmp_path / "twistd.log").read_text())


def test_any_failure_of_a_daemons_start_is_one_line(runner: Any) -> None:
    checkTwistdOptions(options())
    told = runner._formatChildException(None, ValueError("one\ntwo"))
    assert told == b"1 echotwist: ValueError: one two"
    assert len(runner._formatChildException(None, ValueError("é" * 5000))) == 4096
    reader, writer = os.pipe()
    for said, status in ((b"0", 0), (told, 1)):
        os.write(writer, said)
        assert runner._waitForStart(None, reader) == status
    os.close(reader)
    os.close(writer)


# USR1, to all of them.


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


# A folder that whoever runs it may not write.


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
