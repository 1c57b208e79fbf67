"""A server of HTTP/2 that takes a WebSocket by RFC 8441, and may misbehave; in the reactor."""

from pathlib import Path
from typing import Any

import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived
from h2.settings import SettingCodes, Settings
from OpenSSL import SSL
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import (
    CertificateOptions,
    DefaultOpenSSLContextFactory,
    PrivateCertificate,
)
from twisted.python.failure import Failure

from echotwist.testing.frames import CLOSE, TEXT, length, masked

STREAM = 1


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A frame of a server."""
    return bytes([fin << 7 | opcode]) + length(len(payload), False) + payload


def unmasked(data: bytes) -> tuple[int, bytes]:
    """The opcode and the payload of a short frame of a client."""
    return data[0] & 15, masked(data[6:], data[2:6])


class Peer(Protocol):
    """One connection. Those that misbehave override a method."""

    settings: dict[SettingCodes, int] = {SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
    transport: Any

    def connectionMade(self) -> None:
        self.headers: dict[str, str] = {}
        self.hasClosed = self.isLost = False
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=False, initial_values=self.settings)
        self.begin()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.isLost = True

    def begin(self) -> None:
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def dataReceived(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.took(event)
        self.flush()

    def took(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.headers = dict(event.headers)  # type: ignore[arg-type]
            self.answer()
        elif isinstance(event, DataReceived):
            opcode, payload = unmasked(event.data or b"")
            if opcode == CLOSE:
                self.hasClosed = True
                self.close(payload)
            else:
                self.echo(payload)

    def answer(self) -> None:
        self.respond(200)

    def respond(self, status: int, end: bool = False) -> None:
        self.h2.send_headers(STREAM, [(":status", str(status))], end_stream=end)

    def echo(self, payload: bytes) -> None:
        self.h2.send_data(STREAM, frame(TEXT, payload))

    def close(self, payload: bytes) -> None:
        self.h2.send_data(STREAM, frame(CLOSE, payload), end_stream=True)


class Server:
    """Listens on a free port of 127.0.0.1; `peers` are all connections so far."""

    def __init__(self, folder: Path, kind: type[Peer], *, knowsAlpn: bool = True) -> None:
        ca = trustme.CA()
        self.caFile = folder / "ca.pem"
        ca.cert_pem.write_to_path(self.caFile)
        issued = ca.issue_cert("localhost")
        pem = folder / "server.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(pem)
        self._options: Any
        if knowsAlpn:
            pair = PrivateCertificate.loadPEM(pem.read_bytes())
            self._options = CertificateOptions(
                privateKey=pair.privateKey.original,
                certificate=pair.original,
                acceptableProtocols=[b"h2"],
            )
        else:
            # Not CertificateOptions, which refuse a client that they share no protocol with.
            self._options = DefaultOpenSSLContextFactory(str(pem), str(pem), SSL.TLS_METHOD)
        self.peers: list[Peer] = []
        self._kind = kind
        self._port: Any = None

    async def listen(self, reactor: Any) -> str:
        """Returns the URL."""

        def build() -> Peer:
            self.peers.append(self._kind())
            return self.peers[-1]

        endpoint: Any = SSL4ServerEndpoint(reactor, 0, self._options, interface="127.0.0.1")
        self._port = await endpoint.listen(Factory.forProtocol(build))
        return f"wss://localhost:{self._port.getHost().port}/echo?a=b"

    async def stop(self) -> None:
        for peer in self.peers:
            if not peer.isLost:
                peer.transport.abortConnection()
        await self._port.stopListening()
