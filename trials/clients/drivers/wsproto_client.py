"""wsproto, which does no input and output, on a socket that blocks."""

import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from clients.drivers.harness import LIMIT, SUBPROTOCOL, limited, runThreads
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    Request,
)
from wsproto.extensions import PerMessageDeflate

CLOSING = 10.0
"""Seconds that it waits for the server after its own close."""


class Client:
    """A connection, and the events that come on it."""

    def __init__(self, url: str, connected: socket.socket) -> None:
        self._url = urlsplit(url)
        self._socket = connected
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._end: float | None = None

    def events(self) -> Iterator[Event]:
        """Until the connection has ended, or is refused. Raises RemoteProtocolError."""
        target = f"{self._url.path}?{self._url.query}"
        self.send(
            Request(
                host=self._url.netloc,
                target=target,
                extensions=[PerMessageDeflate()],
                subprotocols=[SUBPROTOCOL],
            )
        )
        while self._connection.state is not ConnectionState.CLOSED:
            data = self._receive()
            self._connection.receive_data(data or None)
            yield from self._connection.events()
            if not data:
                return

    def send(self, event: Event) -> None:
        self._socket.sendall(self._connection.send(event))

    def answer(self, close: CloseConnection) -> None:
        """Also a broken frame is such an event: it has the code to close with."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self.send(close.response())
            self._end = time.monotonic() + CLOSING

    def wait(self) -> None:
        """For the server, which ends TCP first (RFC 6455, 7.1.1)."""
        while self._receive():
            pass

    def _receive(self) -> bytes:
        """Raises TimeoutError."""
        if self._end is not None:
            self._socket.settimeout(max(self._end - time.monotonic(), 0.001))
        return self._socket.recv(65536)


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), LIMIT)


def ask(url: str) -> str:
    with connect(url) as connected:
        client, text = Client(url, connected), ""
        for event in client.events():
            if isinstance(event, Message):
                text += str(event.data)
            elif isinstance(event, CloseConnection):
                client.answer(event)
        return text


def echo(url: str) -> str:
    with connect(url) as connected, limited(connected):
        client, saw = Client(url, connected), "no close frame"
        parts: list[bytes | str] = []
        for event in client.events():
            match event:
                case Message():
                    parts.append(event.data)
                    if event.message_finished:
                        empty = b"" if isinstance(event, BytesMessage) else ""
                        client.send(type(event)(empty.join(parts)))  # type: ignore[arg-type]
                        parts = []
                case Ping():
                    client.send(event.response())
                case CloseConnection():
                    saw = f"closed with {int(event.code)}"
                    client.answer(event)
                case RejectConnection():
                    return f"refused with {event.status_code}"
                case AcceptConnection():
                    saw = "no close frame"
        with contextlib.suppress(TimeoutError):
            client.wait()
        return saw


runThreads(ask, echo)
