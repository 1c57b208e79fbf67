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


def unverified() -> ssl.SSLContext:
    """A client's TLS that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
