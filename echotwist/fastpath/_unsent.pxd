"""What a socket did not take: a queue of chunks of memory.

An echo that a client does not read yet may be a message of megabytes that grows with each read. In
chunks it never moves: with a buffer that was doubled and copied, a message of 15 MiB that a client
sends before it reads cost 1.8 times the processor time (measured), and up to three times the
memory.

Slow readers may be many, so a chunk is no larger than what was there to wait. Beside the bytes that
wait, memory goes to what describes them, a hundredth; to room in the last chunk, less than LEAST;
and to what was sent of the first one. A pool of chunks for each loop gained nothing: malloc() has
one for sizes below its threshold for mmap(), 128 KiB.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from echotwist.fastpath._memory cimport allocate


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    # Bytes of the largest chunk, its fields included, and of the smallest one behind another.
    CHUNK = 64 << 10
    LEAST = 4 << 10


cdef struct Chunk:
    Chunk *next
    # Of the `room` bytes that follow, those from `at` to `end` wait.
    size_t at, end, room


cdef struct Unsent:
    Chunk *first   # NULL if nothing waits.
    Chunk *last
    size_t size    # Bytes that wait.
    size_t memory  # Bytes of memory that they take.


cdef inline uint8_t *bytesOf(Chunk *chunk) noexcept nogil:
    return <uint8_t *>(chunk + 1)


cdef inline Chunk *addChunk(Unsent *unsent, size_t size) noexcept nogil:
    """A chunk at the end, of `size` bytes, its fields included."""
    cdef Chunk *chunk = <Chunk *>allocate(size)
    chunk.next = NULL
    chunk.at = chunk.end = 0
    chunk.room = size - sizeof(Chunk)
    if unsent.first == NULL:
        unsent.first = chunk
    else:
        unsent.last.next = chunk
    unsent.last = chunk
    unsent.memory += size
    return chunk


cdef inline void dropFirst(Unsent *unsent) noexcept nogil:
    cdef Chunk *chunk = unsent.first
    unsent.first = chunk.next
    unsent.size -= chunk.end - chunk.at
    unsent.memory -= sizeof(Chunk) + chunk.room
    free(chunk)


cdef inline void addUnsent(Unsent *unsent, const iovec *parts, int count,
                           size_t size) noexcept nogil:
    """Have a copy of these parts, of `size` bytes together, wait behind the rest."""
    # What grows has a least size for its chunks: else each byte could take one of its own.
    cdef size_t least = 0 if unsent.first == NULL else LEAST
    cdef Chunk *chunk = NULL if unsent.first == NULL else unsent.last
    cdef const uint8_t *data
    cdef size_t left, part
    cdef int i
    unsent.size += size
    for i in range(count):
        data = <const uint8_t *>parts[i].iov_base
        left = parts[i].iov_len
        while left:
            if chunk == NULL or chunk.end == chunk.room:
                part = max(sizeof(Chunk) + size, least)
                chunk = addChunk(unsent, min(part, <size_t>CHUNK))
            part = min(left, chunk.room - chunk.end)
            memcpy(bytesOf(chunk) + chunk.end, data, part)
            chunk.end += part
            data += part
            left -= part
            size -= part


cdef inline void dropUnsent(Unsent *unsent, size_t size) noexcept nogil:
    """Forget the first `size` bytes, which were sent."""
    cdef Chunk *chunk
    while size:
        chunk = unsent.first
        if size < chunk.end - chunk.at:
            chunk.at += size
            unsent.size -= size
            return
        size -= chunk.end - chunk.at
        dropFirst(unsent)


cdef inline int partsOf(const Unsent *unsent, iovec *parts, int most) noexcept nogil:
    """The beginning of what waits, in up to `most` parts, for sendmsg(). Returns how many."""
    cdef Chunk *chunk = unsent.first
    cdef int count = 0
    while chunk != NULL and count < most:
        parts[count].iov_base = bytesOf(chunk) + chunk.at
        parts[count].iov_len = chunk.end - chunk.at
        count += 1
        chunk = chunk.next
    return count


cdef inline void moveUnsent(Unsent *unsent, uint8_t *to) noexcept nogil:
    """Write all that waits to `to`, and forget it."""
    cdef Chunk *chunk
    while unsent.first != NULL:
        chunk = unsent.first
        memcpy(to, bytesOf(chunk) + chunk.at, chunk.end - chunk.at)
        to += chunk.end - chunk.at
        dropFirst(unsent)
