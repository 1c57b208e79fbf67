"""permessage-deflate (RFC 7692): what is accepted, and what is kept between messages."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket.compress import (
    PERMESSAGE_COMPRESSION_EXTENSION,
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
)

from echotwist.wire.turns import PIECE

NAME = "permessage-deflate"

Accept = Callable[[Sequence[PerMessageDeflateOffer]], PerMessageDeflateOfferAccept | None]
"""Autobahn's `perMessageCompressionAccept`."""

INFLATOR = 44 << 10
"""Bytes that zlib takes to inflate: a window of 32 KB, and its tables (measured)."""

_TAIL = b"\x00\x00\xff\xff"
"""The end of a message's deflate data, which its sender takes away (RFC 7692, 7.2.1)."""

_WINDOW_BITS = {str(bits) for bits in range(8, 16)}


def acceptNone(offers: Sequence[PerMessageDeflateOffer]) -> None:
    """Messages are not compressed."""


def acceptFirst(contextTakeover: bool) -> Accept:
    """The first offer is taken.

    Without `contextTakeover` both sides are told to forget their window after each message
    (RFC 7692, 7.1.1: a server may say so unasked), so that an idle connection holds none.
    """

    def accept(offers: Sequence[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept:
        offer = offers[0]
        if not contextTakeover:
            # Autobahn only tells the client of what the offer asked for.
            offer.request_no_context_takeover = True
        return PerMessageDeflateOfferAccept(offer, request_no_context_takeover=not contextTakeover)

    return accept


def understood(parameters: Mapping[str, Sequence[str | None]]) -> PerMessageDeflateOffer | None:
    """The offer with these parameters (name to values, None for one without) as far as it binds
    the server; None if it is invalid or cannot be met.

    RFC 7692, 7.1: such an offer is declined, that is, left out of the answer. Autobahn would
    refuse the whole connection (26.10.2, websocket/protocol.py, `succeedHandshake`).
    """
    offer = PerMessageDeflateOffer(accept_max_window_bits=False)
    for name, values in parameters.items():
        match name, *values:
            case "server_no_context_takeover", None:
                offer.request_no_context_takeover = True
            # zlib has no raw deflate with a window of 8 bits.
            case "server_max_window_bits", str(bits) if bits in _WINDOW_BITS - {"8"}:
                offer.request_max_window_bits = int(bits)
            # What the client can do for us is not asked for.
            case "client_no_context_takeover" | "client_max_window_bits", None:
                pass
            case "client_max_window_bits", bits if bits in _WINDOW_BITS:
                pass
            case _:
                return None
    return offer


class Deflate(PerMessageDeflate):
    """Autobahn's permessage-deflate, made to free its windows and to lose no byte.

    A compressor and a decompressor take some 300 KB, which Autobahn (26.10.2) keeps until the next
    message also without context takeover. Nor does it ask whether the deflate data of a message
    was complete: what a truncated or a prematurely final block hides would be missing from the
    echo, in silence.

    And it inflates whatever it gets in one go, which takes 50 ms for 16 MB. Here that is done in
    pieces: while there `isMore`, `decompress_message_data` wants to be called again, without data.
    """

    isMore = False
    """Whether more of what was received can be inflated."""

    _deflated = b""
    """What was received, and is not inflated yet."""

    @property
    def noContextTakeover(self) -> bool:
        """Whether a message is compressed without knowledge of those before it, both ways."""
        return bool(self.server_no_context_takeover and self.client_no_context_takeover)

    @property
    def parameters(self) -> tuple[int, int]:
        """What to compress with: the bits of the window, and zlib's memory level."""
        return self.server_max_window_bits, self.mem_level

    @property
    def buffered(self) -> int:
        """Bytes of memory that an unfinished message takes, beside its payload. With context
        takeover they are there all the time; the option's help says what that costs."""
        if self._decompressor is None:
            return 0
        inflator = INFLATOR if self.noContextTakeover else 0
        return inflator + len(self._deflated) + len(self._decompressor.unused_data)

    def forget(self) -> None:
        """Free what belongs to a message that will not be finished."""
        self._decompressor = None
        self._isEmpty = True
        self.isMore, self._deflated = False, b""

    def forgetSent(self) -> None:
        """Refer to no earlier message any more: another one was sent that is not of this
        compressor."""
        self._compressor = None

    def inflated(self, payload: bytes, most: int) -> bytes | None:
        """The message with this payload, in one go. None if it has more than `most` bytes, or if
        anything about it is unusual: the methods below find out what."""
        inflator = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            message = inflator.decompress(payload, most + 1)
            # RFC 7692, 7.2.2: the tail that the sender took away; then a last, empty block, which
            # is understood as one only if the message ended between two blocks.
            rest = inflator.decompress(_TAIL + b"\x01\x00\x00\xff\xff")
        except zlib.error:
            return None
        isWhole = inflator.eof and not inflator.unused_data and not rest
        return message if isWhole and len(message) <= most and payload else None

    def deflated(self, message: bytes) -> bytes:
        """The payload of this message, in one go."""
        self.start_compress_message()
        return self.compress_message_data(message) + self.end_compress_message()

    def start_compress_message(self) -> None:
        """Nothing: `compress_message_data` knows the size."""

    def compress_message_data(self, data: bytes, size: int | None = None) -> bytes:
        """`size` is that of the message, if `data` is only the beginning of it."""
        if self._compressor is None:
            bits, memory = self.server_max_window_bits, self.mem_level
            if self.server_no_context_takeover:
                # No larger than the message needs: zlib's 256 KB cost 60 µs to come by, and a
                # kilobyte then takes 9 µs to compress. 262 is zlib's MIN_LOOKAHEAD.
                bits = max(9, min(bits, ((size or len(data)) + 262).bit_length()))
                memory = max(1, min(memory, bits - 6))
            # Level 1, as gorilla/websocket: 64 KB and more of text take half the time of zlib's
            # default 6 and less, and come out a twelfth larger.
            self._compressor = zlib.compressobj(1, zlib.DEFLATED, -bits, memory)
        compressed: bytes = super().compress_message_data(data)
        return compressed

    def end_compress_message(self) -> bytes:
        data: bytes = super().end_compress_message()
        if self.server_no_context_takeover:
            self._compressor = None
        # zlib gives nothing for nothing if it was flushed just before. RFC 7692, 7.2.3.6.
        return data or b"\x00"

    def start_decompress_message(self) -> None:
        super().start_decompress_message()
        self._isEmpty = True

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        self._isEmpty = self._isEmpty and not data
        assert max_output_len is not None  # Autobahn knows that a message is limited.
        decompressor: Any = self._decompressor
        most = max(1, min(PIECE, max_output_len + 1))  # 0 would mean no limit.
        if decompressor.eof:
            # zlib would keep all that follows the last block. Two bytes of it are enough to refuse
            # the message at its end.
            data = data[: max(2 - len(decompressor.unused_data), 0)]
        try:
            inflated: bytes = decompressor.decompress(self._deflated + data, most)
        except zlib.error as e:
            raise PayloadCorruptError(f"invalid permessage-deflate data: {e}") from e
        if len(inflated) > max_output_len:
            raise PayloadExceededError("a message is too large when it is inflated")
        # What does not fit into the limit may also be inside zlib, which then wants no more data.
        self.isMore = len(inflated) == most and not decompressor.eof
        # At the end of the deflate data the tail is also in `unused_data` (CPython 3.11 to 3.13).
        self._deflated = b"" if decompressor.eof else decompressor.unconsumed_tail
        return inflated

    def end_decompress_message(self) -> None:
        decompressor: Any = self._decompressor
        if self.client_no_context_takeover:
            self._decompressor = None
        if self._isEmpty:
            return  # Should have been 0x00, but see above: some clients send what zlib gives.
        try:
            # RFC 7692, 7.2.2: the tail that the sender took away.
            rest = decompressor.decompress(_TAIL)
            if not decompressor.eof:
                # Only between two blocks is an empty last block read as one.
                probe = decompressor.copy() if self._decompressor else decompressor
                rest += probe.decompress(b"\x01\x00\x00\xff\xff")
                complete = probe.eof and not probe.unused_data
            else:
                # A last block (BFINAL) ends zlib's stream: what follows it in the message, or
                # with context takeover in the next one, would vanish. RFC 7692, 7.2.3.4.
                after = decompressor.unused_data.removesuffix(_TAIL)
                complete = after in (b"", b"\x00") and self._decompressor is None
        except zlib.error as e:
            raise PayloadCorruptError(f"invalid permessage-deflate data: {e}") from e
        if rest or not complete:
            raise PayloadCorruptError("incomplete permessage-deflate data")


class Deflation:
    """A large `message` that is deflated in pieces, so that others have their turns between."""

    def __init__(self, deflate: Deflate, message: bytes, isBinary: bool) -> None:
        self.isBinary = isBinary
        self._deflate = deflate
        self._message = message
        self._done = 0
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def buffered(self) -> int:
        """Bytes that it holds."""
        return len(self._message) + self._size

    def step(self) -> bytes | None:
        """Deflate one more piece. Returns the payload after the last."""
        message, done = self._message, self._done
        piece = self._deflate.compress_message_data(message[done : done + PIECE], len(message))
        self._done += PIECE
        self._pieces.append(piece)
        self._size += len(piece)
        if self._done < len(message):
            return None
        return b"".join([*self._pieces, self._deflate.end_compress_message()])


# Autobahn's public map of implementations. It is the process's, not a factory's: another user in
# this process gets what it always got, and frees its windows too.
PERMESSAGE_COMPRESSION_EXTENSION[NAME]["PMCE"] = Deflate
