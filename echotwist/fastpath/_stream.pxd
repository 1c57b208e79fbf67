"""The seam between a loop and a socket: nothing else reads, writes or queries one.

The loop sees a stream of bytes that may fail, end, or take no more for now. With TLS it is
decrypted and encrypted here. Only epoll uses the descriptor beside it.

What the socket does not take waits (_unsent.pxd) until flushStream() has sent it; with TLS, that is
ciphertext.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from echotwist.fastpath._tls cimport (
    CIPHERTEXT, LEAST_PIECE, MOST_ANSWERS, MOST_PIECE, READ_TIME, READ_TLS, RECORD,
    RECORD_OVERHEAD,
    Tls, decrypt, encrypt, takeCiphertext,
)
from echotwist.fastpath._unsent cimport Unsent, addUnsent, dropUnsent, iovec, partsOf


cdef extern from "<sys/socket.h>" nogil:
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


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec, tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *time)


cdef enum:
    # What readStream() returns instead of a number of bytes.
    ENDED = 0     # The client's FIN.
    AGAIN = -1    # Nothing is there yet.
    FAILED = -2
    ENDING = -3   # TLS ends; Twisted knows how.

    # Chunks that are sent by one call: up to 256 KiB, as much as one read takes. So a client that
    # reads again after a long time takes no more of a turn than one that sends.
    PARTS = 4


cdef struct Stream:
    int fd
    Tls *tls              # NULL without TLS
    Unsent unsent


cdef inline bint isBlocked(const Stream *stream) noexcept nogil:
    """Whether bytes wait until the socket takes more."""
    return stream.unsent.first != NULL


cdef inline uint64_t unacknowledged(const Stream *stream) noexcept nogil:
    """Bytes that were written and that the client's kernel has not acknowledged, as
    `echotwist.wire.transport.unacknowledged` counts them."""
    cdef int queued = 0
    ioctl(stream.fd, TIOCOUTQ, &queued)
    return queued + stream.unsent.size


cdef inline bint isEnding(const Stream *stream) noexcept nogil:
    """Whether readStream() will say ENDING: all that came before has been read."""
    return stream.tls != NULL and stream.tls.isEnding


cdef inline bint isTransient() noexcept nogil:
    """Whether the call that has just failed may succeed later."""
    return errno == EAGAIN or errno == EINTR


cdef inline ssize_t readStream(Stream *stream, uint8_t *to, size_t most) noexcept nogil:
    """Read up to `most` bytes; with TLS, these and what they complete, a RECORD at most. Returns
    how many came; else ENDED, AGAIN, FAILED or ENDING. What TLS answers is sent, or buffered."""
    cdef ssize_t size
    if stream.tls != NULL:
        return readTls(stream, to, most)
    size = recv(stream.fd, to, most, 0)
    if size >= 0:
        return size
    return AGAIN if isTransient() else FAILED


cdef inline ssize_t readTls(Stream *stream, uint8_t *to, size_t most) noexcept nogil:
    """As readStream(), piece by piece. The pieces shrink to LEAST_PIECE when a client makes them
    expensive, and double from read to read when they are cheap. Little data needs no clock."""
    cdef Tls *tls = stream.tls
    cdef size_t piece = tls.piece
    cdef size_t came = 0
    cdef size_t decrypted = 0
    cdef size_t answer
    cdef uint64_t begin = 0
    cdef ssize_t size = 0
    most = min(most, <size_t>READ_TLS)
    while came < most and not tls.isEnding:
        size = recv(stream.fd, tls.scratch, min(piece, most - came), 0)
        if size <= 0:
            break
        if begin == 0 and size >= LEAST_PIECE:
            begin = nanoseconds()
        came += size
        decrypted += decrypt(tls, to + decrypted, tls.scratch, size)
        if begin and nanoseconds() - begin > READ_TIME:
            tls.piece = LEAST_PIECE
            tls.isCostly = True
            break
        if size < <ssize_t>piece:
            break
        tls.piece = min(2 * piece, <size_t>MOST_PIECE)
    tls.hasCome = came > 0
    if came == 0:
        return ENDED if size == 0 else AGAIN if isTransient() else FAILED
    # TLS may have something to say to that: an alert, or new keys.
    answer = takeCiphertext(tls, 0)
    if answer:
        if isBlocked(stream):
            tls.answers += answer
            if tls.answers > MOST_ANSWERS:
                tls.isEnding = True
        if not sendBytes(stream, NULL, 0, tls.scratch, answer):
            return FAILED
    if decrypted:
        return decrypted
    return ENDING if tls.isEnding else AGAIN


cdef inline uint64_t nanoseconds() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec


cdef inline bint writeStream(Stream *stream, const uint8_t *first, size_t firstSize,
                             const uint8_t *second, size_t secondSize) noexcept nogil:
    """Send both parts, one after the other, by one call; `first` may be NULL. What the socket does
    not take waits. Returns False if the socket, or TLS, has failed."""
    if stream.tls != NULL:
        return writeTls(stream, first, firstSize) and writeTls(stream, second, secondSize)
    return sendBytes(stream, first, firstSize, second, secondSize)


cdef inline bint writeTls(Stream *stream, const uint8_t *data, size_t size) noexcept nogil:
    cdef Tls *tls = stream.tls
    cdef ssize_t done
    cdef size_t ready = 0
    while size:
        done = encrypt(tls, data, size)
        if done < 0:
            # After an error that was read, nothing can be written; Twisted will find that error.
            return tls.isEnding
        data += done
        size -= done
        ready += takeCiphertext(tls, ready)
        if ready > CIPHERTEXT - (RECORD + RECORD_OVERHEAD) or not size:
            if not sendBytes(stream, NULL, 0, tls.scratch, ready):
                return False
            ready = 0
    return True


cdef inline bint sendBytes(Stream *stream, const uint8_t *first, size_t firstSize,
                           const uint8_t *second, size_t secondSize) noexcept nogil:
    """As writeStream(), to the socket itself."""
    cdef iovec parts[2]
    cdef msghdr message
    cdef size_t size = firstSize + secondSize
    cdef size_t skipped
    cdef ssize_t sent
    parts[0].iov_base, parts[0].iov_len = <void *>first, firstSize
    parts[1].iov_base, parts[1].iov_len = <void *>second, secondSize
    if isBlocked(stream):
        sent = 0
    elif first == NULL:
        sent = send(stream.fd, second, secondSize, MSG_NOSIGNAL)
    else:
        memset(&message, 0, sizeof(message))
        message.msg_iov, message.msg_iovlen = parts, 2
        sent = sendmsg(stream.fd, &message, MSG_NOSIGNAL)
    if sent < 0:
        if not isTransient():
            return False
        sent = 0
    if sent < <ssize_t>size:
        skipped = min(<size_t>sent, firstSize)
        parts[0].iov_base = <uint8_t *>parts[0].iov_base + skipped
        parts[0].iov_len -= skipped
        parts[1].iov_base = <uint8_t *>parts[1].iov_base + (sent - skipped)
        parts[1].iov_len -= sent - skipped
        addUnsent(&stream.unsent, parts, 2, size - sent)
    return True


cdef inline bint flushStream(Stream *stream) noexcept nogil:
    """Send what waits, as far as the socket takes it. Returns False if the socket has failed."""
    cdef iovec parts[PARTS]
    cdef msghdr message
    cdef ssize_t sent
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = partsOf(&stream.unsent, parts, PARTS)
    sent = sendmsg(stream.fd, &message, MSG_NOSIGNAL)
    if sent < 0:
        return isTransient()
    dropUnsent(&stream.unsent, sent)
    if stream.tls != NULL and not isBlocked(stream):
        stream.tls.answers = 0
    return True
