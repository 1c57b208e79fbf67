"""A process that systemd notifies, passes sockets to and confines; as far as that goes without
systemd itself, which is in `trials/machine`."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import confined
from support.certificate import tlsEndpoint
from support.process import TWISTD, Twistd, freePorts, needs
from support.systemd import HERE, SERVICES, UNITS, Holder, Manager

from echotwist.testing.frames import CLOSE, TEXT, binary, close, parse, text
from echotwist.testing.raw import request


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the systemd that runs these tests out of them."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


def answer(s: socket.socket) -> bytes:
    """The head of an HTTP response and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = s.recv(4096)
        assert more, f"closed instead of answered, after {data!r}"
        data += more
    return data


def echo(s: socket.socket, payload: str = "hi") -> None:
    s.sendall(request() + text(payload))
    data = answer(s)
    assert data.startswith(b"HTTP/1.1 101 "), data
    data = data.partition(b"\r\n\r\n")[2]
    while not (frames := parse(data)):
        data += s.recv(4096)
    assert frames[0].payload == payload.encode()


@pytest.mark.slow(reason="the status is sent once a second")
@pytest.mark.parametrize("name", ["notify", "@"])
def test_a_process_notifies_systemd_from_ready_to_stopping(tmp_path: Path, name: str) -> None:
    manager = Manager(f"{tmp_path}/notify" if name == "notify" else f"@{tmp_path}")
    env = {"NOTIFY_SOCKET": manager.where, "WATCHDOG_USEC": "200000"}
    with Holder() as holder, holder.run(env=env) as service:
        assert "READY=1" in manager.until("STATUS=0 connected")[-1]
        with holder.connect() as client:
            echo(client)
            assert "WATCHDOG=1" in manager.until("STATUS=1 connected")
            os.kill(service.pid, signal.SIGTERM)
            manager.until("STOPPING=1")
            assert parse(client.recv(100))[0].payload[:2] == b"\x03\xe9"
            client.sendall(close(1001))
            assert client.recv(100) == b""
        assert service.wait() == 0
    manager.socket.close()


@pytest.mark.slow(reason="hangs for longer than the watchdog waits")
def test_a_hanging_reactor_does_not_notify_the_watchdog(tmp_path: Path) -> None:
    manager = Manager(f"{tmp_path}/notify")
    env = {"NOTIFY_SOCKET": manager.where, "WATCHDOG_USEC": "200000"}
    with Holder() as holder, holder.run(env=env) as service:
        manager.until("WATCHDOG=1")
        os.kill(service.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, service.pid, os.WSTOPPED)
        manager.told()
        manager.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            manager.socket.recv(100)
        os.kill(service.pid, signal.SIGCONT)
        manager.socket.settimeout(20)
        manager.until("WATCHDOG=1")
    manager.socket.close()


class Load(threading.Thread):
    """Connects over and over: for an echo, or if it `stays`, until it is closed with 1001."""

    def __init__(self, holder: Holder, stays: bool) -> None:
        super().__init__()
        self.holder = holder
        self.stays = stays
        self.ends: list[str] = []
        self.going = True

    def run(self) -> None:
        while self.going:
            try:
                with self.holder.connect() as s:
                    self.ends.append(self.visit(s))
            except Exception as e:
                self.ends.append(repr(e))

    def visit(self, s: socket.socket) -> str:
        s.sendall(request())
        head = answer(s)
        if head.startswith(b"HTTP/1.1 503 "):
            return "503"
        data = head.partition(b"\r\n\r\n")[2]
        s.sendall(text("hi") + (b"" if self.stays else close(1000)))
        while not any(frame.opcode == CLOSE for frame in parse(data)):
            more = s.recv(4096)
            assert more, f"no close after {data!r}"
            data += more
        frames = parse(data)
        code = int.from_bytes(frames[-1].payload[:2], "big")
        if code == 1001:
            s.sendall(close(1001))
        elif frames[0].opcode != TEXT:
            return f"not echoed: {frames}"
        return str(code)


@pytest.mark.slow(reason="starts the service five times, under load")
def test_a_restart_under_load_with_socket_activation_refuses_nobody() -> None:
    with Holder() as holder:
        load = [Load(holder, stays=n % 2 == 0) for n in range(8)]
        for turn in range(4):
            with holder.run("--log-rate=0"):
                for client in load:
                    if turn == 0:
                        client.start()
                    client.going = turn < 3
                for _ in range(20):
                    with holder.connect() as s:
                        echo(s)
            # The service has drained and ended. Now no process accepts.
        with holder.run("--log-rate=0"):
            for client in load:
                client.join(20)
                assert not client.is_alive()
    ends = [end for client in load for end in client.ends]
    assert set(ends) <= {"1000", "1001", "503"}
    assert ends.count("1000") > 50
    assert ends.count("1001") >= 8


