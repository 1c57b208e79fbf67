"""The TLS configuration of `ssl:` endpoints, and certificates that are renewed while they are open.

Twisted's own `ssl:` (26.10, twisted/internet/endpoints.py, `_parseSSL`) reads its files only once.
It sends only the first certificate of `certKey`, while certbot's fullchain.pem has more. It accepts
CBC ciphers, and key exchange without forward secrecy. It asks a terminal for the password of an
encrypted key. Behind `haproxy:` it fails every client that offers protocols by ALPN.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, DiffieHellmanParameters
from twisted.logger import Logger, LogLevel
from twisted.python.filepath import FilePath
from zope.interface import implementer

CHECK_INTERVAL = 1.0
"""Seconds between two checks of the files. A check costs 0.03 ms, and a renewal is never urgent."""

ALPN_PROTOCOL = b"http/1.1"
"""The only protocol offered by ALPN. WebSocket over h2 (RFC 8441) is not supported."""

EXPIRY_WARNING = timedelta(days=7)
"""How long before its end a certificate causes a warning. certbot renews 30 days before."""

WARNING_INTERVAL = 24 * 3600.0
"""Seconds between two warnings that a certificate expires."""

# Mozilla's intermediate configuration for TLS 1.2, and the three ciphers of TLS 1.3: all have
# forward secrecy and authenticated encryption. DHE is used only if there are dhParameters.
_CIPHERS = AcceptableCiphers.fromOpenSSLCipherString(
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!DSS"
)

_log = Logger(namespace="echotwist")


class UnusableCertificate(ValueError):
    """The files have no usable certificate and key. The message says why, in one line."""


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """The certificate and key that are in these PEM files now.

    The files are checked when a client connects or when the end of the certificate is asked for, at
    most once in CHECK_INTERVAL. Their contents are compared, because modification times miss a
    second change within a tick of the clock. While the files are not usable, as halfway through a
    renewal, the last usable certificate stays in use. Connections keep the one that they began
    with.

    Raises UnusableCertificate.
    """

    def __init__(
        self, reactor: Any, key: str, chain: Iterable[str], dhParameters: str | None = None
    ) -> None:
        # Absolute, because twistd changes its folder when it becomes a daemon.
        self._key = Path(key).absolute()
        self._chain = [Path(name).absolute() for name in chain]
        self._dhParameters: Any = None
        if dhParameters is not None:
            self._dhParameters = _readParameters(Path(dhParameters).absolute())
        self._reactor = reactor
        self._lastError: str | None = None
        # Usable or not; None if the files could not be read.
        self._lastRead: list[bytes] | None = self._read()
        self._load(self._lastRead)
        self._nextCheck = self._reactor.seconds() + CHECK_INTERVAL

    @property
    def file(self) -> str:
        """The file that has it."""
        return str(self._chain[0])

    @property
    def notAfter(self) -> float:
        """When it ends, in seconds since 1970."""
        self._checkFiles()  # It may have been renewed since the last client came.
        end: datetime = self._notAfter
        return end.timestamp()

    def warnIfExpiring(self) -> None:
        """Log a warning if it ends soon, or an error if it has ended."""
        self._checkFiles()
        self._logExpiry()

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        self._checkFiles()
        return self._options.serverConnectionForTLS(protocol)

    def _checkFiles(self) -> None:
        if self._reactor.seconds() < self._nextCheck:
            return
        self._nextCheck = self._reactor.seconds() + CHECK_INTERVAL
        seen, self._lastRead = self._lastRead, None
        try:
            self._lastRead = self._read()
            if self._lastRead == seen:
                return
            self._load(self._lastRead)
        except UnusableCertificate as e:
            if str(e) != self._lastError:
                self._lastError = str(e)
                _log.warn("the last certificate stays in use, for now: {why}", why=self._lastError)
            return
        self._lastError = None
        _log.info(
            "the certificate in {file} is in use, until {end:%Y-%m-%d %H:%M} UTC",
            file=self._chain[0],
            end=self._notAfter,
        )

    def _read(self) -> list[bytes]:
        """The contents of the key file and the certificate files."""
        try:
            return [path.read_bytes() for path in (self._key, *self._chain)]
        except OSError as e:
            raise UnusableCertificate(f"cannot read {e.filename}: {e.strerror}") from e

    def _load(self, pems: list[bytes]) -> None:
        key, *chain = pems
        try:
            privateKey: Any = load_pem_private_key(key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            why = "has a password" if isinstance(e, TypeError) else "cannot be used"
            raise UnusableCertificate(f"the key in {self._key} {why}") from e
        certificates: list[Any] = []
        for path, pem in zip(self._chain, chain, strict=True):
            try:
                certificates += x509.load_pem_x509_certificates(pem)
            except ValueError as e:
                raise UnusableCertificate(f"{path} has no certificate, or a malformed one") from e
        try:
            isOurs = privateKey.public_key() == certificates[0].public_key()
        except (ValueError, UnsupportedAlgorithm) as e:
            raise UnusableCertificate(f"{self._chain[0]} has a key that cannot be used") from e
        if not isOurs:
            raise UnusableCertificate(
                f"the key in {self._key} does not match the certificate in {self._chain[0]}"
            )
        options: Any = CertificateOptions(
            privateKey=privateKey,
            certificate=certificates[0],
            extraCertChain=certificates[1:],
            acceptableCiphers=_CIPHERS,
            dhParameters=self._dhParameters,
        )
        try:
            context = options.getContext()  # Made once. OpenSSL reports its objections here.
        except SSL.Error as e:
            raise UnusableCertificate(f"OpenSSL rejects {self._chain[0]}: {_reasonOf(e)}") from e
        context.set_alpn_select_callback(_selectProtocol)
        self._options = options
        self._notAfter = certificates[0].not_valid_after_utc
        self._logExpiry()

    def _logExpiry(self) -> None:
        left = self._notAfter - datetime.now(UTC)
        if left >= EXPIRY_WARNING:
            return
        hasEnded = left < timedelta()
        _log.emit(
            LogLevel.error if hasEnded else LogLevel.warn,
            "the certificate in {file} {ends} {end:%Y-%m-%d %H:%M} UTC",
            file=self._chain[0],
            ends="has ended:" if hasEnded else "ends soon:",
            end=self._notAfter,
        )


class ExpiryReminder(Service):
    """Checks once a day whether `certificates` expire. Loading them has checked it at the start."""

    def __init__(self, reactor: Any, certificates: Sequence[Certificate]) -> None:
        self._reactor = reactor
        self._certificates = certificates
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._call = self._reactor.callLater(WARNING_INTERVAL, self._remind)

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _remind(self) -> None:
        self._call = self._reactor.callLater(WARNING_INTERVAL, self._remind)
        for certificate in self._certificates:
            certificate.warnIfExpiring()


def _readParameters(path: Path) -> DiffieHellmanParameters:
    try:
        path.read_bytes()
        SSL.Context(SSL.TLS_METHOD).load_tmp_dh(str(path).encode())
    except OSError as e:
        raise UnusableCertificate(f"cannot read {path}: {e.strerror}") from e
    except SSL.Error as e:
        raise UnusableCertificate(f"{path} has no Diffie-Hellman parameters") from e
    parameters: DiffieHellmanParameters = DiffieHellmanParameters.fromFile(FilePath(str(path)))
    return parameters


class NoCommonProtocol(SSL.Error):
    """A client offers protocols by ALPN, but not ALPN_PROTOCOL."""

    def __init__(self) -> None:
        super().__init__([("", "", "no application protocol")])


def _selectProtocol(connection: Any, offered: Iterable[bytes]) -> bytes:
    """Select the protocol of a connection from those that its client offers. Raises
    NoCommonProtocol.

    That exception makes OpenSSL send alert 120, no_application_protocol, as RFC 7301, 3.2 requires.
    Twisted returns b"" instead (26.10, twisted/internet/_sslverify.py, `setupForALPN`), which sends
    alert 80, internal_error. NO_OVERLAPPING_PROTOCOLS would go on without a protocol (pyOpenSSL
    26.4, OpenSSL/SSL.py, `_ALPNSelectHelper`). And Twisted does not see the site's protocols
    through `haproxy:`.
    """
    if ALPN_PROTOCOL not in offered:
        raise NoCommonProtocol
    return ALPN_PROTOCOL


def _reasonOf(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else ()
    return "; ".join(reason for _, _, reason in queue) or "no reason given"
