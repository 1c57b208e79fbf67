"""Thousands of hostile connections, that send their part and then wait, and read nothing."""

import contextlib
import errno
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support.traffic import REQUEST

UNDERWAY = 100
"""Connections that are opened at the same time."""

RECEIVES = 4096
"""Bytes for which the kernel of a hostile client has room."""

SEGMENT = 536
"""Bytes of a segment. By the loopback's own 64 KB the service's kernel reckons that it should keep
megabytes for each client, which then never reach the service."""

OFTEN = 0.05
"""Seconds between two looks at the service."""


@dataclass(frozen=True)
class Kind:
    """What a hostile client does. Without `upgrade` it sends `data` in place of a request."""

    name: str
    data: bytes
    upgrade: bool = True
    extension: str = ""


class _Client:
    def __init__(self, kind: Kind, socket: socket.socket) -> None:
        self.kind = kind
        self.socket = socket
        self.isOpening = True
        self.left = memoryview(kind.data)


class Herd:
    """`kinds` in turn, until there are `count`. One that is ended comes again."""

    def __init__(self, port: int, kinds: Sequence[Kind], count: int) -> None:
        self._port = port
        self._due = deque(kinds[n % len(kinds)] for n in range(count))
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._opening = 0
        self._addresses = 0
        self.count = count
        self.opened = Counter[str]()
        self.ended = Counter[str]()

    @property
    def standing(self) -> int:
        """Those that have sent, or are sending, their part."""
        return len(self._clients) - self._opening

    def run(self, until: Callable[[], bool], each: Callable[[], object], seconds: float) -> None:
        """Go on until `until` or for so many seconds; `each` is called often."""
        end = time.monotonic() + seconds
        look = 0.0
        while (now := time.monotonic()) < end and not until():
            if now >= look:
                each()
                look = now + OFTEN
            while self._due and self._opening < UNDERWAY:
                self._open(self._due.popleft())
            for fd, events in self._poll.poll(OFTEN, 256):
                self._serve(self._clients[fd], events)

    def _open(self, kind: Kind) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVES)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        # From many addresses, for none has so many ports.
        self._addresses += 1
        client.bind((f"127.0.0.{self._addresses % 100 + 2}", 0))
        result = client.connect_ex(("127.0.0.1", self._port))
        assert result in (0, errno.EINPROGRESS), errno.errorcode[result]
        self._clients[client.fileno()] = _Client(kind, client)
        self._opening += 1
        self._poll.register(client, select.EPOLLOUT)

    def _serve(self, client: _Client, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self._end(client)
            return
        try:
            if not client.isOpening:
                self._send(client)
            elif events & select.EPOLLOUT and client.kind.upgrade:
                client.socket.send(REQUEST + client.kind.extension.encode() + b"\r\n")
                self._poll.modify(client.socket, select.EPOLLIN)
            elif not client.kind.upgrade or client.socket.recv(4096).startswith(b"HTTP/1.1 101"):
                client.isOpening = False
                self._opening -= 1
                self.opened[client.kind.name] += 1
                self._send(client)
            else:
                self._end(client)
        except ConnectionError:
            self._end(client)

    def _send(self, client: _Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.left:
                client.left = client.left[client.socket.send(client.left) :]
        # Nothing more than its end is heard of when all is sent.
        self._poll.modify(client.socket, select.EPOLLOUT if client.left else 0)

    def _end(self, client: _Client) -> None:
        self._opening -= client.isOpening
        self.ended[client.kind.name] += 1
        del self._clients[client.socket.fileno()]
        client.socket.close()
        self._due.append(client.kind)

    def close(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._poll.close()
