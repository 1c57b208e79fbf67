"""permessage-deflate (RFC 7692), from the client's side."""

import zlib
from collections.abc import Sequence

from echotwist.testing.frames import Frame, take

OFFER = "permessage-deflate; client_max_window_bits"
"""As browsers have it."""


def deflated(
    payload: bytes,
    level: int = 1,
    *,
    bits: int = 15,
    memory: int = 8,
    strategy: int = zlib.Z_DEFAULT_STRATEGY,
    flushes: Sequence[int] = (),
    isFinal: bool = False,
) -> bytes:
    """The payload of a message. `flushes` are where the sender empties its compressor in between,
    which RFC 7692, 7.2.1 allows; `isFinal` ends with a last block (7.2.3.4)."""
    z = zlib.compressobj(level, zlib.DEFLATED, -bits, memory, strategy)
    data, start = b"", 0
    for end in sorted(flushes):
        data += z.compress(payload[start:end]) + z.flush(zlib.Z_SYNC_FLUSH)
        start = end
    data += z.compress(payload[start:])
    if isFinal:
        return data + z.flush(zlib.Z_FINISH) + b"\0"
    return (data + z.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def inflated(payload: bytes) -> bytes:
    """What a message with this payload says. Raises zlib.error if that is not all there."""
    z = zlib.decompressobj(wbits=-15)
    # The tail that the sender took away, and a last block, which is understood between two only.
    data = z.decompress(payload + b"\0\0\xff\xff\1\0\0\xff\xff")
    if not z.eof or z.unused_data:
        raise zlib.error("the deflate data is not whole")
    return data


def readable(frame: Frame) -> Frame:
    """It, with the payload inflated if it is compressed."""
    if not frame.rsv & 4:
        return frame
    return Frame(frame.opcode, inflated(frame.payload), frame.fin, frame.rsv)


def readableStream(received: bytes) -> bytes:
    """Frames of a server, each compressed payload as what it says, behind the frame's first byte:
    its length depends on how it was compressed."""
    parts, start = [], 0
    while (taken := take(received, start)) is not None:
        found, end = taken
        whole = received[start:end]
        parts.append(whole[:1] + readable(found).payload if found.rsv & 4 else whole)
        start = end
    return b"".join(parts) + received[start:]
