# cython: language_level=3
"""The fast path: a loop that echoes ordinary messages, on a thread of its own.

Nearly everything that an echo receives is text and binary messages, and pings. So Twisted *lends*
each connection on which nothing else is going on to a `Loop`, and `run` serves it: the loop waits
with epoll, as the reactor does, and never takes the GIL, so that neither waits for the other. When
something comes that is not ordinary (a close, bad UTF-8, a message too large to be held, the end),
the loop *returns* the connection with every byte that it has not judged, and Autobahn judges them
as if it had read them itself.

    the reactor's thread                             the loop's thread

    lend(), recall(), grant(), ...  -> commands ->   execute()
    takeEvents()                    <-  events  <-   report()

The rest of the sources, which are compiled into this one extension:

    _mailbox.pxd   commands and events, and how they cross from one thread to the other
    _stream.pxd    the socket: bytes in, bytes out
    _unsent.pxd    what the socket did not take yet
    _tls.pxd       TLS on the way to the socket and from it
    _openssl.h     the functions of OpenSSL
    _frame.pxd     a frame: its header, unmasking, UTF-8, the header of its echo
    _message.pxd   what is held between two reads: a message without its end, and unread input
    _deflate.pxd   the payload of a compressed message
    _zlib.h        zlib, if it was there when this was compiled
    _octets.h      unmasking and UTF-8, 32 bytes at a time
    _memory.pxd    what becomes of a process without memory

A connection belongs to one side at a time, and only that side touches it or its descriptor. A
recall may cross the connection's return on the way, and then has no effect: commands are executed
in order, and the return must have arrived before the connection, or another one with its
descriptor, can be lent again.

All connections share one buffer, which each read fills:

          read:  [head mask payload][head mask payload][head ma
                                    at                         end
          sent:  [head payload][head payload
                 out           to

Each frame is unmasked to where it is sent from: `to`, never behind `at`, because a server's header
is a mask shorter than a client's (RFC 6455, 5.1). One call sends what one read has brought.

What cannot be echoed like that:

- A message that ends in a later read, or comes in fragments, is *collected* (`Message`) until it is
  whole, and then echoed in one frame. Fragments that are all there are collected in memory that all
  connections share (`scratch`), and their echo is copied to `to`: it is shorter than they were.
- A whole frame larger than HOLD *passes*: each part is sent as it comes, so that a message of
  16 MiB costs no memory. `Frame.header` keeps the header as it came.
- A compressed message is collected, inflated, and compressed anew. Nothing of it is sent before all
  of it is known to be right. Its echo may be longer than itself, so connections with
  permessage-deflate are answered from memory of their own (`answers`), which all of them share.
- Fragments and compressed messages larger than HOLD, or than INFLATED when they are inflated, are
  Autobahn's.

Nobody waits for a client that sends without pause. A turn of the loop has work for about TURN
nanoseconds. For frames that is an estimate, because a clock would cost more than a frame does. A
clock tells what zlib and OpenSSL take, because there the client decides what a byte costs. What a
read has brought is worked off in *slices*, and each connection that is ready gets an equal share of
the turn. What is left then is the connection's `rest`. While it has one, it is not read; it waits
in the ring `waiting`, whose first goes on in the next turn. If the turn is over, a *costly*
connection waits there before it is read, too: one frame that passes may bring 256 KiB, one
compressed message may take zlib three milliseconds, and one read OpenSSL half of one.

Why hostile bytes do no harm:
- The buffer has room for one read, and before it for a control frame of which a part came earlier;
  every step is at most `end - at`.
- A length is believed only up to `maxMessage`, and memory is allocated only up to HOLD. It is
  at most 63 bits long where anything is added to it: a larger one is refused first.
- The socket is read only when everything before has been answered and sent, so that at most the
  echo of one read and one collected message waits for a client. There is one exception: a client
  may send a message whole before it reads any of it, as simple clients do, so the rest of a frame
  that passes is read all the same, and waits. It is no larger than `maxMessage`, which Autobahn
  would buffer, too; the memory for it is hardly more (_unsent.pxd).
- `maxBuffered` bounds what is held for all connections of all loops together. Above it reads are
  short, nothing is read ahead, and a connection that would have to be held more is returned, for
  the reactor's `Budget` to decide. Those that are not read ahead may wait for memory that others
  hold and never give back: after `patience` the loop says so, and the loop that buffers most has
  to `shed`. (A bound for each loop was less than one message where there are many cores: a client
  that sent it whole before it read waited for the loop, and the loop for it.)
- Where Autobahn closes with a code, it does so here, too: what was unmasked is masked again and
  returned, and before it one fragment that stands for those that were collected. Only a frame that
  passes leaves no room for a close frame, so that bad UTF-8 in it ends in a drop.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.math cimport INFINITY, ceil
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from echotwist.fastpath._deflate cimport (
    HAS_ZLIB, UNUSUAL_DATA, Codec, deflatedMost, deflateMessage, destroyCodec, inflateMessage,
    initCodec,
)
from echotwist.fastpath._frame cimport (
    BINARY, CONTINUATION, CONTROL, CONTROL_FRAME, FIN, HEADER, INCOMPLETE, MASK_SIZE, NOT_PLAIN,
    PLAIN, PONG, RSV1,
    Frame, Header, beginFrame, echoHeaderSize, endFrame, headerSizeOf, isFinal, isWholeMessage,
    maskAgain, opcodeOf, parseHeader, unmask, unmaskPayload, utf8_state, validate_utf8,
    writeEchoHeader, writeHeader,
)
from echotwist.fastpath._mailbox cimport (
    ALIVE, CHECK, FRAME, FULL, GRANT, LEND, LOST, MESSAGE, NONE, NOT_UTF8, RECALL, RECALLED,
    RETURNED, SHED, SHORT, STOP, UNANSWERED, UNUSUAL,
    Command, Event, Mailbox, Reason, destroyMailbox, discard, initMailbox, newCommand, newEvent,
    pthread_mutex_lock, pthread_mutex_unlock, put, takeAll,
)
from echotwist.fastpath._memory cimport addShared, allocate, readShared, reallocate
from echotwist.fastpath._message cimport (
    ECHO_HEADER, Message, Rest, clearMessage, copyMessage, fragmentSize, headerOf, memoryOf,
    newMessage, newRest, payloadOf, restOf, restSize, writeFragment,
)
from echotwist.fastpath._stream cimport (
    AGAIN, ENDED, ENDING, Stream, flushStream, isBlocked, isEnding, nanoseconds, readStream,
    unacknowledged, writeStream,
)
from echotwist.fastpath._tls cimport (
    CIPHERTEXT, OPENSSL_FUNCTIONS, RECORD, Tls, decrypt, encrypt, newTls, takeCiphertext,
    use_openssl,
)
from echotwist.fastpath._unsent cimport moveUnsent

import os


cdef extern from *:
    const char *SOURCES  # A macro that setup.py defines.


sources = SOURCES.decode()
"""The hash of what this was compiled from; see sources.py."""

hasZlib = HAS_ZLIB != 0
"""Whether it was compiled with zlib."""


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int milliseconds)


cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)
    ctypedef uint64_t eventfd_t
    int eventfd_read(int fd, eventfd_t *value)
    int eventfd_write(int fd, eventfd_t value)


cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef enum:
    # Bytes that one read takes at most.
    READ = 256 << 10
    # The same, if much of it may have to be kept: with permessage-deflate, or after a read that
    # took more than a slice. Or if many connections are ready: one read of a frame that passes is
    # answered whole.
    READ_SLICED = 32 << 10
    # The same, when no more may be held.
    READ_LITTLE = 4 << 10
    # Bytes of payload up to which a message is held until all of it is there.
    HOLD = 64 << 10
    # The same, when it is inflated: two thirds of a millisecond at most, unless the client does its
    # worst.
    INFLATED = 128 << 10
    # Connections that one call of epoll_wait() tells of.
    READY = 256
    # Connections that are returned at once for the memory that they hold.
    SHED_AT_ONCE = 20
    # Silent connections that one turn looks at.
    SILENT = 64
    # Bytes of a message that the log gets: it shows 65 characters, of four bytes at most.
    PREVIEW = 260
    # A shorter fragment counts as small: limits.SMALL_FRAGMENT.
    SMALL_FRAGMENT = 64
    # Bytes that one answer takes at most: of INFLATED bytes that do not compress, or of any frame.
    ANSWER = INFLATED + (20 << 10)

    # Estimates of work, in nanoseconds. What a turn has time for; the least that a connection gets
    # of it, however many are ready; and what one gets that has waited.
    TURN = 200_000
    LEAST = 16_000
    SLICE = 32_000
    # A frame, and how many bytes of it are one more; a line of the log.
    FRAME_WORK = 25
    FRAME_BYTES = 4
    REPORT_WORK = 500

# Seconds after which a loop looks again whether others have given memory back.
cdef double LOOK = 0.01


REASONS = {
    UNUSUAL: "unusual",
    RECALLED: "recalled",
    FULL: "full",
    LOST: "lost",
    UNANSWERED: "unanswered",
    NOT_UTF8: "not UTF-8",
}


cdef enum Kind:
    # Of a message, as a client sent it.
    PLAIN_MESSAGE
    FRAGMENTED
    COMPRESSED            # in fragments or not
    KINDS


cdef struct Counts:
    # By whether they are binary.
    uint64_t messages[2]
    uint64_t bytes[2]
    # By their Kind; then the same with TLS. These include the messages that the log gets.
    uint64_t kinds[2 * KINDS]
    uint64_t pauses       # Times that a client did not read, and the loop stopped reading from it.


cdef struct Connection:
    Stream stream
    uint64_t number
    Frame frame
    Message *message      # that is collected; NULL if there is none, or if `frame` passes
    Event *passing        # for the log, of a frame that passes
    Rest *rest            # input that was read, and is not answered yet; NULL if there is none
    int windowBits        # of permessage-deflate; 0 without it
    int memLevel
    uint32_t interest     # what epoll_wait() shall tell of
    bint isWaiting        # It is in the ring of those that wait.
    bint isSliced         # The last read took more than a slice.
    bint isRecalled
    bint hasMoved         # since it was recalled
    # Its neighbours in the ring of the active connections, of the silent ones, or of those that
    # wait.
    Connection *before
    Connection *after
    double since          # when it was last active, or was pinged, or was looked at after that
    bint isSilent
    bint isLate           # half of the time for an answer is over
    uint64_t unacknowledgedThen


cdef bint isPassing(Connection *c) noexcept nogil:
    """Whether the beginning of a frame is sent, and its end has not come yet."""
    return c.frame.left > 0 and c.message == NULL


cdef bint hasRest(Connection *c) noexcept nogil:
    """Whether it has a rest that can be answered without more input."""
    return c.rest != NULL and not c.rest.isShort


cdef size_t heldBy(Connection *c) noexcept nogil:
    """Bytes of memory for what it has not answered, and for what its client has not read."""
    cdef size_t held = c.stream.unsent.memory
    if c.message != NULL:
        held += memoryOf(c.message.room)
    if c.rest != NULL:
        held += c.rest.room
    return held


cdef bint isCostly(Connection *c) noexcept nogil:
    """Whether one more read of it may take as long as a turn."""
    return (c.windowBits != 0 or isPassing(c)
            or c.stream.tls != NULL and c.stream.tls.isCostly)


cdef Event *newReport(Connection *c, bint isBinary, uint64_t size) noexcept nogil:
    """What the log gets of a message, still without its beginning."""
    cdef Event *event = newEvent(MESSAGE, PREVIEW)
    event.number = c.number
    event.size = size
    event.isBinary = isBinary
    return event


cdef void addPreview(Event *event, const uint8_t *payload, size_t size) noexcept nogil:
    size = min(size, PREVIEW - event.previewSize)
    memcpy(<uint8_t *>(event + 1) + event.previewSize, payload, size)
    event.previewSize += size


cdef void countMessage(Counts *counts, bint isBinary, uint64_t size) noexcept nogil:
    counts.messages[isBinary] += 1
    counts.bytes[isBinary] += size


cdef inline bint isOutOfPlace(const Connection *c, int first) noexcept nogil:
    """Whether a frame that begins with the byte `first` continues no message, or interrupts one."""
    return not first & CONTROL and (first & 15 == CONTINUATION) != (c.message != NULL)


cdef size_t shortfall(int first, uint64_t size) noexcept nogil:
    """What a frame counts for as a small fragment; see `limits.Limits.fragmentAllowance`. `first`
    is its first byte, and `size` that of its payload."""
    if size >= SMALL_FRAGMENT or first & FIN and first & 15 != CONTINUATION:
        return 0
    return SMALL_FRAGMENT - size


cdef void moveCounts(Counts *to, Counts *counts) noexcept nogil:
    """Add `counts` to `to`, and set them to 0."""
    cdef int i
    for i in range(2):
        to.messages[i] += counts.messages[i]
        to.bytes[i] += counts.bytes[i]
    for i in range(2 * KINDS):
        to.kinds[i] += counts.kinds[i]
    to.pauses += counts.pauses
    memset(counts, 0, sizeof(Counts))


cdef tuple messagesOf(Counts *counts):
    """How many text messages there were, bytes of payload in them, and the same of binary ones."""
    return counts.messages[0], counts.bytes[0], counts.messages[1], counts.bytes[1]


cdef void unlink(Connection *c) noexcept nogil:
    c.before.after = c.after
    c.after.before = c.before


cdef void append(Connection *ring, Connection *c) noexcept nogil:
    c.before = ring.before
    c.after = ring
    c.before.after = c
    ring.before = c


def echoFrames(bytes data, uint64_t maxMessage):
    """The echo of the plain frames that `data` begins with and that end in it, for connections
    with TLS that cannot be lent.

    `maxMessage` is in bytes. Returns the echo, the number of bytes of `data` that it answers, and
    what it counts; see `messagesOf`.
    """
    cdef const uint8_t *at = data
    cdef const uint8_t *begin = at
    cdef const uint8_t *end = at + len(data)
    cdef uint8_t *out = <uint8_t *>allocate(len(data) + 1)
    cdef uint8_t *to = out
    cdef uint8_t *payload
    cdef Counts counts
    cdef Header header
    cdef Frame frame
    memset(&counts, 0, sizeof(counts))
    while True:
        header = parseHeader(at, end - at, maxMessage, 0)
        if (header.state != PLAIN or not isWholeMessage(&header)
                or header.payloadSize > end - at - header.size):
            break
        beginFrame(&frame, &header, at)
        payload = writeEchoHeader(&frame, to)
        if not unmaskPayload(&frame, payload, at + header.size, frame.size):
            break
        at += header.size + frame.size
        if opcodeOf(&frame) != PONG:  # Nothing answers a pong.
            to = payload + frame.size
        if not opcodeOf(&frame) & CONTROL:
            countMessage(&counts, opcodeOf(&frame) == BINARY, frame.size)
    echo = PyBytes_FromStringAndSize(<char *>out, to - out)
    free(out)
    return echo, at - begin, messagesOf(&counts)


def parseCompressedFrame(bytes data, uint64_t maxPayload):
    """The message that `data` begins with, if it is one compressed frame (RFC 7692, 6.1) of at
    most `maxPayload` bytes of payload.

    Returns whether it is binary, its payload, still compressed, and how many bytes of `data` it
    is. Returns None if there is anything else, or not all of it.
    """
    cdef const uint8_t *at = data
    cdef size_t size = len(data)
    cdef uint8_t *payload
    cdef Header header = parseHeader(at, size, maxPayload, RSV1)
    if (header.state != PLAIN or header.first & (FIN | RSV1) != (FIN | RSV1)
            or header.payloadSize > size - header.size):
        return None
    at += header.size
    payload = <uint8_t *>allocate(header.payloadSize + 1)
    unmask(payload, at, header.payloadSize, at - MASK_SIZE, 0)
    message = PyBytes_FromStringAndSize(<char *>payload, header.payloadSize)
    free(payload)
    return header.first & 15 == BINARY, message, header.size + header.payloadSize


def useOpenssl(list addresses):
    """Use the functions at these `addresses`; see openssl.py. To be called before a connection with
    TLS is lent."""
    cdef uintptr_t pointers[OPENSSL_FUNCTIONS]
    cdef int i
    for i in range(OPENSSL_FUNCTIONS):
        pointers[i] = addresses[i]
    use_openssl(pointers)


def echoOverTls(tuple addresses, bytes data):
    """The ciphertext of the echo of `data`, ciphertext of less than a record, as a loop would read
    and write it. `addresses` are of the objects of a connection."""
    cdef uintptr_t ssl, into, outof
    ssl, into, outof = addresses
    cdef uint8_t *scratch = <uint8_t *>allocate(CIPHERTEXT + 2 * RECORD)
    cdef Tls *tls = newTls(<void *>ssl, <void *>into, <void *>outof, scratch)
    cdef uint8_t *plain = scratch + CIPHERTEXT
    cdef size_t size = decrypt(tls, plain, data, len(data))
    if size:
        encrypt(tls, plain, size)
    size = takeCiphertext(tls, 0)
    echo = PyBytes_FromStringAndSize(<char *>scratch, size)
    free(tls)
    free(scratch)
    return echo


cdef class Loop:
    """Serves the connections that it is lent.

    `maxMessage`, below 2**62, `fragmentAllowance` and `maxBuffered` are in bytes, see `limits`;
    `pingInterval` (0: never), `pingTimeout` and `patience` are in seconds. `eventsFd` is an eventfd
    of the caller's, which is written when there are events to take. With `logsFrames` the log gets
    frames as well as messages; then fragments and compressed messages are Autobahn's. `beside` is a
    loop that shares its memory, with which `maxBuffered` is to be the same. Raises OSError if no
    descriptor is left.
    """

    cdef readonly int lent
    """Connections that it has, or that are on their way to it or back."""

    cdef int epoll, commandsFd, eventsFd
    cdef Mailbox commands, events
    cdef uint64_t maxMessage, fragmentAllowance, maxBuffered
    cdef double pingInterval, pingTimeout, patience
    cdef Loop beside
    cdef uint64_t own                 # What `shared` points to, if it is the first of several.
    cdef uint64_t *shared             # As `buffered`, of all loops.

    # What follows belongs to the loop's thread alone.
    cdef double now
    cdef double caughtUp              # Everything that had come by then has been read.
    cdef double next                  # It will have been, once epoll has told of `untold` more.
    cdef int64_t untold
    cdef int served                   # Connections that it has.
    cdef bint going, hasEvents, logsFrames
    cdef uint8_t *room                # CONTROL_FRAME bytes, and then READ.
    cdef uint8_t *ciphertext          # CIPHERTEXT bytes; NULL before the first use.
    cdef uint8_t *answers, *inflated  # READ + ANSWER bytes; INFLATED. NULL before the first use.
    cdef Codec codec
    cdef Message *scratch             # Collects a message until the end of a read.
    cdef uint64_t work, workUntil     # Done in this turn, and when the slice ends.
    cdef Connection **byDescriptor
    cdef int descriptors
    cdef Connection active, silent    # The heads of two rings; see keepAlive().
    cdef Connection waiting           # That of a third: those that wait, in the order of service.
    cdef uint64_t granted             # Messages, and frames, that the log may still get.
    cdef uint64_t buffered            # Bytes of memory for all that connections hold.
    cdef bint isThrottled             # Some connections are not read ahead.
    # Since when memory has been short for some of them, or when it was last.
    cdef double shortSince, shortUntil
    cdef bint hasCounts
    cdef Counts counts                # Of this turn, without the messages that the log gets ...
    # ... and until takeCounts() is called; this and the next are under the lock of `events`.
    cdef Counts publishedCounts
    cdef uint64_t publishedBuffered

    def __cinit__(self, maxMessage, fragmentAllowance, maxBuffered, pingInterval, pingTimeout,
                  eventsFd, logsFrames=False, patience=INFINITY, beside=None):
        # First, because __dealloc__() also runs when this fails, and closes what these say. For the
        # same reason the arguments have no types: they are converted below.
        self.epoll = self.commandsFd = -1
        initMailbox(&self.commands)
        initMailbox(&self.events)
        initCodec(&self.codec)
        self.maxMessage = maxMessage
        self.fragmentAllowance = fragmentAllowance
        self.maxBuffered = maxBuffered
        self.pingInterval = pingInterval
        self.pingTimeout = pingTimeout
        self.eventsFd = eventsFd
        self.logsFrames = logsFrames
        self.patience = patience
        self.beside = beside
        self.shared = &self.own if beside is None else self.beside.shared
        self.shortSince = INFINITY
        self.shortUntil = -INFINITY
        self.going = True
        self.active.before = self.active.after = &self.active
        self.silent.before = self.silent.after = &self.silent
        self.waiting.before = self.waiting.after = &self.waiting
        self.room = <uint8_t *>allocate(CONTROL_FRAME + READ)
        self.scratch = newMessage(HOLD)
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = NULL
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll >= 0:
            self.commandsFd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.commandsFd < 0 or epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.commandsFd, &event):
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        destroyMailbox(&self.commands)
        destroyMailbox(&self.events)
        if self.epoll >= 0:
            close(self.epoll)
        if self.commandsFd >= 0:
            close(self.commandsFd)
        destroyCodec(&self.codec)
        free(self.byDescriptor)
        free(self.room)
        free(self.scratch)
        free(self.ciphertext)
        free(self.answers)
        free(self.inflated)

    # For the reactor's thread.

    def lend(self, int fd, uint64_t number, bytes data, deflate=None, tls=None):
        """Serve the socket `fd`, which must not block, and which the caller leaves alone until
        `number` is returned; first `data`, which was read from it. No number is lent twice at a
        time. `deflate`, if permessage-deflate without context takeover was negotiated, is the
        window bits and the memory level to compress with. `tls`, of a connection with TLS, is the
        addresses of its objects; see openssl.py. `data` is what they have given."""
        cdef Command *command = newCommand(LEND, len(data))
        cdef uintptr_t ssl, into, outof
        self.lent += 1
        command.fd = fd
        command.number = number
        if deflate is not None:
            command.windowBits, command.memLevel = deflate
        if tls is not None:
            ssl, into, outof = tls
            command.ssl, command.into, command.outof = <void *>ssl, <void *>into, <void *>outof
        command.dataSize = len(data)
        memcpy(command + 1, <const uint8_t *>data, command.dataSize)
        self.send(command)

    def recall(self, int fd, uint64_t number, bint atOnce):
        """Return the connection: at once, or as soon as no frame passes. Asked again, the loop also
        returns it if nothing of that frame has come since. It may be on its way already."""
        cdef Command *command = newCommand(RECALL, 0)
        command.fd = fd
        command.number = number
        command.atOnce = atOnce
        self.send(command)

    def grant(self, uint64_t messages):
        """Report the next `messages` (or frames) to the log, and only count the others."""
        cdef Command *command = newCommand(GRANT, 0)
        command.messages = messages
        self.send(command)

    def check(self):
        """Ask whether the loop still turns; the answer is an event."""
        self.send(newCommand(CHECK, 0))

    def shed(self):
        """If more than half of the memory is in use, return some of those that buffer the most. If
        those that are inside a frame buffer more than all others, return the one of them that
        buffers the most, which is its end."""
        self.send(newCommand(SHED, 0))

    def stop(self):
        """Return all connections, and end. Nothing may be lent any more."""
        self.send(newCommand(STOP, 0))

    cdef void send(self, Command *command) noexcept:
        put(&self.commands, &command.entry)
        eventfd_write(self.commandsFd, 1)

    def takeEvents(self):
        """What has happened since the last call, in order. A list of tuples:

        - `("message", number, size, isBinary, preview)`: one of those that were granted. `size` is
          in bytes, and `preview` its beginning.
        - `("frame", number, header, isSent)`: one that was received, or sent, with `logsFrames`.
        - `("returned", number, why, begun, small, unjudged, unsent, isInside)`: the connection is
          the caller's again, who writes the bytes `unsent` to the socket, and reads `unjudged`
          before what the socket has. Before these, the bytes `begun`: one fragment, as a client
          sends it, that stands for those of the message that had begun; it counts as `small` bytes
          of the fragment allowance. With `isInside` the connection is inside a frame, to its client
          and from it: no other frame can be sent any more, and what comes cannot be understood.
        - `("alive",)`: the answer to `check`.
        - `("short",)`: some have waited for memory for `patience`; the loop that buffers most
          shall `shed`.
        """
        cdef Event *event = <Event *>takeAll(&self.events)
        cdef char *extra
        events = []
        while event != NULL:
            extra = <char *>(event + 1)
            if event.kind == MESSAGE:
                preview = PyBytes_FromStringAndSize(extra, event.previewSize)
                events.append(("message", event.number, event.size, event.isBinary, preview))
            elif event.kind == FRAME:
                header = PyBytes_FromStringAndSize(extra, event.headerSize)
                events.append(("frame", event.number, header, event.isSent))
            elif event.kind == ALIVE:
                events.append(("alive",))
            elif event.kind == SHORT:
                events.append(("short",))
            else:
                self.lent -= 1
                begun = PyBytes_FromStringAndSize(extra, event.begunSize)
                extra += event.begunSize
                unjudged = PyBytes_FromStringAndSize(extra, event.unjudgedSize)
                extra += event.unjudgedSize
                unsent = PyBytes_FromStringAndSize(extra, event.unsentSize)
                events.append(("returned", event.number, REASONS[event.reason], begun, event.small,
                               unjudged, unsent, event.isInside))
            event = <Event *>discard(&event.entry)
        return events

    def takeCounts(self):
        """What was counted since the last call: the messages that the log did not get, see
        `messagesOf`; all messages, by their kind: plain, fragmented, compressed, and the same three
        with TLS; and how often a client did not read, and the loop stopped reading from it.
        Last, how many bytes are buffered now."""
        cdef Counts counts
        cdef int i
        memset(&counts, 0, sizeof(counts))
        pthread_mutex_lock(&self.events.lock)
        moveCounts(&counts, &self.publishedCounts)
        buffered = self.publishedBuffered
        pthread_mutex_unlock(&self.events.lock)
        kinds = tuple([counts.kinds[i] for i in range(2 * KINDS)])
        return messagesOf(&counts), kinds, counts.pauses, buffered

    # For the loop's thread.

    def run(self):
        """Serve until stop() is called."""
        with nogil:
            self.readClock()
            while self.going:
                self.serve(self.untilDue(), True)

    def turn(self, double now):
        """Serve what is ready, without waiting, as if it were `now`, in seconds: a turn of run(),
        for tests. Returns how many descriptors were ready."""
        self.now = now
        return self.serve(0, False)

    def due(self):
        """When turn() next has something to do although nothing is ready, in seconds on its clock;
        infinity: never."""
        return self.nextDue() if self.waiting.after == &self.waiting else self.now

    cdef void readClock(self) noexcept nogil:
        self.now = nanoseconds() * 1e-9

    cdef int serve(self, int milliseconds, bint hasClock) noexcept nogil:
        cdef epoll_event ready[READY]
        cdef double before = self.now
        if self.waiting.after != &self.waiting:
            milliseconds = 0
        cdef int count = epoll_wait(self.epoll, ready, READY, milliseconds)
        cdef uint64_t share = max(TURN // max(count, 1), LEAST)
        cdef bint isCommanded = False
        cdef Connection *c
        cdef int i
        self.work = 0
        if hasClock:
            self.readClock()
        for i in range(count):
            c = <Connection *>ready[i].data.ptr
            self.workUntil = self.work + share
            if c == NULL:
                isCommanded = True
            elif c.isWaiting:
                pass  # The socket has failed, or has been shut down: its turn will tell.
            elif isBlocked(&c.stream) and ready[i].events & EPOLLRDHUP and not isPassing(c):
                # The client's FIN, behind bytes that are not read: the reactor has a deadline for
                # that.
                self.returnConnection(c, UNUSUAL)
            elif isBlocked(&c.stream) and (
                    ready[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP) or not isPassing(c)):
                self.sendUnsent(c)
            elif self.work >= TURN and isCostly(c) and not isBlocked(&c.stream):
                self.wait(c)
                if not self.updateInterest(c):
                    self.returnConnection(c, LOST)
            else:
                self.receive(c)
        # Not before: a command may return a connection that `ready` points to.
        if isCommanded:
            self.execute()
        self.serveWaiting()
        self.catchUp(before, count)
        self.keepAlive()
        self.relieve()
        if self.hasCounts:
            self.hasCounts = False
            pthread_mutex_lock(&self.events.lock)
            moveCounts(&self.publishedCounts, &self.counts)
            self.publishedBuffered = self.buffered
            pthread_mutex_unlock(&self.events.lock)
        if self.hasEvents:
            self.hasEvents = False
            eventfd_write(self.eventsFd, 1)
        return count

    cdef void serveWaiting(self) noexcept nogil:
        """Let those that wait go on: the first in any case, and others while there is time."""
        cdef Connection *last = self.waiting.before
        cdef Connection *c
        cdef bint isLast = last == &self.waiting
        while not isLast:
            c = self.waiting.after
            isLast = c == last
            unlink(c)
            append(&self.active, c)
            c.since = self.now
            c.isSilent = c.isWaiting = False
            self.workUntil = self.work + SLICE
            if hasRest(c):
                self.echo(c, restOf(c.rest), restOf(c.rest) + restSize(c.rest))
            elif self.updateInterest(c):
                self.receive(c)
            else:
                self.returnConnection(c, LOST)
            if self.work >= TURN:
                break

    cdef void wait(self, Connection *c) noexcept nogil:
        unlink(c)
        append(&self.waiting, c)
        c.isWaiting = True

    cdef void execute(self) noexcept nogil:
        cdef eventfd_t times = 0
        eventfd_read(self.commandsFd, &times)
        cdef Command *command = <Command *>takeAll(&self.commands)
        cdef Connection *c
        while command != NULL:
            if command.kind == LEND:
                self.adopt(command)
            elif command.kind == RECALL:
                c = self.byDescriptor[command.fd]
                if c != NULL and c.number == command.number:
                    if (command.atOnce or not isPassing(c)
                            or c.isRecalled and not c.hasMoved):
                        self.returnConnection(c, RECALLED)
                    else:
                        c.isRecalled = True
                        c.hasMoved = False
            elif command.kind == GRANT:
                self.granted = command.messages
            elif command.kind == CHECK:
                self.report(newEvent(ALIVE, 0))
            elif command.kind == SHED:
                self.shedSome()
            else:
                self.going = False
            command = <Command *>discard(&command.entry)
        if not self.going:
            self.returnAll(&self.active)
            self.returnAll(&self.silent)
            self.returnAll(&self.waiting)

    cdef void adopt(self, Command *command) noexcept nogil:
        cdef Connection *c = <Connection *>allocate(sizeof(Connection))
        cdef uint8_t *data = <uint8_t *>(command + 1)
        cdef int fd = command.fd
        cdef int size = self.descriptors
        memset(c, 0, sizeof(Connection))
        c.stream.fd = fd
        c.number = command.number
        if command.ssl != NULL:
            if self.ciphertext == NULL:
                self.ciphertext = <uint8_t *>allocate(CIPHERTEXT)
            c.stream.tls = newTls(command.ssl, command.into, command.outof, self.ciphertext)
        c.windowBits = command.windowBits
        c.memLevel = command.memLevel
        if c.windowBits and self.answers == NULL:
            self.answers = <uint8_t *>allocate(READ + ANSWER)
            self.inflated = <uint8_t *>allocate(INFLATED)
        c.since = self.now
        append(&self.active, c)
        self.served += 1
        if fd >= size:
            self.descriptors = 2 * fd + 64
            self.byDescriptor = <Connection **>reallocate(
                self.byDescriptor, self.descriptors * sizeof(Connection *))
            memset(self.byDescriptor + size, 0, (self.descriptors - size) * sizeof(Connection *))
        self.byDescriptor[fd] = c
        if self.work >= TURN and isCostly(c) and command.dataSize:
            # Thousands may come at once, and the first message of each may take milliseconds.
            if not self.hasRoom(command.dataSize):
                self.returnUnjudged(c, FULL, NULL, 0, data, command.dataSize)
                return
            self.keepRest(c, data, command.dataSize, False)
        self.workUntil = self.work + LEAST
        if not self.updateInterest(c):
            self.returnUnjudged(c, UNUSUAL, NULL, 0, data, command.dataSize)
        elif not c.isWaiting:
            self.echo(c, data, data + command.dataSize)

    cdef bint updateInterest(self, Connection *c) noexcept nogil:
        """Tell epoll what to wait for: what the connection can do now. Returns False if epoll
        refuses the descriptor."""
        cdef uint32_t interest
        cdef epoll_event event
        if not isBlocked(&c.stream):
            # EPOLLET alone: nothing. 0 would stand for a connection that epoll does not know.
            interest = EPOLLET if c.isWaiting else EPOLLIN
        elif not isPassing(c):
            interest = EPOLLOUT | EPOLLRDHUP
        elif hasRest(c):
            interest = EPOLLOUT
        elif self.hasRoom(1):
            interest = EPOLLOUT | EPOLLIN
        else:
            interest = EPOLLOUT
            # Memory comes and goes in small pieces while clients read a little.
            if not self.isThrottled and self.now > self.shortUntil + self.patience / 4:
                self.shortSince = self.now
            self.isThrottled = True
        if interest == c.interest:
            return True
        event.events = interest
        event.data.ptr = c
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD if c.interest else EPOLL_CTL_ADD, c.stream.fd,
                     &event):
            return False
        c.interest = interest
        return True

    cdef void updateInterestOfAll(self, Connection *ring) noexcept nogil:
        """There is memory again for the connections that were not read ahead."""
        cdef Connection *c = ring.after
        cdef Connection *after
        while c != ring:
            after = c.after
            if not self.updateInterest(c):
                self.returnConnection(c, LOST)
            c = after

    # The data path.

    cdef void receive(self, Connection *c) noexcept nogil:
        """Read once, and send back what that has brought."""
        cdef uint8_t *at = self.room + CONTROL_FRAME
        cdef uint64_t share = FRAME_BYTES * (self.workUntil - self.work)
        cdef size_t most = min(<uint64_t>READ, max(<uint64_t>READ_SLICED, share))
        cdef size_t before
        cdef uint64_t begin = 0
        cdef Reason reason
        if c.isSliced or c.windowBits:
            most = READ_SLICED
        if not self.hasRoom(1):
            most = READ_LITTLE
        if isBlocked(&c.stream):
            if most == READ_LITTLE:
                self.updateInterest(c)  # It is not read ahead any more.
                return
            most = min(c.frame.left, <uint64_t>most)  # No further frame is begun.
            if c.stream.tls != NULL:
                most = max(most, <size_t>READ_LITTLE)  # Records are larger than what may be left.
        if c.stream.tls != NULL:
            begin = nanoseconds()
        cdef ssize_t size = self.read(c, at, most)
        if c.stream.tls != NULL:
            # Not at the cost of the slice: what is decrypted is to be echoed, too. To encrypt a
            # byte takes a nanosecond.
            before = nanoseconds() - begin + <size_t>max(size, 0)
            self.work += before
            self.workUntil += before
        if size > 0 or c.stream.tls != NULL and c.stream.tls.hasCome:
            self.noteActivity(c)
            c.hasMoved = True
        if size > 0:
            # What has come of a header, or of a control frame, is put before the rest of it.
            if c.frame.left == 0:
                before = c.frame.headerSize
                memcpy(at - before, c.frame.header, before)
                at -= before
                size += before
                c.frame.headerSize = 0
            if c.rest != NULL:
                before = restSize(c.rest)
                memcpy(at - before, restOf(c.rest), before)
                at -= before
                size += before
                self.dropRest(c)
            self.echo(c, at, at + size)
        elif size == ENDED or size == ENDING:
            # The reactor will read the FIN again, and Twisted's TLS what ends it.
            self.returnConnection(c, UNUSUAL)
        else:
            # Nothing has come, or TLS had an answer, which the client may not read.
            reason = self.cannotWait(c)
            if size != AGAIN or not self.updateInterest(c):
                reason = LOST
            if reason != NONE:
                self.returnConnection(c, reason)

    cdef void echo(self, Connection *c, uint8_t *at, uint8_t *end) noexcept nogil:
        """Send back what is ordinary from `at` to `end`, as far as the slice goes, and keep the
        rest. If something is not ordinary, return the connection."""
        cdef Frame *frame = &c.frame
        cdef uint8_t *out = self.answers if c.windowBits else at
        cdef uint8_t *to = out
        cdef uint8_t *payload
        cdef Message *whole = NULL    # One that was collected, and has got its end, ...
        cdef size_t before = 0        # ... behind so many bytes of `out`.
        cdef uint8_t *undone = NULL   # Payload of a frame the echo of which is taken back.
        cdef size_t undoneSize = 0
        cdef size_t size
        cdef bint begins, isCollected, isDeflated
        cdef bint isSliced = False
        cdef bint isShort = False
        cdef bint wasBlocked = isBlocked(&c.stream)
        cdef Header header
        cdef Reason reason = NONE
        while at < end:
            begins = frame.headerSize == 0
            if begins:
                if c.isRecalled:
                    reason = RECALLED
                    break
                if (self.work >= self.workUntil or wasBlocked
                        or c.windowBits and to - out > READ):
                    isSliced = True
                    break
                size = end - at
                header = parseHeader(at, size, self.maxMessage, RSV1 if c.windowBits else 0)
                if header.state == NOT_PLAIN:
                    reason = UNUSUAL
                    break
                if header.state == INCOMPLETE:
                    if size >= 2 and isOutOfPlace(c, header.first):
                        reason = UNUSUAL
                        break
                    memcpy(frame.header, at, size)
                    frame.headerSize = size
                    at = end
                    break
                size -= header.size
                if header.first & CONTROL:
                    if size < header.payloadSize:
                        isShort = True
                        break
                elif (size < header.payloadSize or c.message != NULL
                        or not isWholeMessage(&header)):
                    reason = self.collect(c, &header, size)
                    if reason != NONE:
                        break
                beginFrame(frame, &header, at)
                at += header.size

            isCollected = c.message != NULL and not opcodeOf(frame) & CONTROL
            isDeflated = not isCollected and frame.header[0] & RSV1
            size = min(frame.left, <uint64_t>(end - at))
            if isCollected:
                payload = payloadOf(c.message) + c.message.size + (frame.size - frame.left)
                if begins:
                    frame.isText = c.message.isText
                    frame.text = c.message.text
            elif isDeflated:
                payload = at
            else:
                if begins:
                    to = writeEchoHeader(frame, to)
                payload = to
                if c.windowBits:
                    size = min(size, <size_t>(out + READ + ANSWER - to))
            if not unmaskPayload(frame, payload, at, size):
                if not isCollected and not begins:
                    reason = NOT_UTF8
                    break
                reason = UNUSUAL
                at += size
                frame.left -= size
                if not isCollected:
                    to -= echoHeaderSize(frame)
                    undone = payload
                    undoneSize = size
                    frame.left = 0
                break
            at += size
            frame.left -= size
            self.work += FRAME_WORK + size // FRAME_BYTES
            if not isCollected and not isDeflated:
                to += size
                if begins and frame.left:
                    c.passing = newReport(c, opcodeOf(frame) == BINARY, frame.size)
                    if self.logsFrames:
                        self.reportFrame(c, frame.header, frame.headerSize, False)
                if c.passing != NULL:
                    addPreview(c.passing, payload, size)
            if frame.left:
                isSliced = at < end
                break

            if self.logsFrames and c.passing == NULL:  # Else it was when it began to pass.
                self.reportFrame(c, frame.header, frame.headerSize, False)
            if isCollected:
                if isFinal(frame):
                    if c.message.first & RSV1:
                        payload = self.answer(c, c.message.first, payloadOf(c.message),
                                              c.message.size + frame.size, to)
                        if payload == NULL:
                            reason = UNUSUAL
                            break
                        to = payload
                        self.forgetMessage(c)
                    else:
                        c.message.size += frame.size
                        self.endMessage(c, FRAGMENTED if c.message.isBegun else PLAIN_MESSAGE,
                                        c.message.first & 15 == BINARY, payloadOf(c.message),
                                        c.message.size)
                        if c.message == self.scratch:
                            size = payloadOf(c.message) + c.message.size - headerOf(c.message)
                            memcpy(to, headerOf(c.message), size)
                            to += size
                        else:
                            whole = c.message
                            before = to - out
                        c.message = NULL
                else:
                    c.message.isBegun = True
                    c.message.size += frame.size
                    c.message.small += shortfall(frame.header[0], frame.size)
                    c.message.text = frame.text
            elif isDeflated:
                payload = self.answer(c, frame.header[0], at - size, size, to)
                if payload == NULL:
                    undone = at - size
                    undoneSize = size
                    reason = UNUSUAL
                    break
                to = payload
            elif not opcodeOf(frame) & CONTROL:
                self.endMessage(c, PLAIN_MESSAGE, opcodeOf(frame) == BINARY, payload, frame.size)
            elif opcodeOf(frame) == PONG:
                to = payload - echoHeaderSize(frame)  # Nothing answers a pong.
            if self.logsFrames:
                self.reportEcho(c)
            endFrame(frame)

        if whole != NULL:
            if before and not self.write(c, NULL, 0, out, before):
                reason = LOST
            elif not self.write(c, headerOf(whole), headerSizeOf(whole.size) + whole.size,
                                out + before, to - out - before):
                reason = LOST
            self.freeMessage(whole)
        elif to > out and not self.write(c, NULL, 0, out, to - out):
            reason = LOST
        if reason == NONE and c.message == self.scratch:
            reason = self.keepMessage(c)
        if reason == NONE and c.isRecalled and not isPassing(c):
            reason = RECALLED
        if reason == NONE and isEnding(&c.stream):
            reason = UNUSUAL
        if reason == NONE:
            reason = self.cannotWait(c)
        if (reason == NONE and isSliced and c.rest == NULL and not isPassing(c)
                and end - at > READ_LITTLE and not self.hasRoom(end - at)):
            reason = FULL
        if reason == NONE:
            c.isSliced = isSliced or hasRest(c)
            if isSliced or isShort:
                self.keepRest(c, at, end - at, isShort)
            elif c.rest != NULL:
                self.dropRest(c)
            if not self.updateInterest(c):
                reason = LOST
        if reason != NONE:
            self.returnUnjudged(c, reason, undone, undoneSize, at, end - at)

    cdef Reason cannotWait(self, Connection *c) noexcept nogil:
        """Why a client that does not read cannot be waited for; NONE if it can, or if it reads."""
        if not isBlocked(&c.stream) or isPassing(c):
            return NONE
        if not self.hasRoom(0):
            return FULL
        if c.stream.tls != NULL and not self.pingInterval:
            # No ping would find a client that has left, and epoll tells of no close_notify behind
            # what is not read: the reactor looks for it.
            return UNUSUAL
        return NONE

    cdef Reason collect(self, Connection *c, const Header *header, size_t there) noexcept nogil:
        """Have the frame with this `header`, of whose payload `there` bytes have come, collected if
        it must be. Returns why the loop cannot do that; NONE if it can, or need not."""
        cdef bint isLarge = header.payloadSize > HOLD
        if isWholeMessage(header) and c.message == NULL and isLarge:
            return NONE  # It passes.
        if self.logsFrames and not isWholeMessage(header):
            return UNUSUAL
        if isLarge or isOutOfPlace(c, header.first):
            return UNUSUAL
        if c.message != NULL:
            if (c.message.size + header.payloadSize > min(<uint64_t>HOLD, self.maxMessage)
                    or c.message.small + shortfall(header.first, header.payloadSize)
                    > self.fragmentAllowance):
                return UNUSUAL
            return self.makeRoom(c, c.message.size + header.payloadSize)
        if not header.first & FIN:
            c.message = self.scratch
        elif there >= header.payloadSize:
            return NONE  # It is compressed, and all there.
        elif not self.hasRoom(memoryOf(header.payloadSize)):
            return FULL
        else:
            c.message = newMessage(header.payloadSize)
            self.addBuffered(memoryOf(header.payloadSize))
        clearMessage(c.message, header.first)
        return NONE

    cdef Reason makeRoom(self, Connection *c, size_t size) noexcept nogil:
        """Let the payload of the message be of so many bytes. Returns FULL if it cannot."""
        cdef Message *message = c.message
        cdef size_t room
        if size <= message.room:
            return NONE
        room = min(2 * size, <size_t>HOLD)
        if not self.hasRoom(memoryOf(room)):
            return FULL
        c.message = copyMessage(message, message.size, room)
        self.addBuffered(memoryOf(room))
        self.freeMessage(message)
        return NONE

    cdef Reason keepMessage(self, Connection *c) noexcept nogil:
        """What was collected in `scratch` has no end yet. Returns FULL if it cannot be kept."""
        cdef size_t size = c.message.size + (c.frame.size - c.frame.left)
        cdef size_t room = c.message.size + c.frame.size
        if not self.hasRoom(memoryOf(room)):
            return FULL
        c.message = copyMessage(self.scratch, size, room)
        self.addBuffered(memoryOf(room))
        return NONE

    cdef void forgetMessage(self, Connection *c) noexcept nogil:
        if c.message != self.scratch:
            self.freeMessage(c.message)
        c.message = NULL

    cdef void freeMessage(self, Message *message) noexcept nogil:
        self.addBuffered(-<int64_t>memoryOf(message.room))
        free(message)

    cdef void keepRest(self, Connection *c, const uint8_t *at, size_t size,
                       bint isShort) noexcept nogil:
        """Keep `size` bytes that are not answered yet. If there was a rest, they are the end of
        it."""
        cdef Rest *before = c.rest
        if before != NULL and not isShort:
            before.at = before.end - size
        else:
            c.rest = newRest(at, size)
            c.rest.isShort = isShort
            self.addBuffered(size)
            if before != NULL:
                self.freeRest(before)
        if not isShort and not isBlocked(&c.stream):
            self.wait(c)

    cdef void dropRest(self, Connection *c) noexcept nogil:
        self.freeRest(c.rest)
        c.rest = NULL

    cdef void freeRest(self, Rest *rest) noexcept nogil:
        self.addBuffered(-<int64_t>rest.room)
        free(rest)

    cdef uint8_t *answer(self, Connection *c, int first, const uint8_t *payload, size_t size,
                         uint8_t *to) noexcept nogil:
        """Inflate a message, and write its echo, compressed, to `to`, where there are ANSWER bytes
        of room. `first` is the first byte of its first frame. Returns the end of the echo; NULL if
        something is unusual about the message."""
        cdef bint isBinary = first & 15 == BINARY
        cdef uint64_t begin = nanoseconds()
        cdef utf8_state text
        cdef int64_t inflated
        cdef size_t deflated
        inflated = inflateMessage(&self.codec, payload, size, self.inflated,
                                  min(<uint64_t>INFLATED, self.maxMessage))
        text.due = 0
        if inflated < 0 or not isBinary and (
                not validate_utf8(&text, self.inflated, inflated) or text.due):
            self.work += nanoseconds() - begin
            return NULL
        deflated = deflateMessage(&self.codec, self.inflated, inflated, c.windowBits, c.memLevel,
                                  to + ECHO_HEADER, ANSWER - ECHO_HEADER)
        self.work += nanoseconds() - begin
        self.endMessage(c, COMPRESSED, isBinary, self.inflated, inflated)
        # Only now the size of the header is known.
        payload = to + ECHO_HEADER
        to = writeHeader(to, FIN | first, deflated)
        memmove(to, payload, deflated)
        return to + deflated

    cdef void endMessage(self, Connection *c, int kind, bint isBinary, const uint8_t *payload,
                         uint64_t size) noexcept nogil:
        """A message is complete. `payload` is all of it, unless it has passed."""
        cdef Event *report = c.passing
        c.passing = NULL
        self.counts.kinds[kind + (KINDS if c.stream.tls != NULL else 0)] += 1
        self.hasCounts = True
        if self.granted:
            self.granted -= 1
            self.work += REPORT_WORK
            if report == NULL:
                report = newReport(c, isBinary, size)
                addPreview(report, payload, size)
            self.report(report)
        else:
            free(report)
            countMessage(&self.counts, isBinary, size)

    cdef void reportFrame(self, Connection *c, const uint8_t *header, size_t size,
                          bint isSent) noexcept nogil:
        cdef Event *event
        if self.granted:
            self.granted -= 1
            event = newEvent(FRAME, size)
            event.number = c.number
            event.headerSize = size
            event.isSent = isSent
            memcpy(event + 1, header, size)
            self.report(event)

    cdef void reportEcho(self, Connection *c) noexcept nogil:
        """The frame that answers the one in `c`, if one does."""
        cdef uint8_t header[HEADER]
        if opcodeOf(&c.frame) != PONG:
            writeEchoHeader(&c.frame, header)
            self.reportFrame(c, header, echoHeaderSize(&c.frame), True)

    cdef bint write(self, Connection *c, const uint8_t *first, size_t firstSize,
                    const uint8_t *second, size_t secondSize) noexcept nogil:
        """As `writeStream`, and count what that buffers."""
        cdef size_t before = c.stream.unsent.memory
        cdef bint isWritten = writeStream(&c.stream, first, firstSize, second, secondSize)
        self.countUnsent(c, before)
        return isWritten

    cdef ssize_t read(self, Connection *c, uint8_t *to, size_t most) noexcept nogil:
        """As `readStream`, and count what that buffers: TLS may have an answer."""
        cdef size_t before = c.stream.unsent.memory
        cdef ssize_t size = readStream(&c.stream, to, most)
        self.countUnsent(c, before)
        return size

    cdef void countUnsent(self, Connection *c, size_t before) noexcept nogil:
        """Count what waits more, or less, than the `before` bytes of memory."""
        if c.stream.unsent.memory != before:
            self.addBuffered(<int64_t>(c.stream.unsent.memory - before))
            if not before:
                self.counts.pauses += 1

    cdef void sendUnsent(self, Connection *c) noexcept nogil:
        cdef size_t before = c.stream.unsent.memory
        cdef bint isSent = flushStream(&c.stream)
        self.countUnsent(c, before)
        if not isSent:
            self.returnConnection(c, LOST)
        elif not isBlocked(&c.stream):
            if hasRest(c):
                self.wait(c)
            if not self.updateInterest(c):
                self.returnConnection(c, LOST)

    cdef void addBuffered(self, int64_t more) noexcept nogil:
        self.buffered += more
        addShared(self.shared, more)
        self.hasCounts = True

    cdef bint hasRoom(self, uint64_t more) noexcept nogil:
        """Whether the loops together may hold so many bytes more."""
        return readShared(self.shared) + more <= self.maxBuffered

    cdef void relieve(self) noexcept nogil:
        """Read ahead again if there is memory; if there has been none for long, say so."""
        if self.isThrottled and self.hasRoom(1):
            self.isThrottled = False
            self.shortUntil = self.now
            self.updateInterestOfAll(&self.active)
            self.updateInterestOfAll(&self.silent)
            self.updateInterestOfAll(&self.waiting)
        elif self.isThrottled and self.now >= self.shortSince + self.patience:
            self.shortSince = self.now
            self.report(newEvent(SHORT, 0))

    cdef void shedSome(self) noexcept nogil:
        # Of the connections that can be returned without a loss, and of those inside a frame: the
        # one that holds most, and what all hold.
        cdef Connection *most[2]
        cdef uint64_t held[2]
        cdef size_t least
        cdef int left = SHED_AT_ONCE
        most[0] = most[1] = NULL
        held[0] = held[1] = 0
        self.sumUp(&self.active, most, held)
        self.sumUp(&self.silent, most, held)
        self.sumUp(&self.waiting, most, held)
        if held[1] > held[0]:
            if self.isHalfUsed():
                self.returnConnection(most[1], FULL)
        elif held[0]:
            # The reactor has its own half for them, and its `Budget` ends them if need be.
            least = heldBy(most[0]) // 2
            left = self.returnLargest(&self.active, least, left)
            left = self.returnLargest(&self.silent, least, left)
            self.returnLargest(&self.waiting, least, left)

    cdef bint isHalfUsed(self) noexcept nogil:
        return readShared(self.shared) > self.maxBuffered // 2

    cdef void sumUp(self, Connection *ring, Connection **most, uint64_t *held) noexcept nogil:
        cdef Connection *c = ring.after
        cdef int kind
        while c != ring:
            kind = 1 if isPassing(c) else 0
            held[kind] += heldBy(c)
            if most[kind] == NULL or heldBy(c) > heldBy(most[kind]):
                most[kind] = c
            c = c.after

    cdef int returnLargest(self, Connection *ring, size_t least, int left) noexcept nogil:
        """Return up to `left` that hold so much and are not inside a frame. Returns how many are
        left then."""
        cdef Connection *c = ring.after
        cdef Connection *after
        while c != ring and left and self.isHalfUsed():
            after = c.after
            if not isPassing(c) and heldBy(c) > least:
                self.returnConnection(c, FULL)
                left -= 1
            c = after
        return left

    cdef void returnConnection(self, Connection *c, Reason reason) noexcept nogil:
        """Return the connection when `c` itself has everything that is unjudged."""
        self.returnUnjudged(c, reason, NULL, 0, NULL, 0)

    cdef void returnAll(self, Connection *ring) noexcept nogil:
        while ring.after != ring:
            self.returnConnection(ring.after, RECALLED)

    cdef void returnUnjudged(self, Connection *c, Reason reason,
                             const uint8_t *payload, size_t payloadSize,
                             const uint8_t *rest, size_t size) noexcept nogil:
        """Return the connection, and forget it. Unjudged are the header in `c.frame`, `payload`
        (which is unmasked; that of a collected message if there is one), and `rest`, which was read
        behind it; NULL: that of the connection."""
        cdef Frame *frame = &c.frame
        cdef bint isInside = isPassing(c)
        cdef size_t headerSize = 0 if isInside else frame.headerSize
        cdef Event *event
        cdef uint8_t *to
        if c.message != NULL:
            payload = payloadOf(c.message) + c.message.size
            payloadSize = frame.size - frame.left
        if rest == NULL and c.rest != NULL:
            rest = restOf(c.rest)
            size = restSize(c.rest)
        cdef size_t begunSize = fragmentSize(c.message)
        cdef size_t unjudgedSize = headerSize + payloadSize + size
        event = newEvent(RETURNED, begunSize + unjudgedSize + c.stream.unsent.size)
        event.number = c.number
        event.isInside = isInside
        event.reason = reason
        event.begunSize = begunSize
        event.unjudgedSize = unjudgedSize
        event.unsentSize = c.stream.unsent.size
        to = <uint8_t *>(event + 1)
        if begunSize:
            event.small = c.message.small
            writeFragment(to, c.message)
            to += begunSize
        memcpy(to, frame.header, headerSize)
        to += headerSize
        if payloadSize:
            maskAgain(frame, to, payload, payloadSize)
            to += payloadSize
        if size:
            memcpy(to, rest, size)
            to += size
        if isBlocked(&c.stream):
            self.addBuffered(-<int64_t>c.stream.unsent.memory)
            moveUnsent(&c.stream.unsent, to)

        epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.stream.fd, NULL)
        self.byDescriptor[c.stream.fd] = NULL
        self.served -= 1
        unlink(c)
        if c.message != NULL:
            self.forgetMessage(c)
        if c.rest != NULL:
            self.dropRest(c)
        free(c.passing)
        free(c.stream.tls)
        free(c)
        # Last: from here on the descriptor may be closed, and be another connection's.
        self.report(event)

    cdef void report(self, Event *event) noexcept nogil:
        put(&self.events, &event.entry)
        self.hasEvents = True

    # Keepalive, as the reactor has it for its connections: a client that is silent for the
    # interval is sent a ping, and its connection is returned if nothing has moved at the end of the
    # timeout. The active connections are a ring in the order of time, the silent ones another, so
    # that only the first of each is looked at.
    #
    # When a stopped process goes on (SIGSTOP, a virtual machine that was paused), time has passed
    # and pongs may wait in the kernel; and a stop ends epoll_wait() without telling of them. So a
    # connection is judged only as of a time by which everything that had come was read, and only
    # after each half of the timeout has passed in turn.

    cdef void catchUp(self, double before, int count) noexcept nogil:
        """Note what has been read, as epoll_wait() told of `count` descriptors, later than
        `before`."""
        if count < 0:
            return  # A signal.
        if self.untold <= 0:
            self.untold = self.served + 1  # The commands have one, too.
            self.next = before
        self.untold -= count
        if count < READY:
            # Fewer than fit: nothing else was ready.
            self.caughtUp = before
            self.untold = 0
        elif self.untold <= 0:
            # epoll tells of all others before it tells of one again.
            self.caughtUp = self.next

    cdef void noteActivity(self, Connection *c) noexcept nogil:
        # Only to a hundredth of the interval, so that most messages need not move the connection.
        if c.isSilent or self.now - c.since > self.pingInterval / 100:
            unlink(c)
            append(&self.active, c)
            c.isSilent = False
            c.since = self.now

    cdef void keepAlive(self) noexcept nogil:
        cdef Connection *c = self.active.after
        cdef uint64_t left
        cdef int looked = 0
        if not self.pingInterval:
            return
        while (c != &self.active and self.now >= c.since + self.pingInterval
                and looked < SILENT):
            looked += 1
            unlink(c)
            append(&self.silent, c)
            c.isSilent = True
            c.isLate = False
            c.since = self.now
            c.unacknowledgedThen = unacknowledged(&c.stream)
            self.ping(c)
            c = self.active.after
        c = self.silent.after
        while (c != &self.silent and self.caughtUp >= c.since + self.pingTimeout / 2
                and looked < 2 * SILENT):
            looked += 1
            left = unacknowledged(&c.stream)
            if left >= c.unacknowledgedThen and c.isLate:
                self.returnConnection(c, UNANSWERED)
            else:
                unlink(c)
                append(&self.silent, c)
                c.since = self.now
                c.isLate = left >= c.unacknowledgedThen
                if not c.isLate:
                    c.unacknowledgedThen = left
                    self.ping(c)
            c = self.silent.after

    cdef void ping(self, Connection *c) noexcept nogil:
        # Not inside a frame, and not behind unsent bytes: their progress is sign of life enough.
        if not isBlocked(&c.stream) and not isPassing(c):
            if self.logsFrames:
                self.reportFrame(c, b"\x89\x00", 2, True)
            if not self.write(c, NULL, 0, b"\x89\x00", 2) or not self.updateInterest(c):
                self.returnConnection(c, LOST)

    cdef double nextDue(self) noexcept nogil:
        """When keepAlive() or relieve() next has something to do, on the clock of `now`; infinity:
        never."""
        cdef double due = INFINITY
        if self.isThrottled:
            due = self.shortSince + self.patience
            if self.hasRoom(1) or readShared(self.shared) > self.buffered:
                due = min(due, self.now + LOOK)  # Another loop may give memory back, or has.
        if self.pingInterval:
            if self.active.after != &self.active:
                due = min(due, self.active.after.since + self.pingInterval)
            if self.silent.after != &self.silent:
                due = min(due, self.silent.after.since + self.pingTimeout / 2)
        return due

    cdef int untilDue(self) noexcept nogil:
        """Milliseconds until then, as epoll_wait() wants them; -1: never."""
        cdef double due = self.nextDue()
        return -1 if due == INFINITY else <int>ceil(max(due - self.now, 0) * 1000)


cdef class MessageCodec:
    """Compressed messages as a loop inflates and deflates them, for tests."""

    cdef Codec codec

    def __cinit__(self):
        initCodec(&self.codec)

    def __dealloc__(self):
        destroyCodec(&self.codec)

    def inflated(self, bytes payload, size_t most):
        """The message with this payload, if it has at most `most` bytes. Else why there is none:
        "unusual" or "too large"."""
        cdef uint8_t *room = <uint8_t *>allocate(most + 1)
        cdef int64_t size = inflateMessage(&self.codec, payload, len(payload), room, most)
        try:
            if size < 0:
                return "unusual" if size == UNUSUAL_DATA else "too large"
            return PyBytes_FromStringAndSize(<char *>room, size)
        finally:
            free(room)

    def deflated(self, bytes message, int windowBits, int memLevel):
        """The payload of this message."""
        cdef size_t most = deflatedMost(len(message))
        cdef uint8_t *room = <uint8_t *>allocate(most)
        cdef size_t size = deflateMessage(&self.codec, message, len(message), windowBits, memLevel,
                                          room, most)
        payload = PyBytes_FromStringAndSize(<char *>room, size)
        free(room)
        return payload
