"""systemd's part, played by the tests: it is notified, and it passes listening sockets."""

import select
import socket
import sys
from pathlib import Path
from typing import Any

from support.process import Twistd

HERE = Path(__file__).parent

UNITS = HERE.parents[1] / "deploy/systemd"

SERVICES = ["echotwist.service", "echotwist@.service"]


class Manager:
    """The socket on which systemd is notified."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + where[1:] if where.startswith("@") else where)
        self.socket.settimeout(20)

    def told(self) -> list[str]:
        """Everything since the last call."""
        said = []
        while select.select([self.socket], [], [], 0)[0]:
            said.append(self.socket.recv(4096).decode())
        return said

    def until(self, wanted: str) -> list[str]:
        said = [""]
        while wanted not in said[-1].split("\n"):
            said.append(self.socket.recv(4096).decode())
        return said[1:]


class Holder:
    """Holds a listening socket, and starts services on it one after the other, as systemd does."""

    def __init__(self, port: int = 0, reusePort: bool = False) -> None:
        self.socket = socket.create_server(
            ("", port),
            family=socket.AF_INET6,
            dualstack_ipv6=True,
            backlog=4096,
            reuse_port=reusePort,
        )

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def run(self, *arguments: str, before: Any = (), **keywords: Any) -> Twistd:
        fd = self.socket.fileno()
        activated = [sys.executable, str(HERE / "activated.py"), str(fd), *before]
        return Twistd(
            "--listen=systemd:domain=INET6:index=0", *arguments,
            before=activated, passed=[fd], **keywords,
        )  # fmt: skip

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout=20)

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
