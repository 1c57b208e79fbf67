"""Small TCP hops that misbehave, each in one way, for what no real box does on request.

with Age(upstream, seconds=5) as hop:
    connect(hop.url + "echo")

A hop is a class below, in a few lines: it overrides what comes (`requestHead`, `responseHead`,
`up`, `down`, `frameUp`, `frameDown`), or what is run beside a connection (`beside`). It relays on a
loop and a thread of its own, on a free port of 127.0.0.1.
"""

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ClassVar, NamedTuple, Self

from echotwist.testing.frames import CLOSE, CONTINUATION, PING, PONG, length, masked

TUNNELLED = 1.0
"""Seconds until a hop that cannot tunnel is gone."""


class Part(NamedTuple):
    """A frame as it is on the wire, from either side."""

    first: int
    """FIN, RSV and opcode."""

    payload: bytes
    """Unmasked."""

    isMasked: bool

    @property
    def opcode(self) -> int:
        return self.first & 15

    @property
    def isData(self) -> bool:
        return self.opcode < CLOSE

    @property
    def isEnd(self) -> bool:
        return bool(self.first & 0x80)

    @property
    def isCompressed(self) -> bool:
        return bool(self.first & 0x40)

    def bytes(self) -> bytes:
        size = length(len(self.payload), self.isMasked)
        key = b"\x37\xfa\x21\x3d"
        tail = key + masked(self.payload, key) if self.isMasked else self.payload
        return bytes([self.first]) + size + tail


def part(data: bytes) -> tuple[Part, int] | None:
    """The first frame, masked or not, and where it ends; None if some of it is missing.

    `echotwist.testing.frames.take` reads those of servers alone, and refuses what is wrong.
    """
    if len(data) < 2:
        return None
    isMasked, n, start = bool(data[1] & 0x80), data[1] & 0x7F, 2
    if n > 125:
        start = 4 if n == 126 else 10
        n = int.from_bytes(data[2:start], "big")
    key, start = data[start : start + 4] if isMasked else b"", start + 4 * isMasked
    if len(data) < start + n:
        return None
    payload = data[start : start + n]
    return Part(data[0], masked(payload, key) if isMasked else payload, isMasked), start + n


class Side:
    """The connection to one of the two."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        if data and not self.writer.is_closing():
            self.writer.write(data)
            await self.writer.drain()

    def finish(self) -> None:
        """FIN, and the other direction stays."""
        if not self.writer.is_closing():
            with suppress(OSError):
                self.writer.write_eof()

    def end(self, how: str) -> None:
        """`fin` after what was written, or `rst`."""
        if how == "rst":
            with suppress(OSError):
                self.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.writer.transport.abort()
        else:
            self.writer.close()


class Relayed:
    """One connection: the client's side, the server's, and what has passed."""

    def __init__(self, client: Side, server: Side) -> None:
        self.client, self.server = client, server
        self.heard = {"client": time.monotonic(), "server": time.monotonic()}
        """When each has sent something."""

        self.isOpen = False
        """Whether a 101 has passed."""

        self.isCut = False
        self.held = b""
        self.message = 0

    def cut(self, how: str = "fin") -> None:
        """End it on both sides."""
        self.isCut = True
        self.client.end(how)
        self.server.end(how)

    def silence(self, direction: str) -> float:
        """Seconds since one of them, or `either`, has sent something."""
        last = max(self.heard.values()) if direction == "either" else self.heard[direction]
        return time.monotonic() - last

    async def fail(self, code: int, reason: str) -> None:
        """A close frame to both, and the end."""
        payload = code.to_bytes(2, "big") + reason.encode()
        await self.client.send(Part(0x80 | CLOSE, payload, False).bytes())
        await self.server.send(Part(0x80 | CLOSE, payload, True).bytes())
        self.cut()


class Hop:
    """Relays all that comes to 127.0.0.1:`upstream`, as it is. Use with `with`."""

    hasFrames: ClassVar[bool] = False
    """Whether it parses them."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream

    # What a hop that misbehaves overrides.

    def requestHead(self, head: bytes) -> bytes:
        return head

    async def responseHead(self, head: bytes, its: Relayed) -> bytes:
        return head

    async def up(self, data: bytes, its: Relayed) -> None:
        """Bytes of the client, after its request."""
        await its.server.send(data)

    async def down(self, data: bytes, its: Relayed) -> None:
        await its.client.send(data)

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        await its.server.send(frame.bytes())

    async def frameDown(self, frame: Part, its: Relayed) -> None:
        await its.client.send(frame.bytes())

    async def beside(self, its: Relayed) -> None:
        """Is run for as long as the connection lasts."""

    # How it runs.

    proxy: ClassVar[None] = None
    caFile: ClassVar[None] = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(listening.getsockname()[1])
        self._stop = asyncio.Event()
        self._listening = listening
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._relay(Side(reader, writer)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, sock=self._listening)
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports close their sockets in the next iteration.
        await asyncio.sleep(0)

    async def _relay(self, client: Side) -> None:
        try:
            server = Side(*await asyncio.open_connection("127.0.0.1", self.upstream))
        except OSError:
            client.end("rst")
            return
        its = Relayed(client, server)
        ways = [self._upwards(its), self._downwards(its)]
        tasks = [asyncio.ensure_future(way) for way in (*ways, self.beside(its))]
        try:
            await asyncio.gather(*tasks[:2])
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            its.cut("rst")  # What one side lost, the other is told.
        except asyncio.CancelledError:
            its.cut("rst")
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            client.writer.close()
            server.writer.close()

    async def _upwards(self, its: Relayed) -> None:
        head = await its.client.reader.readuntil(b"\r\n\r\n")
        await its.server.send(self.requestHead(head))
        await self._pass(its, "client", self.up, self.frameUp)

    async def _downwards(self, its: Relayed) -> None:
        head = await its.server.reader.readuntil(b"\r\n\r\n")
        its.isOpen = head.startswith(b"HTTP/1.1 101 ")
        await its.client.send(await self.responseHead(head, its))
        await self._pass(its, "server", self.down, self.frameDown)

    async def _pass(
        self,
        its: Relayed,
        name: str,
        passBytes: Callable[[bytes, Relayed], Awaitable[None]],
        passFrame: Callable[[Part, Relayed], Awaitable[None]],
    ) -> None:
        near, far = its.client, its.server
        if name == "server":
            near, far = far, near
        rest = b""
        while data := await near.reader.read(65536):
            self.heardOf(its, name)
            if not (self.hasFrames and its.isOpen):
                await passBytes(data, its)
                continue
            rest += data
            while (taken := part(rest)) is not None and not its.isCut:
                frame, end = taken
                rest = rest[end:]
                await passFrame(frame, its)
        await self.ended(its, name)
        far.finish()

    def heardOf(self, its: Relayed, name: str) -> None:
        its.heard[name] = time.monotonic()

    async def ended(self, its: Relayed, name: str) -> None:
        """One side has sent FIN."""


