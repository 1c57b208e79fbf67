"""tornado. It offers compression only if it is told to."""

import asyncio
import logging

from clients.drivers.harness import SUBPROTOCOL, runTasks
from tornado.websocket import websocket_connect


async def ask(url: str) -> str:
    connection = await websocket_connect(url)
    message = await connection.read_message()
    connection.close()
    assert isinstance(message, str)
    return message


async def echo(url: str) -> str:
    connection = await websocket_connect(url, subprotocols=[SUBPROTOCOL], compression_options={})
    try:
        while (message := await connection.read_message()) is not None:
            await connection.write_message(message, binary=isinstance(message, bytes))
    finally:
        connection.close()
    return f"closed with {connection.close_code}"


logging.disable()  # It tells of each broken frame.
asyncio.run(runTasks(ask, echo))
