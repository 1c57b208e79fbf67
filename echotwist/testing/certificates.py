"""A certificate authority for one service, thrown away with it."""

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import KeyUsage

DAYS = 365
"""Of validity: a day less than a week, and the service would warn that they end."""


class Authority:
    """Has a key and a certificate for `localhost`, `127.0.0.1` and `::1` in `folder`.

    It takes 2 ms: the keys are on P-256.
    """

    def __init__(self, folder: Path) -> None:
        self.caFile = folder / "ca.pem"
        self._keyFile = folder / "key.pem"
        self._chainFile = folder / "chain.pem"
        self._write()

    def _write(self) -> None:
        # Not at the top: most services do without TLS.
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        now = datetime.datetime.now(datetime.UTC)

        def named(name: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

        def builder(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(named(name))
                .issuer_name(named("echotwist, for a test"))
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                # Clocks differ.
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=DAYS))
                # Python 3.13 is strict (VERIFY_X509_STRICT), and wants these.
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(caKey.public_key()), False
                )
            )

        caKey, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca = (
            builder("echotwist, for a test", caKey)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
            .add_extension(_usage(isCa=True), True)
            .sign(caKey, hashes.SHA256())
        )
        certificate = (
            builder("localhost", key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(_usage(isCa=False), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.DNSName("localhost"),
                        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                        x509.IPAddress(ipaddress.ip_address("::1")),
                    ]
                ),
                False,
            )
            .sign(caKey, hashes.SHA256())
        )
        self._ca = ca.public_bytes(serialization.Encoding.PEM).decode("ascii")
        self.caFile.write_text(self._ca)
        self._chainFile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._keyFile.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def endpoint(self, port: int) -> str:
        """Where --listen serves with the certificate."""
        key, chain = (
            str(path).replace("\\", r"\\").replace(":", r"\:")
            for path in (self._keyFile, self._chainFile)
        )
        return f"ssl:{port}:privateKey={key}:certKey={chain}:interface=127.0.0.1"

    def clientContext(self) -> ssl.SSLContext:
        """Trusts this authority, and nobody else."""
        return ssl.create_default_context(cadata=self._ca)


def _usage(isCa: bool) -> "KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not isCa,
        key_cert_sign=isCa,
        crl_sign=isCa,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
