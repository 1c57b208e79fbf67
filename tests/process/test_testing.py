"""echotwist.testing: the service as a fixture, in a process."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support.echoes
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client
from twisted.application import app
from twisted.scripts.twistd import runApp

import twisted.plugins
from echotwist import __version__, testing
from echotwist.testing import NotStarted, ServiceProcess, child, plugin, process
from echotwist.testing.certificates import Authority
from echotwist.testing.frames import TEXT, Frame, close, text
from echotwist.testing.raw import RawClient


def isGone(pid: int) -> bool:
    """Waits for it. A zombie is not gone."""
    waited = subprocess.run(
        ["timeout", "20", "tail", f"--pid={pid}", "-f", "/dev/null"], check=False
    )
    return waited.returncode == 0 and not Path(f"/proc/{pid}").exists()


def echoes(service: ServiceProcess, message: str = "hello") -> None:
    support.echoes.echoes(service.url, [message], service.clientContext)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, and that of temporary files; it is empty at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_it_starts_echoes_and_leaves_nothing(folder: Path, tls: bool) -> None:
    (plugins,) = (Path(path) for path in twisted.plugins.__path__ if "site-packages" in path)
    before = {path: path.stat().st_mtime_ns for path in plugins.iterdir() if path.is_file()}
    with ServiceProcess("--max-message=1M", tls=tls) as service:
        secure = "s" * tls
        assert re.fullmatch(rf"ws{secure}://127\.0\.0\.1:\d+/echo", service.url)
        assert re.fullmatch(rf"http{secure}://127\.0\.0\.1:\d+/", service.page)
        assert service.options == ("--max-message=1M",)
        assert service.version == __version__
        os.kill(service.pid, 0)
        echoes(service)
        with urllib.request.urlopen(service.page, context=service.clientContext) as page:
            assert page.read().startswith(b"<!doctype html>")
        record = service.expect("text, 5 bytes: 'hello'")
        assert (record["level"], record["size"]) == ("info", 5)
        assert record in service.log
        received = 'echotwist_messages_total{direction="received",type="text"}'
        assert service.metrics()[received] == 1
    assert isGone(service.pid)
    assert service.stop() == 0
    assert service.log[-1]["message"] == "Server Shut Down."
    assert {path: path.stat().st_mtime_ns for path in plugins.iterdir() if path.is_file()} == before


def test_its_authority_is_for_other_clients_too() -> None:
    with ServiceProcess(tls=True) as service:
        context = ssl.create_default_context(cafile=service.caFile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        for name in ("127.0.0.1", "localhost"):
            url = service.page.replace("127.0.0.1", name)
            with urllib.request.urlopen(f"{url}healthz", context=context) as answer:
                assert answer.read() == b"ok\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            RawClient(service.url, context=ssl.create_default_context())
        with RawClient(service.url, context=service.clientContext) as client:
            client.send(text("raw") + close(1000))
            assert client.frame() == Frame(TEXT, b"raw")
    assert service.clientContext is None
    assert service.caFile is None


@pytest.mark.slow(reason="starts the service three times")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_it_restarts_on_its_port_which_nobody_gets_meanwhile(tls: bool) -> None:
    with ServiceProcess(tls=tls) as service:
        url, pid, ca = service.url, service.pid, service.caFile
        port = int(url.split(":")[2].split("/")[0])
        assert service.stop() == 0
        assert not service.isRunning
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        service.restart()
        assert (service.url, service.caFile) == (url, ca)
        assert service.pid != pid
        echoes(service)
        service.restart()
        echoes(service)


def test_where_a_port_is_bound_once_it_restarts_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceProcess, "reservesPort", False)
    with ServiceProcess() as service:
        url = service.url
        service.restart()
        assert service.url == url
        echoes(service)


def test_it_can_be_killed_and_started_again() -> None:
    with ServiceProcess() as service, RawClient(service.url) as client:
        service.kill()
        assert client.gone() == b""
        assert service.wait() == -signal.SIGKILL
        service.start()
        echoes(service)


def test_clients_that_do_not_leave_are_cut_off() -> None:
    with ServiceProcess("--drain-timeout=1h", "--close-timeout=1h") as service:
        with RawClient(service.url) as client:
            assert service.stop(patience=0.2) == 0
            assert b"server going away" in client.gone()


def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ABORT", 0.1)
    with ServiceProcess() as service:
        os.kill(service.pid, signal.SIGSTOP)
        assert service.stop(patience=0.1) == -signal.SIGKILL


def test_what_it_cannot_do_before_its_start() -> None:
    service = ServiceProcess()
    assert service.stop() is None
    assert service.wait() is None
    service.kill()
    assert service.close() is None
    assert service.listeners == []
    with pytest.raises(RuntimeError, match="was not started"):
        _ = service.url


def test_it_starts_once() -> None:
    with ServiceProcess() as service, pytest.raises(RuntimeError, match="runs already"):
        service.start()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_why_it_does_not_start(folder: Path, tls: bool) -> None:
    service = ServiceProcess("--max-message=lots", tls=tls)
    with pytest.raises(NotStarted, match=r"^echotwist: --max-message 'lots': takes a size"):
        service.start()
    assert not service.isRunning


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = ServiceProcess(f"--listen=tcp:{port}:interface=127.0.0.1")
        with pytest.raises(NotStarted, match=r"cannot listen on .*: Address already in use"):
            service.start()


def test_one_that_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START", 0.0)
    service = ServiceProcess()
    with pytest.raises(NotStarted, match="does not say in 0 s that it is ready"):
        service.start()
    assert not service.isRunning


def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MAIN", "raise SystemExit(3)")
    with pytest.raises(NotStarted, match=r"^exit status 3$"):
        ServiceProcess().start()


def test_a_python_that_cannot_be_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"{folder}/python")
    service = ServiceProcess(tls=True)
    with pytest.raises(NotStarted, match="No such file"):
        service.start()
    service.close()


def test_what_is_not_in_the_log() -> None:
    with ServiceProcess() as service:
        service.expect("taking")  # It is ready before a thread has read what it logged.
        with pytest.raises(AssertionError, match=r"'nothing' is not in the log:\n(.|\n)*taking"):
            service.expect("nothing", timeout=0.1)


def test_a_line_that_is_no_record_is_a_message() -> None:
    assert process._record("Traceback\n") == {"message": "Traceback"}
    assert process._record("1\n") == {"message": "1"}


def test_its_options_may_say_where_it_listens(tmp_path: Path) -> None:
    where = tmp_path / "echo.sock"
    with ServiceProcess(f"--listen=unix:{where}", f"--admin=unix:{tmp_path}/admin") as service:
        (listener,) = service.listeners
        assert (listener["unix"], listener["url"]) == (str(where), "ws://localhost/echo")
        with websockets.sync.client.unix_connect(str(where), listener["url"]) as client:
            client.send("hello")
            assert client.recv() == "hello"
        with pytest.raises(ValueError, match="has no url"):
            _ = service.url
        with pytest.raises(ValueError, match="has no admin"):
            service.metrics()
    with pytest.raises(ValueError, match="tls has an endpoint of its own"):
        ServiceProcess("-p", "0", tls=True)


@pytest.mark.slow(reason="starts a supervisor and two workers")
def test_it_has_workers() -> None:
    with ServiceProcess("--workers=2", tls=True) as service:
        echoes(service)
        names = service.metrics()
        assert all(f'echotwist_connections_open{{worker="{n}"}}' in names for n in (1, 2))
        workers = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        assert len(workers) == 2
        with RawClient(service.url, context=service.clientContext, timeout=3) as client:
            service.kill()
            with contextlib.suppress(ssl.SSLEOFError):
                assert client.gone() == b""
        assert all(isGone(int(pid)) for pid in workers)


@pytest.mark.parametrize("option", [["--max-message=1k"], 5, Path("/")])
def test_an_option_that_is_not_a_string(option: Any, echotwist_start: Any) -> None:
    for start in (ServiceProcess, echotwist_start):
        with pytest.raises(TypeError, match=r"options are strings, such as .*, not "):
            start(option)


def test_an_environment_is_added_and_systemds_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nothing")
    with ServiceProcess(environment={"HELLO": "world"}) as service:
        environment = Path(f"/proc/{service.pid}/environ").read_bytes().split(b"\0")
    assert b"HELLO=world" in environment
    assert not any(b"NOTIFY_SOCKET" in each for each in environment)


def test_clients_in_the_same_event_loop_leave_in_order() -> None:
    async def run() -> tuple[int, int]:
        async with ServiceProcess() as service:
            client = await websockets.asyncio.client.connect(service.url)
            await client.send("hello")
            assert await client.recv() == "hello"
            reading = asyncio.ensure_future(client.recv())
            await asyncio.sleep(0)
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            await reading
        return client.close_code or 0, service.stop() or 0

    assert asyncio.run(run()) == (1001, 0)


def test_a_start_that_is_cancelled_leaves_nothing(folder: Path) -> None:
    async def run(service: ServiceProcess) -> None:
        async with asyncio.timeout(0.01):
            async with service:
                raise AssertionError("it started at once")

    service = ServiceProcess(tls=True)
    with pytest.raises(TimeoutError):
        asyncio.run(run(service))
    assert not service.isRunning


def test_a_start_that_is_cancelled_again_leaves_nothing(folder: Path) -> None:
    service = ServiceProcess(tls=True)

    async def run() -> None:
        starting = asyncio.ensure_future(service.__aenter__())
        while not starting.done():
            starting.cancel()
            await asyncio.sleep(0.05)
        assert starting.cancelled()

    asyncio.run(run())
    assert not service.isRunning


@pytest.mark.slow(reason="starts the service three times")
def test_it_starts_again_after_its_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old port is in TIME_WAIT, since the service closed the connection first."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # That is for the tests.
    service = ServiceProcess()
    for _ in range(3):
        with service:
            echoes(service)


def test_a_port_that_cannot_be_had_is_why_it_does_not_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    service = ServiceProcess(tls=True)
    monkeypatch.setattr(os, "pipe", exhausted)
    with pytest.raises(NotStarted, match="Too many open files"):
        service.start()
    assert service._reservation is None


def test_a_fork_leaves_the_service_to_its_parent() -> None:
    with ServiceProcess(tls=True) as service:
        pid = os.fork()
        if not pid:
            service.stop()
            service.kill()
            service.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert service.caFile is not None
        assert service.caFile.exists()
        echoes(service)


def test_another_process_can_neither_stop_nor_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with ServiceProcess(tls=True) as service:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(service, "_starter", 0)
            assert service.stop() is None
            service.kill()
            assert service.close() is None
        echoes(service)


@pytest.mark.parametrize("mark", [pytest.mark.echotwist(tls=True), pytest.mark.echotwist([1])])
def test_a_marker_that_is_wrong_says_what_it_takes(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.fail.Exception, match="takes options as strings, such as"):
        plugin._optionsOf(mark.mark)


def test_clients_are_cut_off_at_once_without_patience() -> None:
    for _ in range(3):
        with ServiceProcess() as service, RawClient(service.url):
            assert service.stop(patience=0) == 0


@pytest.mark.slow(reason="the service stands still for 2 s, as on a machine that is busy")
def test_clients_are_cut_off_even_if_the_first_signal_is_seen_late() -> None:
    with ServiceProcess() as service, RawClient(service.url):
        os.kill(service.pid, signal.SIGSTOP)
        going = threading.Timer(2, os.kill, (service.pid, signal.SIGCONT))
        going.start()
        assert service.stop(patience=0) == 0
        going.join()


def test_one_that_drains_serves_nobody() -> None:
    with ServiceProcess() as service, RawClient(service.url):
        assert service.isServing
        os.kill(service.pid, signal.SIGTERM)
        service.expect("draining")
        assert service.isRunning
        assert not service.isServing


def test_it_serves_with_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    """Such as the operator's own; it was restarted for each test."""
    theirs = Authority(tmp_path).endpoint(0)
    with ServiceProcess(f"--listen={theirs}", f"--admin={theirs}") as service:
        assert service.isServing
        assert service.metrics()["echotwist_connections_open"] == 0


