"""Twisted's TLS, made so that the fast path can serve a connection with it.

A loop uses the OpenSSL object of a connection that it is lent, and meanwhile nothing in the
reactor's thread may touch it. Twisted decrypts more after the protocol has got something (26.10,
protocols/tls.py, `TLSMemoryBIOProtocol._flushReceiveBIO`): in this class the protocol, which may
lend the connection, gets everything at the end.
"""

from typing import Any

from OpenSSL import SSL
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure


class LendableTls(BufferingTLSTransport):
    """A connection with TLS.

    It reaches into Twisted's TLS (26.10, protocols/tls.py): `_tlsConnection`, `_lostTLSConnection`,
    `_aborted`, `_appSendBuffer`, `_tlsShutdownFinished`, `_shutdownTLS`, `_flushReceiveBIO` and
    `_flushSendBIO` of TLSMemoryBIOProtocol, `_aggregator` of BufferingTLSTransport, and the
    `_buffer` of that.
    """

    transport: Any

    _isEnding = False
    """Whether OpenSSL has told the end, and the protocol has still to see what came before."""

    def isAtRest(self) -> bool:
        """Whether nothing waits to be encrypted, and nothing ends."""
        return not (
            self.disconnecting
            or self._isEnding
            or self._lostTLSConnection
            or self._appSendBuffer
            or self._aggregator._buffer  # type: ignore[union-attr]
        )

    def writeNow(self, data: bytes) -> None:
        """Encrypt and write, now if the kernel takes it. Twisted's own `write` waits for a turn of
        the reactor, in the hope of more."""
        self._aggregator.flush()  # Earlier writes come first.
        TLSMemoryBIOProtocol.write(self, data)
        self.transport.doWrite()  # If this fails, so does the reactor's next write, which says so.

    def resume(self) -> None:
        """Look at what OpenSSL knows after a loop has used it: data that is decrypted, or the
        end."""
        if not self._lostTLSConnection:
            self._flushReceiveBIO()

    def _flushReceiveBIO(self) -> None:
        """Bring the protocol what has been received, last of all."""
        received = []
        end: Failure | None = None
        while not (self._lostTLSConnection or end):
            try:
                received.append(self._tlsConnection.recv(2**15))
            except SSL.WantReadError:
                break
            except SSL.Error:
                end = Failure()
        self._flushSendBIO()
        data = b"".join(received)
        if end is None:
            self._deliver(data)
            return
        self._isEnding = True
        self._deliver(data)
        if end.check(SSL.ZeroReturnError):
            self._shutdownTLS()
            end = None
        self._tlsShutdownFinished(end)

    def _deliver(self, data: bytes) -> None:
        if data and not self._aborted:
            ProtocolWrapper.dataReceived(self, data)
