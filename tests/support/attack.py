"""A hostile client of the process: a blocking socket that sends what it is told."""

import contextlib
import selectors
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from support.frames import TEXT, Frame, close, parse, text
from support.memory import request
from support.process import Twistd


class Attack:
    """A blocking socket; shakes hands unless told not to."""

    def __init__(self, service: Twistd, upgrade: bool = True, **changes: Any) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=20)
        self.rest = b""
        if upgrade:
            self.upgrade(**changes)

    def upgrade(self, **changes: Any) -> None:
        self.socket.sendall(request(**changes))
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.socket.recv(4096)
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            data = self.socket.recv(65536)
            assert data, self.rest
            self.rest += data
        return self.rest

    def end(self) -> bytes:
        """Everything until the end of the connection, clean or by reset."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                self.rest += data
        return self.rest

    def stuff(self, data: bytes, most: int) -> int:
        """Send over and over without reading, until the service has not taken anything for
        half a second, or it took `most` bytes. Returns how many it took."""
        self.socket.settimeout(0.5)
        view, sent = memoryview(data), 0
        offset = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < most:
                n = self.socket.send(view[offset:])
                sent += n
                offset = (offset + n) % len(view)
        self.socket.settimeout(20)
        return sent

    def __enter__(self) -> "Attack":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Fail unless it holds before so many seconds have passed."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        selectors.DefaultSelector().select(0.02)


def works(service: Twistd) -> None:
    with Attack(service) as client:
        client.socket.sendall(text("still there") + close(1000))
        assert parse(client.end())[0] == Frame(TEXT, b"still there")


def get(service: Twistd, path: str = "healthz") -> int:
    with urllib.request.urlopen(service.url + path, timeout=20) as response:
        return int(response.status)


def isHealthy(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok\n"