def test_an_answer_that_is_no_success_is_an_error() -> None:
    with ServiceProcess() as service, pytest.raises(OSError, match="404 Not Found"):
        process._get(f"{service.page}nothing")


def test_whether_it_serves_is_not_known_of_an_address_without_a_port(tmp_path: Path) -> None:
    with ServiceProcess(f"--listen=unix:{tmp_path}/socket") as service:
        assert service.isServing
    assert not service.isServing


def test_each_message_is_in_the_log_and_those_before_a_restart_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # For others.
    with ServiceProcess() as service:
        with RawClient(service.url) as client:
            client.send(text("x") * 300 + close(1000))
            client.gone()
        service.expect("closed: 1000")
        assert sum(record.get("event") == "message" for record in service.log) == 300
        assert (
            service.metrics()['echotwist_messages_total{direction="received",type="text"}'] == 300
        )
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
        service.start()
        assert not [record for record in service.log if record.get("event") == "message"]
        service.stop()
        with pytest.raises(RuntimeError, match="does not run"):
            service.metrics()


SCRIPT = """
import signal, sys
from echotwist.testing import ServiceProcess

with ServiceProcess(*sys.argv[2:], tls=True) as service:
    print(service.pid, service.caFile.parent, flush=True)
    signal.pause()
"""


