"""Clients by the thousand, each of which accounts for every message that it sends."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import picows

PATIENCE = 20.0
"""Seconds for an answer of any kind. Nothing here takes that long unless it is lost."""


class Connection(picows.WSListener):
    """One WebSocket. What arrives is in `events`: the text of a message, the code of a close, and
    None when the connection is gone."""

    transport: picows.WSTransport

    def __init__(self) -> None:
        self.events: asyncio.Queue[str | int | None] = asyncio.Queue()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.events.put_nowait(frame.get_payload_as_utf8_text())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            code = frame.get_close_code()
            self.events.put_nowait(int(code))  # type: ignore[call-overload]
            if not transport.is_close_frame_sent:
                transport.send_close(code)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self.events.put_nowait(None)

    def send(self, text: str) -> None:
        self.transport.send(picows.WSMsgType.TEXT, text.encode())

    async def next(self) -> str | int | None:
        async with asyncio.timeout(PATIENCE):
            return await self.events.get()

    async def leave(self) -> list[str | int]:
        """Close, and wait until the connection is gone. Returns what came until then, but for
        the service's close, which may have crossed ours."""
        self.transport.send_close(picows.WSCloseCode.OK)
        came = []
        while (event := await self.next()) is not None:
            if event not in (1000, 1001):
                came.append(event)
        return came


async def connect(
    url: str, source: str | None = None, forged: dict[str, str] | None = None
) -> Connection:
    """A connection, from the address `source` if told, with the headers `forged`."""

    def bound(_: object) -> socket.socket:
        own = socket.socket()
        own.setblocking(False)
        own.bind((source or "", 0))
        return own

    connection: Any
    _, connection = await picows.ws_connect(
        Connection,
        url,
        websocket_handshake_timeout=PATIENCE,
        extra_headers=forged,
        socket_factory=bound if source else None,
    )
    assert isinstance(connection, Connection)
    return connection


class Crowd:
    """Clients of `url`. `seen` counts what happened to them: "answered"; "close 1001" and the like,
    with "unanswered" for a message whose answer was that close; and everything else by its own
    words, none of which should be there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: Counter[str] = Counter()
        self.closes: list[Counter[int]] = []
        self.answers: list[int] = []
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def arrive(self, clients: int, pause: float) -> None:
        """`clients` come, a hundred at a time. Each sends a message, waits for its answer and
        then for `pause`, again and again, and returns when it is closed."""
        for first in range(0, clients, 100):
            last = min(first + 100, clients)
            self._tasks += [asyncio.create_task(self._stay(i, pause)) for i in range(first, last)]
            self.closes += [Counter() for _ in range(first, last)]
            self.answers += [0] * (last - first)
            await self.until(lambda: all(self.answers))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  (a thousand clients would set it)
                await asyncio.sleep(0.02)

    async def answered(self) -> None:
        """Wait until each client has an echo of a message that it sent after this call."""
        before = list(self.answers)
        # The next answer may be on its way.
        await self.until(lambda: all(n >= b + 2 for n, b in zip(self.answers, before, strict=True)))

    def churn(self, pause: float) -> None:
        """Connect, send, wait for the echo and close, over and over."""
        self._tasks.append(asyncio.create_task(self._churn(pause)))

    async def leave(self) -> None:
        self._leaving.set()
        await asyncio.gather(*self._tasks)

    async def _connect(self) -> Connection | None:
        try:
            connection = await connect(self.url)
        except (OSError, picows.WSError, TimeoutError) as e:
            self.seen[f"not connected: {e!r}"] += 1
            await asyncio.sleep(0.1)
            return None
        self.seen["connected"] += 1
        return connection

    async def _stay(self, i: int, pause: float) -> None:
        numbers = count()
        while not self._leaving.is_set():
            if (connection := await self._connect()) is not None:
                code = await self._talk(i, connection, numbers, pause)
                if code is not None:
                    self.closes[i][code] += 1

    async def _talk(
        self, i: int, connection: Connection, numbers: "count[int]", pause: float
    ) -> int | None:
        """Until the connection is closed. Returns the code of the service's close, if it began."""
        while not self._leaving.is_set():
            message = f"{i}: {next(numbers)}"
            connection.send(message)
            event = await connection.next()
            if event == message:
                self.seen["answered"] += 1
                self.answers[i] += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        event = await connection.events.get()
                if event == message:
                    continue
            else:
                self.seen["unanswered"] += 1
            if not isinstance(event, int):
                self.seen["lost" if event is None else f"{event!r} instead of {message!r}"] += 1
                return None
            self.seen[f"close {event}"] += 1
            await self._gone(connection)
            return event
        await self._bye(connection)
        return None

    async def _churn(self, pause: float) -> None:
        for number in count():
            if self._leaving.is_set():
                return
            if (connection := await self._connect()) is None:
                continue
            connection.send(f"churn {number}")
            event = await connection.next()
            if event == 1001:  # It came just before.
                self.seen["unanswered"] += 1
                self.seen["close 1001"] += 1
                await self._gone(connection)
                continue
            self.seen["answered" if event == f"churn {number}" else f"churn: {event!r}"] += 1
            await self._bye(connection)
            await asyncio.sleep(pause)

    async def _bye(self, connection: Connection) -> None:
        for event in await connection.leave():
            self.seen[f"{event!r} instead of a close"] += 1

    async def _gone(self, connection: Connection) -> None:
        if (event := await connection.next()) is not None:
            self.seen[f"{event!r} after a close"] += 1