def test_a_process_answers_a_connection_accepted_just_before_its_drain() -> None:
    with Holder() as holder, holder.run() as service:
        with holder.connect() as early, holder.connect("::1") as half:
            half.sendall(request()[:40])
            with holder.connect() as known:
                known.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert answer(known).startswith(b"HTTP/1.1 200 ")  # The others are accepted, too.
            service.process.send_signal(signal.SIGTERM)
            service.expect(r"TCP Port \d+ Closed")
            for s, rest in ((early, request()), (half, request()[40:])):
                s.sendall(rest)
                assert answer(s).startswith(b"HTTP/1.1 503 ")
        assert service.wait() == 0
        with holder.connect() as later:  # No process accepts it yet: it waits.
            later.sendall(request() + text("hi"))
            with holder.run():
                assert answer(later).startswith(b"HTTP/1.1 101 ")
                later.close()


def test_an_inherited_socket_is_not_shut_down() -> None:
    """shutdown(2) would also end systemd's own descriptor, and all clients that wait."""
    with Holder() as holder:
        with holder.run():
            pass
        assert holder.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_an_inherited_unix_socket_keeps_its_mode_backlog_and_file(tmp_path: Path) -> None:
    """Clients that connect while no process accepts wait in its queue."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen(200)
        path.chmod(0o600)
        activated = [sys.executable, str(HERE / "activated.py"), str(held.fileno())]

        def run() -> Twistd:
            return Twistd(
                "--listen=systemd:domain=UNIX:index=0",
                before=activated, passed=[held.fileno()], ready="taking up to",
            )  # fmt: skip

        def connect() -> socket.socket:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            s.connect(str(path))
            return s

        with run() as service:
            with connect() as s:
                echo(s)
            assert f"listening on unix:{path}" in service.log
            assert path.stat().st_mode & 0o777 == 0o600
        assert path.is_socket()
        # The last listen(2) sets the length of a Unix socket's queue; a full one refuses.
        waiting = [connect() for _ in range(100)]
        with run():
            for s in waiting:
                echo(s)
                s.close()


def test_systemd_socket_activate_starts_it_for_the_first_client() -> None:
    (port,) = freePorts(1)
    # Twisted wants sockets to have names, and this tool gives none by default.
    process = subprocess.Popen(
        [needs("systemd-socket-activate", "systemd"),
         f"--listen=127.0.0.1:{port}", "--fdname=echotwist",
         "-E", "PYTHONPATH", "-E", "PYTHONUNBUFFERED=1", *TWISTD, "-n", "echotwist",
         "--listen=systemd:domain=INET:index=0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        log = process.stdout.readline()
        assert "Listening on 127.0.0.1" in log
        with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
            echo(s)
            s.sendall(close(1000))
        process.terminate()  # It has become twistd.
        log, _ = process.communicate(timeout=20)
        assert process.returncode == 0, log
        assert f"open http://127.0.0.1:{port}/" in log
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def refused(description: str, held: socket.socket | None = None) -> str:
    before = []
    if held is not None:
        before = [sys.executable, str(HERE / "activated.py"), str(held.fileno())]
    run = subprocess.run(
        [*before, *TWISTD, "-n", "echotwist", f"--listen={description}"],
        capture_output=True, text=True, timeout=30, check=False,
        pass_fds=[held.fileno()] if held else [],
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (1, "")
    return run.stderr


@pytest.mark.parametrize("which", ["index=1", "name=other"])
def test_a_socket_that_systemd_did_not_pass_is_one_clear_line(which: str) -> None:
    with Holder() as holder:
        description = f"systemd:domain=INET6:{which}"
        assert refused(description, holder.socket) == (
            f"echotwist: --listen '{description}': systemd has passed no such socket "
            "to this process\n"
        )


def test_a_socket_of_another_domain_is_one_clear_line() -> None:
    """Otherwise the log would name peers that do not exist."""
    with Holder() as holder:
        assert refused("systemd:domain=INET:index=0", holder.socket) == (
            "echotwist: --listen 'systemd:domain=INET:index=0': the socket is domain=INET6\n"
        )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with the path of the twistd under test."""
    for unit in UNITS.iterdir():
        there = unit.read_text().replace("/opt/echotwist/bin/twistd", TWISTD[0])
        (tmp_path / unit.name.replace("@.", "@1.")).write_text(there)
    return tmp_path