@pytest.mark.slow(reason="starts Python twice, or four times with workers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("options", [[], ["--workers=2"]], ids=["alone", "workers"])
def test_it_ends_with_the_process_that_has_started_it(
    tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    tests = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "script", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert tests.stdout is not None
    pid, folder = tests.stdout.readline().split()
    assert Path(folder).parent == tmp_path
    tests.send_signal(number)
    assert tests.wait(20) != 0
    tests.stdout.close()
    subprocess.run(["timeout", "20", "tail", f"--pid={pid}", "-f", "/dev/null"], check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_child_ends_as_its_input_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    (tmp_path / "kept").mkdir()
    ended: list[bool] = []
    os.write(theirs, b"x")
    os.close(theirs)
    child.watch(ours, os.getpid(), "", lambda: ended.append(True))
    child.watch(ours, os.getpid(), str(tmp_path / "kept"), lambda: ended.append(True))
    os.close(ours)
    assert ended == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_the_child_ends_with_its_parent_while_a_fork_holds_the_pipe() -> None:
    parent = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    ours, theirs = os.pipe()
    watching = threading.Thread(target=child.watch, args=(ours, parent.pid, "", lambda: None))
    watching.start()
    parent.kill()
    watching.join(20)
    assert not watching.is_alive()
    assert parent.stdin is not None
    parent.stdin.close()
    parent.wait()
    # It may also have ended before the service looks for it.
    watching = threading.Thread(target=child.watch, args=(ours, parent.pid, "", lambda: None))
    watching.start()
    watching.join(5)
    hangs = watching.is_alive()
    os.close(theirs)
    watching.join(20)
    os.close(ours)
    assert not hangs


def test_the_child_watches_the_pipe_alone_where_processes_have_no_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    ours, theirs = os.pipe()
    os.close(theirs)
    ended: list[bool] = []
    child.watch(ours, os.getpid(), "", lambda: ended.append(True))
    os.close(ours)
    assert ended == [True]


def test_the_child_runs_twistd_and_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["-c", "", "4711", "-n", "echotwist"])
    monkeypatch.setattr(child, "watch", lambda fd, parent, folder, end: ran.append([parent]))
    child.main(lambda: ran.append(sys.argv))
    assert sorted(ran, key=len) == [[4711], ["-c", "-n", "echotwist"]]


def test_the_childs_twistd_knows_echotwist_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = child.Options()
    options.parseOptions(["-n", "echotwist", "--port=0"])
    assert options.subCommand == "echotwist"
    assert options.subOptions["port"] == 0
    monkeypatch.setattr(app, "run", lambda run, options: ran.append((run, options)))
    ran: list[Any] = []
    child.run()
    assert ran == [(runApp, child.Options)]


def test_the_childs_end_is_a_drain_and_then_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    monkeypatch.setattr(child, "PATIENCE", 0)
    monkeypatch.setattr(os, "kill", lambda pid, number: did.append(number))
    monkeypatch.setattr(os, "_exit", did.append)
    child._end()
    assert did == [signal.SIGTERM, signal.SIGTERM, 1]


def test_pytests_start_imports_no_twisted() -> None:
    loaded = "import sys, echotwist.testing.plugin; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=30
    )
    modules = set(run.stdout.split())
    for heavy in ("twisted", "autobahn", "cryptography", "asyncio", "ssl", "urllib.request"):
        assert heavy not in modules
    assert "echotwist.testing.process" not in modules
    with pytest.raises(AttributeError, match="has no attribute 'Service'"):
        _ = testing.Service


# The plugin.

pytest_plugins = ["pytester"]

TESTS = textwrap.dedent(
    """
    import pytest
    from echotwist.testing.frames import TEXT, Frame, text
    from echotwist.testing.raw import RawClient

    def echo(service):
        with RawClient(service.url, context=service.clientContext) as client:
            client.send(text("hello"))
            assert client.frame() == Frame(TEXT, b"hello")

    def test_the_first_kills_it(echotwist):
        echo(echotwist)
        assert echotwist.options == ("--max-message=1M",)
        echotwist.kill()

    def test_the_next_finds_it(echotwist, echotwist_start):
        echo(echotwist)
        assert echotwist is echotwist_start()
        assert echotwist_start("--no-compression").options[-1] == "--no-compression"

    def test_over_tls(echotwist_tls):
        assert echotwist_tls.url.startswith("wss://")
        echo(echotwist_tls)

    @pytest.mark.echotwist("--ping-interval=1s")
    def test_marked(echotwist, echotwist_tls, echotwist_start):
        assert echotwist is not echotwist_start()
        assert echotwist.options == ("--max-message=1M", "--ping-interval=1s")
        assert echotwist_tls.options == echotwist.options
        echo(echotwist_tls)

    @pytest.mark.echotwist("--max-connections=5")
    class TestClass:
        def test_its_own(self, echotwist):
            TestClass.service = echotwist
            echotwist.stop()

        def test_its_own_again(self, echotwist):
            assert echotwist is TestClass.service
            echo(echotwist)

        def test_its_own_for_the_third_time(self, echotwist):
            echo(echotwist)

        @pytest.mark.echotwist("--log-rate=0")
        def test_the_closest_has_its_own(self, echotwist):
            assert echotwist is not TestClass.service
            assert echotwist.options[1:] == ("--max-connections=5", "--log-rate=0")

    def test_the_class_is_over(echotwist):
        assert not TestClass.service.isRunning
    """
)

INI = "[pytest]\nechotwist_options = --max-message=1M\n"


@pytest.mark.slow(reason="runs a pytest that starts five services")
def test_the_plugins_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(
        "-p", "no:randomly", "-p", "no:asyncio", "--strict-markers", timeout=180
    )
    result.assert_outcomes(passed=9)


# And here, where its lines are counted.


def test_a_service_that_a_test_has_stopped_is_there_for_the_next(
    echotwist: ServiceProcess, echotwist_start: Any
) -> None:
    echoes(echotwist)
    assert echotwist_start() is echotwist
    assert echotwist.stop() == 0
    assert echotwist_start() is echotwist
    echoes(echotwist)


@pytest.mark.echotwist("--max-connections=7")
class TestMarked:
    first: ServiceProcess | None = None

    @pytest.fixture(params=range(3))
    def own(self, echotwist: ServiceProcess) -> Iterator[ServiceProcess]:
        yield echotwist
        if TestMarked.first is None:
            echotwist.stop()
        TestMarked.first = echotwist

    def test_a_class_has_its_own(self, own: ServiceProcess, echotwist_start: Any) -> None:
        assert own is (TestMarked.first or own)
        assert own is not echotwist_start()
        assert own.options == ("--max-connections=7",)
        echoes(own)

    @pytest.mark.echotwist("--log-rate=0")
    def test_the_closest_marker_counts(self, echotwist_tls: ServiceProcess) -> None:
        assert echotwist_tls.options == ("--max-connections=7", "--log-rate=0")
        echoes(echotwist_tls)


TWICE = """
    import os
    import signal

    import pytest
    from echotwist.testing.frames import text
    from echotwist.testing.raw import RawClient

    pytestmark = pytest.mark.echotwist("--max-message=1k")

    @pytest.fixture(scope="session", params=[1, 2])
    def parameter(request):
        return request.param

    def test_a_client(echotwist, parameter):
        with RawClient(echotwist.url) as client:
            client.send(text("x"))
            client.frame()
"""


@pytest.mark.slow(reason="starts the service four times")
def test_a_module_that_pytest_comes_back_to_gets_another_service(
    pytester: pytest.Pytester,
) -> None:
    """Parameters of the session reorder its tests: one of each module, and then the others."""
    pytester.makepyfile(test_one=TWICE, test_two=TWICE)
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=4)


