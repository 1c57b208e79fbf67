"""Twisted's TLS, made so that the fast path can serve a connection with it.

A loop uses the OpenSSL object of a connection that it is lent, and meanwhile nothing in the
reactor's thread may touch it. Twisted decrypts more after the protocol has got something (26.10,
protocols/tls.py, `TLSMemoryBIOProtocol._flushReceiveBIO`): in this class the protocol, which may
lend the connection, gets everything at the end.

What it does to OpenSSL's objects, it does through the fields that pyOpenSSL has for them (26.4,
OpenSSL/SSL.py, `Connection.__init__`: `_ssl`, `_into_ssl`, `_from_ssl`).
"""

from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

_lib: Any = lib
_start: Any = ffi.new("char **")
"""Where BIO_get_mem_data writes an address, which is not used."""

_SMALL = 4096
"""Bytes that a connection may write at a time without `renewBuffers`, and the most that OpenSSL
gets to read at a time: 150 key updates, which take 2 ms. It works off all that it has."""


Addresses = tuple[int, int, int]
"""Of the SSL object of a connection, of the memory BIO that it reads from, and of that which it
writes to."""


def addressesOf(connection: Any) -> Addresses:
    """The objects of pyOpenSSL's `connection`, which must outlive their use; `renewBuffers` frees
    two of them. Raises AttributeError or TypeError if it has them no more."""
    ssl, into, outOf = connection._ssl, connection._into_ssl, connection._from_ssl
    return _addressOf(ssl), _addressOf(into), _addressOf(outOf)


def _addressOf(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def renewBuffers(connection: Any) -> bool:
    """Give pyOpenSSL's `connection` new memory BIOs if both are empty. Returns whether they were.
    No loop may have it: it frees the old ones.

    A memory BIO keeps room for the most that it ever had: the flight of certificates, 1 to 6 KB,
    and later 54 KB for a message of 60 KB, as long as the client stays. OpenSSL has no way to
    shrink one, and pyOpenSSL none to replace it. One pair for all connections would take even less,
    but if ever a byte stayed in it, it would be another client's.
    """
    waiting = _lib.BIO_get_mem_data
    if waiting(connection._into_ssl, _start) or waiting(connection._from_ssl, _start):
        return False
    connection._into_ssl = _lib.BIO_new(_lib.BIO_s_mem())
    connection._from_ssl = _lib.BIO_new(_lib.BIO_s_mem())
    _lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)
    return True


