"""OpenSSL for the loops: the library, and the objects in it, that Twisted's TLS uses.

A loop calls OpenSSL without Python, on the object that pyOpenSSL made for the connection. Twisted's
TLS, pyOpenSSL and this all use the OpenSSL that cryptography brings, by its cffi bindings; for each
function these have a plain C function, the address of which is taken here. So there is one OpenSSL
in the process, whatever the system has.

Rejected: a TLS of our own (a second library to keep safe, and handshakes of our own), and the
kernel's (it cannot be taken off a socket again, and cloud kernels often lack it).

This reaches into cryptography 50 (`hazmat.bindings._rust._openssl`), and by `wire.tls.addressesOf`
into pyOpenSSL. `whyNot` tries all of it before any connection depends on it.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.bindings import _rust
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from echotwist.wire.tls import addressesOf

_FUNCTIONS = (
    "SSL_read",
    "SSL_write",
    "SSL_get_error",
    "BIO_read",
    "BIO_write",
    "ERR_clear_error",
)
"""In the order in which `_loop.useOpenssl` takes their addresses."""


def functions() -> list[int]:
    """The addresses of OpenSSL's functions. Raises AttributeError if there is one no more."""
    openssl: Any = _rust
    ffi, lib = openssl._openssl.ffi, openssl._openssl.lib
    return [int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in _FUNCTIONS]


@cache
def whyNot() -> str:
    """Why the loops cannot do TLS, as the operator is told; empty if they can.

    Tries it, in 5 ms: an echo through compiled calls, on either version of TLS.
    """
    from echotwist.fastpath._loop import echoOverTls, useOpenssl

    try:
        useOpenssl(functions())
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            client, server = _connected(version)
            client.send(b"ping")
            echoed = echoOverTls(addressesOf(server), client.bio_read(1000))
            client.bio_write(echoed)
            if client.recv(1000) != b"ping":
                return "an echo does not come back"
            # Both go on by pyOpenSSL's own calls.
            server.send(b"pong")
            client.bio_write(server.bio_read(1000))
            if client.recv(1000) != b"pong":
                return "TLS does not go on after it"
    except Exception as e:  # Whatever it is, Twisted can do TLS without.
        return f"{type(e).__name__}: {e}"
    return ""


def _connected(version: int) -> tuple[Any, Any]:
    """A client and a server, in memory, that have shaken hands."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    ends = []
    for method in (SSL.TLS_CLIENT_METHOD, SSL.TLS_SERVER_METHOD):
        context = SSL.Context(method)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        if method == SSL.TLS_SERVER_METHOD:
            context.use_privatekey(key)
            context.use_certificate(certificate)
        ends.append(SSL.Connection(context, None))
    client, server = ends
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(100_000))
    with suppress(SSL.WantReadError):
        client.recv(1)  # The tickets of TLS 1.3.
    return client, server
