"""What the drivers in Python share: a harness for the Autobahn testsuite's fuzzingserver.

    python -m clients.drivers.NAME URL AGENT AT_ONCE [CASE ...]

Runs the cases with these numbers, or all, as many at the same time, and prints a line for each: the
number, a tab, and what the program that uses the client has seen of its end.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

LIMIT = 75.0
"""Seconds that a case may take. A client has 60 to notice that the server says nothing any more;
a driver that left earlier would be taken for its client."""

SUBPROTOCOL = "echo"
"""Offered to each case: some are about the answer to that."""

SHOWN = 120
"""Characters of what a program has seen."""


class Given:
    """What the command line says."""

    def __init__(self) -> None:
        self.url, self.agent, atOnce, *cases = sys.argv[1:]
        self.atOnce = int(atOnce)
        self._cases = [int(case) for case in cases]

    @property
    def count(self) -> str:
        return f"{self.url}/getCaseCount"

    @property
    def update(self) -> str:
        return f"{self.url}/updateReports?agent={self.agent}"

    def case(self, number: int) -> str:
        return f"{self.url}/runCase?case={number}&agent={self.agent}"

    def cases(self, count: str) -> Iterable[int]:
        return self._cases or range(1, int(count) + 1)


def tell(case: int, saw: str | Exception) -> None:
    """Print what came of a case."""
    if isinstance(saw, Exception):
        saw = f"{type(saw).__name__}: {saw}".removesuffix(": ")
    # Exceptions quote what the server has sent.
    line = " ".join(saw.split()).encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    # In one piece: a thread may come between a line and its end.
    print(f"{case}\t{shown[:SHOWN]}\n", end="", flush=True)


async def runTasks(
    ask: Callable[[str], Awaitable[str]], echo: Callable[[str], Awaitable[str]]
) -> None:
    """For clients in asyncio. `ask` returns the one message that a URL sends; `echo` echoes until
    the connection ends, and returns, or raises, what it saw of that."""
    given = Given()
    cases = iter(given.cases(await ask(given.count)))

    async def work() -> None:
        for case in cases:
            try:
                async with asyncio.timeout(LIMIT) as limit:
                    saw: str | Exception = await echo(given.case(case))
            except Exception as e:
                saw = "nothing, until the limit of the driver" if limit.expired() else e
            tell(case, saw)

    await asyncio.gather(*(work() for _ in range(given.atOnce)))
    await echo(given.update)


def runThreads(ask: Callable[[str], str], echo: Callable[[str], str]) -> None:
    """The same for clients that block, a thread for each case. `echo` keeps to LIMIT by
    `limited`."""
    given = Given()

    def run(case: int) -> None:
        try:
            tell(case, echo(given.case(case)))
        except Exception as e:
            tell(case, e)

    with ThreadPoolExecutor(given.atOnce) as pool:
        list(pool.map(run, given.cases(ask(given.count))))
    echo(given.update)


@contextmanager
def limited(connected: socket.socket) -> Iterator[None]:
    """End this connection when LIMIT has passed."""

    def end() -> None:
        with suppress(OSError):  # It may have ended by itself.
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(LIMIT, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
