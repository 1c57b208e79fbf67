"""A client over the system's OpenSSL, for what Python's ssl cannot ask of it."""

import ctypes
import ssl
from typing import Any

from echotwist.testing.raw import request
from support.memory import Client
from support.secure import TLS13

_POINTERS = ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new")
_SSL_KEY_UPDATE_REQUESTED = 1
_SSL_CTRL_SET_MAX_PROTO_VERSION = 124


def _library() -> Any:
    library = ctypes.CDLL("libssl.so.3")
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    return library


class OpensslPeer:
    """A client that has shaken hands, TLS's and WebSocket's."""

    def __init__(
        self, client: Client, version: ssl.TLSVersion = TLS13, *, hasSmallRecords: bool = False
    ) -> None:
        """`hasSmallRecords`: ask for records of 512 bytes at most (RFC 6066, 4)."""
        self.client = client
        self.lib = lib = _library()
        context = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method())))
        lib.SSL_CTX_ctrl(context, _SSL_CTRL_SET_MAX_PROTO_VERSION, int(version), None)
        if hasSmallRecords:
            lib.SSL_CTX_set_tlsext_max_fragment_length(context, 1)
        self.ssl = ctypes.c_void_p(lib.SSL_new(context))
        self._in, self._out = (
            ctypes.c_void_p(lib.BIO_new(ctypes.c_void_p(lib.BIO_s_mem()))) for _ in range(2)
        )
        lib.SSL_set_bio(self.ssl, self._in, self._out)
        lib.SSL_set_connect_state(self.ssl)
        for _ in range(5):
            lib.SSL_do_handshake(self.ssl)
            self.move()
        self.send(request())
        assert self.received().startswith(b"HTTP/1.1 101 ")

    def ciphertext(self) -> bytes:
        """What is to be sent."""
        buffer = ctypes.create_string_buffer(2**16)
        data = b""
        while (n := self.lib.BIO_read(self._out, buffer, 2**16)) > 0:
            data += buffer.raw[:n]
        return data

    def encrypted(self, data: bytes) -> bytes:
        assert self.lib.SSL_write(self.ssl, data, len(data)) == len(data)
        return self.ciphertext()

    def move(self) -> None:
        self.client.send(self.ciphertext())
        data = self.client.received()
        self.lib.BIO_write(self._in, data, len(data))

    def send(self, data: bytes) -> None:
        self.client.send(self.encrypted(data))
        self.move()

    def received(self) -> bytes:
        buffer = ctypes.create_string_buffer(2**16)
        data = b""
        while (n := self.lib.SSL_read(self.ssl, buffer, 2**16)) > 0:
            data += buffer.raw[:n]
        return data

    def updateKeys(self) -> None:
        """New keys, and ask the service for new ones (RFC 8446, 4.6.3)."""
        assert self.lib.SSL_key_update(self.ssl, _SSL_KEY_UPDATE_REQUESTED) == 1
        assert self.lib.SSL_do_handshake(self.ssl) == 1

    def renegotiate(self) -> None:
        """Begin another handshake (RFC 5246, 7.4.1.1), which OpenSSL's servers do not allow."""
        assert self.lib.SSL_renegotiate(self.ssl) == 1
        self.lib.SSL_do_handshake(self.ssl)
        self.move()

    def keyUpdates(self, many: int) -> bytes:
        """So many, as ciphertext. OpenSSL writes one at a time."""
        data = b""
        for _ in range(many):
            self.updateKeys()
            data += self.ciphertext()
        return data
