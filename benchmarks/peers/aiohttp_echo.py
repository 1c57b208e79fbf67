"""aiohttp on uvloop, with its parsers in C.

`access_log=None`: it would write a line for each connection. `compress` is off, or what it
negotiates by itself. It refuses a message of just its limit.
"""

import asyncio

import arguments
import uvloop
from aiohttp import WSMsgType, web

given = arguments.parse()


async def echo(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(max_msg_size=arguments.LIMIT + 1, compress=given.deflate)
    await connection.prepare(request)
    async for message in connection:
        if message.type is WSMsgType.TEXT:
            await connection.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await connection.send_bytes(message.data)
    return connection


async def main() -> None:
    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given.port, ssl_context=given.tls).start()
    print("ready", flush=True)
    await asyncio.Future()


uvloop.run(main())
