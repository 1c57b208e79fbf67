"""picows, by its own interface: it hands out frames, and leaves messages to its user."""

import asyncio
import logging

from clients.drivers.harness import SUBPROTOCOL, runTasks
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect


class Echo(WSListener):
    saw = "no close frame"

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.saw = f"closed with {int(frame.get_close_code())}"
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type != WSMsgType.PONG:
            transport.send(frame.msg_type, frame.get_payload_as_bytes(), frame.fin)


class Answer(WSListener):
    text = ""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.text = frame.get_payload_as_utf8_text()
            transport.send_close()
            transport.disconnect()


async def ask(url: str) -> str:
    transport, listener = await ws_connect(Answer, url)
    await transport.wait_disconnected()
    assert isinstance(listener, Answer)
    return listener.text


async def echo(url: str) -> str:
    transport, listener = await ws_connect(
        Echo, url, extra_headers={"Sec-WebSocket-Protocol": SUBPROTOCOL}
    )
    try:
        await transport.wait_disconnected()
    finally:
        transport.disconnect(graceful=False)
    assert isinstance(listener, Echo)
    return listener.saw


logging.disable()  # It tells of each broken frame.
asyncio.run(runTasks(ask, echo))