# By time.


class Age(Hop):
    """Cuts each connection at an age, whatever is sent."""

    def __init__(self, upstream: int, seconds: float, how: str = "fin") -> None:
        super().__init__(upstream)
        self.seconds, self.how = seconds, how

    async def beside(self, its: Relayed) -> None:
        await asyncio.sleep(self.seconds)
        its.cut(self.how)


class Reload(Hop):
    """Cuts all connections at one instant, `seconds` after it has started, as a reload does."""

    def __init__(self, upstream: int, seconds: float) -> None:
        super().__init__(upstream)
        self.at = time.monotonic() + seconds

    async def beside(self, its: Relayed) -> None:
        if (left := self.at - time.monotonic()) > 0:
            await asyncio.sleep(left)
            its.cut()


class Idle(Hop):
    """Cuts a connection on which the `client`, the `server` or `either` has sent nothing for so
    long."""

    def __init__(
        self, upstream: int, seconds: float, direction: str = "either", how: str = "fin"
    ) -> None:
        super().__init__(upstream)
        self.seconds, self.direction, self.how = seconds, direction, how

    async def beside(self, its: Relayed) -> None:
        left = self.seconds
        while left > 0:
            await asyncio.sleep(left)
            left = self.seconds - its.silence(self.direction)
        await self.idle(its)

    async def idle(self, its: Relayed) -> None:
        its.cut(self.how)


class DataIdle(Idle):
    """As `Idle`, but pings and pongs do not count."""

    hasFrames = True

    def heardOf(self, its: Relayed, name: str) -> None:
        pass

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        if frame.isData:
            super().heardOf(its, "client")
        await super().frameUp(frame, its)

    async def frameDown(self, frame: Part, its: Relayed) -> None:
        if frame.isData:
            super().heardOf(its, "server")
        await super().frameDown(frame, its)


class HalfOpen(Idle):
    """After so long a silence it closes the server's side; the client is told nothing."""

    async def idle(self, its: Relayed) -> None:
        its.server.end(self.how)
        its.isCut = True
        await _forever()

    async def down(self, data: bytes, its: Relayed) -> None:
        if not its.isCut:
            await super().down(data, its)

    async def up(self, data: bytes, its: Relayed) -> None:
        if not its.isCut:
            await super().up(data, its)

    async def ended(self, its: Relayed, name: str) -> None:
        if its.isCut and name == "server":
            await _forever()


