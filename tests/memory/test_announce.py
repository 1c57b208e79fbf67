"""--announce: the line of JSON that says where the service is, and how long it stays."""

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from support.memory import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from echotwist import __version__
from echotwist.fatal import Fatal
from echotwist.listen.location import locate
from echotwist.listen.ports import ListenSpec
from echotwist.operate.announce import Announcement, announced
from echotwist.tap import Options, makeService


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services in memory leave this process its signal handlers."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "echotwist.json"


def service(target: object, *arguments: str) -> Service:
    """In memory, on ports that are nobody's."""
    return Service(f"--announce={target}", *arguments, "--listen=tcp:8080", isFast=False)


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
    assert client.frames() == []  # Who is connected has not even been told.
    one.advance(20)


def test_what_a_killed_process_has_left_is_replaced(file: Path) -> None:
    file.write_text("{}\n")
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.write_text("half")
    one = service(file)
    one.tree.startService()
    # Whoever waits for it would take it for ours.
    assert list(file.parent.iterdir()) == []
    for hook, args, keywords in one.reactor.whenRunningHooks:
        hook(*args, **keywords)
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
        (".", ": is not a file; a descriptor is fd:1"),
        ("link", "link: is not a file; a descriptor is fd:1"),
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
    try:
        with pytest.raises(Fatal, match=f"--announce 'fd:{ours}': is open for reading only"):
            service(f"fd:{ours}")
    finally:
        os.close(ours)
        os.close(theirs)
    with pytest.raises(Fatal, match=f"--announce 'fd:{theirs}': Bad file descriptor"):
        service(f"fd:{theirs}")


@pytest.mark.parametrize("target", ["", "fd:", "fd:x", "fd:-1", "a\0b"])
def test_what_is_neither_a_file_nor_a_descriptor_is_refused(target: str) -> None:
    options = Options()
    with pytest.raises(Fatal, match=r"takes a file such as echotwist\.json, or a descriptor"):
        options.parseOptions([f"--announce={target}"])


def test_a_path_is_that_of_the_folder_in_which_it_was_said() -> None:
    options = Options()
    options.parseOptions(["--announce=x.json"])
    assert options["announce"] == f"{os.getcwd()}/x.json"


def test_the_mode_is_what_the_umask_lets_it_be(file: Path) -> None:
    before = os.umask(0o027)
    try:
        one = service(file)
        one.start()
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    stopped(one)


def test_a_descriptor_has_the_line_and_an_end() -> None:
    ours, theirs = os.pipe()
    one = service(f"fd:{theirs}")
    one.start()
    with open(ours, "rb") as said:
        assert json.loads(said.read())["url"] == "ws://127.0.0.1:8080/echo"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(theirs)
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
        for hook, args, keywords in one.reactor.whenRunningHooks:
            hook(*args, **keywords)
    finally:
        file.parent.mkdir()
    assert log.errors() == [f"--announce {file}: No such file or directory"]
    log.events.clear()
    assert one.reactor.hasStopped
    stopped(one)


def test_a_folder_that_has_come_in_its_place_ends_the_service(file: Path, log: Any) -> None:
    one = service(file)
    one.tree.startService()
    file.mkdir()
    for hook, args, keywords in one.reactor.whenRunningHooks:
        hook(*args, **keywords)
    assert log.errors() == [f"--announce {file}: Is a directory"]
    log.events.clear()
    assert list(file.parent.iterdir()) == [file]
    stopped(one)


def test_a_file_that_cannot_be_removed_costs_one_line(
    file: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = service(file)
    one.start()
    one.tree.services[-2]._target = f"{__file__}/x"
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
