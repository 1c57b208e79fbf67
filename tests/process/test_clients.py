"""Clients that we did not write, against the process."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import picows
import pytest
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client
from support.process import needs, served

from echotwist.testing import ServiceProcess

LARGEST = 16 * 2**20

MESSAGES: list[str | bytes] = [
    "hello",
    "",
    b"",
    b"\x00\xff",
    "Grüße, 世界 🙂",
    "x" * 125,
    "x" * 126,
    "x" * 65536,
    bytes(range(256)) * 1000,
    os.urandom(LARGEST),
    "€" * (LARGEST // 3),
]


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with served("--ping-interval=100ms") as service:
        yield service


@pytest.mark.slow(reason="echoes the largest message, compressed")
@pytest.mark.parametrize("compression", ["deflate", None])
def test_the_client_websockets_is_echoed(service: ServiceProcess, compression: str | None) -> None:
    async def run() -> None:
        async with websockets.asyncio.client.connect(
            service.url, compression=compression, max_size=None
        ) as client:
            assert bool(client.protocol.extensions) == (compression is not None)
            for message in MESSAGES:
                await client.send(message)
                assert await client.recv() == message
            await client.send(["fr", "ag", "", "mented"])
            assert await client.recv() == "fragmented"
            await (await client.ping(b"are you there"))
            await client.close(4000, "bye")
            assert (client.close_code, client.close_reason) == (4000, "bye")

    asyncio.run(run())


def test_the_client_websockets_is_told_1009(service: ServiceProcess) -> None:
    with websockets.sync.client.connect(service.url, max_size=None, compression=None) as client:
        client.send("before")
        assert client.recv() == "before"
        client.send(bytes(LARGEST + 1))
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as caught:
            client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def test_the_client_websockets_speaks_a_subprotocol(service: ServiceProcess) -> None:
    with websockets.sync.client.connect(service.url, subprotocols=["chat", "x"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "chat"


@pytest.mark.slow(reason="echoes the largest message, compressed")
@pytest.mark.parametrize("compress", [15, 9, 0])
def test_the_client_aiohttp_is_echoed(service: ServiceProcess, compress: int) -> None:
    async def run() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(service.url, compress=compress, max_msg_size=0) as client,
        ):
            assert bool(client.compress) == bool(compress)
            for message in MESSAGES:
                if isinstance(message, str):
                    await client.send_str(message)
                    assert await client.receive_str() == message
                else:
                    await client.send_bytes(message)
                    assert await client.receive_bytes() == message
            await client.ping(b"x")
            await client.close(code=4001, message=b"bye")
            assert client.close_code == 4001

    asyncio.run(run())


def test_the_client_picows_is_echoed(service: ServiceProcess) -> None:
    class Listener(picows.WSListener):
        def __init__(self) -> None:
            self.got: asyncio.Queue[tuple[picows.WSMsgType, bytes]] = asyncio.Queue()

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if frame.msg_type not in (picows.WSMsgType.PING, picows.WSMsgType.PONG):
                assert frame.fin, "what was sent in one frame comes back in one"
                self.got.put_nowait((frame.msg_type, frame.get_payload_as_bytes()))
            elif frame.msg_type == picows.WSMsgType.PING:
                transport.send_pong(frame.get_payload_as_bytes())

    async def run() -> None:
        listener: Any
        transport, listener = await picows.ws_connect(Listener, service.url, max_frame_size=LARGEST)
        for message in MESSAGES:
            if isinstance(message, str):
                kind, payload = picows.WSMsgType.TEXT, message.encode()
            else:
                kind, payload = picows.WSMsgType.BINARY, message
            transport.send(kind, payload)
            assert await listener.got.get() == (kind, payload)
        transport.send_close(picows.WSCloseCode.OK, b"bye")
        assert await listener.got.get() == (picows.WSMsgType.CLOSE, b"\x03\xe8bye")
        transport.disconnect()
        await transport.wait_disconnected()

    asyncio.run(run())


@pytest.mark.slow(reason="a drain is spread over a second")
def test_a_drain_under_load_loses_no_echo() -> None:
    with served() as service:

        async def client(ready: asyncio.Barrier) -> int:
            async with websockets.asyncio.client.connect(service.url) as connection:
                await ready.wait()
                with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                    while True:
                        await connection.send("x" * 1000)
                        assert await connection.recv() == "x" * 1000
                assert connection.close_code is not None
                return connection.close_code

        async def run() -> list[int]:
            ready = asyncio.Barrier(101)
            clients = [asyncio.create_task(client(ready)) for _ in range(100)]
            await ready.wait()
            os.kill(service.pid, signal.SIGTERM)
            return await asyncio.gather(*clients)

        assert asyncio.run(run()) == [1001] * 100
        assert service.wait() == 0


NODE = """
const WebSocket = require("ws");
const [url, deflate] = process.argv.slice(1);
const largest = 16 * 2 ** 20;
const messages = ["hello", "", Buffer.alloc(0), Buffer.from([0, 255]), "Grüße 🙂",
  "x".repeat(65536), Buffer.alloc(largest, 7), "€".repeat(Math.floor(largest / 3))];
const client = new WebSocket(url, { perMessageDeflate: deflate === "true", maxPayload: 0 });
let n = 0, pongs = 0;
const next = () => {
  if (n < messages.length) client.send(messages[n], { compress: deflate === "true" });
  else if (n === messages.length) {
    client.send("fr", { fin: false });
    client.send("ag", { fin: true });
  } else { client.ping("x"); }
};
client.on("open", next);
client.on("message", (data, isBinary) => {
  const sent = n === messages.length ? "frag" : messages[n];
  if (isBinary !== Buffer.isBuffer(sent) || !data.equals(Buffer.from(sent))) process.exit(2);
  n += 1;
  next();
});
client.on("pong", (data) => {
  if (data.toString() !== "x") return;
  pongs += 1;
  client.close(4002, "bye");
});
client.on("close", (code, reason) => console.log(JSON.stringify(
  { n, pongs, code, reason: reason.toString(), extensions: client.extensions })));
client.on("error", (error) => { console.error(error); process.exit(3); });
"""


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ws` from npm."""
    needs("npm", "npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"dependencies": {"ws": "^8.18.0"}}')
    subprocess.run(["npm", "install", "--silent", "--no-fund"], cwd=folder, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("deflate", ["true", "false"])
def test_the_client_ws_of_node_is_echoed(service: ServiceProcess, ws: Path, deflate: str) -> None:
    run = subprocess.run(
        ["node", "-e", NODE, service.url, deflate],
        cwd=ws, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    result = json.loads(run.stdout)
    assert ("permessage-deflate" in result.pop("extensions")) == (deflate == "true")
    assert result == {"n": 9, "pongs": 1, "code": 4002, "reason": "bye"}
