"""`twistd -n echotwist`: the process, its exit, its log."""

import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest
from support.certificate import tlsEndpoint
from support.memory import Service
from support.process import TWIST, TWISTD, Twistd, freePorts, waitUntilGone

from echotwist.testing.frames import CONTINUATION, TEXT, Frame, close, frame, parse, text
from echotwist.testing.raw import request


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.status, response.read()


def test_it_serves_the_page_and_the_echo_on_both_families() -> None:
    with Twistd() as service:
        for host in ("127.0.0.1", "[::1]", "localhost"):
            assert get(f"http://{host}:{service.port}/")[1].startswith(b"<!doctype html>")
        for host in ("127.0.0.1", "[::1]"):
            with service.connect(host) as client:
                client.send(text("hello") + close(1000))
                assert parse(client.end())[0] == Frame(TEXT, b"hello")
        service.expect(r"#1 127\.0\.0\.1:\d+ text, 5 bytes: 'hello'")
        service.expect(r"#2 \[::1\]:\d+ text, 5 bytes: 'hello'")


def test_a_port_in_use_is_one_clear_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [TWISTD[0], "-n", "echotwist", f"--port={port}"],
            capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    lines = [line for line in (run.stdout + run.stderr).splitlines() if "echotwist:" in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"echotwist: cannot listen on port {port}: Address already in use")
    assert list(tmp_path.iterdir()) == []  # Not even a pid file.


