"""What every server here is told: the port, TLS or not, permessage-deflate or not."""

import argparse
import ssl
from dataclasses import dataclass

LIMIT = 16 * 1024 * 1024
"""Largest message in bytes: echotwist's default, so that all of them have to count."""


@dataclass
class Arguments:
    port: int
    deflate: bool
    cert: str | None
    key: str | None

    @property
    def tls(self) -> ssl.SSLContext | None:
        """With Python's own settings for a server."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


def parse() -> Arguments:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    return Arguments(**vars(parser.parse_args()))
