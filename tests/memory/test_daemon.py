"""The twistd around the service: its options, its errors, its log's file."""

import errno
import os
import pwd
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.logger import ILogObserver
from twisted.scripts._twistd_unix import ServerOptions

from echotwist import fatal
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

    for name in ("run", "_waitForStart", "_formatChildException"):
        monkeypatch.setattr(UnixApplicationRunner, name, getattr(UnixApplicationRunner, name))
    return UnixApplicationRunner


def observer(*arguments: str, debug: bool = False) -> Any:
    application: Any = Application("echotwist")
    Daemon(options(*arguments, debug=debug)).setServiceParent(application)
    return application.getComponent(ILogObserver, None)


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
    file.write_text(Path("/proc/sys/kernel/pid_max").read_text())  # No process has that one.
    checkTwistdOptions(options(f"--pidfile={file}"))
    file.write_text(str(os.getpid()))
    checkTwistdOptions(options(f"--pidfile={file}"))
    assert not file.exists()


def test_a_service_that_fails_while_it_runs_ends_with_status_1(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkTwistdOptions(options())
    monkeypatch.setattr(fatal, "failures", [])
    ran: list[str] = []

    class Runner(runner):
        preApplication = createOrGetApplication = lambda self: None
        postApplication = lambda self: ran.append("service")  # noqa: E731

        def __init__(self) -> None:
            self.logger = Logger()

    class Logger:
        def start(self, application: object) -> None:
            pass

        def stop(self) -> None:
            ran.append("log")

    Runner().run()
    fatal.failures.append(Fatal("no"))
    with pytest.raises(SystemExit) as ended:
        Runner().run()
    assert ended.value.code == 1
    assert ran == ["service", "log"] * 2


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
