"""TLS, on the object that Twisted has made for a connection.

OpenSSL reads ciphertext from one buffer in memory, `into`, and writes it to another, `outof`. A
loop fills the one from the socket and empties the other into it, as Twisted does, but without
Python:

    socket  -recv->  scratch  -BIO_write->  into   -SSL_read->   the loop
    socket  <-send-  scratch  <-BIO_read-   outof  <-SSL_write-  the loop
                                            `-- ssl: Twisted's --'

Between two calls nothing that is decrypted stays inside. So the objects are as Twisted wants them
whenever the connection is returned, and Twisted goes on with them.

The two buffers keep whatever size they once had. So they are fed and emptied in small pieces.

What a byte costs is the client's choice: a key update of 27 bytes takes 6 to 13 µs, as much as
10,000 bytes of data. So the pieces are as large as they were cheap; see `readTls`.
"""

from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memset

from echotwist.fastpath._memory cimport allocate


cdef extern from "_openssl.h" nogil:
    int SSL_ERROR_WANT_READ
    void use_openssl(const uintptr_t *addresses)
    int SSL_read "openssl.SSL_read" (void *ssl, void *buffer, int size)
    int SSL_write "openssl.SSL_write" (void *ssl, const void *buffer, int size)
    int SSL_get_error "openssl.SSL_get_error" (const void *ssl, int result)
    int BIO_read "openssl.BIO_read" (void *bio, void *buffer, int size)
    int BIO_write "openssl.BIO_write" (void *bio, const void *buffer, int size)
    void ERR_clear_error "openssl.ERR_clear_error" ()


cdef enum:
    # How many use_openssl() takes.
    OPENSSL_FUNCTIONS = 6
    # Bytes of ciphertext that one read takes: a message of 64 KiB.
    READ_TLS = 66 << 10
    # Bytes of it that OpenSSL gets at a time: at first and at least, and at most.
    LEAST_PIECE = 1 << 10
    MOST_PIECE = 8 << 10
    # Nanoseconds after which a read takes no further piece.
    READ_TIME = 200_000
    # Bytes that OpenSSL may say for itself while the client does not read.
    MOST_ANSWERS = 4 << 10
    # Bytes of payload of a record (RFC 8446, 5.1), and what encryption adds at most.
    RECORD = 16 << 10
    RECORD_OVERHEAD = 256
    # Bytes of ciphertext that are sent at a time: of four records.
    CIPHERTEXT = 4 * (RECORD + RECORD_OVERHEAD)


cdef struct Tls:
    void *ssl
    void *into
    void *outof
    uint8_t *scratch      # CIPHERTEXT bytes, which all connections of a loop share
    size_t piece          # Bytes of the next piece.
    bint isCostly         # A read has once taken longer than READ_TIME: its client may choose when.
    size_t answers        # Bytes that OpenSSL has said for itself since the client stopped reading.
    bint hasCome          # The last read has brought ciphertext, perhaps no whole record.
    bint isEnding         # Twisted shall look: the client ends TLS, or it fails.


cdef inline Tls *newTls(void *ssl, void *into, void *outof, uint8_t *scratch) noexcept nogil:
    """free() releases it; the objects are Twisted's."""
    cdef Tls *tls = <Tls *>allocate(sizeof(Tls))
    memset(tls, 0, sizeof(Tls))
    tls.ssl, tls.into, tls.outof = ssl, into, outof
    tls.scratch = scratch
    tls.piece = LEAST_PIECE
    return tls


cdef inline size_t decrypt(Tls *tls, uint8_t *to, const uint8_t *data, size_t size) noexcept nogil:
    """Write to `to` what the ciphertext `data` completes: at most `size` bytes and a RECORD."""
    cdef size_t decrypted = 0
    cdef int got
    BIO_write(tls.into, data, size)
    while True:
        got = SSL_read(tls.ssl, to + decrypted, RECORD)
        if got <= 0:
            break
        decrypted += got
    if SSL_get_error(tls.ssl, got) != SSL_ERROR_WANT_READ:
        # Not what it said, but that it said something: it belongs to this thread.
        ERR_clear_error()
        tls.isEnding = True
    return decrypted


cdef inline ssize_t encrypt(Tls *tls, const uint8_t *data, size_t size) noexcept nogil:
    """Encrypt up to a RECORD of `data`. Returns how many bytes that was; -1 if it fails."""
    cdef int done = SSL_write(tls.ssl, data, min(size, <size_t>RECORD))
    if done <= 0:
        ERR_clear_error()
        return -1
    return done


cdef inline size_t takeCiphertext(Tls *tls, size_t at) noexcept nogil:
    """Move to `scratch`, from `at` on, what is to be sent. Returns how many bytes that was."""
    cdef int got = BIO_read(tls.outof, tls.scratch + at, CIPHERTEXT - at)
    return got if got > 0 else 0
