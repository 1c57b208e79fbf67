"""What the path between a client and a server does to WebSockets, from Python.

    report = await probe("wss://staging.example/echo", seconds=70)   # Twisted, or asyncio
    report = run("wss://staging.example/echo", seconds=70)           # neither
    assert report.isClean, report

docs/probe.md has the command, and the use in tests.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echotwist.probe.report import Report

__all__ = ["probe", "run"]


async def probe(url: str, **options: Any) -> "Report":
    """Probe the path to a WebSocket echo. Takes what `run` takes.

    In Twisted's reactor it runs there. In a task of asyncio it runs in a process of its own, since
    a reactor is no guest in another loop; when the task is cancelled, that process is ended.
    """
    if not _isInTask():
        return await _inReactor(url, **options)
    process = await asyncio.create_subprocess_exec(
        *_command(url, **options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return _report(out, err)


def run(
    url: str,
    *,
    seconds: float = 150.0,
    only: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    proxy: str | None = None,
    cacert: str | None = None,
    insecure: bool = False,
) -> "Report":
    """Probe the path to a WebSocket echo, and wait for the report.

    Idle connections are watched for so many `seconds`. `only` are areas of `probing.AREAS`; None is
    all. `proxy` is `http://[USER:PASSWORD@]HOST:PORT`, `cacert` a file in PEM. Raises ValueError if
    one of these is none.
    """
    target: dict[str, Any] = {"headers": headers, "proxy": proxy, "cacert": cacert}
    command = _command(url, seconds=seconds, only=only, insecure=insecure, **target)
    done = subprocess.run(command, capture_output=True)
    return _report(done.stdout, done.stderr)


def _isInTask() -> bool:
    """Whether asyncio awaits the caller. Twisted's reactor on asyncio has a loop, and no task."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


async def _inReactor(
    url: str, *, seconds: float = 150.0, only: Sequence[str] | None = None, **options: Any
) -> "Report":
    from twisted.internet import reactor

    from echotwist.probe.probing import AREAS, Probing
    from echotwist.probe.target import targetOf

    target = targetOf(url, **options)
    only = [only] if isinstance(only, str) else only
    return await Probing(reactor, target, seconds, AREAS if only is None else tuple(only)).run()


def _command(
    url: str, *, seconds: float = 150.0, only: Sequence[str] | None = None, **options: Any
) -> list[str]:
    """The command with these options. Raises ValueError."""
    from echotwist.probe.target import targetOf

    targetOf(url, **options)  # What is wrong with them is told at once.
    command = [sys.executable, "-m", "echotwist.probe", "--json", f"--for={seconds}s"]
    if only is not None:
        only = [only] if isinstance(only, str) else only
        command.append(f"--only={','.join(only)}")
    for name, value in (options.get("headers") or {}).items():
        command.append(f"--header={name}: {value}")
    for name in ("proxy", "cacert"):
        if options.get(name) is not None:
            command.append(f"--{name}={options[name]}")
    if options.get("insecure"):
        command.append("--insecure")
    return [*command, "--", url]


def _report(out: bytes, err: bytes) -> "Report":
    from echotwist.probe.report import Report

    if not out:
        words = err.decode(errors="replace").strip().rpartition("error: ")[2]
        raise ValueError(re.sub(r"^argument --\S+: ", "", words))
    return Report.fromJson(out.decode())