def test_the_marker_takes_options_alone(pytester: pytest.Pytester) -> None:
    for mark in (pytest.mark.echotwist(tls=True), pytest.mark.echotwist(["--max-message=1k"])):
        with pytest.raises(pytest.fail.Exception, match="takes options as strings"):
            plugin._optionsOf(mark.mark)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.echotwist(tls=True)
        def test_keyword(echotwist):
            pass

        @pytest.mark.echotwist(["--max-message=1k"])
        def test_list(echotwist):
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*the marker echotwist takes options as strings, such as*"])


@pytest.mark.slow(reason="starts the service twice, and drains it")
def test_after_a_drain_that_is_not_over_the_next_test_is_served(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import signal

        from echotwist.testing.raw import RawClient

        clients = []

        def test_drains(echotwist):
            clients.append(RawClient(echotwist.url))
            os.kill(echotwist.pid, signal.SIGTERM)
            echotwist.expect("draining")

        def test_next(echotwist):
            with RawClient(echotwist.url):
                pass
            clients.pop().close()
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=2)


@pytest.mark.slow(reason="runs three processes of pytest, each with a service")
def test_the_plugin_with_xdist(pytester: pytest.Pytester) -> None:
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(
        """
        from websockets.sync.client import connect
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(echotwist, number):
            with connect(echotwist.url) as client:
                client.send(str(number))
                assert client.recv() == str(number)
        """
    )
    result = pytester.runpytest_subprocess("-n2", "-p", "no:randomly", timeout=180)
    result.assert_outcomes(passed=6)


