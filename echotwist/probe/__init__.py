"""What the path between a client and a server does to WebSockets, from Python.

    report = await probe("wss://staging.example/echo", seconds=70)   # Twisted, or asyncio
    report = run("wss://staging.example/echo", seconds=70)           # neither
    assert report.isClean, report

docs/probe.md has the command, and the use in tests.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echotwist.probe.report import Report

_COMMAND = [sys.executable, "-m", "echotwist.probe", "-"]

__all__ = ["probe", "run"]


async def probe(url: str, **options: Any) -> "Report":
    """Probe the path to a WebSocket echo. Takes what `run` takes.

    In Twisted's reactor it runs there. In a task of asyncio it runs in a process of its own, since
    a reactor is no guest in another loop; when the task is cancelled, that process is ended.
    """
    if not _isInTask():
        return await _inReactor(url, **options)
    arguments = _arguments(url, **options)
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = await process.communicate(arguments)
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
    arguments = _arguments(url, seconds=seconds, only=only, insecure=insecure, **target)
    done = subprocess.run(_COMMAND, input=arguments, capture_output=True)
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

    target, areas = targetOf(url, **options), _checked(seconds, only)
    return await Probing(reactor, target, seconds, areas or AREAS).run()


def _checked(seconds: float, only: Sequence[str] | None) -> Sequence[str]:
    """The areas; none are all. Raises ValueError."""
    from echotwist.limits import parseSeconds
    from echotwist.probe.probing import areasOf

    parseSeconds(f"{seconds}s")
    return () if only is None else areasOf([only] if isinstance(only, str) else only)


def _arguments(
    url: str, *, seconds: float = 150.0, only: Sequence[str] | None = None, **options: Any
) -> bytes:
    """Those of the command, as it takes them on stdin. Raises ValueError."""
    from echotwist.probe.target import targetOf

    targetOf(url, **options)  # What is wrong with them is told at once.
    areas = _checked(seconds, only)
    command = ["--json", f"--for={seconds}s"]
    if areas:
        command.append(f"--only={','.join(areas)}")
    for name, value in (options.get("headers") or {}).items():
        command.append(f"--header={name}: {value}")
    for name in ("proxy", "cacert"):
        if options.get(name) is not None:
            command.append(f"--{name}={options[name]}")
    if options.get("insecure"):
        command.append("--insecure")
    return json.dumps([*command, "--", url]).encode()


def _report(out: bytes, err: bytes) -> "Report":
    from echotwist.probe.report import Report

    if not out:
        raise ValueError(err.decode(errors="replace").strip())
    return Report.fromJson(out.decode())
