"""Clients that speak TLS to the service in memory, and certificates for it."""

import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trustme
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper

from echotwist.listen.certificate import Certificate
from echotwist.listen.proxy import ProxyFactory
from echotwist.listen.tls import TlsFactory
from echotwist.testing.frames import TEXT, Frame, parse, text
from echotwist.testing.raw import request
from support.memory import Client, Service

CA = trustme.CA()


class Files:
    """A key and its certificate, in files."""

    def __init__(self, folder: Path) -> None:
        self.key, self.chain = folder / "key.pem", folder / "chain.pem"
        self.clock = Clock()

    def write(self, pair: trustme.LeafCert) -> None:
        self.key.write_bytes(pair.private_key_pem.bytes())
        self.chain.write_bytes(b"".join(pem.bytes() for pem in pair.cert_chain_pems))

    def certificate(self, **others: Any) -> Certificate:
        return Certificate(self.clock, str(self.key), [str(self.chain)], **others)


def issued(name: str = "localhost", *, ca: trustme.CA = CA, **others: Any) -> trustme.LeafCert:
    return ca.issue_cert(name, **others)


def certified(folder: Path, **others: Any) -> Certificate:
    """A certificate that was just issued; its files are in `folder`."""
    files = Files(folder)
    files.write(issued(**others))
    return files.certificate()


def trusting(ca: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.check_hostname = False
    return context


def connected(
    certificate: Any,
    isProxied: bool = False,
    options: Sequence[str] = (),
    service: Any = None,
) -> Client:
    """A connection to the service, which expects TLS on it."""
    service = service or Service(*options)
    journal, turns = service.context.journal, service.context.turns
    below = ProxyFactory(service.site, journal) if isProxied else service.site
    service.site = TlsFactory(certificate, below, service.reactor, journal, turns)
    client: Client = service.connect()
    return client


class Peer:
    """A client that shakes hands: Python's TLS at this end, Twisted's at the other."""

    def __init__(
        self,
        certificate: Any,
        *,
        context: ssl.SSLContext | None = None,
        session: Any = None,
        ciphers: str | None = None,
        version: ssl.TLSVersion | None = None,
        alpn: list[str] | None = None,
        isProxied: bool = False,
        options: Sequence[str] = (),
        service: Service | None = None,
    ) -> None:
        context = context or trusting()
        if ciphers is not None:
            context.set_ciphers(ciphers)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, session=session)
        self.client = connected(certificate, isProxied, options, service)
        self.call(self.tls.do_handshake)

    def call(self, method: Any, *arguments: Any) -> Any:
        """Call this until TLS has the data that it waits for."""
        for _ in range(10):
            try:
                return method(*arguments)
            except ssl.SSLWantReadError:
                pass
            finally:
                self.client.send(self._out.read())
                self._in.write(self.client.received())
        raise AssertionError("nothing comes")

    def ciphertext(self) -> bytes:
        """What has been written, and is to be sent."""
        return self._out.read()

    def send(self, data: bytes, segment: int | None = None) -> None:
        """Send, in segments of so many bytes of ciphertext, and let the service act."""
        self.tls.write(data)
        self.client.send(self.ciphertext(), segment)

    def finish(self) -> None:
        """Say close_notify and FIN."""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            self.tls.unwrap()
        self.client.socket.arriving += self._out.read()
        self.client.finish()

    def received(self) -> bytes:
        """What the service has sent since the last call."""
        self._in.write(self.client.received())
        data = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while more := self.tls.read(2**16):
                data += more
        return data

    def frames(self) -> list[Frame]:
        return parse(self.received())

    @property
    def connection(self) -> Any:
        """The service's `Connection`."""
        protocol = self.client.protocol
        while isinstance(protocol, ProtocolWrapper):
            protocol = protocol.wrappedProtocol
        return protocol

    @property
    def name(self) -> str:
        """The name in the certificate that the service showed."""
        return str(self.tls.getpeercert()["subjectAltName"][0][1])  # type: ignore[index]

    def echo(self, message: str) -> None:
        self.call(self.tls.write, text(message))
        assert parse(self.call(self.tls.read, 1000)) == [Frame(TEXT, message.encode())]

    def open(self, **changes: Any) -> "Peer":
        self.call(self.tls.write, request(**changes))
        assert self.call(self.tls.read, 1000).startswith(b"HTTP/1.1 101 ")
        return self


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
