"""websockets on uvloop, its asyncio server, as its documentation shows an echo.

`ping_interval=None`: its pings come by the clock, also on a busy connection, and the load takes
one for a wrong echo. `compression` is off, or what it negotiates by itself.
"""

import asyncio
from contextlib import suppress

import arguments
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def echo(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):  # It would be logged.
        async for message in connection:
            await connection.send(message)


async def main() -> None:
    given = arguments.parse()
    async with serve(
        echo,
        "127.0.0.1",
        given.port,
        ssl=given.tls,
        compression="deflate" if given.deflate else None,
        max_size=arguments.LIMIT,
        ping_interval=None,
    ):
        print("ready", flush=True)
        await asyncio.Future()


uvloop.run(main())
