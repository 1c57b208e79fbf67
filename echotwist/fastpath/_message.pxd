"""What a loop holds of a connection between two reads: a message that has no end yet, and input
that is not answered yet.

Both are one piece of memory: a struct, and right behind it the bytes.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from echotwist.fastpath._frame cimport (
    FIN, MASK, MASK_SIZE, RSV1, TEXT, headerSizeOf, utf8_state, writeHeader,
)
from echotwist.fastpath._memory cimport allocate


cdef enum:
    # Bytes of the longest header that we send: two, and a length of eight.
    ECHO_HEADER = 10


cdef struct Message:
    # A data message that is collected until it is whole. ECHO_HEADER bytes, and then its payload.
    uint8_t first         # the first byte of its echo, with FIN
    bint isText           # and not compressed
    bint isBegun          # At least one frame of it is complete.
    size_t size           # bytes of payload of the frames that are complete
    size_t room           # bytes that the payload may have here
    size_t small          # what its fragments count for; see limits.Limits.fragmentAllowance
    utf8_state text       # where the text ended


cdef struct Rest:
    # Input that was read, and not answered: from `at` to `end`, of `room` bytes.
    size_t at, end, room
    bint isShort          # It is part of a control frame, and wants more input.


cdef inline uint8_t *payloadOf(Message *message) noexcept nogil:
    return <uint8_t *>(message + 1) + ECHO_HEADER


cdef inline size_t memoryOf(size_t room) noexcept nogil:
    """Bytes of memory of a message with this room."""
    return sizeof(Message) + ECHO_HEADER + room


cdef inline Message *newMessage(size_t room) noexcept nogil:
    """Its other fields are set by clearMessage()."""
    cdef Message *message = <Message *>allocate(memoryOf(room))
    message.room = room
    return message


cdef inline void clearMessage(Message *message, int first) noexcept nogil:
    """A message the first frame of which begins with the byte `first`."""
    message.first = FIN | first
    message.isText = first & (RSV1 | 15) == TEXT
    message.isBegun = False
    message.size = message.small = 0
    message.text.due = 0


cdef inline Message *copyMessage(Message *message, size_t size, size_t room) noexcept nogil:
    """A copy with this room, of the first `size` bytes of the payload."""
    cdef Message *copy = newMessage(room)
    memcpy(copy, message, sizeof(Message))
    copy.room = room
    memcpy(payloadOf(copy), payloadOf(message), size)
    return copy


cdef inline uint8_t *headerOf(Message *message) noexcept nogil:
    """Write the header of its echo, right before the payload. Returns where it begins."""
    cdef uint8_t *header = payloadOf(message) - headerSizeOf(message.size)
    writeHeader(header, message.first, message.size)
    return header


cdef inline size_t fragmentSize(const Message *message) noexcept nogil:
    """Bytes of the fragment that stands for the complete ones, as a client sends it; 0 if there is
    none."""
    if message == NULL or not message.isBegun:
        return 0
    return headerSizeOf(message.size) + MASK_SIZE + message.size


cdef inline void writeFragment(uint8_t *to, Message *message) noexcept nogil:
    """Write that. Its mask is zeros."""
    cdef uint8_t *payload = writeHeader(to, message.first & ~FIN, message.size)
    to[1] |= MASK
    memset(payload, 0, MASK_SIZE)
    memcpy(payload + MASK_SIZE, payloadOf(message), message.size)


cdef inline uint8_t *restOf(Rest *rest) noexcept nogil:
    """Where its first byte is."""
    return <uint8_t *>(rest + 1) + rest.at


cdef inline size_t restSize(const Rest *rest) noexcept nogil:
    return rest.end - rest.at


cdef inline Rest *newRest(const uint8_t *data, size_t size) noexcept nogil:
    cdef Rest *rest = <Rest *>allocate(sizeof(Rest) + size)
    rest.at = 0
    rest.end = rest.room = size
    memcpy(rest + 1, data, size)
    return rest
