"""TLS below HTTP, and the trace of a handshake that fails.

    192.0.2.7:40312 dropped: TLS handshake failed: no cipher in common
    192.0.2.7:40313 refused: 400 this port speaks TLS, not plain HTTP

Twisted's TLS says nothing of it. A connection that comes and goes without a byte, as the probes of
load balancers and the scans of ports do, leaves no trace here either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.http.answer import lastWords
from echotwist.listen.certificate import Certificate
from echotwist.observe.journal import Journal
from echotwist.wire.peer import nameOf

_PLAIN = ("http request", "https proxy request")
"""How OpenSSL says that a request came where TLS is spoken."""

PLAIN = "this port speaks TLS, not plain HTTP"

LATE = "no TLS handshake in time"

FAILED = "TLS handshake failed"
"""For all reasons of OpenSSL, some hundred, that are not in this table."""

_UNTRUSTED = f"{FAILED}: the client does not trust the certificate"
_LEFT = f"{FAILED}: the client left"
_NO_TLS = f"{FAILED}: the client does not speak TLS"

_REASONS = {
    "no shared cipher": f"{FAILED}: no cipher in common",
    "no suitable key share": f"{FAILED}: no group in common",
    "no shared groups": f"{FAILED}: no group in common",
    "no suitable groups": f"{FAILED}: no group in common",
    "no suitable signature algorithm": f"{FAILED}: no signature algorithm in common",
    "no shared signature algorithms": f"{FAILED}: no signature algorithm in common",
    "no application protocol": f"{FAILED}: no protocol in common (ALPN)",
    "unsupported protocol": f"{FAILED}: the client is older than TLS 1.2",
    "version too low": f"{FAILED}: the client is older than TLS 1.2",
    "wrong version number": _NO_TLS,
    "unexpected eof while reading": _LEFT,
    "alert unknown ca": _UNTRUSTED,
    "alert bad certificate": _UNTRUSTED,
    "alert unsupported certificate": _UNTRUSTED,
    "alert certificate revoked": _UNTRUSTED,
    "alert certificate expired": _UNTRUSTED,
    "alert certificate unknown": _UNTRUSTED,
}
"""OpenSSL's reasons, in our words. In front of `alert` stands a version of TLS there."""

DROPPED = frozenset({LATE, FAILED, _LEFT, *_REASONS.values()})
"""As `journal.DROPPED`."""


def _wordsFor(error: BaseException | None) -> str:
    """Why a handshake failed; the connection was lost if there is no `error` of OpenSSL's."""
    if not isinstance(error, SSL.Error) or isinstance(error, SSL.SysCallError):
        return _LEFT
    reason = _reason(error)
    _, alert, what = reason.rpartition("alert ")
    return _REASONS.get(f"{alert}{what}", FAILED)


def _reason(error: BaseException | None) -> str:
    """What OpenSSL says at first; the others are what that led to."""
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else ()
    return str(queue[0][-1]) if isinstance(queue, list) and queue else ""


class Secured(BufferingTLSTransport):
    """A connection with TLS.

    Here, and nowhere else, are private parts of Twisted's (twisted/protocols/tls.py,
    TLSMemoryBIOProtocol, 26.10): `_handshakeDone`, `_reason`, `_tlsShutdownFinished`,
    `_shutdownTLS`; and `_aggregator` of BufferingTLSTransport.
    """

    factory: "TlsFactory"
    transport: Any

    _hasBegun = False

    def dataReceived(self, data: bytes) -> None:
        self._hasBegun = True
        super().dataReceived(data)

    @property
    def lateness(self) -> str | None:
        """What the client was too late with, if it is the handshake."""
        return LATE if self._hasBegun and not self._handshakeDone else None

    def _shutdownTLS(self) -> None:
        # The answer to what came in one segment with the peer's close_notify waits for more to
        # write, and after ours nothing can be written: Twisted loses it.
        self._aggregator.flush()
        super()._shutdownTLS()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        error = None if reason is None else reason.value
        if isinstance(error, SSL.ZeroReturnError):
            # close_notify amid the handshake. Twisted looks into it for words that it has not: a
            # traceback in the log, and a connection that stays until the deadline.
            reason = None
        elif not self._handshakeDone and _reason(error) in _PLAIN:
            self.transport.write(lastWords(400, PLAIN, False))
        super()._tlsShutdownFinished(reason)
        if reason is None and self._handshakeDone:
            # The peer's close_notify, which the protocol above is told as it is told of TCP's FIN.
            # Twisted only has the transport below close when all is written: without a deadline,
            # and not at all while a producer is paused.
            IHalfCloseableProtocol(self.wrappedProtocol).readConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Whoever aborts says why.
        isOurs = self.disconnecting or reason.check(ConnectionAborted)
        if self._hasBegun and not self._handshakeDone and not isOurs:
            self._tell(None if self._reason is None else self._reason.value)
        super().connectionLost(reason)

    def _tell(self, error: BaseException | None) -> None:
        peer = nameOf(self.transport.getPeer())
        if _reason(error) in _PLAIN:
            self.factory.journal.refused(peer, 400, PLAIN)
        else:
            self.factory.journal.dropped(peer, _wordsFor(error))


class TlsFactory(TLSMemoryBIOFactory):
    """Secures the connections of the factory that it wraps, with this certificate."""

    protocol = Secured

    def __init__(
        self, certificate: Certificate, wrapped: IProtocolFactory, reactor: Any, journal: Journal
    ) -> None:
        super().__init__(certificate, False, wrapped, reactor)
        self.journal = journal


@implementer(IStreamServerEndpoint)
@dataclass
class TlsEndpoint:
    """Another endpoint, for connections with TLS. `ports.Listening` secures them by `TlsFactory`,
    since an endpoint has no journal to tell of handshakes that fail."""

    below: IStreamServerEndpoint
    certificate: Certificate

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        listening: Deferred[IListeningPort] = self.below.listen(factory)
        return listening


def certificatesOf(endpoints: Iterable[IStreamServerEndpoint]) -> list[Certificate]:
    return [each.certificate for each in endpoints if isinstance(each, TlsEndpoint)]
