"""What `ssl:` endpoints speak, and a certificate that is renewed while they are open.

Twisted's own `ssl:` (twisted/internet/endpoints.py, 26.10, _parseSSL) reads its files once, sends
only the first certificate of `certKey` where certbot's fullchain.pem has more, accepts CBC and key
exchange without forward secrecy, asks a terminal for the password of a key that has one, and behind
`haproxy:` fails each client that offers a protocol (ALPN).
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

LOOK = 1.0
"""Seconds between two looks at the files, which cost 0.03 ms: a renewal is never urgent."""

PROTOCOL = b"http/1.1"
"""What is spoken, by its name in ALPN. A WebSocket over h2 (RFC 8441) is not."""

SOON = timedelta(days=7)
"""A certificate that ends within this is worth a warning: certbot renews 30 days before."""

DAY = 24 * 3600.0
"""Seconds between two such warnings."""

# Mozilla's intermediate configuration for TLS 1.2, with the three of TLS 1.3: forward secret,
# authenticated. Those with DHE only if there are dhParameters.
_CIPHERS = AcceptableCiphers.fromOpenSSLCipherString(
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!DSS"
)

_log = Logger(namespace="echotwist")


class Unusable(ValueError):
    """There is no certificate in the files, or no key to it; the message says why, in a line."""


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """The certificate in these files, now.

    They are looked at when a client connects, or somebody asks when it ends, at most once in LOOK;
    and compared by what they hold: their times miss a second change within a tick of the clock.
    While they are not usable, such as halfway through a renewal, the last that was is kept.
    Connections keep the one that they began with.

    Raises Unusable.
    """

    def __init__(
        self, reactor: Any, key: str, chain: Iterable[str], dhParameters: str | None = None
    ) -> None:
        # Absolute, because twistd changes into another folder as it becomes a daemon.
        self._key = Path(key).absolute()
        self._chain = [Path(name).absolute() for name in chain]
        self._dhParameters: Any = None
        if dhParameters is not None:
            self._dhParameters = _diffieHellman(Path(dhParameters).absolute())
        self._reactor = reactor
        self._failed: str | None = None
        # What was read last, usable or not.
        self._seen: list[bytes] | None = self._read()
        self._use(self._seen)
        self._nextLook = self._reactor.seconds() + LOOK

    @property
    def file(self) -> str:
        """Where it is."""
        return str(self._chain[0])

    @property
    def notAfter(self) -> float:
        """When it ends, in seconds since 1970."""
        self._look()  # No client may have come since it was renewed.
        end: datetime = self._end
        return end.timestamp()

    def remind(self) -> None:
        """Say so if it ends soon, or has ended."""
        self._look()
        self._warn()

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        self._look()
        return self._options.serverConnectionForTLS(protocol)

    def _look(self) -> None:
        if self._reactor.seconds() < self._nextLook:
            return
        self._nextLook = self._reactor.seconds() + LOOK
        seen, self._seen = self._seen, None
        try:
            self._seen = self._read()
            if self._seen == seen:
                return
            self._use(self._seen)
        except Unusable as e:
            if str(e) != self._failed:
                self._failed = str(e)
                _log.warn("the last certificate stays in use, for now: {why}", why=self._failed)
            return
        self._failed = None
        _log.info(
            "the certificate in {file} is in use, until {end:%Y-%m-%d %H:%M} UTC",
            file=self._chain[0],
            end=self._end,
        )

    def _read(self) -> list[bytes]:
        """The key, and the certificates."""
        try:
            return [path.read_bytes() for path in (self._key, *self._chain)]
        except OSError as e:
            raise Unusable(f"cannot read {e.filename}: {e.strerror}") from e

    def _use(self, pems: list[bytes]) -> None:
        key, *chain = pems
        try:
            privateKey: Any = load_pem_private_key(key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            why = "has a password" if isinstance(e, TypeError) else "is none that can be used"
            raise Unusable(f"the key in {self._key} {why}") from e
        certificates: list[Any] = []
        for path, pem in zip(self._chain, chain, strict=True):
            try:
                certificates += x509.load_pem_x509_certificates(pem)
            except ValueError as e:
                raise Unusable(f"{path} has no certificate, or a broken one") from e
        try:
            isOurs = privateKey.public_key() == certificates[0].public_key()
        except (ValueError, UnsupportedAlgorithm) as e:
            raise Unusable(f"{self._chain[0]} has a key that cannot be used") from e
        if not isOurs:
            raise Unusable(f"the key in {self._key} is not that of {self._chain[0]}")
        options: Any = CertificateOptions(
            privateKey=privateKey,
            certificate=certificates[0],
            extraCertChain=certificates[1:],
            acceptableCiphers=_CIPHERS,
            dhParameters=self._dhParameters,
        )
        try:
            context = options.getContext()  # Made once; what OpenSSL does not like, it says here.
        except SSL.Error as e:
            raise Unusable(f"OpenSSL does not take {self._chain[0]}: {_reason(e)}") from e
        context.set_alpn_select_callback(_protocolOf)
        self._options = options
        self._end = certificates[0].not_valid_after_utc
        self._warn()

    def _warn(self) -> None:
        left = self._end - datetime.now(UTC)
        if left >= SOON:
            return
        hasEnded = left < timedelta()
        _log.emit(
            LogLevel.error if hasEnded else LogLevel.warn,
            "the certificate in {file} {ends} {end:%Y-%m-%d %H:%M} UTC",
            file=self._chain[0],
            ends="has ended:" if hasEnded else "ends soon:",
            end=self._end,
        )


class Reminder(Service):
    """Has `certificates` say once a day that they end soon. At the start they have said so."""

    def __init__(self, reactor: Any, certificates: Sequence[Certificate]) -> None:
        self._reactor = reactor
        self._certificates = certificates
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._call = self._reactor.callLater(DAY, self._remind)

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _remind(self) -> None:
        self._call = self._reactor.callLater(DAY, self._remind)
        for certificate in self._certificates:
            certificate.remind()


def _diffieHellman(path: Path) -> DiffieHellmanParameters:
    try:
        path.read_bytes()
        SSL.Context(SSL.TLS_METHOD).load_tmp_dh(str(path).encode())
    except OSError as e:
        raise Unusable(f"cannot read {path}: {e.strerror}") from e
    except SSL.Error as e:
        raise Unusable(f"{path} has no parameters for Diffie-Hellman") from e
    parameters: DiffieHellmanParameters = DiffieHellmanParameters.fromFile(FilePath(str(path)))
    return parameters


class NoProtocol(SSL.Error):
    """A client offers protocols by ALPN, and none that is spoken here."""

    def __init__(self) -> None:
        super().__init__([("", "", "no application protocol")])


def _protocolOf(connection: Any, offered: Iterable[bytes]) -> bytes:
    """Of those that a client offers by ALPN. Raises NoProtocol.

    That has OpenSSL say alert 120, no_application_protocol, as RFC 7301, 3.2, wants it. What
    Twisted returns instead (b"", twisted/internet/_sslverify.py, 26.10, setupForALPN) is alert 80,
    internal_error; and NO_OVERLAPPING_PROTOCOLS goes on without a protocol (pyOpenSSL 26.4,
    _ALPNSelectHelper). Nor does Twisted see the site's protocols through `haproxy:`.
    """
    if PROTOCOL not in offered:
        raise NoProtocol
    return PROTOCOL


def _reason(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else ()
    return "; ".join(reason for _, _, reason in queue) or "no reason given"
