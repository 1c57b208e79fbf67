"""WebSocket frames as bytes, both ways, by a second reading of RFC 6455, 5.2."""

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


def parse(data: bytes) -> list[Frame]:
    """The frames of a server; fails if one is cut, masked, or not minimal in its length."""
    frames = []
    while data:
        first, second = data[0], data[1]
        assert not second & 0x80, "a server must not mask"
        n, start = second, 2
        if n == 126:
            n, start = int.from_bytes(data[2:4], "big"), 4
            assert n >= 126
        elif n == 127:
            n, start = int.from_bytes(data[2:10], "big"), 10
            assert n >= 65536
        assert len(data) >= start + n, "a frame is cut"
        assert n <= 125 or not first & 8, "a control frame is short"
        payload, data = data[start : start + n], data[start + n :]
        frames.append(Frame(first & 15, payload, bool(first & 0x80), first >> 4 & 7))
    return frames
