"""--announce: the line of JSON that says where the service is, and how long it stays."""

import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memory import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.scripts._twistd_unix import ServerOptions

from echotwist import __version__, fatal
from echotwist.fatal import Fatal
from echotwist.listen.location import locate
from echotwist.listen.ports import ListenSpec
from echotwist.operate.announce import MAX_SIZE, Announcement, announced
from echotwist.tap import Options, makeService


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services in memory leave this process its signal handlers."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> list[Fatal]:
    """What a service in memory has failed by."""
    failures: list[Fatal] = []
    monkeypatch.setattr(fatal, "failures", failures)
    return failures


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, the end of which for writing was passed on as a parent process does. The service
    closes that one."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    yield ours, theirs
    os.close(ours)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "echotwist.json"


def service(target: object, *arguments: str) -> Service:
    """In memory, on ports that are nobody's."""
    return Service(f"--announce={target}", *arguments, "--listen=tcp:8080", isFast=False)


def run(service: Service) -> None:
    """What the reactor does as it starts to run, when the services have been started."""
    for hook, args, keywords in service.reactor.whenRunningHooks:
        hook(*args, **keywords)


def stopped(service: Service) -> None:
    done: list[Any] = []
    service.tree.stopService().addCallback(done.append)
    service.advance(1)
    assert done


def test_the_file_says_where_it_listens(file: Path) -> None:
    one = service(file, "--admin=tcp:9090:interface=127.0.0.1")
    one.start()
    assert file.read_text().count("\n") == 1
    assert json.loads(file.read_text()) == {
        "url": "ws://127.0.0.1:8080/echo",
        "page": "http://127.0.0.1:8080/",
        "admin": "http://127.0.0.1:9090/",
        "pid": os.getpid(),
        "version": __version__,
        "listeners": [
            {
                "endpoint": "tcp:8080",
                "url": "ws://127.0.0.1:8080/echo",
                "page": "http://127.0.0.1:8080/",
                "unix": None,
                "proxied": False,
            }
        ],
    }
    stopped(one)
    assert list(file.parent.iterdir()) == []


def test_the_first_url_is_one_that_a_client_reaches_by_itself() -> None:
    class Served:
        isListening = True

        def locations(self, isAdmin: bool = False) -> Any:
            endpoints = {
                "haproxy:ssl:1": IPv4Address("TCP", "127.0.0.1", 1),
                "unix:/run/x": UNIXAddress(b"/run/x"),
                "fd": UNIXAddress(None),
                "ssl:2": IPv6Address("TCP", "::1", 2),
                "tcp6:3": IPv6Address("TCP", "::", 3),
            }
            if isAdmin:
                endpoints = {"unix:/run/admin": UNIXAddress(b"/run/admin")}
            return [locate(where, address, lambda: True) for where, address in endpoints.items()]

    said = announced(Served())
    assert [
        (one["url"], one["page"], one["unix"], one["proxied"]) for one in said["listeners"]
    ] == [
        ("wss://127.0.0.1:1/echo", "https://127.0.0.1:1/", None, True),
        ("ws://localhost/echo", "http://localhost/", "/run/x", False),
        (None, None, None, False),
        ("wss://[::1]:2/echo", "https://[::1]:2/", None, False),
        ("ws://localhost:3/echo", "http://localhost:3/", None, False),
    ]
    assert (said["url"], said["page"]) == ("wss://[::1]:2/echo", "https://[::1]:2/")
    assert said["admin"] is None


def test_it_is_not_there_before_the_service_listens_everywhere(file: Path) -> None:
    class Listening:
        def getHost(self) -> IPv4Address:
            return IPv4Address("TCP", "127.0.0.1", 1)

        def stopListening(self) -> None:
            pass

    class Endpoint:
        def listen(self, factory: Any) -> "Deferred[Any]":
            return listening

    listening: Deferred[Any] = Deferred()
    one = service(file)
    one.echo._specs = [ListenSpec("x", Endpoint(), one.site)]  # type: ignore[arg-type]
    one.start()
    one.advance(5)
    assert not file.exists()
    listening.callback(Listening())
    one.advance(0.02)
    assert json.loads(file.read_text())["url"] == "ws://127.0.0.1:1/echo"
    assert one.timers() == 0
    stopped(one)


def test_a_service_that_stops_before_it_listens_announces_nothing(file: Path) -> None:
    class Endpoint:
        def listen(self, factory: Any) -> "Deferred[Any]":
            return Deferred()

    one = service(file)
    one.echo._specs = [ListenSpec("x", Endpoint(), one.site)]  # type: ignore[arg-type]
    one.start()
    stopped(one)
    assert one.timers() == 0
    assert not file.exists()


