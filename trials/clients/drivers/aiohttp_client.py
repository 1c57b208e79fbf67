"""aiohttp. It offers compression only if it is told to."""

import asyncio

import aiohttp
from clients.drivers.harness import SUBPROTOCOL, runTasks


async def ask(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        return await connection.receive_str()


async def echo(url: str) -> str:
    # One for each case, so that none is run on a connection of another.
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=[SUBPROTOCOL], compress=15) as connection,
    ):
        async for message in connection:
            if message.type is aiohttp.WSMsgType.TEXT:
                await connection.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await connection.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise message.data
    return f"closed with {connection.close_code}"


asyncio.run(runTasks(ask, echo))
