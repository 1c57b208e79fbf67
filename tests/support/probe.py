"""What tests of a process ask again and again."""

import selectors
import time
import urllib.request
from collections.abc import Callable

from echotwist.testing.frames import TEXT, Frame, close, text
from support.process import Twistd


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Fail unless it holds before so many seconds have passed."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        selectors.DefaultSelector().select(0.02)


def works(service: Twistd) -> None:
    with service.connect() as client:
        client.send(text("still there") + close(1000))
        assert client.frame() == Frame(TEXT, b"still there")
        client.gone()


def get(service: Twistd, path: str = "healthz") -> int:
    with urllib.request.urlopen(service.url + path, timeout=20) as response:
        return int(response.status)


def isHealthy(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
        assert answer.read() == b"ok\n"
