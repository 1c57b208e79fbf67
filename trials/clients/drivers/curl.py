"""libcurl, as pycurl brings it. It has no compression.

It hands out frames in pieces, which are joined here; what a close frame says, and its answer, are
its user's.
"""

import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pycurl
from clients.drivers.harness import LIMIT, SUBPROTOCOL, runThreads

CLOSING = 10.0
"""Seconds that it waits for the server after its own close."""

DATA = pycurl.WS_TEXT | pycurl.WS_BINARY


class Connection:
    """Raises pycurl.error when the server has ended it."""

    def __init__(self, url: str, *headers: str) -> None:
        self._end = time.monotonic() + LIMIT
        self._curl = pycurl.Curl()
        self._curl.setopt(pycurl.URL, url)
        self._curl.setopt(pycurl.HTTPHEADER, list(headers))
        self._curl.setopt(pycurl.CONNECT_ONLY, 2)
        self._curl.setopt(pycurl.TIMEOUT, int(LIMIT))
        try:
            self._curl.perform()
        except pycurl.error as e:
            raise ConnectionError(f"{e}, status {self._curl.getinfo(pycurl.HTTP_CODE)}") from e
        self._socket = self._curl.getinfo(pycurl.ACTIVESOCKET)

    def messages(self) -> Iterator[tuple[bytes, int]]:
        """Whole ones, and their types, until the server says close: that is the last one. libcurl
        answers pings."""
        parts: list[bytes] = []
        while True:
            data, frame = self._soon(lambda: self._curl.ws_recv(1 << 20), isRead=True)
            if frame.flags & pycurl.WS_CLOSE:
                yield data, pycurl.WS_CLOSE
                return
            if frame.flags & DATA:
                parts.append(data)
                if not frame.bytesleft and not frame.flags & pycurl.WS_CONT:
                    yield b"".join(parts), frame.flags & DATA
                    parts = []

    def send(self, payload: bytes, flags: int) -> None:
        while True:
            # As much as the socket takes; the flags are those of the whole.
            sent = self._soon(lambda part=payload: self._curl.ws_send(part, flags), isRead=False)
            payload = payload[sent:]
            if not payload:
                return

    def wait(self) -> None:
        """For the server, which ends TCP first (RFC 6455, 7.1.1)."""
        self._end = time.monotonic() + CLOSING
        while True:
            self._soon(lambda: self._curl.ws_recv(1 << 20), isRead=True)

    def close(self) -> None:
        self._curl.close()

    def _soon(self, do: Callable[[], Any], isRead: bool) -> Any:
        while True:
            try:
                return do()
            except BlockingIOError:
                left = self._end - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                wanted = [self._socket]
                select.select(wanted, [] if isRead else wanted, [], left)


def ask(url: str) -> str:
    connection = Connection(url)
    try:
        message, _ = next(connection.messages())
        return message.decode()
    finally:
        connection.close()


def echo(url: str) -> str:
    connection, saw = Connection(url, f"Sec-WebSocket-Protocol: {SUBPROTOCOL}"), ""
    try:
        for message, kind in connection.messages():
            connection.send(message, kind)
            if kind == pycurl.WS_CLOSE:
                code = int.from_bytes(message[:2], "big") if message else "no code"
                saw = f"closed with {code}; "
        connection.wait()
    except (pycurl.error, TimeoutError) as e:
        saw += f"{type(e).__name__}: {e}"
    finally:
        connection.close()
    return saw


runThreads(ask, echo)
