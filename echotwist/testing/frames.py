"""WebSocket frames as bytes, both ways: RFC 6455, 5.2, read without a look at the service's code.

A codec shared with the service would not notice what both have wrong.
"""

from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

MASK = b"\x37\xfa\x21\x3d"


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK
) -> bytes:
    """A frame of a client."""
    first = (fin << 7) | (rsv << 4) | opcode
    return bytes([first]) + length(len(payload)) + mask + masked(payload, mask)


def length(n: int, masked: bool = True) -> bytes:
    """The length field of a frame."""
    bit = masked << 7
    if n < 126:
        return bytes([bit | n])
    if n < 65536:
        return bytes([bit | 126]) + n.to_bytes(2, "big")
    return bytes([bit | 127]) + n.to_bytes(8, "big")


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    n = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return n.to_bytes(len(payload), "big")


def close(code: int | None = None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def text(payload: str) -> bytes:
    return frame(TEXT, payload.encode())


def binary(payload: bytes) -> bytes:
    return frame(BINARY, payload)


def take(data: bytes | bytearray, start: int = 0) -> tuple[Frame, int] | None:
    """The frame of a server that begins at `start`, and where it ends; None if a part of it is
    missing. Raises ValueError if it is masked, not minimal in its length, or a long control frame.
    """
    if len(data) < start + 2:
        return None
    first, n = data[start], data[start + 1]
    if n & 0x80:
        raise ValueError("a server must not mask")
    start += 2
    if n > 125:
        end = start + (2 if n == 126 else 8)
        if len(data) < end:
            return None
        n, least = int.from_bytes(data[start:end], "big"), 126 if n == 126 else 65536
        if n < least:
            raise ValueError("a length is not minimal")
        start = end
    if n > 125 and first & 8:
        raise ValueError("a control frame is long")
    if len(data) < start + n:
        return None
    payload = bytes(data[start : start + n])
    return Frame(first & 15, payload, bool(first & 0x80), first >> 4 & 7), start + n


def parse(data: bytes | bytearray) -> list[Frame]:
    """The frames of a server. Raises ValueError as `take` does, and if the last one is cut."""
    frames, start = [], 0
    while start < len(data):
        taken = take(data, start)
        if taken is None:
            raise ValueError(f"a frame is cut: {bytes(data[start : start + 40])!r}")
        frame, start = taken
        frames.append(frame)
    return frames
