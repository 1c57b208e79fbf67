"""TLS below HTTP, and a log line for each handshake that fails.

    192.0.2.7:40312 dropped: TLS handshake failed: no cipher in common
    192.0.2.7:40313 refused: 400 this port speaks TLS, not plain HTTP

Twisted's TLS logs nothing of that. A connection that comes and goes without a byte, as the probes
of load balancers and port scans do, leaves no line here either.
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
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.http.answer import finalResponse
from echotwist.listen.certificate import Certificate
from echotwist.observe.journal import Journal
from echotwist.wire.peer import nameOf
from echotwist.wire.tls import LendableTls
from echotwist.wire.turns import Turns

_PLAIN = ("http request", "https proxy request")
"""OpenSSL's reasons for plain HTTP where TLS is expected."""

PLAIN = "this port speaks TLS, not plain HTTP"

LATE = "no TLS handshake in time"

FAILED = "TLS handshake failed"
"""For those reasons of OpenSSL, some hundred, that are not in _REASONS."""

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
"""OpenSSL's reasons, in our words. OpenSSL has a version of TLS before `alert`."""

DROP_REASONS = frozenset({LATE, FAILED, _LEFT, *_REASONS.values()})
"""As `journal.DROP_REASONS`."""


def _describe(error: BaseException | None) -> str:
    """Why a handshake failed. Without an `error` of OpenSSL's, the connection was lost."""
    if not isinstance(error, SSL.Error) or isinstance(error, SSL.SysCallError):
        return _LEFT
    reason = _reason(error)
    _, alert, what = reason.rpartition("alert ")
    return _REASONS.get(f"{alert}{what}", FAILED)


def _reason(error: BaseException | None) -> str:
    """The first of OpenSSL's reasons; the others follow from it."""
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else ()
    return str(queue[0][-1]) if isinstance(queue, list) and queue else ""


class Secured(LendableTls):
    """A connection with TLS.

    It reaches into Twisted's TLS (26.10, protocols/tls.py): `_handshakeDone`, `_reason`,
    `_tlsShutdownFinished`, `_shutdownTLS` of TLSMemoryBIOProtocol, and `_aggregator` of
    BufferingTLSTransport. So does `wire.tls`.
    """

    factory: "TlsFactory"
    transport: Any

    _hasBegun = False

    def dataReceived(self, data: bytes) -> None:
        self._hasBegun = True
        super().dataReceived(data)

    @property
    def whyLate(self) -> str | None:
        """What the client has not finished, if that is the handshake."""
        return LATE if self._hasBegun and not self._handshakeDone else None

    def _shutdownTLS(self) -> None:
        # Twisted would lose the answer to what came in one segment with the peer's close_notify:
        # it waits for more to write, and nothing can be written after our own.
        self._aggregator.flush()
        super()._shutdownTLS()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        error = None if reason is None else reason.value
        if isinstance(error, SSL.ZeroReturnError):
            # close_notify during the handshake. Twisted looks for a message in this error, and it
            # has none: a traceback, and a connection that stays until the deadline.
            reason = None
        elif not self._handshakeDone and _reason(error) in _PLAIN:
            self.transport.write(finalResponse(400, PLAIN, False))
        super()._tlsShutdownFinished(reason)
        if reason is None and self._handshakeDone:
            # Tell the protocol above of a close_notify as of TCP's FIN. Twisted only closes the
            # transport below once everything is written: without a deadline, and never while a
            # producer is paused.
            IHalfCloseableProtocol(self.wrappedProtocol).readConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # After an abort of ours, the log has a reason.
        isOurs = self.disconnecting or reason.check(ConnectionAborted)
        if self._hasBegun and not self._handshakeDone and not isOurs:
            self._report(None if self._reason is None else self._reason.value)
        super().connectionLost(reason)

    def _report(self, error: BaseException | None) -> None:
        peer = nameOf(self.transport.getPeer())
        if _reason(error) in _PLAIN:
            self.factory.journal.refused(peer, 400, PLAIN)
        else:
            self.factory.journal.dropped(peer, _describe(error))


class TlsFactory(TLSMemoryBIOFactory):
    """Secures the connections of the factory that it wraps."""

    protocol = Secured

    def __init__(
        self,
        certificate: Certificate,
        wrapped: IProtocolFactory,
        reactor: Any,
        journal: Journal,
        turns: Turns,
    ) -> None:
        super().__init__(certificate, False, wrapped, reactor)
        self.journal = journal
        self.turns = turns


@implementer(IStreamServerEndpoint)
@dataclass
class TlsEndpoint:
    """TLS on the connections of another endpoint."""

    reactor: Any
    below: IStreamServerEndpoint
    certificate: Certificate
    journal: Journal | None = None
    """What is told of handshakes that fail; None: nobody."""
    turns: Turns | None = None
    """Shared by all connections; None: those of this endpoint have their own."""

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        journal = self.journal or Journal(0, self.reactor)
        turns = self.turns or Turns(self.reactor)
        secured = TlsFactory(self.certificate, factory, self.reactor, journal, turns)
        listening: Deferred[IListeningPort] = self.below.listen(secured)
        return listening


def certificatesOf(endpoints: Iterable[IStreamServerEndpoint]) -> list[Certificate]:
    return [each.certificate for each in endpoints if isinstance(each, TlsEndpoint)]
