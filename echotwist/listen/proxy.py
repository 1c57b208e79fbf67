"""The PROXY protocol, versions 1 and 2: a proxy first names the client that it speaks for.

    PROXY TCP4 192.0.2.7 198.51.100.1 40312 80\\r\\n

This replaces Twisted's own `haproxy:` (26.10, protocols/haproxy/_wrapper.py), and uses only its
parsers. Twisted's drops a header that arrives in pieces, and the `PROXY UNKNOWN` of HAProxy's
health checks; takes any text for an address, and logs it; raises its parsers' ValueErrors, each a
traceback; and passes on no half-close.
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

from echotwist.limits import MAX_PROXY_HEADER
from echotwist.observe.journal import Journal
from echotwist.wire.peer import nameOf, parseAddress

HALF_HEADER = "half a header of the PROXY protocol"

LONGEST_V1 = 107
"""Bytes of a header of version 1, CRLF included (the specification, 2.1)."""


class Malformed(Exception):
    """The data begins with no header of the PROXY protocol."""


def split(data: bytes) -> tuple[IAddress | None, bytes] | None:
    """The client that the header at the start of `data` names, and the data behind the header.

    The client is None if the header names none, as in the proxy's own health checks. Returns None
    if the header is not complete yet. Raises Malformed.
    """
    signature = V2Parser.PREFIX
    if data[: len(signature)] == signature[: len(data)]:
        if len(data) < 16:
            return None
        if (size := 16 + int.from_bytes(data[14:16], "big")) > MAX_PROXY_HEADER:
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
    except Exception as e:  # They raise ValueError, struct.error and their own.
        raise Malformed from e
    client = info.source
    if not isinstance(client, IPv4Address | IPv6Address):
        return None, rest
    # The zone, behind a %, may be anything.
    host, port = client.host.partition("%")[0], client.port
    if not 0 <= port < 65536 or (":" in host) != isinstance(client, IPv6Address):
        raise Malformed
    try:
        address = parseAddress(host)
    except ValueError as e:
        raise Malformed from e
    kind = IPv4Address if address.version == 4 else IPv6Address
    return kind("TCP", str(address), port), rest


@implementer(IHalfCloseableProtocol)
class Proxied(ProtocolWrapper):
    """A connection from a proxy. Its peer is the proxy's client, once the header has arrived.

    The deadline of the handshake covers the header as well.
    """

    factory: "ProxyFactory"
    wrappedProtocol: Any
    transport: Any

    _hasHeader = False
    _header = b""
    """What has arrived of it, until it is complete."""

    _client: IAddress | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._hasHeader:
            self.wrappedProtocol.dataReceived(data)
            return
        try:
            found = split(self._header + data)
        except Malformed:
            # Usually a mistake: a client connects where the proxy should.
            self._report("no header of the PROXY protocol")
            self.abortConnection()
            return
        if found is None:
            self._header += data
            return
        self._hasHeader, self._header = True, b""
        self._client, rest = found
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    def _report(self, why: str) -> None:
        self.factory.journal.dropped(nameOf(self.transport.getPeer()), why)

    @property
    def whyLate(self) -> str | None:
        """What the proxy has not finished, if that is the header, or TLS below it."""
        return HALF_HEADER if self._header else getattr(self.transport, "whyLate", None)

    def abortConnection(self) -> None:
        self._header = b""  # The caller has logged a reason.
        self.transport.abortConnection()

    def getPeer(self) -> IAddress:
        peer: IAddress = self._client or self.transport.getPeer()
        return peer

    def readConnectionLost(self) -> None:
        self._reportHalf()
        IHalfCloseableProtocol(self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        IHalfCloseableProtocol(self.wrappedProtocol).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not reason.check(ConnectionAborted):
            self._reportHalf()
        super().connectionLost(reason)

    def _reportHalf(self) -> None:
        if self._header:  # Without a byte, it was the probe of a load balancer.
            self._report(HALF_HEADER)
            self._header = b""


class ProxyFactory(WrappingFactory):
    """Wraps a factory whose clients come through a proxy."""

    protocol = Proxied
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, journal: Journal) -> None:
        super().__init__(wrapped)
        self.journal = journal
