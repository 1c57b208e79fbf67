"""A certificate, for as long as a run takes."""

import ssl
from pathlib import Path

import trustme


def tlsEndpoint(folder: Path, port: str = "0") -> str:
    """An endpoint with a certificate of its own, the files of which are put in `folder`."""
    certificate = trustme.CA().issue_cert("localhost")
    key, chain = folder / "key.pem", folder / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    return f"ssl:{port}:privateKey={key}:certKey={chain}"


def unverified(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client's TLS that trusts everybody; of this version if told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
