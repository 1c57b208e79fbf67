"""picows on uvloop.

picows hands out frames: it leaves it to its user to join fragments and to check the UTF-8 of
text. This echo does neither, so its text costs what its binary does. The payload is sent from the
buffer it was read into, which halves the cost of large messages. There is no compression.
"""

import logging

import arguments
import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


def listener(request: WSUpgradeRequest) -> WSListener:
    return Echo()


async def main() -> None:
    given = arguments.parse()
    logging.disable()  # It tells of every pause in writing.
    server = await ws_create_server(
        listener, "127.0.0.1", given.port, ssl=given.tls, max_frame_size=arguments.LIMIT
    )
    print("ready", flush=True)
    await server.serve_forever()


uvloop.run(main())