class Blackhole(Hop):
    """Passes nothing on any more after so long, and closes nothing."""

    def __init__(self, upstream: int, seconds: float) -> None:
        super().__init__(upstream)
        self.seconds = seconds

    async def beside(self, its: Relayed) -> None:
        await asyncio.sleep(self.seconds)
        its.isCut = True

    async def up(self, data: bytes, its: Relayed) -> None:
        if not its.isCut:
            await super().up(data, its)

    async def down(self, data: bytes, its: Relayed) -> None:
        if not its.isCut:
            await super().down(data, its)

    async def ended(self, its: Relayed, name: str) -> None:
        if its.isCut:
            await _forever()


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


class Buffers(Hop):
    """Holds what the server sends for so many seconds, or until it is so many bytes, and passes it
    on in one lump."""

    def __init__(self, upstream: int, seconds: float = 0, size: int = 0) -> None:
        super().__init__(upstream)
        self.seconds, self.size = seconds, size

    async def down(self, data: bytes, its: Relayed) -> None:
        its.held += data
        if self.size and len(its.held) >= self.size:
            await self._release(its)

    async def beside(self, its: Relayed) -> None:
        while self.seconds:
            await asyncio.sleep(self.seconds)
            await self._release(its)

    async def ended(self, its: Relayed, name: str) -> None:
        if name == "server":
            await self._release(its)

    async def _release(self, its: Relayed) -> None:
        data, its.held = its.held, b""
        await its.client.send(data)


# By what is in the heads.


def without(head: bytes, header: str) -> bytes:
    """The head without this header."""
    return re.sub(rb"(?im)^" + re.escape(header.encode()) + rb":.*\r\n", b"", head)


class Strips(Hop):
    """Removes a header from the request, the response, or both."""

    def __init__(self, upstream: int, request: str = "", response: str = "") -> None:
        super().__init__(upstream)
        self.request, self.response = request, response

    def requestHead(self, head: bytes) -> bytes:
        return without(head, self.request) if self.request else head

    async def responseHead(self, head: bytes, its: Relayed) -> bytes:
        return without(head, self.response) if self.response else head


class Http10(Hop):
    """Asks the server in HTTP/1.0, with the headers of its own hop only, as nginx does."""

    def requestHead(self, head: bytes) -> bytes:
        head = head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        head = without(without(head, "Upgrade"), "Connection")
        return head[:-2] + b"Connection: close\r\n\r\n"


class Answers(Hop):
    """Answers itself, and passes nothing on."""

    def __init__(self, upstream: int, answer: str) -> None:
        super().__init__(upstream)
        self.answer = answer

    async def _upwards(self, its: Relayed) -> None:
        head = await its.client.reader.readuntil(b"\r\n\r\n")
        await its.client.send(self.answerTo(head).encode("latin-1"))
        its.cut()

    def answerTo(self, head: bytes) -> str:
        return f"HTTP/1.1 {self.answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Redirects(Answers):
    """Sends a client elsewhere, such as to https:."""

    def __init__(self, upstream: int, location: str, status: str = "301 Moved Permanently") -> None:
        super().__init__(upstream, f"{status}\r\nLocation: {location}")