@pytest.mark.slow(reason="runs a pytest that starts four services")
def test_the_plugin_with_pytest_asyncio(pytester: pytest.Pytester) -> None:
    pytester.makefile(
        ".ini", pytest=INI + "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile(
        """
        from websockets.asyncio.client import connect
        from echotwist.testing import ServiceProcess
        import pytest, pytest_asyncio

        @pytest_asyncio.fixture
        async def own():
            async with ServiceProcess() as service:
                yield service

        @pytest.mark.parametrize("secure", [False, True])
        async def test_it(echotwist, echotwist_tls, own, secure):
            for service in (own, echotwist_tls if secure else echotwist):
                async with connect(service.url, ssl=service.clientContext) as client:
                    await client.send("hello")
                    assert await client.recv() == "hello"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:twisted", timeout=180)
    result.assert_outcomes(passed=2)


@pytest.mark.slow(reason="runs a pytest that starts two services")
def test_the_plugin_with_pytest_twisted(pytester: pytest.Pytester) -> None:
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(
        """
        import pytest_twisted
        from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred
        from twisted.internet.endpoints import HostnameEndpoint
        from echotwist.testing import startInReactor

        class Client(WebSocketClientProtocol):
            def onOpen(self):
                self.sendMessage(b"hello")

            def onMessage(self, payload, isBinary):
                self.factory.got.callback(payload)
                self.sendClose()

            def onClose(self, wasClean, code, reason):
                self.factory.gone.callback(wasClean)

        async def echoes(url):
            factory = WebSocketClientFactory(url)
            factory.protocol = Client
            factory.got, factory.gone = Deferred(), Deferred()
            await HostnameEndpoint(reactor, factory.host, factory.port).connect(factory)
            assert await factory.got == b"hello"
            assert await factory.gone

        @pytest_twisted.ensureDeferred
        async def test_a_process(echotwist):
            await echoes(echotwist.url)

        @pytest_twisted.ensureDeferred
        async def test_in_the_reactor():
            service = await startInReactor()
            await echoes(service.url)
            await service.stop()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "--reactor=default", timeout=180)
    result.assert_outcomes(passed=2)


def test_plain_unittest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import unittest
            from websockets.sync.client import connect
            from echotwist.testing import ServiceProcess

            def setUpModule():
                global service
                service = unittest.enterModuleContext(ServiceProcess())

            class Tests(unittest.TestCase):
                def test_it(self):
                    with connect(service.url) as client:
                        client.send("hello")
                        self.assertEqual(client.recv(), "hello")
            """
        )
    )
    run = subprocess.run(
        [sys.executable, "-Werror", "-m", "unittest"],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Ran 1 test" in run.stderr
