"""How connections of a process end: over real sockets, in real time, all ways."""

import contextlib
import random
import selectors
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificate import tlsEndpoint, unverified
from support.probe import eventually
from support.process import Twistd

from echotwist.testing.frames import PONG, binary, close, frame, text
from echotwist.testing.raw import RawClient

SIZE = 2 * 2**20


SMALL = 32768
"""Bytes of a client's buffer, so that unread data waits in the service."""

WAYS: dict[str, tuple[list[str], str | None, bool]] = {
    "fast path": ([], None, False),
    "Autobahn": (["--no-fast-path"], None, False),
    "deflate": ([], "permessage-deflate", False),
    "TLS": ([], None, True),
}


@pytest.fixture(params=WAYS)
def open(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a service with these options; gives it, and a way to open connections to it."""
    options, extensions, isTls = WAYS[request.param]
    with contextlib.ExitStack() as stack:

        def begin(*more: str) -> Any:
            arguments = [*options, *more]
            if isTls:
                arguments.append(f"--listen={tlsEndpoint(tmp_path)}:interface=127.0.0.1")
            service = stack.enter_context(Twistd(*arguments))
            service.expect("taking up to")  # Until then it opens and closes files.

            def connect(receiveBuffer: int | None = None) -> RawClient:
                client = RawClient(
                    service.ws.replace("localhost", "127.0.0.1"),
                    context=unverified() if isTls else None,
                    receiveBuffer=receiveBuffer,
                    Sec_WebSocket_Extensions=extensions,
                )
                return stack.enter_context(client)

            return service, connect

        yield begin


@pytest.mark.slow(reason="reads for three close timeouts of 1 s")
def test_a_slow_reader_gets_its_whole_echo_over_sockets(open: Callable[..., Any]) -> None:
    service, connect = open("--close-timeout=1s")
    client = connect(receiveBuffer=SMALL)
    client.send(binary(random.randbytes(SIZE)) + close(1000, "bye"))
    began = time.monotonic()
    while data := client.socket.recv(8192):
        client.rest += data
        if len(client.rest) < SIZE:
            selectors.DefaultSelector().select(
                max(0, began + len(client.rest) / SIZE * 3 - time.monotonic())
            )
    assert time.monotonic() - began > 2
    assert client.rest[-5:] == b"\x03\xe8bye"
    assert len(client.rest) >= SIZE + 10 + 7
    service.expect("closed: 1000 'bye'")
    client.socket.close()


@pytest.mark.slow(reason="waits for the close timeout of 1 s")
def test_a_client_that_does_not_read_is_aborted_over_sockets(open: Callable[..., Any]) -> None:
    service, connect = open("--close-timeout=1s")
    before = service.descriptors()
    client = connect(receiveBuffer=SMALL)
    client.send(binary(random.randbytes(SIZE)) + close(1000, "bye"))
    client.read(100_000)
    began = time.monotonic()
    service.expect("closed: 1006 'not read to the end'")
    assert time.monotonic() - began > 0.9
    eventually(lambda: service.descriptors() == before)


@pytest.mark.slow(reason="stops the process for longer than a pong may take")
@pytest.mark.parametrize("after", [0, 0.4])
def test_keepalive_keeps_clients_that_answered_while_the_process_was_stopped(
    open: Callable[..., Any], after: float
) -> None:
    """As by a supervisor, or in a container; the pongs are in the kernel when it goes on. But the
    stop ends the wait for them without a word of that, and the timers are due."""
    service, connect = open("--ping-interval=700ms", "--ping-timeout=600ms")
    clients = [connect() for _ in range(5)]
    for client in clients:
        client.send(text(""))
        client.rest = client.read(2)[2:]
    for client in clients:
        client.read(2)  # The ping.
    time.sleep(after)
    service.process.send_signal(signal.SIGSTOP)
    threads = list(Path(f"/proc/{service.pid}/task").glob("*/stat"))
    eventually(lambda: all(" T " in thread.read_text() for thread in threads))
    for client in clients:
        client.send(frame(PONG))
    time.sleep(1)  # Longer than a pong may take.
    service.process.send_signal(signal.SIGCONT)
    for client in clients:
        client.send(close(1000, "bye"))
        assert client.gone()[-5:] == b"\x03\xe8bye"
    assert "not answered" not in service.log


@pytest.mark.slow(reason="waits for twice the close timeout")
@pytest.mark.parametrize("size", [1000, 12 * 2**20])
def test_without_keepalive_a_half_closed_client_that_does_not_read_is_aborted(
    open: Callable[..., Any], size: int
) -> None:
    """By FIN, or over TLS by close_notify alone, behind more data than the kernel takes."""
    service, connect = open("--ping-interval=0", "--close-timeout=500ms")
    before = service.descriptors()
    client = connect(receiveBuffer=SMALL)
    client.send(binary(random.randbytes(size)))
    client.read(100)
    time.sleep(1.2)  # Twice the deadline: a client that merely does not read is kept.
    assert service.descriptors() == before + 1
    if isinstance(client.socket, ssl.SSLSocket):
        client.socket.settimeout(0.1)
        with contextlib.suppress(OSError):  # OpenSSL complains of unread data.
            client.socket.unwrap()
    else:
        client.socket.shutdown(socket.SHUT_WR)
    eventually(lambda: service.descriptors() == before, 10)
    service.expect(r"#1 .* closed: 1006 '(no closing handshake|not read to the end)'")
