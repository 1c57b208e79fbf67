"""Signals for a process with the id 1, from the first moment on."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.probe import eventually
from support.process import TWISTD, Twistd


def test_only_pid_1_has_handlers_before_the_reactor_runs() -> None:
    """Run in a process of its own: that of the tests has threads, and other handlers."""
    run = """if True:
        import os, signal
        before = [signal.getsignal(number) for number in (15, 2, 1)]
        from echotwist import init
        assert os.getpid() != 1
        assert [signal.getsignal(number) for number in (15, 2, 1)] == before

        ends = []
        os._exit = ends.append
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        init.handleSignalsAsInit(1)
        signal.raise_signal(signal.SIGINT)
        assert ends == [143, 130]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    """
    subprocess.run([sys.executable, "-c", run], check=True)


NAMESPACE = [
    *("unshare", "--pid", "--fork", "--kill-child"),
    *(["--user", "--map-root-user"] if os.geteuid() else []),
]


def hasNamespaces() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (
            subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
        )
    return False


def mask(pid: int, name: str) -> bool:
    """Whether SIGTERM is in this mask of the process: SigBlk, SigCgt."""
    found = re.search(rf"^{name}:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


@contextlib.contextmanager
def inNamespace(*before: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The service as PID 1 of a namespace. Gives its pid outside, as soon as it has one."""
    process = subprocess.Popen(
        [*NAMESPACE, *before, *TWISTD, "-n", "echotwist", "--port=0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: children.read_text() != "")
        yield process, int(children.read_text())
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasNamespaces(), reason="there are no pid namespaces for this user")
@pytest.mark.parametrize("milliseconds", range(0, 650, 50))
def test_as_pid_1_it_ends_at_any_moment_of_sigterm(milliseconds: int) -> None:
    with inNamespace("env", "--block-signal=TERM") as (process, pid):
        # Not unshare itself, which also blocks them, and its child no more; nor env.
        comm = Path(f"/proc/{pid}/comm")
        eventually(lambda: comm.read_text() not in ("unshare\n", "env\n"))
        assert mask(pid, "SigBlk")
        time.sleep(milliseconds / 1000)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(20) in (0, 143)


@pytest.mark.skipif(not hasNamespaces(), reason="there are no pid namespaces for this user")
def test_as_pid_1_it_has_a_handler_before_the_service_is_imported() -> None:
    """The kernel drops signals to a PID 1 without a handler."""
    run = """if True:
        import signal, sys

        class Finder:
            def find_spec(name, path, target=None):
                if name == "echotwist.tap":
                    print("up", flush=True)
                    signal.pause()

        sys.meta_path.insert(0, Finder)
        import echotwist.twistd
    """
    with subprocess.Popen(
        [*NAMESPACE, sys.executable, "-c", run], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            os.kill(int(children.read_text()), signal.SIGTERM)
            assert process.wait(5) == 143
        finally:
            process.kill()


@pytest.mark.skipif(not hasNamespaces(), reason="there are no pid namespaces for this user")
def test_another_program_as_pid_1_keeps_its_signals() -> None:
    """Such as the tests in a container, under pytest or without it."""
    run = (
        "import os, signal, echotwist.testing.inreactor, echotwist.tap; assert os.getpid() == 1; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([*NAMESPACE, sys.executable, "-c", run], check=True, timeout=30)


def test_signals_blocked_at_the_start_still_drain_it() -> None:
    with Twistd(before=["env", "--block-signal=TERM"]) as service:
        service.expect("taking up to")
        assert service.stop() == 0
