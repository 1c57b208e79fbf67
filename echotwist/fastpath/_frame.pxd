"""A frame: its header, and what is done to its payload on the way from the client and back.

Nothing here reads a socket or allocates. RFC 6455, 5.2 draws the header:

    FIN RSV1-3 opcode | MASK length | 0, 2 or 8 bytes of length | 4 bytes of mask
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef extern from "_octets.h" nogil:
    ctypedef struct utf8_state:
        uint8_t due
    bint unmask(uint8_t *to, const uint8_t *source, size_t length, const uint8_t *mask,
                uint64_t offset)
    bint validate_utf8(utf8_state *state, const uint8_t *text, size_t length)


cdef enum:
    # Bytes of the longest header that a client sends: two, a length of eight, the mask.
    HEADER = 14
    MASK_SIZE = 4
    # Bytes of the longest control frame: two, the mask, and 125 of payload (RFC 6455, 5.5).
    CONTROL_FRAME = 131

    # Bits of the first byte and of the second one, and opcodes.
    FIN = 0x80
    RSV = 0x70
    RSV1 = 0x40
    CONTROL = 0x08
    MASK = 0x80
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    PING = 9
    PONG = 10


cdef enum HeaderState:
    INCOMPLETE    # More of it has to come.
    PLAIN
    NOT_PLAIN


cdef struct Header:
    # The other fields are valid only if it is PLAIN.
    HeaderState state
    int first             # its first byte: FIN, RSV1 and the opcode
    size_t size           # of the header in bytes, with its mask
    uint64_t payloadSize


cdef inline Header parseHeader(const uint8_t *data, size_t size, uint64_t maxPayload,
                               int rsv) noexcept nogil:
    """The header that `data`, of `size` bytes, begins with.

    It is PLAIN if it begins a message, whole or its first fragment, with no RSV bits or those of
    `rsv`; or if it begins another fragment, a ping or a pong, without any; of at most `maxPayload`
    bytes. Everything else, right or wrong, is NOT_PLAIN, which may be clear from two bytes.
    """
    cdef Header header
    cdef int length, opcode
    cdef size_t i
    header.state = INCOMPLETE
    if size < 2:
        return header
    header.first = data[0]
    opcode = data[0] & 15
    length = data[1] & 127
    header.state = NOT_PLAIN
    if not data[1] & MASK:
        return header
    if opcode == TEXT or opcode == BINARY:
        if data[0] & RSV and data[0] & RSV != rsv:
            return header
    elif data[0] & RSV:
        return header
    elif opcode == PING or opcode == PONG:
        if length > 125 or not data[0] & FIN:
            return header
    elif opcode != CONTINUATION:
        return header
    header.size = 6 if length < 126 else 8 if length == 126 else 14
    if size < header.size:
        header.state = INCOMPLETE
        return header
    header.payloadSize = length
    if length > 125:
        header.payloadSize = 0
        for i in range(2, header.size - MASK_SIZE):
            header.payloadSize = header.payloadSize << 8 | data[i]
        # RFC 6455, 5.2: the length must use its shortest encoding.
        if header.payloadSize < <uint64_t>(126 if length == 126 else 65536):
            return header
    if header.payloadSize <= maxPayload:
        header.state = PLAIN
    return header


cdef inline bint isWholeMessage(const Header *header) noexcept nogil:
    """Whether it is in one frame, and not compressed; or it is a control frame."""
    return header.first & (FIN | RSV1) == FIN and header.first & 15


cdef struct Frame:
    # A frame that is being read.
    uint8_t header[HEADER]    # as the client sent it
    bint isText               # and not compressed
    size_t headerSize         # so much of it has come; 0 between two frames
    uint64_t size             # of the payload; 0 between two frames
    uint64_t left             # of the payload, still to come
    utf8_state text


cdef inline void beginFrame(Frame *frame, const Header *header, const uint8_t *data) noexcept nogil:
    """`data` is what the PLAIN `header` was parsed from. If it continues a message, the caller sets
    `isText` and `text`."""
    memcpy(frame.header, data, header.size)
    frame.headerSize = header.size
    frame.size = frame.left = header.payloadSize
    frame.isText = header.first & (RSV1 | 15) == TEXT
    frame.text.due = 0


cdef inline void endFrame(Frame *frame) noexcept nogil:
    frame.headerSize = frame.size = 0


cdef inline int opcodeOf(const Frame *frame) noexcept nogil:
    return frame.header[0] & 15


cdef inline bint isFinal(const Frame *frame) noexcept nogil:
    return frame.header[0] & FIN


cdef inline const uint8_t *maskOf(const Frame *frame) noexcept nogil:
    return frame.header + frame.headerSize - MASK_SIZE


cdef inline size_t echoHeaderSize(const Frame *frame) noexcept nogil:
    """Bytes of the header that the echo has: it is not masked."""
    return frame.headerSize - MASK_SIZE


cdef inline uint8_t *writeEchoHeader(const Frame *frame, uint8_t *to) noexcept nogil:
    """Returns where the payload goes."""
    to[0] = FIN | PONG if opcodeOf(frame) == PING else frame.header[0]
    to[1] = frame.header[1] & 127
    memcpy(to + 2, frame.header + 2, echoHeaderSize(frame) - 2)
    return to + echoHeaderSize(frame)


cdef inline size_t headerSizeOf(uint64_t size) noexcept nogil:
    """Bytes of the header of a frame that we send, with a payload of so many bytes."""
    return 2 if size < 126 else 4 if size < 65536 else 10


cdef inline uint8_t *writeHeader(uint8_t *to, int first, uint64_t size) noexcept nogil:
    """Returns where the payload goes."""
    cdef size_t length = headerSizeOf(size)
    cdef size_t i
    to[0] = first
    to[1] = size if length == 2 else 126 if length == 4 else 127
    for i in range(2, length):
        to[i] = size >> 8 * (length - 1 - i) & 255
    return to + length


cdef inline bint unmaskPayload(Frame *frame, uint8_t *to, const uint8_t *data,
                               size_t size) noexcept nogil:
    """Unmask the next `size` bytes of the payload, which stay in `frame.left` until the caller
    accepts them. Returns False if they are text and not UTF-8."""
    cdef bint isAscii = not unmask(to, data, size, maskOf(frame), frame.size - frame.left)
    if not frame.isText:
        return True
    if (not isAscii or frame.text.due) and not validate_utf8(&frame.text, to, size):
        return False
    return size < frame.left or not frame.text.due or not isFinal(frame)


cdef inline void maskAgain(const Frame *frame, uint8_t *to, const uint8_t *payload,
                           size_t size) noexcept nogil:
    """The bytes that the first `size` of the payload were unmasked from."""
    unmask(to, payload, size, maskOf(frame), 0)