def test_the_units_are_valid(installed: Path) -> None:
    run = subprocess.run(
        [needs("systemd-analyze", "systemd"), "verify", *sorted(installed.glob("echotwist*"))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_analyze_rates_the_exposure_of_the_unit_at_most_1_2(unit: str) -> None:
    run = subprocess.run(
        [needs("systemd-analyze", "systemd"),
         "security", "--no-pager", "--offline=true", "--threshold=12", UNITS / unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_the_units_command_works_under_its_seccomp_filter(unit: str) -> None:
    """SystemCallFilter=, MemoryDenyWriteExecute= and RestrictAddressFamilies=, each deadly here."""
    needs("systemd-analyze", "systemd")
    (command,) = confined.settings(UNITS / unit, "ExecStart")
    twistd, _, rest = command.partition(" echotwist ")
    assert twistd == ("/opt/echotwist/bin/twistd -n --pidfile= --logger=echotwist.logs.journald")
    arguments = rest.removesuffix(" $ECHOTWIST_OPTIONS").split()
    assert arguments[:2] == ["--listen", "systemd:domain=INET6:index=0"]
    under = [sys.executable, str(HERE / "confined.py"), str(UNITS / unit)]
    options = ["--logger=echotwist.logs.journald"]
    with Holder() as holder:
        manager = Manager(f"@{holder.port}.echotwist")
        with holder.run(
            *arguments[2:], before=under, options=options, env={"NOTIFY_SOCKET": manager.where}
        ) as service:
            manager.until("READY=1")
            for host in ("127.0.0.1", "::1"):
                with holder.connect(host) as s:
                    echo(s)
                    s.sendall(text("x" * 200_000) + binary(b"\x00" * 70_000) + close(1000))
                    while s.recv(65536):
                        pass
            with holder.connect() as s:
                deflate = request(Sec_WebSocket_Extensions="permessage-deflate")
                s.sendall(deflate + text("hi") + close(1000))
                assert b"permessage-deflate" in answer(s)
        assert "<6>[echotwist#info] #1 127.0.0.1:" in service.log
        manager.socket.close()


@pytest.mark.parametrize("writesCode", [True, False])
def test_tls_needs_the_exceptions_documented_in_the_unit(tmp_path: Path, writesCode: bool) -> None:
    """If this fails, TLS no longer needs it, and MemoryDenyWriteExecute= can be on for all."""
    needs("systemd-analyze", "systemd")
    lines = (UNITS / "echotwist.service").read_text()
    for now, then in (
        ("=AF_UNIX\n", "=AF_UNIX AF_INET AF_INET6\n"),
        ("MemoryDenyWriteExecute=yes", f"MemoryDenyWriteExecute={'no' if writesCode else 'yes'}"),
    ):
        assert now in lines
        lines = lines.replace(now, then)
    unit = tmp_path / "echotwist.service"
    unit.write_text(lines)
    under = [sys.executable, str(HERE / "confined.py"), str(unit)]
    listen = f"--listen={tlsEndpoint(tmp_path)}"
    if not writesCode:
        command = [*under, *TWISTD, "-n", "echotwist", listen]
        run = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert run.returncode == -signal.SIGSYS
        return
    with Twistd(listen, before=under) as service:
        context = ssl._create_unverified_context()
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain:
            with context.wrap_socket(plain) as s:
                echo(s)


def test_the_seccomp_filter_of_the_tests_is_deadly(tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    needs("systemd-analyze", "systemd")
    for code in (
        "import socket; socket.socket(socket.AF_INET)",
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "import os; os.setpriority(os.PRIO_PROCESS, 0, 5)",
        "import os; os.chroot('/')",
    ):
        run = subprocess.run(
            [sys.executable, HERE / "confined.py", UNITS / "echotwist.service",
             sys.executable, "-c", code],
            capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        assert run.returncode == -signal.SIGSYS, (code, run)


def test_instances_share_a_port_with_reuseport() -> None:
    socket_ = UNITS / "echotwist@.socket"
    assert confined.settings(socket_, "ReusePort") == ["yes"]
    with Holder(reusePort=True) as one, Holder(one.port, reusePort=True) as other:
        with one.run() as first, other.run() as second:
            for _ in range(64):
                with one.connect() as s:
                    echo(s)
                    s.sendall(close(1000))
                    assert s.recv(100)
        for service in (first, second):
            assert service.log.count("closed: 1000") > 8