def test_a_drain_removes_it_at_its_first_moment(file: Path) -> None:
    one = service(file)
    one.start()
    client = one.open()
    one.tree.stopService()
    assert not file.exists()
    assert client.frames() == []  # Not even the clients have been told.
    one.advance(20)


def announcement(pid: object) -> str:
    return json.dumps({"pid": pid, "listeners": []}) + "\n"


def endedPid() -> int:
    """That of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("isEmpty", [False, True])
def test_what_a_killed_process_or_mktemp_has_left_is_replaced(file: Path, isEmpty: bool) -> None:
    file.write_text("" if isEmpty else announcement(endedPid()))
    neighbour = file.with_name(f"{file.name}.{os.getpid()}")
    neighbour.write_text("somebody's")
    one = service(file)
    one.tree.startService()
    # A program that waits for ours would take it for that.
    assert list(file.parent.iterdir()) == [neighbour]
    run(one)
    assert json.loads(file.read_text())["pid"] == os.getpid()
    stopped(one)
    assert neighbour.read_text() == "somebody's"


@pytest.mark.parametrize(
    "content",
    ["x", "[]", "{}", "{", "é", "[" * 100_000, '{"pid": 1}', announcement("1"), announcement(True),
     announcement(0), announcement(-1), announcement(1 << 31),
     announcement(1) + " " * MAX_SIZE],
)  # fmt: skip
def test_a_file_that_is_no_announcement_stays(file: Path, content: str) -> None:
    file.write_text(content, encoding="latin-1")
    error = f"--announce {file}: there is a file that is no announcement; remove it first"
    with pytest.raises(Fatal, match=f"^echotwist: {re.escape(error)}$"):
        service(file).tree.startService()
    assert file.read_text(encoding="latin-1") == content
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("isOurs", [True, False])
def test_the_announcement_of_a_process_that_runs_is_replaced_with_a_warning(
    file: Path, log: Any, isOurs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(announcement(os.getppid()))
    if not isOurs:

        def kill(pid: int, number: int) -> None:
            raise PermissionError(errno.EPERM, "")

        monkeypatch.setattr(os, "kill", kill)  # Root may signal every process.
    one = service(file)
    one.start()
    assert log.errors() == [
        f"--announce {file}: replaces that of process {os.getppid()}, which runs"
    ]
    log.events.clear()
    assert json.loads(file.read_text())["pid"] == os.getpid()
    stopped(one)


def test_what_another_service_has_put_there_stays(file: Path) -> None:
    first, second = service(file), service(file)
    first.start()
    second.start()
    stopped(first)
    assert file.exists()
    stopped(second)
    assert not file.exists()


def test_a_file_that_somebody_has_removed_is_not_missed(file: Path) -> None:
    one = service(file)
    one.start()
    file.unlink()
    stopped(one)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("nowhere/x", "nowhere/x: No such file or directory"),
        ("file/x", "file/x: Not a directory"),
        (".", ": is not a regular file; a descriptor is fd:1"),
        ("link", "link: is not a regular file; a descriptor is fd:1"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(
    target: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Fatal, match=rf"^echotwist: --announce .*{re.escape(error)}$"):
        service(target).tree.startService()
    assert sorted(tmp_path.iterdir()) == before


def test_a_descriptor_that_cannot_be_written_is_one_clear_line() -> None:
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    try:
        with pytest.raises(Fatal, match=f"--announce 'fd:{ours}': is open for reading only"):
            service(f"fd:{ours}")
        # As one that the reactor has opened.
        with pytest.raises(Fatal, match=f"--announce 'fd:{theirs}': was not passed on by the"):
            service(f"fd:{theirs}")
    finally:
        os.close(ours)
        os.close(theirs)
    with pytest.raises(Fatal, match=f"--announce 'fd:{theirs}': Bad file descriptor"):
        service(f"fd:{theirs}")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_daemon_has_no_standard_streams(number: int) -> None:
    twistd = ServerOptions()
    twistd.parseOptions(["--pidfile="])
    options = Options()
    options.parent = twistd
    with pytest.raises(Fatal, match=f"--announce 'fd:{number}': is /dev/null in a daemon; give a"):
        options.parseOptions([f"--announce=fd:{number}"])


@pytest.mark.parametrize("target", ["", "fd:", "fd:x", "fd:-1", "a\0b"])
def test_what_is_neither_a_file_nor_a_descriptor_is_refused(target: str) -> None:
    options = Options()
    with pytest.raises(Fatal, match=r"takes a file such as echotwist\.json, or a descriptor"):
        options.parseOptions([f"--announce={target}"])


def test_a_path_is_that_of_the_folder_in_which_it_was_said() -> None:
    options = Options()
    options.parseOptions(["--announce=x.json"])
    assert str(options["announce"]) == f"{os.getcwd()}/x.json"


def test_the_mode_is_what_the_umask_lets_it_be(file: Path) -> None:
    before = os.umask(0o027)
    try:
        one = service(file)
        one.start()
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    stopped(one)


def test_a_descriptor_has_the_line_and_an_end(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    one = service(f"fd:{theirs}")
    one.start()
    assert json.loads(os.read(ours, 65536))["url"] == "ws://127.0.0.1:8080/echo"
    assert os.read(ours, 1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(theirs)
    stopped(one)


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_pipe_fails_the_service_and_does_not_hang_it(
    pipe: tuple[int, int], room: int, log: Any, failures: list[Fatal]
) -> None:
    """With room for a part of the line as well."""
    _, theirs = pipe
    size = fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 65536)
    os.write(theirs, b"x" * (size - room))
    kept = os.dup(theirs)
    one = service(f"fd:{theirs}", *["--listen=tcp:8081"] * (room // 100))
    one.start()
    assert log.errors() == [f"echotwist: --announce fd:{theirs}: has no room for the line"]
    log.events.clear()
    assert one.reactor.hasStopped
    assert [str(why) for why in failures] == [
        f"echotwist: --announce fd:{theirs}: has no room for the line"
    ]
    # The parent process shares this flag.
    assert os.get_blocking(kept)
    os.close(kept)
    stopped(one)


def test_a_pipe_that_nobody_reads_fails_the_service(log: Any, failures: list[Fatal]) -> None:
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    one = service(f"fd:{theirs}")
    os.close(ours)
    one.start()
    assert log.errors() == [f"echotwist: --announce fd:{theirs}: Broken pipe"]
    log.events.clear()
    assert one.reactor.hasStopped
    assert len(failures) == 1
    stopped(one)


def test_a_full_disk_fails_the_service(log: Any, failures: list[Fatal]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.set_inheritable(full, True)
    one = service(f"fd:{full}")
    one.start()
    assert log.errors() == [f"echotwist: --announce fd:{full}: No space left on device"]
    log.events.clear()
    assert one.reactor.hasStopped
    assert len(failures) == 1
    stopped(one)


def test_the_standard_output_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    one = service("fd:1")
    one.start()
    os.fstat(1)
    assert json.loads(capfd.readouterr().out)["pid"] == os.getpid()
    stopped(one)


def test_a_folder_that_is_gone_meanwhile_ends_the_service(file: Path, log: Any) -> None:
    one = service(file)
    one.tree.startService()
    file.parent.rmdir()
    try:
        run(one)
    finally:
        file.parent.mkdir()
    assert log.errors() == [f"echotwist: --announce {file}: No such file or directory"]
    log.events.clear()
    assert one.reactor.hasStopped
    stopped(one)


def test_a_folder_that_has_come_in_its_place_ends_the_service(file: Path, log: Any) -> None:
    one = service(file)
    one.tree.startService()
    file.mkdir()
    run(one)
    assert log.errors() == [f"echotwist: --announce {file}: Is a directory"]
    log.events.clear()
    assert one.reactor.hasStopped
    assert list(file.parent.iterdir()) == [file]
    stopped(one)


def test_a_file_that_cannot_be_removed_costs_one_line(
    file: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = service(file)
    one.start()
    one.tree.services[-2]._target.path = f"{__file__}/x"
    stopped(one)
    assert log.errors() == [f"--announce {__file__}/x: Not a directory"]
    log.events.clear()


def test_a_worker_leaves_it_to_its_supervisor(file: Path) -> None:
    one = service(file, "--worker=1/2")
    one.start()
    assert not file.exists()
    stopped(one)


def test_with_workers_the_supervisor_announces(file: Path) -> None:
    options = Options()
    options.parseOptions(["--workers=2", "--port=0", f"--announce={file}"])
    *_, supervisor, announcement, _ = makeService(options, MemoryReactorClock())
    assert isinstance(announcement, Announcement)
    assert announcement._served is supervisor
