"""What systemd is told, what it passes, and what its units say."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import confined
from support.memory import Hung, Service
from support.systemd import SERVICES, UNITS, Holder, Manager
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import implementer

from echotwist.listen.ports import ListenSpec
from echotwist.testing.frames import close, text


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    name = "@" if request.param == "abstract" else ""
    manager = Manager(f"{name}{tmp_path}/notify")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.where)
    yield manager
    manager.socket.close()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the systemd that runs these tests, and this process's signal handlers, out of it."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)


@implementer(IStreamServerEndpoint)
class Endpoint:
    def __init__(self, listening: "Deferred[Any]") -> None:
        self.listening = listening

    def listen(self, factory: Any) -> "Deferred[Any]":
        return self.listening


class Listening:
    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def stopListening(self) -> None:
        pass


def started(*arguments: str, listening: Any = None, isFast: bool = False) -> Service:
    service = Service(*arguments, isFast=isFast)
    service.echo._specs = [
        ListenSpec("x", Endpoint(listening or succeed(Listening())), service.site)
    ]
    service.start()
    return service


def test_without_systemd_nothing_is_notified_and_no_timer_runs() -> None:
    service = started()
    assert service.timers() == 0
    done: list[Any] = []
    service.tree.stopService().addCallback(done.append)
    service.run()
    assert done


def test_systemd_is_notified_ready_when_it_listens(manager: Manager) -> None:
    service = Service("--listen=tcp:1", isFast=False)
    service.tree.startService()
    assert manager.told() == []
    for hook, args, keywords in service.reactor.whenRunningHooks:
        hook(*args, **keywords)
    assert manager.told() == ["READY=1\nSTATUS=0 connected"]


def test_systemd_is_not_notified_ready_before_it_listens_everywhere(manager: Manager) -> None:
    listening: Deferred[Any] = Deferred()
    service = started(listening=listening)
    service.advance(5)
    assert manager.told() == []
    listening.callback(Listening())
    service.advance(1)
    assert manager.told() == ["READY=1\nSTATUS=0 connected"]


def test_systemd_status_has_the_connections_once_a_second(manager: Manager) -> None:
    service = started("--ping-interval=0")
    manager.told()
    clients = [service.open() for _ in range(3)]
    assert manager.told() == []
    service.advance(1)
    assert manager.told() == ["STATUS=3 connected"]
    service.advance(60)
    assert manager.told() == []
    clients[0].send(close(1000))
    clients[0].finish()
    service.advance(1)
    assert manager.told() == ["STATUS=2 connected"]


def test_systemd_is_notified_of_a_drain_and_its_timeout(manager: Manager) -> None:
    service = started("--drain-timeout=2m", "--close-timeout=3s")
    service.open()
    service.advance(1)
    manager.told()
    done: list[Any] = []
    service.tree.stopService().addCallback(done.append)
    assert manager.told() == [
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=130000000",
        "STATUS=draining, 1 connected",
    ]
    service.advance(2.9)
    assert manager.told() == []
    service.advance(3)
    assert done
    assert manager.told() == ["STATUS=draining, 0 connected"]
    assert service.timers() == 0


def test_the_watchdog_is_notified_in_half_of_its_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    service = started("--ping-interval=0", "--close-timeout=1h", "--drain-timeout=1h")
    assert manager.told()[1:] == ["WATCHDOG=1"]
    service.advance(14.9)
    assert manager.told() == []
    service.advance(60)
    assert manager.told() == ["WATCHDOG=1"] * 4
    service.open()
    service.tree.stopService()
    manager.told()
    service.advance(60)
    assert manager.told() == ["WATCHDOG=1"] * 4  # A long drain is no hang.


def test_the_watchdog_is_not_notified_while_a_thread_hangs(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    service = started("--ping-interval=0", "--threads=2", isFast=True)
    service.advance(60)
    assert manager.told()[1:] == ["WATCHDOG=1"] * 5
    thread = service.fastPath._running[0][1]
    loop, thread.loop = thread.loop, Hung()
    service.advance(120)
    assert manager.told() == ["WATCHDOG=1"]  # It had not been asked yet.
    assert log.errors() == ["thread 1 of the fast path hangs: no answer in 15 s"]
    log.events.clear()
    thread.loop = loop
    service.advance(30)
    assert manager.told() == ["WATCHDOG=1"] * 2
    Service.closeAll()


@pytest.mark.parametrize(
    ("microseconds", "pid"), [("30000000", "1"), ("", ""), ("0", None), ("x", None), ("-1", None)]
)
def test_the_watchdog_of_another_process_is_not_notified(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    service = started()
    service.advance(100)
    assert manager.told() == ["READY=1\nSTATUS=0 connected"]


def test_a_notify_socket_that_is_gone_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    service = started("--ping-interval=0")
    client = service.open()
    service.advance(100)
    client.send(text("hi"))
    assert [f.payload for f in client.frames()] == [b"hi"]
    assert log.errors() == [
        f"cannot notify '{tmp_path}/notify': [Errno 2] No such file or directory"
    ]
    manager = Manager(f"{tmp_path}/notify")  # It is back.
    service.advance(1)
    assert manager.told() == ["READY=1\nSTATUS=1 connected"]
    manager.socket.close()
    service.tree.stopService()
    log.events.clear()


def test_a_busy_systemd_is_not_waited_for(manager: Manager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(manager.socket.getsockname())
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"x")
    service = started()
    assert set(manager.told()) == {"x"}
    service.advance(1)
    assert manager.told() == ["READY=1\nSTATUS=0 connected"]


def test_sockets_passed_by_systemd_are_adopted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twisted.internet.endpoints import _SystemdParser
    from twisted.python.systemd import ListenFDs

    with Holder() as holder:
        fd = holder.socket.fileno()
        monkeypatch.setattr(_SystemdParser, "_sddaemon", ListenFDs([fd], ["a"]))
        service = Service("--listen=systemd:domain=INET6:index=0", isFast=False)
        (listener,) = service.echo._specs
        assert listener.endpoint.fileno == fd
        for description, why in (
            ("systemd:domain=INET:name=a", "the socket is domain=INET6"),
            ("systemd:domain=INET6:name=b", "systemd has passed no such socket"),
            ("haproxy:systemd:domain=INET6:index=1", "systemd has passed no such socket"),
        ):
            with pytest.raises(SystemExit, match=why):
                Service(f"--listen={description}", isFast=False)


def test_a_passed_descriptor_that_is_no_socket_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from twisted.internet.endpoints import _SystemdParser
    from twisted.python.systemd import ListenFDs

    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(_SystemdParser, "_sddaemon", ListenFDs([file.fileno()], ["a"]))
        with pytest.raises(SystemExit, match=r"what systemd has passed .* is not a socket"):
            Service("--listen=systemd:domain=INET6:index=0", isFast=False)


# The units.


def test_the_template_unit_is_confined_like_the_single_one() -> None:
    one, instance = ((UNITS / unit).read_text().partition("\nDynamicUser=")[2] for unit in SERVICES)
    assert one.partition("[Install]")[0] == instance.partition("[Install]")[0] != ""


@pytest.mark.parametrize("unit", ["echotwist.socket", "echotwist@.socket"])
def test_a_socket_unit_has_one_socket_for_its_domain(unit: str) -> None:
    """Twisted cannot tell two of the same name apart, and the service says INET6."""
    (listen,) = confined.settings(UNITS / unit, "ListenStream")
    assert listen.startswith("[::]:")