def _top(transport: Any) -> Any:
    """The protocol above all wrappers."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.wrappedProtocol
    return transport


class LendableTls(BufferingTLSTransport):
    """A connection with TLS.

    It reaches into Twisted's TLS (26.10, protocols/tls.py): `_tlsConnection`, `_handshakeDone`,
    `_lostTLSConnection`, `_aborted`, `_appSendBuffer`, `_tlsShutdownFinished`, `_shutdownTLS`,
    `_write`, `_flushReceiveBIO` and `_flushSendBIO` of TLSMemoryBIOProtocol, `_aggregator` of
    BufferingTLSTransport, and the `_buffer` of that.
    """

    transport: Any

    factory: Any
    """Has `turns`."""

    reads = 0
    """How often ciphertext has come, while this had the connection."""

    isEnding = False
    """Whether OpenSSL has told the end, and the protocol has still to see what came before."""

    lostBelow: Failure = connectionDone
    """Why the transport below was lost. The protocol is told ConnectionLost instead, also after a
    FIN or an abort, if there was no close_notify."""

    _end: Failure | None = None
    """That end, while the protocol has something left to answer."""

    _ciphertext = b""
    """What was received, and OpenSSL has not got yet."""

    _hasMore = False
    """Whether there may be more to decrypt."""

    _waits = False
    """Whether it waits for its turn."""

    _isPaused = False
    """Whether the protocol wants nothing now."""

    _hasGrown = True
    """Whether OpenSSL's buffers may be large; the handshake makes them grow."""

    def dataReceived(self, data: bytes) -> None:
        self.reads += 1
        self._ciphertext += data
        # Those after the handshake are all taken by the first call, or in later turns.
        while self._ciphertext and not (self._hasMore or self._lostTLSConnection):
            super().dataReceived(self._nextPiece())

    def _nextPiece(self) -> bytes:
        piece, self._ciphertext = self._ciphertext[:_SMALL], self._ciphertext[_SMALL:]
        return piece

    def _write(self, data: bytes) -> None:
        super()._write(data)
        self._hasGrown = self._hasGrown or len(data) > _SMALL
        self._shrink()

    def _shrink(self) -> None:
        if self._hasGrown and self._handshakeDone and not self._lostTLSConnection:
            self._hasGrown = not renewBuffers(self._tlsConnection)

    def isAtRest(self) -> bool:
        """Whether nothing waits to be encrypted, and nothing ends."""
        return not (
            self.disconnecting
            or self.isEnding
            or self._hasMore
            or self._lostTLSConnection
            or self._appSendBuffer
            or self._aggregator._buffer  # type: ignore[union-attr]
        )

    def writeNow(self, data: bytes) -> None:
        """Encrypt and write, now if the kernel takes it. Twisted's own `write` waits for a turn of
        the reactor, in the hope of more."""
        self._aggregator.flush()  # Earlier writes come first.
        TLSMemoryBIOProtocol.write(self, data)
        if not self.transport.disconnecting:
            # If this fails, so does the reactor's next write, which says so. But that TLS has
            # failed, and with it the connection, doWrite() says only once.
            self.transport.doWrite()

    def resume(self) -> None:
        """Look at what OpenSSL knows after a loop has used it: data that is decrypted, or the
        end."""
        if not self._lostTLSConnection:
            self._hasGrown = True
            self._flushReceiveBIO()

    def _flushReceiveBIO(self) -> None:
        """Bring the protocol what has been received, last of all; but no more than is decrypted in
        a slice (see `wire.turns`): 64 KiB of records of one byte take 30 ms."""
        turns = self.factory.turns
        sliceEnd = turns.sliceEnd()
        received = []
        while not (self._lostTLSConnection or self._end):
            try:
                received.append(self._tlsConnection.recv(2**15))
            except SSL.WantReadError:
                if not self._ciphertext:
                    break
                self._tlsConnection.bio_write(self._nextPiece())
            except SSL.Error:
                self._end = Failure()
                self.isEnding = True
                self._ciphertext = b""
            if turns.clock() >= sliceEnd and not self._end:
                self._hasMore = True
                self.transport.pauseProducing()
                self._wait()
                break
        self._flushSendBIO()
        if self._end is None:
            self._shrink()  # Not later: the protocol may lend the connection.
        self._deliver(b"".join(received))
        # Nothing could be written after the end.
        if self._end and not _top(self).hasLeft:
            end, self._end = self._end, None
            isOrderly = end.check(SSL.ZeroReturnError)
            if isOrderly:
                self._shutdownTLS()
            self._tlsShutdownFinished(None if isOrderly else end)

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self.factory.turns.wait(self, len(self._ciphertext))

    def takeTurn(self) -> None:
        self._waits = False
        if self._hasMore or self._end:
            self._hasMore = False
            self._flushReceiveBIO()
            if not (self._hasMore or self._isPaused):
                self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        self._isPaused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._isPaused = False
        if self._hasMore or self._end:
            self._wait()
        else:
            self.transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lostBelow = reason
        if self._hasMore or self._end:  # The client is gone, and is not answered any more.
            self._hasMore, self._end, self._lostTLSConnection = False, None, True
            self._ciphertext = b""
        super().connectionLost(reason)

    def _deliver(self, data: bytes) -> None:
        if data and not self._aborted:
            ProtocolWrapper.dataReceived(self, data)