@pytest.mark.parametrize("arguments", [["--port=x"], ["--listen=nothing:1"], ["--nothing"], ["x"]])
def test_a_bad_option_is_one_clear_line_and_status_1(arguments: list[str], tmp_path: Path) -> None:
    run = subprocess.run(
        [*TWISTD, "-n", "echotwist", *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("echotwist: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_status_is_0(number: int) -> None:
    with Twistd() as service, service.connect() as client, service.connect(upgrade=False) as probe:
        ask = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        probe.send(ask)
        assert probe.until(b"ready\n").startswith(b"HTTP/1.1 200 ")
        service.process.send_signal(number)
        data = client.until(b"server going away")
        assert parse(data)[0].payload[:2] == b"\x03\xe9"
        probe.send(ask)
        assert probe.until(b"draining\n").startswith(b"HTTP/1.1 503 ")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), timeout=20)
        client.send(close(1001))
        assert client.end() == b""
        client.close()
        assert service.wait() == 0


@pytest.mark.slow(reason="waits for a drain timeout of 1 s")
def test_a_drain_ends_at_the_drain_timeout_whatever_the_clients_do() -> None:
    with Twistd("--drain-timeout=1s", "--close-timeout=1h") as service, service.connect() as client:
        assert service.stop() == 0
        with pytest.raises(ConnectionResetError):
            client.end()


def test_a_second_signal_ends_the_drain_at_once() -> None:
    with Twistd("--drain-timeout=1h", "--close-timeout=1h") as service, service.connect() as client:
        service.process.send_signal(signal.SIGTERM)
        client.until(b"server going away")
        assert service.stop(signal.SIGINT) == 0


def test_a_closed_terminal_drains_it_unless_it_was_started_by_nohup() -> None:
    # Whatever the tests were started by.
    with Twistd(before=["env", "--default-signal=HUP"]) as service:
        assert service.stop(signal.SIGHUP) == 0
    with Twistd(before=["nohup"]) as service:
        service.process.send_signal(signal.SIGHUP)
        assert get(service.url + "healthz") == (200, b"ok\n")


def echoes(port: int) -> None:
    """To the fast path, back to Autobahn, and to the fast path again."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        s.sendall(request() + text("lent"))
        s.sendall(frame(TEXT, b"retur", fin=False) + frame(CONTINUATION, b"ned") + text("again"))
        s.sendall(close(1000))
        data = b""
        while more := s.recv(1000):
            data += more
    frames = parse(data.partition(b"\r\n\r\n")[2])
    assert [f.payload for f in frames] == [b"lent", b"returned", b"again", b"\x03\xe8"]


@pytest.mark.parametrize("reactor", ["epoll", "poll", "asyncio", "select"])
def test_it_runs_on_every_reactor(reactor: str) -> None:
    command = [TWISTD[0], f"--reactor={reactor}", "--pidfile=", "-n", "echotwist", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := re.search(r"open (http://\S+)", line):
                assert get(match[1] + "healthz") == (200, b"ok\n")
                echoes(int(match[1].rsplit(":")[-1].strip("/")))
                break
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in rest


@pytest.mark.slow(reason="starts two daemons")
def test_as_a_daemon_it_leaves_the_terminal_and_keeps_its_log(tmp_path: Path) -> None:
    log, pid = tmp_path / "log", tmp_path / "pid"
    (port,) = freePorts(1)
    run = subprocess.run(
        [TWISTD[0], f"--pidfile={pid}", f"--logfile={log}", "echotwist", f"--port={port}"],
        capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    daemon = int(pid.read_text())
    try:
        assert get(f"http://127.0.0.1:{port}/healthz") == (200, b"ok\n")
        # A second daemon cannot have the port, and tells the process that started it.
        again = subprocess.run(
            [*TWISTD, f"--logfile={tmp_path}/log2", "echotwist", f"--port={port}"],
            capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
        )  # fmt: skip
        assert again.returncode == 1
        assert f"cannot listen on port {port}" in again.stderr
    finally:
        subprocess.run(["kill", str(daemon)], check=True)
    waitUntilGone(daemon)
    assert not pid.exists()
    assert "Server Shut Down" in log.read_text()


@pytest.mark.slow(reason="starts a supervisor and two workers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [[], ["--workers=2"]], ids=["alone", "workers"])
def test_twist_runs_it_as_twistd_does(workers: list[str], number: int) -> None:
    ready = "workers: 2, all listening" if workers else "taking up to"
    with Twistd(*workers, command=TWIST, options=["--reactor=poll"], ready=ready) as service:
        with service.connect() as client:
            client.send(text("hello"))
            service.expect(r"#\d+ 127\.0\.0\.1:\d+ text, 5 bytes: 'hello'")
            service.process.send_signal(number)
            data = client.until(b"server going away")
            assert parse(data)[0] == Frame(TEXT, b"hello")
            client.send(close(1001))
            assert client.end() == b""
        assert service.wait() == 0
    # This line comes from the twistd of the workers.
    assert "reactor class: twisted.internet.pollreactor" in service.log or not workers


@pytest.mark.parametrize("arguments", [["--port=x"], ["--listen=unix:/nowhere/s"]])
def test_twist_says_in_one_line_why_it_does_not_start(arguments: list[str]) -> None:
    run = subprocess.run(
        [*TWIST, "echotwist", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("echotwist: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_log_survives_a_terminal_of_any_encoding(encoding: str) -> None:
    with Twistd(env={"PYTHONIOENCODING": encoding}) as service, service.connect() as client:
        client.send(text("Grüße 世界") + text("next") + close(1000))
        client.end()
    assert "'next'" in service.log
    assert "#1 127.0.0.1" in service.log.split("text,")[0]
    assert service.log.count("text, ") == 2


def test_help_shows_every_option() -> None:
    run = subprocess.run(
        [*TWISTD, "echotwist", "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0
    assert "--max-message=" in run.stdout
    assert (
        "WebSocket echo"
        in subprocess.run(
            [*TWISTD, "--help"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    )


def reaches(path: Path, group: int) -> bool:
    """Whether another user, of this group, may connect."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(65534)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        return True
    except PermissionError:
        return False
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_unix_socket_is_for_the_group_of_its_folder() -> None:
    """As docs/operations.md has it for nginx. Other users may not enter pytest's own folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, -1, 4711)
        folder.chmod(0o2755)
        where = folder / "echo.sock"
        with Twistd(f"--listen=unix:{where}"):
            assert stat.S_IMODE(where.stat().st_mode) == 0o660
            assert reaches(where, 4711)
            assert not reaches(where, 65534)
        with Twistd(f"--listen=unix:{where}:mode=666"):
            assert reaches(where, 65534)


def test_a_unix_socket_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    where = tmp_path / "echo.sock"
    with Twistd(f"--listen=unix:{where}", check=False) as killed:
        killed.stop(signal.SIGKILL)
    assert where.is_socket()
    with Twistd(f"--listen=unix:{where}"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(where))
        again = subprocess.run(
            [*TWISTD, "-n", "echotwist", f"--listen=unix:{where}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert again.returncode == 1
        assert f"Address already in use, as {where}.lock says\n" in again.stdout + again.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("endpoint", "hosts", "where"),
    [
        ("tcp:0", ["127.0.0.1"], r"http://127\.0\.0\.1:\d+/ .* \(on all IPv4 addresses\)"),
        ("tcp6:0", ["127.0.0.1", "::1"], r"http://localhost:\d+/ .*/echo"),
        ("tcp:0:interface=\\:\\:", ["127.0.0.1", "::1"], r"http://localhost:\d+/ .*/echo"),
        ("tcp:0:interface=localhost", ["127.0.0.1"], r"http://127\.0\.0\.1:\d+/ .*/echo"),
        ("ssl:0", ["127.0.0.1"], r"https://127\.0\.0\.1:\d+/ .* \(on all IPv4 addresses\)"),
        ("ssl:0:interface=\\:\\:", ["127.0.0.1", "::1"], r"https://localhost:\d+/ .*/echo"),
    ],
)
def test_the_logged_urls_are_what_is_served(
    endpoint: str, hosts: list[str], where: str, tmp_path: Path
) -> None:
    if endpoint.startswith("ssl:"):
        endpoint = tlsEndpoint(tmp_path, endpoint.removeprefix("ssl:"))
    with Twistd(f"--listen={endpoint}") as service:
        service.expect(rf"(?m)open {where}$")
        for host in ("127.0.0.1", "::1"):
            if host in hosts:
                socket.create_connection((host, service.port), timeout=20).close()
            else:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, service.port), timeout=20)


def test_a_free_port_is_reserved() -> None:
    """Otherwise another process could take it before the test does."""
    (port,) = freePorts(1)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    for number in (port, port):
        socket.create_server(("127.0.0.1", number)).close()


def test_the_service_in_memory_needs_no_port() -> None:
    """The README's port, 8080, may be in use by someone who tries the service out."""
    services = [Service(), Service()]
    for service in services:
        service.echo.privilegedStartService()
        assert service.echo.isListening


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers=2", "--listen=tcp:{port}", "--admin=tcp:{port}"],
        ["--listen=tcp:{port}", "--admin=tcp:{port}"],
        ["--listen=unix:{path}", "--admin=unix:{path}"],
        ["--listen=unix:{path}:lockfile=0", "--listen=unix:{path}:lockfile=0"],
    ],
)
def test_an_option_given_twice_is_one_clear_line_and_status_1(
    arguments: list[str], tmp_path: Path
) -> None:
    (port,) = freePorts(1)
    options = [argument.format(port=port, path=tmp_path / "s") for argument in arguments]
    run = subprocess.run(
        [*TWISTD, "-n", "echotwist", *options],
        capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    said = [line for line in (run.stdout + run.stderr).splitlines() if "echotwist: " in line]
    twice = options[-1].partition("=")[2]
    (found,) = [line.partition("echotwist: ")[2] for line in said]
    assert found.startswith(f"cannot listen on {twice}: Address already in use")
