"""What a connection costs the process while nothing happens on it."""

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificate import tlsEndpoint, unverified
from support.process import Twistd

from echotwist.testing.frames import binary
from echotwist.testing.raw import request

EARLIER = 200
"""Connections that make the process load what it loads once."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as the system allows, for the clients here and for the service, which inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def receive(client: socket.socket, size: int) -> None:
    while size:
        data = client.recv(min(size, 65536))
        assert data
        size -= len(data)


def each(service: Twistd, clients: contextlib.ExitStack, count: int, size: int, tls: bool) -> float:
    """Bytes that each of `count` more clients costs after one echo of `size` bytes."""
    before = service.memory()
    for _ in range(count):
        client = clients.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(20)
        if tls:
            client = clients.enter_context(unverified().wrap_socket(client))
        client.sendall(request())
        while not client.recv(4096).endswith(b"\r\n\r\n"):
            pass
        client.sendall(binary(bytes(size)))
        receive(client, len(binary(bytes(size))) - 4)  # A server masks nothing.
    return (service.memory() - before) / count


@pytest.mark.parametrize("fast", [[], ["--no-fast-path"]], ids=["fast path", "Autobahn"])
def test_an_idle_connection_takes_3_kb(descriptors: None, fast: list[str]) -> None:
    with Twistd("--log-rate=0", *fast) as service, contextlib.ExitStack() as clients:
        each(service, clients, EARLIER, 125, False)
        # Without the fast path each has its timer for pings, and what Autobahn keeps of a message.
        assert each(service, clients, 1500, 125, False) < (5000 if fast else 3000)


@pytest.mark.slow(reason="1,400 TLS handshakes")
@pytest.mark.parametrize("fast", [[], ["--no-fast-path"]], ids=["fast path", "Autobahn"])
def test_an_idle_tls_connection_keeps_little_room_for_its_last_message(
    descriptors: None, tmp_path: Path, fast: list[str]
) -> None:
    """OpenSSL itself takes 22 KB; see `wire.tls.renewBuffers`."""
    listen = f"--listen={tlsEndpoint(tmp_path)}:interface=127.0.0.1"
    with Twistd("--log-rate=0", listen, *fast) as service, contextlib.ExitStack() as clients:
        each(service, clients, EARLIER, 60_000, True)
        # A loop leaves room for a record, and for what it feeds OpenSSL at a time.
        most = 36_000 if fast else 60_000
        assert each(service, clients, 500, 60_000, True) < most
