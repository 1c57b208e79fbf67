"""A WebSocket client of the standard library alone, for a machine that has nothing else."""

import base64
import hashlib
import os
import socket
import ssl
from types import TracebackType

from echotwist.testing.frames import CLOSE, TEXT, Frame, close, parse, text

PATIENCE = 60
"""Seconds for an answer. The machine is emulated, and some ten times slower than a real one."""

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """The handshake was answered, but not with 101. Has the status."""


class Client:
    """An open WebSocket. Raises OSError if it cannot connect, Refused if it is not let in."""

    def __init__(
        self,
        port: int = 8080,
        host: str = "127.0.0.1",
        *,
        path: str = "",
        tls: bool = False,
        headers: tuple[str, ...] = (),
    ) -> None:
        """With `path` on that Unix socket."""
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(path)
        else:
            self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.data = b""
        try:
            if tls:
                context = ssl._create_unverified_context()
                self.socket = context.wrap_socket(self.socket)
            self._shakeHands(headers)
        except BaseException:
            self.socket.close()
            raise

    def _shakeHands(self, headers: tuple[str, ...]) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [
            "GET /echo HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key.decode()}", *headers, "", "",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self.data:
            self._receive()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        status = head.split(b" ")[1].decode()
        if status != "101":
            raise Refused(status)
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        assert b"sec-websocket-accept: " + accept.lower() in head.lower(), head

    def _receive(self) -> None:
        more = self.socket.recv(65536)
        if not more:
            raise ConnectionResetError("closed without a close frame")
        self.data += more

    def next(self) -> Frame:
        """The next frame that is no ping. These messages are shorter than 126 bytes."""
        while True:
            while len(self.data) < 2 or len(self.data) < 2 + self.data[1]:
                self._receive()
            size = 2 + self.data[1]
            (frame,), self.data = parse(self.data[:size]), self.data[size:]
            if frame.opcode in (TEXT, CLOSE):
                return frame

    def echoes(self, message: str) -> int | None:
        """Send a message. Returns None if it came back, or the code if a close came instead,
        which is answered then."""
        self.socket.sendall(text(message))
        frame = self.next()
        if frame.opcode == CLOSE:
            code = int.from_bytes(frame.payload[:2], "big")
            self.socket.sendall(close(code))
            return code
        assert frame.payload == message.encode(), frame
        return None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()
