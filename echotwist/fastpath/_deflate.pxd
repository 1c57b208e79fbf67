"""The payload of a compressed message: permessage-deflate without context takeover (RFC 7692).

`echotwist.websocket.deflate.Deflate` says what is accepted and how a message is compressed. Here it
is done without Python, with streams that are reset rather than made for each message: a kilobyte of
JSON takes 2.0 µs to inflate and 4.2 to deflate. Both give the same bytes, and refuse the same
payloads. Larger windows and tables than `Deflate` takes for its short-lived streams gain nothing
here either (measured with 125 bytes to 64 KB of JSON, all levels of memory): a reset clears at most
64 KB, which is 0.5 µs, and zlib's time goes to Huffman codes and matches.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memset

from echotwist.fastpath._memory cimport allocate


cdef extern from "_zlib.h" nogil:
    const int HAS_ZLIB
    const int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_SYNC_FLUSH, Z_DEFLATED, Z_DEFAULT_STRATEGY
    ctypedef struct z_stream:
        const uint8_t *next_in
        unsigned int avail_in
        uint8_t *next_out
        unsigned int avail_out
        void *(*zalloc)(void *opaque, unsigned int items, unsigned int size) noexcept nogil
        void (*zfree)(void *opaque, void *memory) noexcept nogil
    int inflateInit2(z_stream *stream, int windowBits)
    int inflateReset(z_stream *stream)
    int inflate(z_stream *stream, int flush)
    int inflateEnd(z_stream *stream)
    int deflateInit2(z_stream *stream, int level, int method, int windowBits, int memLevel,
                     int strategy)
    int deflateReset(z_stream *stream)
    int deflate(z_stream *stream, int flush)
    int deflateEnd(z_stream *stream)


cdef extern from * nogil:
    int __builtin_clzll(unsigned long long number)


cdef enum:
    # What inflateMessage() returns instead of a number of bytes.
    UNUSUAL_DATA = -1     # Autobahn shall judge it.
    TOO_LARGE = -2        # It is more than there is room for, as far as it was inflated.

    # zlib's: its limits for the window of raw deflate data, and its MIN_LOOKAHEAD.
    LEAST_WINDOW_BITS = 9
    MOST_WINDOW_BITS = 15
    LOOKAHEAD = 262
    # What the sender of a message takes away from its end (RFC 7692, 7.2.1).
    TAIL_SIZE = 4


cdef struct Codec:
    # zlib's streams, which point back to themselves: a Codec is never moved. One to inflate takes
    # 44 KB; those to deflate take 268 KB for the largest window, and less than as much again for
    # all the others.
    z_stream inflator
    bint hasInflator
    z_stream deflators[MOST_WINDOW_BITS + 1]
    int memLevels[MOST_WINDOW_BITS + 1]  # 0: that one is not made yet


cdef inline void *allocateForZlib(void *opaque, unsigned int items,
                                  unsigned int size) noexcept nogil:
    return allocate(<size_t>items * size)


cdef inline void freeForZlib(void *opaque, void *memory) noexcept nogil:
    free(memory)


cdef inline void initCodec(Codec *codec) noexcept nogil:
    cdef int bits
    memset(codec, 0, sizeof(Codec))
    codec.inflator.zalloc = allocateForZlib
    codec.inflator.zfree = freeForZlib
    for bits in range(LEAST_WINDOW_BITS, MOST_WINDOW_BITS + 1):
        codec.deflators[bits].zalloc = allocateForZlib
        codec.deflators[bits].zfree = freeForZlib


cdef inline void destroyCodec(Codec *codec) noexcept nogil:
    cdef int bits
    if codec.hasInflator:
        inflateEnd(&codec.inflator)
    for bits in range(LEAST_WINDOW_BITS, MOST_WINDOW_BITS + 1):
        if codec.memLevels[bits]:
            deflateEnd(&codec.deflators[bits])


cdef inline int64_t inflateMessage(Codec *codec, const uint8_t *payload, size_t size,
                                   uint8_t *to, size_t room) noexcept nogil:
    """Write the message with this payload to `to`, which has `room` bytes. Returns the message's
    size in bytes; UNUSUAL_DATA or TOO_LARGE if `Deflate.inflated` would give None."""
    cdef z_stream *stream = &codec.inflator
    cdef size_t inflated
    cdef uint8_t more
    cdef int state
    room = min(room, <size_t>UINT32_MAX)
    if size == 0 or size > UINT32_MAX:
        return UNUSUAL_DATA
    if codec.hasInflator:
        inflateReset(stream)
    elif inflateInit2(stream, -MOST_WINDOW_BITS) == Z_OK:
        codec.hasInflator = True
    else:
        return UNUSUAL_DATA
    stream.next_in, stream.avail_in = payload, size
    stream.next_out, stream.avail_out = to, room
    state = inflate(stream, Z_SYNC_FLUSH)
    inflated = room - stream.avail_out
    stream.next_out = &more
    if stream.avail_out == 0 and state != Z_STREAM_END:
        stream.avail_out = 1
        state = inflate(stream, Z_SYNC_FLUSH)
        if stream.avail_out == 0:
            return TOO_LARGE
    # Without input that is left, and without progress, there is no error yet.
    if state != Z_OK and state != Z_BUF_ERROR:
        return UNUSUAL_DATA
    # RFC 7692, 7.2.2: the tail that the sender took away. Then a last, empty block, which is
    # understood as one only if the message ended between two blocks.
    stream.next_in, stream.avail_in = b"\x00\x00\xff\xff\x01\x00\x00\xff\xff", TAIL_SIZE + 5
    stream.avail_out = 1
    state = inflate(stream, Z_SYNC_FLUSH)
    if state != Z_STREAM_END or stream.avail_in or stream.avail_out == 0:
        return UNUSUAL_DATA
    return inflated


cdef inline size_t deflateMessage(Codec *codec, const uint8_t *message, size_t size,
                                  int windowBits, int memLevel,
                                  uint8_t *to, size_t room) noexcept nogil:
    """Write the payload of this message, of less than 4 GiB, to `to`, which has `room` bytes, at
    least deflatedMost(size). `windowBits` (9 to 15) and `memLevel` (1 to 9) are what the connection
    allows. Returns the payload's size in bytes; 0 if there is no zlib."""
    # As Deflate.compress_message_data, which says why.
    cdef int bits = max(LEAST_WINDOW_BITS,
                        min(windowBits, 64 - __builtin_clzll(size + LOOKAHEAD)))
    cdef z_stream *stream = &codec.deflators[bits]
    memLevel = max(1, min(memLevel, bits - 6))
    if codec.memLevels[bits] == memLevel:
        deflateReset(stream)
    else:
        if codec.memLevels[bits]:
            deflateEnd(stream)
        if deflateInit2(stream, 1, Z_DEFLATED, -bits, memLevel, Z_DEFAULT_STRATEGY) != Z_OK:
            codec.memLevels[bits] = 0
            return 0
        codec.memLevels[bits] = memLevel
    stream.next_in, stream.avail_in = message, size
    stream.next_out, stream.avail_out = to, min(room, <size_t>UINT32_MAX)
    deflate(stream, Z_SYNC_FLUSH)
    return stream.next_out - to - TAIL_SIZE


cdef inline size_t deflatedMost(size_t size) noexcept nogil:
    """Room that suffices for the payload of a message of `size` bytes, and for the tail."""
    # zlib-ng's fastest level has only fixed codes, of 9 bits for half of the octets; zlib stores
    # what does not shrink, in blocks of 128 bytes at least, with 5 bytes each.
    return size + (size >> 3) + (size >> 6) + 64
