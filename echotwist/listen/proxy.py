"""The PROXY protocol, versions 1 and 2: a proxy says first whom it speaks for.

    PROXY TCP4 192.0.2.7 198.51.100.1 40312 80\\r\\n

This stands in for Twisted's own `haproxy:` (twisted/protocols/haproxy/_wrapper.py, 26.10), of
which only the parsers are used. That drops a header that comes in pieces, and the `PROXY
UNKNOWN` of HAProxy's health checks; takes any text for an address, and puts it into the log; lets
its parsers' ValueErrors out, each a traceback; and passes on no half-close.
"""

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import connectionDone
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.limits import PROXY_HEADER
from echotwist.observe.journal import Journal
from echotwist.wire.peer import nameOf, parsed

HALF = "half a header of the PROXY protocol"

LONGEST_V1 = 107
"""Bytes of a header of version 1, CRLF included (the specification, 2.1)."""


class Malformed(Exception):
    """No header of the PROXY protocol."""


def split(data: bytes) -> tuple[IAddress | None, bytes] | None:
    """The client that the header at the start of `data` names, and what comes behind the header.

    The client is None if the header speaks for the proxy itself, as its health checks do.
    Returns None if the header is not complete yet. Raises Malformed.
    """
    signature = V2Parser.PREFIX
    if data[: len(signature)] == signature[: len(data)]:
        if len(data) < 16:
            return None
        if (size := 16 + int.from_bytes(data[14:16], "big")) > PROXY_HEADER:
            raise Malformed
        if len(data) < size:
            return None
        header, rest = data[:size], data[size:]
    elif b"\r\n" in data[:LONGEST_V1]:
        header, _, rest = data.partition(b"\r\n")
    elif len(data) < LONGEST_V1 and data[:6] == b"PROXY "[: len(data)]:
        return None
    else:
        raise Malformed
    if header == b"PROXY UNKNOWN":
        return None, rest
    try:
        info = (V2Parser if header.startswith(signature) else V1Parser).parse(header)
    except Exception as e:  # Whatever they say: ValueError, struct.error, their own.
        raise Malformed from e
    client = info.source
    if not isinstance(client, IPv4Address | IPv6Address):
        return None, rest
    # What stands behind a % may be anything.
    host, port = client.host.partition("%")[0], client.port
    if not 0 <= port < 65536 or (":" in host) != isinstance(client, IPv6Address):
        raise Malformed
    try:
        address = parsed(host)
    except ValueError as e:
        raise Malformed from e
    kind = IPv4Address if address.version == 4 else IPv6Address
    return kind("TCP", str(address), port), rest


@implementer(IHalfCloseableProtocol)
class Proxied(ProtocolWrapper):
    """A connection from a proxy. Its peer is the proxy's client, once the header has come.

    The time for that is the handshake's, which runs already.
    """

    factory: "ProxyFactory"
    wrappedProtocol: Any
    transport: Any

    _head: bytes | None = b""
    _client: IAddress | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._head is None:
            self.wrappedProtocol.dataReceived(data)
            return
        try:
            found = split(self._head + data)
        except Malformed:
            # Most of all somebody's mistake: a client where the proxy should be.
            self._dropped("no header of the PROXY protocol")
            self.abortConnection()
            return
        if found is None:
            self._head += data
            return
        self._head = None
        self._client, rest = found
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    def _dropped(self, why: str) -> None:
        self.factory.journal.dropped(nameOf(self.transport.getPeer()), why)

    @property
    def lateness(self) -> str | None:
        """What the proxy was too late with, if it is the header, or TLS below it."""
        return HALF if self._head else getattr(self.transport, "lateness", None)

    def abortConnection(self) -> None:
        self._head = b""  # Whoever aborts says why.
        self.transport.abortConnection()

    def getPeer(self) -> IAddress:
        peer: IAddress = self._client or self.transport.getPeer()
        return peer

    def readConnectionLost(self) -> None:
        self._leave()
        IHalfCloseableProtocol(self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        IHalfCloseableProtocol(self.wrappedProtocol).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not reason.check(ConnectionAborted):
            self._leave()
        super().connectionLost(reason)

    def _leave(self) -> None:
        if self._head:  # Without a byte it was the probe of a load balancer, and no news.
            self._dropped(HALF)
            self._head = b""


class ProxyFactory(WrappingFactory):
    """Wraps the factory of what a proxy stands before."""

    protocol = Proxied
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, journal: Journal) -> None:
        super().__init__(wrapped)
        self.journal = journal