class SmallHeaders(Hop):
    """Refuses heads over `size` bytes with 431."""

    def __init__(self, upstream: int, size: int = 4096, status: int = 431) -> None:
        super().__init__(upstream)
        self.size, self.status = size, status

    async def _upwards(self, its: Relayed) -> None:
        head = await its.client.reader.readuntil(b"\r\n\r\n")
        if len(head) > self.size:
            line = f"HTTP/1.1 {self.status} Request Header Fields Too Large\r\n"
            await its.client.send(f"{line}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            its.cut()
            return
        await its.server.send(head)
        await self._pass(its, "client", self.up, self.frameUp)


class Wraps(Hop):
    """Passes a 101 on, and cannot tunnel: dead within a second, and until then nothing passes."""

    async def responseHead(self, head: bytes, its: Relayed) -> bytes:
        its.isCut = its.isOpen
        if its.isOpen:
            asyncio.get_running_loop().call_later(TUNNELLED / 2, its.cut)
        return head

    async def up(self, data: bytes, its: Relayed) -> None:
        if not its.isCut:
            await super().up(data, its)


# By what is in the frames.


class AnswersPings(Hop):
    """Answers a client's ping itself, and does not pass it on."""

    hasFrames = True

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        if frame.opcode == PING:
            await its.client.send(Part(0x80 | PONG, frame.payload, False).bytes())
        else:
            await super().frameUp(frame, its)


class FrameLimit(Hop):
    """Ends a connection with a frame above `size` bytes: `1009`, `fin` or `rst`. Small fragments
    of a large message pass."""

    hasFrames = True

    def __init__(self, upstream: int, size: int = 32_768, how: str = "1009") -> None:
        super().__init__(upstream)
        self.size, self.how = size, how

    def isOver(self, frame: Part, its: Relayed) -> bool:
        return len(frame.payload) > self.size

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        if not self.isOver(frame, its):
            await super().frameUp(frame, its)
        elif self.how == "1009":
            await its.fail(1009, "too big")
        else:
            its.cut(self.how)


class MessageLimit(FrameLimit):
    """The same with a message above `size` bytes, however it is cut into frames."""

    def __init__(self, upstream: int, size: int = 131_072, how: str = "1009") -> None:
        super().__init__(upstream, size, how)

    def isOver(self, frame: Part, its: Relayed) -> bool:
        if frame.isData:
            its.message = len(frame.payload) + (its.message if frame.opcode == CONTINUATION else 0)
        return its.message > self.size


class Refragments(Hop):
    """Sends messages on in frames of `size` bytes."""

    hasFrames = True

    def __init__(self, upstream: int, size: int = 4096) -> None:
        super().__init__(upstream)
        self.size = size

    def parts(self, frame: Part) -> list[Part]:
        if not frame.isData or len(frame.payload) <= self.size:
            return [frame]
        starts = range(0, len(frame.payload), self.size)
        found = []
        for start in starts:
            # RSV1 stands on the first frame of a message alone (RFC 7692, 6).
            first = frame.first & 0x7F if start == 0 else CONTINUATION
            if start == starts[-1]:
                first |= frame.first & 0x80
            piece = frame.payload[start : start + self.size]
            found.append(Part(first, piece, frame.isMasked))
        return found

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        for each in self.parts(frame):
            await super().frameUp(each, its)

    async def frameDown(self, frame: Part, its: Relayed) -> None:
        for each in self.parts(frame):
            await super().frameDown(each, its)


class Decodes(Hop):
    """Reads frames, but passes the negotiation of what it cannot read: 1002 on RSV1."""

    hasFrames = True

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        if frame.isCompressed:
            await its.fail(1002, "reserved bits")
        else:
            await super().frameUp(frame, its)

    async def frameDown(self, frame: Part, its: Relayed) -> None:
        if frame.isCompressed:
            await its.fail(1002, "reserved bits")
        else:
            await super().frameDown(frame, its)


class RewritesCloses(Hop):
    """Has one code for every close frame, and no reason."""

    hasFrames = True

    def __init__(self, upstream: int, code: int = 1000) -> None:
        super().__init__(upstream)
        self.code = code

    def rewritten(self, frame: Part) -> Part:
        if frame.opcode != CLOSE:
            return frame
        return frame._replace(payload=self.code.to_bytes(2, "big"))

    async def frameUp(self, frame: Part, its: Relayed) -> None:
        await super().frameUp(self.rewritten(frame), its)

    async def frameDown(self, frame: Part, its: Relayed) -> None:
        await super().frameDown(self.rewritten(frame), its)


HOPS: dict[str, Callable[[int], Hop]] = {
    "age": lambda upstream: Age(upstream, 5),
    "age-rst": lambda upstream: Age(upstream, 5, "rst"),
    "reload": lambda upstream: Reload(upstream, 5),
    "idle": lambda upstream: Idle(upstream, 5),
    "idle-client": lambda upstream: Idle(upstream, 5, "client"),
    "idle-server": lambda upstream: Idle(upstream, 5, "server"),
    "idle-data": lambda upstream: DataIdle(upstream, 5),
    "half-open": lambda upstream: HalfOpen(upstream, 5),
    "blackhole": lambda upstream: Blackhole(upstream, 5),
    "buffers-time": lambda upstream: Buffers(upstream, seconds=2),
    "strips-extensions": lambda upstream: Strips(upstream, request="Sec-WebSocket-Extensions"),
    "strips-agreement": lambda upstream: Strips(upstream, response="Sec-WebSocket-Extensions"),
    "strips-upgrade": lambda upstream: Strips(upstream, response="Upgrade"),
    "http10": Http10,
    "redirects": lambda upstream: Redirects(upstream, "https://localhost/"),
    "small-headers": SmallHeaders,
    "wraps": Wraps,
    "answers-pings": AnswersPings,
    "frame-limit": FrameLimit,
    "frame-limit-rst": lambda upstream: FrameLimit(upstream, how="rst"),
    "message-limit": MessageLimit,
    "refragments": Refragments,
    "decodes": Decodes,
    "rewrites-closes": RewritesCloses,
}
"""Each of them, with timers of 5 s."""
