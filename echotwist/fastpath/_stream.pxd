"""The seam between a loop and a socket: nothing else reads from it, writes to it or queries its state.

The loop sees a stream of bytes that may fail, end, or take no more for now. Today a stream is a
plain TCP socket; one that decrypts and encrypts would differ here, and not in the loop. Only epoll
uses the descriptor beside it.

What the socket does not take is buffered here until flushStream() has sent it.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from echotwist.fastpath._memory cimport allocate


cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    int MSG_NOSIGNAL
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, msghdr *message, int flags)


cdef extern from "<sys/ioctl.h>" nogil:
    int TIOCOUTQ
    int ioctl(int fd, unsigned long request, int *value)


cdef enum:
    # What readStream() returns instead of a number of bytes.
    ENDED = 0     # The client's FIN.
    AGAIN = -1    # Nothing is there yet.
    FAILED = -2


cdef struct Stream:
    int fd
    # What the socket did not take: `unsentRoom` bytes of memory, of which those from `unsentAt` to
    # `unsentEnd` are to be sent. NULL and zeros if it took everything.
    uint8_t *unsent
    size_t unsentAt, unsentEnd, unsentRoom


cdef inline bint isBlocked(const Stream *stream) noexcept nogil:
    """Whether bytes wait until the socket takes more."""
    return stream.unsent != NULL


cdef inline size_t unsentSize(const Stream *stream) noexcept nogil:
    return stream.unsentEnd - stream.unsentAt


cdef inline uint64_t unacknowledged(const Stream *stream) noexcept nogil:
    """Bytes that were written and that the client's kernel has not acknowledged, as
    `echotwist.wire.transport.unacknowledged` counts them."""
    cdef int queued = 0
    ioctl(stream.fd, TIOCOUTQ, &queued)
    return queued + unsentSize(stream)


cdef inline bint isTransient() noexcept nogil:
    """Whether the call that has just failed may succeed later."""
    return errno == EAGAIN or errno == EINTR


cdef inline ssize_t readStream(Stream *stream, uint8_t *to, size_t most) noexcept nogil:
    """Read up to `most` bytes. Returns how many came; else ENDED, AGAIN or FAILED."""
    cdef ssize_t size = recv(stream.fd, to, most, 0)
    if size >= 0:
        return size
    return AGAIN if isTransient() else FAILED


cdef inline bint writeStream(Stream *stream, const uint8_t *first, size_t firstSize,
                             const uint8_t *second, size_t secondSize) noexcept nogil:
    """Send both parts, one after the other, by one call; `first` may be NULL. What the socket does
    not take is buffered. Returns False if the socket has failed."""
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t sent
    cdef size_t skipped
    if isBlocked(stream):
        sent = 0
    elif first == NULL:
        sent = send(stream.fd, second, secondSize, MSG_NOSIGNAL)
    else:
        memset(&message, 0, sizeof(message))
        parts[0].iov_base, parts[0].iov_len = <void *>first, firstSize
        parts[1].iov_base, parts[1].iov_len = <void *>second, secondSize
        message.msg_iov, message.msg_iovlen = parts, 2
        sent = sendmsg(stream.fd, &message, MSG_NOSIGNAL)
    if sent == <ssize_t>(firstSize + secondSize):
        return True
    if sent < 0:
        if not isTransient():
            return False
        sent = 0
    skipped = min(<size_t>sent, firstSize)
    if skipped < firstSize:
        keep(stream, first + skipped, firstSize - skipped)
    skipped = sent - skipped
    if skipped < secondSize:
        keep(stream, second + skipped, secondSize - skipped)
    return True


cdef inline bint flushStream(Stream *stream) noexcept nogil:
    """Send what is buffered, as far as the socket takes it. Returns False if the socket has
    failed."""
    cdef ssize_t sent = send(stream.fd, stream.unsent + stream.unsentAt, unsentSize(stream),
                             MSG_NOSIGNAL)
    if sent < 0:
        return isTransient()
    stream.unsentAt += sent
    if stream.unsentAt == stream.unsentEnd:
        discardUnsent(stream)
    return True


cdef inline void keep(Stream *stream, const uint8_t *data, size_t size) noexcept nogil:
    cdef size_t kept = unsentSize(stream)
    cdef size_t room
    cdef uint8_t *larger
    if stream.unsentRoom - stream.unsentEnd < size:
        # Twice what is needed, so that on average each byte is copied once more.
        room = kept + size if stream.unsent == NULL else 2 * (kept + size)
        larger = <uint8_t *>allocate(room)
        if kept:
            memcpy(larger, stream.unsent + stream.unsentAt, kept)
        free(stream.unsent)
        stream.unsent = larger
        stream.unsentAt = 0
        stream.unsentEnd = kept
        stream.unsentRoom = room
    memcpy(stream.unsent + stream.unsentEnd, data, size)
    stream.unsentEnd += size


cdef inline void discardUnsent(Stream *stream) noexcept nogil:
    free(stream.unsent)
    stream.unsent = NULL
    stream.unsentAt = stream.unsentEnd = stream.unsentRoom = 0
