"""Sockets of systemd's in Twisted's reactor."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from echotwist.listen.activation import activatedEndpoint


@pytest_twisted.ensureDeferred
async def test_an_inherited_unix_socket_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor
    from twisted.internet.endpoints import UNIXClientEndpoint, _SystemdParser, connectProtocol
    from twisted.internet.protocol import Factory, Protocol
    from twisted.python.systemd import ListenFDs

    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen(200)
        path.chmod(0o600)
        monkeypatch.setattr(_SystemdParser, "_sddaemon", ListenFDs([os.dup(held.fileno())], ["a"]))
        endpoint = activatedEndpoint(reactor, "systemd:domain=UNIX:index=0")
        port: Any = await endpoint.listen(Factory.forProtocol(Protocol))
        client = await connectProtocol(UNIXClientEndpoint(reactor, str(path)), Protocol())
        client.transport.loseConnection()
        await port.stopListening()
        assert path.stat().st_mode & 0o777 == 0o600
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
