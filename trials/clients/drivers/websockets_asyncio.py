"""websockets, in asyncio."""

import asyncio

from clients.drivers.harness import SUBPROTOCOL, runTasks
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol


async def ask(url: str) -> str:
    async with connect(url) as connection:
        return str(await connection.recv())


async def echo(url: str) -> str:
    async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)]) as connection:
        async for message in connection:
            await connection.send(message)
    return f"closed with {connection.close_code}"


asyncio.run(runTasks(ask, echo))
