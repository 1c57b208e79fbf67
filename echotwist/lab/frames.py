"""Messages as frames (RFC 6455, 5.2), in the shape that a script wants."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from echotwist.websocket.echo import frameHeader
from echotwist.wire.turns import PIECE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

BLOCK = 64 << 10
"""Bytes of a payload that are made at a time."""

_PATTERN = b"0123456789abcdef"
_FILLING = _PATTERN * (BLOCK // len(_PATTERN) + 1)

_BOMB = 64 << 20
"""Bytes of the message of `compress=bomb`."""

Part = Callable[[int, int], bytes]
"""Gives a payload from one place to another, at most a BLOCK apart."""


def header(opcode: int, size: int, fin: bool = True, rsv: int = 0) -> bytes:
    """The header of a server's frame, with a payload of `size` bytes."""
    return frameHeader(fin << 7 | rsv << 4 | opcode, size)


def filling(start: int, end: int) -> bytes:
    """A Part of what `fill` sends."""
    offset = start % len(_PATTERN)
    return _FILLING[offset : offset + end - start]


def partOf(payload: bytes) -> Part:
    return lambda start, end: payload[start:end]


@cache
def bomb() -> bytes:
    """Deflate data that inflates to 64 MB of spaces.

    A full flush ends a block on a byte, and nothing after it refers to anything before. So one
    megabyte is deflated, in 4 ms, and repeated.
    """
    megabyte = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = megabyte.compress(b" " * (1 << 20)) + megabyte.flush(zlib.Z_FULL_FLUSH)
    return (block * (_BOMB >> 20)).removesuffix(b"\0\0\xff\xff")  # RFC 7692, 7.2.1.


@dataclass
class Shape:
    """How messages are sent from here on."""

    fragment: int = 0
    """Bytes of a frame's payload; 0 is no limit."""

    interleave: bool = False
    """Whether there is a ping between two fragments."""

    opcode: int | None = None
    compress: str | None = None
    """`always`, `never`, `bomb`; None compresses what was compressed."""

    def frames(
        self, part: Part, size: int, opcode: int, isCompressed: bool, deflate: Any
    ) -> Iterator[bytes]:
        """A message, in pieces of a BLOCK or less; a frame begins with a piece. `deflate` is a
        `websocket.deflate.Deflate`, or None if that was not agreed. An empty piece is work that has
        nothing to send yet."""
        opcode, rsv = self.opcode or opcode, 0
        if deflate is not None and self.compress == "bomb":
            part, size, rsv = partOf(bomb()), len(bomb()), 4
            deflate.forgetSent()
        elif deflate is not None and {"always": True, "never": False}.get(
            self.compress or "", isCompressed
        ):
            pieces = []
            for at in range(0, size or 1, PIECE):
                piece = part(at, min(at + PIECE, size))
                pieces.append(deflate.compress_message_data(piece, size))
                yield b""
            deflated = b"".join([*pieces, deflate.end_compress_message()])
            part, size, rsv = partOf(deflated), len(deflated), 4
        at, most = 0, self.fragment or size
        while True:
            end = min(at + most, size)
            beginning = header(opcode, end - at, end == size, rsv)
            for start in range(at, max(end, at + 1), BLOCK):
                yield beginning + part(start, min(start + BLOCK, end))
                beginning = b""
            if end == size:
                return
            if self.interleave:
                yield header(PING, 0)
            at, opcode, rsv = end, CONTINUATION, 0
