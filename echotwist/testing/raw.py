"""A client that sends and shows bytes: what is on the wire is up to the test.

with RawClient(echotwist.url) as client:
    client.send(frame(TEXT, b"hel", fin=False) + frame(PING) + frame(CONTINUATION, b"lo"))
    assert client.frame() == Frame(PONG, b"")
    assert client.frame() == Frame(TEXT, b"hello")
"""

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from echotwist.testing.frames import Frame, take

if TYPE_CHECKING:
    import ssl

TIMEOUT = 20.0
"""Seconds for anything to happen."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The example of RFC 6455, 1.3."""

UPGRADE = {
    "Host": "localhost:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(
    target: str = "/echo", *, method: str = "GET", version: str = "HTTP/1.1", **changes: str | None
) -> bytes:
    """A request to upgrade; a header is changed by its name with `_` for `-`, None removes it."""
    headers: dict[str, str | None] = dict(UPGRADE)
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1")


def _connected(host: str, port: int, timeout: float, receiveBuffer: int | None) -> socket.socket:
    if receiveBuffer is None:
        return socket.create_connection((host, port), timeout=timeout)
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    connecting = socket.socket(family, kind, protocol)
    try:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receiveBuffer)
        connecting.settimeout(timeout)
        connecting.connect(address)
    except BaseException:
        connecting.close()
        raise
    return connecting


class RawClient:
    """A blocking socket, connected to `url` (ws: or wss:).

    It has shaken hands, unless `upgrade` is False; `changes` are those of `request`. `context` is
    for wss:. `receiveBuffer` is the size in bytes of the kernel's buffer, for a client that reads
    little. It is set before the connection: a buffer that becomes smaller than the window that TCP
    has promised can stall both directions for good (Linux 6.18, one in 20 sends of 12 MB).

    Raises AssertionError if the answer is not 101, TimeoutError when nothing comes for `timeout`
    seconds, EOFError when the connection ends before what is waited for, with what came, and what
    sockets raise.
    """

    def __init__(
        self,
        url: str,
        *,
        upgrade: bool = True,
        context: "ssl.SSLContext | None" = None,
        timeout: float = TIMEOUT,
        receiveBuffer: int | None = None,
        **changes: str | None,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, url
        assert context is not None or parts.scheme == "ws", "wss: wants a context"
        port = parts.port or (80 if parts.scheme == "ws" else 443)
        self.timeout = timeout
        self.socket = _connected(parts.hostname, port, timeout, receiveBuffer)
        if context is not None and parts.scheme == "wss":
            self.socket = context.wrap_socket(self.socket, server_hostname=parts.hostname)
        self.head = b""
        """The answer to the request to upgrade."""
        self.rest = b""
        """What has come, and was not taken yet."""
        self._target = parts.path or "/"
        self._authority = parts.netloc
        if upgrade:
            try:
                self.upgrade(**changes)
            except BaseException:
                self.close()
                raise

    def upgrade(self, **changes: str | None) -> None:
        headers: dict[str, Any] = {"Host": self._authority, **changes}
        self.send(request(self._target, **headers))
        self.head = self.until(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _receive(self) -> None:
        if not (data := self.socket.recv(65536)):
            raise EOFError(self.rest)
        self.rest += data

    def read(self, size: int) -> bytes:
        """What has come and was not taken, as soon as it is so many bytes; it stays in `rest`."""
        while len(self.rest) < size:
            self._receive()
        return self.rest

    def until(self, end: bytes) -> bytes:
        """Take all up to these bytes, and them."""
        while end not in self.rest:
            self._receive()
        head, _, self.rest = self.rest.partition(end)
        return head + end

    def frame(self) -> Frame:
        """Take the next frame."""
        while (taken := take(self.rest)) is None:
            self._receive()
        found, end = taken
        self.rest = self.rest[end:]
        return found

    def end(self) -> bytes:
        """Take all until the connection ends; a reset raises ConnectionResetError."""
        with contextlib.suppress(EOFError):
            while True:
                self._receive()
        data, self.rest = self.rest, b""
        return data

    def gone(self) -> bytes:
        """As `end`, also if it is a reset."""
        with contextlib.suppress(ConnectionResetError):
            return self.end()
        data, self.rest = self.rest, b""
        return data

    def stuff(self, data: bytes, most: int, patience: float = 0.5) -> int:
        """Send over and over without reading, until the service takes nothing for so many seconds,
        or it took `most` bytes. Returns how many it took."""
        self.socket.settimeout(patience)
        view, sent = memoryview(data), 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < most:
                sent += self.socket.send(view[sent % len(view) :])
        self.socket.settimeout(self.timeout)
        return sent

    def finish(self) -> None:
        """Send FIN, and read on."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
