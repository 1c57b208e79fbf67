# cython: language_level=3
"""The fast path: a loop that echoes what needs no judgement, on a thread of its own.

Most of an echo's life is complete text and binary frames. So Twisted *lends* the connections
on which nothing else is going on to a `Loop`, each to one, and `run` serves them: it waits for
them by epoll, as the reactor does, and never takes Python's lock (`nogil`), so that neither
waits for the other. Whatever is not plain (a fragment, a close, bad UTF-8, the end) it *returns*
with every byte that is not judged yet, and Autobahn judges as if it had read them itself.

    the reactor's thread                          the loop's thread

    lend(), recall(), grant(), stop()  -> orders ->  obey()
    reports()                          <-  told  <-  tell(), giveBack()

Both directions are a `Box` of letters, written and emptied under a lock that is held for a few
instructions, and an eventfd that says that something is in it. A connection belongs to one side
at a time, and only the side that has it touches it or its descriptor. A recall that crosses its
connection's return on the way finds nobody: orders are obeyed in their order, and before the
connection, or another one with its descriptor, can be lent again, its return must have arrived.

The bytes lie in one buffer for all connections, which `recv` fills:

          read:  [head mask payload][head mask payload][head ma
                                    at                         end
          sent:  [head payload][head payload
                 out           to

Each frame is unmasked to where it is sent from: `to`, never behind `at`, because a server's
header is a mask shorter than a client's (RFC 6455, 5.1). What one read has brought is sent by
one call. Of a frame that ends in a later read, the part that has come goes to memory of its own
(`held`), until the rest is there; or, if the frame is larger than HOLD, out at once (it is
*passing*), so that 16 MiB of message cost no memory. `head` keeps the header as it came.

Why hostile bytes do no harm:
- The buffer has room for one read and, before it, for a header of which a part came earlier;
  every step is at most `end - at`.
- A length is believed only below `maxMessage`, and allocated only up to HOLD. It is 63 bits at
  most where it is added to anything: above, it is refused as too large.
- The socket is read only if everything before was sent, so at most one read's echo and one
  frame that was held wait for a client. But a client may send a message whole before it reads
  any of it, as simple ones do: the rest of a frame that is passing is read all the same, and
  waits. It is no larger than `maxMessage`, which Autobahn would hold, too; the room for it,
  while it grows, is twice what is in it.
- What all connections hold is bounded by `mostHeld`. Over it reads are short, nothing is read
  ahead, and who would have to be held for is returned, for the reactor's `Budget` to decide.
- Where Autobahn would close with a code, it does: what was unmasked is masked again and given
  back. Only inside a frame that is passing there is no room for a close frame, so that bad UTF-8
  in it ends in a drop.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport INFINITY, ceil
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc, realloc
from libc.string cimport memcpy, memset

import os


cdef extern from "_octets.h" nogil:
    ctypedef struct utf8_state:
        uint8_t due
    bint unmask(uint8_t *to, const uint8_t *source, size_t length, const uint8_t *mask,
                uint64_t offset)
    bint validate_utf8(utf8_state *state, const uint8_t *text, size_t length)


cdef extern from *:
    const char *SOURCES  # setup.py tells it to the compiler.


sources = SOURCES.decode()
"""What this was compiled of; see sources.py."""


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int milliseconds)


cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)
    ctypedef uint64_t eventfd_t
    int eventfd_read(int fd, eventfd_t *value)
    int eventfd_write(int fd, eventfd_t value)


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


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *lock)
    int pthread_mutex_lock(pthread_mutex_t *lock)
    int pthread_mutex_unlock(pthread_mutex_t *lock)


cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec, tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *time)


cdef enum:
    # Bytes that one read takes.
    READ = 256 << 10
    # The same, when all that may be held is held.
    READ_LITTLE = 4 << 10
    # Bytes of payload up to which a frame is held until all of it is there.
    HOLD = 64 << 10
    # Bytes of the longest header: two, a length of eight, the mask.
    HEADER = 14
    # Connections that one call of epoll_wait() tells of.
    EVENTS = 256
    # Bytes of a message that the log is shown: 65 characters, of four bytes at most.
    BEGINNING = 260

    # RFC 6455, 5.2: bits of the first byte and of the second one, and opcodes.
    FIN = 0x80
    RSV1 = 0x40
    CONTROL = 0x08
    MASK = 0x80
    TEXT = 1
    BINARY = 2
    PING = 9
    PONG = 10


cdef enum Why:
    # A connection is returned.
    PLAIN       # It is not.
    UNUSUAL     # Autobahn shall judge; also the client's FIN.
    RECALLED
    FULL        # There is no memory for it here.
    LOST        # The socket has failed.
    UNANSWERED  # Nothing has moved since a ping.
    NOT_UTF8    # In a frame the beginning of which is sent.


WHY = {
    UNUSUAL: "unusual",
    RECALLED: "recalled",
    FULL: "full",
    LOST: "lost",
    UNANSWERED: "unanswered",
    NOT_UTF8: "not UTF-8",
}


cdef enum Kind:
    LEND, RECALL, GRANT, STOP     # Orders.
    SHOW, RETURN                  # Reports.
    ASK                           # Is answered by the same.


cdef struct Letter:
    Letter *next
    Kind kind
    int fd
    uint64_t number       # of the connection; of GRANT: how many
    uint64_t size         # of the message
    bint flag             # RECALL: at once; SHOW: is binary; RETURN: inside a frame
    Why why
    # Lengths of the bytes behind it. LEND: read already; SHOW: the beginning; RETURN: not judged
    # yet, and not sent yet.
    size_t first, second


cdef struct Box:
    pthread_mutex_t lock
    Letter *letters
    Letter **end


cdef struct Counts:
    # By whether they are binary.
    uint64_t messages[2]
    uint64_t bytes[2]
    uint64_t pauses       # Clients that did not read, and were waited for.


cdef struct Connection:
    int fd
    uint64_t number
    # The frame of which a part has come.
    uint8_t head[HEADER]  # as the client sent it
    size_t headSize       # so much of it has come; 0 between two frames
    uint64_t size         # of the payload
    uint64_t left         # of the payload, still to come
    utf8_state text
    uint8_t *held         # our header, and the payload; NULL if the frame is passing
    Letter *shown         # what the log is shown at its end, if it is passing
    # What the socket did not take.
    uint8_t *unsent
    size_t unsentAt, unsentEnd, unsentRoom
    uint32_t events       # that epoll_wait() shall tell of
    bint recalled
    uint64_t leftThen     # as `left`, when it was
    # Its place among those that were heard of before it and after it; see keepAlive().
    Connection *before
    Connection *after
    double since          # when it was heard of, or looked at
    bint isSilent
    bint isLate           # half of the time for an answer is over
    uint64_t waiting      # bytes that the client had not acknowledged then


cdef void *allocated(size_t size) noexcept nogil:
    """`size` bytes. A process that gets no memory ends; who supervises it starts it anew."""
    cdef void *memory = malloc(size)
    if memory == NULL:
        abort()
    return memory


cdef Letter *newLetter(Kind kind, size_t extra) noexcept nogil:
    cdef Letter *letter = <Letter *>allocated(sizeof(Letter) + extra)
    memset(letter, 0, sizeof(Letter))
    letter.kind = kind
    return letter


cdef Letter *thrownAway(Letter *letter) noexcept nogil:
    """Returns the next."""
    cdef Letter *after = letter.next
    free(letter)
    return after


cdef void setUp(Box *box) noexcept nogil:
    pthread_mutex_init(&box.lock, NULL)
    box.end = &box.letters


cdef void put(Box *box, Letter *letter) noexcept nogil:
    letter.next = NULL
    pthread_mutex_lock(&box.lock)
    box.end[0] = letter
    box.end = &letter.next
    pthread_mutex_unlock(&box.lock)


cdef Letter *emptied(Box *box) noexcept nogil:
    """The first of all that were in it."""
    pthread_mutex_lock(&box.lock)
    cdef Letter *letters = box.letters
    box.letters = NULL
    box.end = &box.letters
    pthread_mutex_unlock(&box.lock)
    return letters


cdef bint mayBePlain(const uint8_t *head) noexcept nogil:
    """Whether these two bytes begin a whole message, a ping or a pong, masked."""
    cdef int opcode = head[0] ^ FIN  # 16 and more without FIN, or with an RSV bit.
    if not head[1] & MASK:
        return False
    if opcode == PING or opcode == PONG:
        return head[1] & 127 < 126
    return opcode == TEXT or opcode == BINARY


cdef size_t headSizeOf(const uint8_t *head) noexcept nogil:
    """Bytes of the header that begins with these two."""
    cdef int length = head[1] & 127
    return 6 if length < 126 else 8 if length == 126 else 14


cdef uint64_t payloadSizeOf(const uint8_t *head) noexcept nogil:
    """Bytes of the payload; more than there can be if a shorter header could tell them, which
    RFC 6455, 5.2 forbids."""
    cdef uint64_t size = head[1] & 127
    cdef uint64_t least = 126 if size == 126 else 65536
    cdef size_t i
    if size < 126:
        return size
    size = 0
    for i in range(2, headSizeOf(head) - 4):
        size = size << 8 | head[i]
    return size if size >= least else <uint64_t>-1


cdef int opcodeOf(Connection *c) noexcept nogil:
    return c.head[0] & 15


cdef bint isPassing(Connection *c) noexcept nogil:
    """Whether the beginning of a frame is sent, and its end has not come yet."""
    return c.left > 0 and c.held == NULL


cdef uint8_t *writeHead(Connection *c, uint8_t *to) noexcept nogil:
    """Our header of the frame that `c.head` begins. Returns where its payload goes."""
    to[0] = FIN | PONG if opcodeOf(c) == PING else c.head[0]
    to[1] = c.head[1] & 127
    memcpy(to + 2, c.head + 2, c.headSize - 6)
    return to + c.headSize - 4


cdef bint readPayload(Connection *c, uint8_t *to, const uint8_t *at, size_t size) noexcept nogil:
    """Unmask the next `size` bytes of the frame. Returns whether they are what they should be."""
    cdef bint isWide = unmask(to, at, size, c.head + c.headSize - 4, c.size - c.left)
    if opcodeOf(c) != TEXT:
        return True
    if (isWide or c.text.due) and not validate_utf8(&c.text, to, size):
        return False
    return size < c.left or not c.text.due


cdef Letter *newShown(Connection *c) noexcept nogil:
    """What the log is shown of this message, still without its beginning."""
    cdef Letter *letter = newLetter(SHOW, BEGINNING)
    letter.number = c.number
    letter.size = c.size
    letter.flag = opcodeOf(c) == BINARY
    return letter


cdef void addBeginning(Letter *letter, const uint8_t *payload, size_t size) noexcept nogil:
    size = min(size, BEGINNING - letter.first)
    memcpy(<uint8_t *>(letter + 1) + letter.first, payload, size)
    letter.first += size


cdef uint64_t unacknowledged(Connection *c) noexcept nogil:
    """Bytes that wait for the client, as `closing.waiting`."""
    cdef int queued = 0
    ioctl(c.fd, TIOCOUTQ, &queued)
    return queued + (c.unsentEnd - c.unsentAt)


cdef void add(Counts *counts, Connection *c) noexcept nogil:
    """The message of `c` is complete."""
    cdef bint isBinary = opcodeOf(c) == BINARY
    counts.messages[isBinary] += 1
    counts.bytes[isBinary] += c.size


cdef void move(Counts *to, Counts *counts) noexcept nogil:
    """Add `counts` to `to`, and begin them anew."""
    cdef int i
    for i in range(2):
        to.messages[i] += counts.messages[i]
        to.bytes[i] += counts.bytes[i]
    to.pauses += counts.pauses
    memset(counts, 0, sizeof(Counts))


cdef tuple messagesOf(Counts *counts):
    """Texts, and bytes of payload in them, and the same of binary messages."""
    return counts.messages[0], counts.bytes[0], counts.messages[1], counts.bytes[1]


cdef void unlink(Connection *c) noexcept nogil:
    c.before.after = c.after
    c.after.before = c.before


cdef void append(Connection *ring, Connection *c) noexcept nogil:
    c.before = ring.before
    c.after = ring
    c.before.after = c
    ring.before = c


def echoed(bytes data, uint64_t maxMessage):
    """The echo of the plain frames that `data` begins with and that end in it, for connections
    that are not lent, because of TLS.

    Returns it, the number of bytes of `data` that it answers, and what it counts; see
    `messagesOf`.
    """
    cdef const uint8_t *at = data
    cdef const uint8_t *begin = at
    cdef const uint8_t *end = at + len(data)
    cdef uint8_t *out = <uint8_t *>allocated(len(data) + 1)
    cdef uint8_t *to = out
    cdef uint8_t *payload
    cdef Counts counts
    cdef Connection c
    memset(&counts, 0, sizeof(counts))
    memset(&c, 0, sizeof(c))
    while end - at >= 2 and mayBePlain(at) and <size_t>(end - at) >= headSizeOf(at):
        c.headSize = headSizeOf(at)
        c.size = c.left = payloadSizeOf(at)
        if c.size > maxMessage or c.size > end - at - c.headSize:
            break
        memcpy(c.head, at, c.headSize)
        c.text.due = 0
        payload = writeHead(&c, to)
        if not readPayload(&c, payload, at + c.headSize, c.size):
            break
        at += c.headSize + c.size
        if opcodeOf(&c) != PONG:  # Nothing answers it.
            to = payload + c.size
        if not c.head[0] & CONTROL:
            add(&counts, &c)
    echo = PyBytes_FromStringAndSize(<char *>out, to - out)
    free(out)
    return echo, at - begin, messagesOf(&counts)


def compressed(bytes data, uint64_t most):
    """The message that `data` begins with, if it is one compressed frame (RFC 7692, 6.1) with
    `most` bytes of payload: whether it is binary, its payload, and how many bytes of `data` it is.
    None if it is anything else, or not all there."""
    cdef const uint8_t *at = data
    cdef size_t size = len(data)
    cdef uint8_t *payload
    cdef Connection c
    memset(&c, 0, sizeof(c))
    if size < 2 or size < headSizeOf(at):
        return None
    c.headSize = headSizeOf(at)
    memcpy(c.head, at, c.headSize)
    c.head[0] ^= RSV1
    c.size = payloadSizeOf(at)
    if (not mayBePlain(c.head) or c.head[0] & CONTROL
            or c.size > most or c.size > size - c.headSize):
        return None
    payload = <uint8_t *>allocated(c.size + 1)
    unmask(payload, at + c.headSize, c.size, c.head + c.headSize - 4, 0)
    message = PyBytes_FromStringAndSize(<char *>payload, c.size)
    free(payload)
    return opcodeOf(&c) == BINARY, message, c.headSize + c.size


cdef class Loop:
    """Serves the connections that it is lent.

    `maxMessage`, below 2**62, and `mostHeld` are in bytes; `pingInterval` (0: never) and `pingTimeout` are in
    seconds. `reported` is an eventfd of the caller's, which is written when there are reports.
    Raises OSError if no descriptor is left.
    """

    cdef readonly int lent
    """Connections that it has, or that are on their way to it or back."""

    cdef int epoll, ordered, reported
    cdef Box orders, told
    cdef uint64_t maxMessage, mostHeld
    cdef double pingInterval, pingTimeout

    # What follows belongs to the loop's thread alone.
    cdef double now
    cdef double looked                # All that had come then has been read.
    cdef bint going, hasTold
    cdef uint8_t *room                # HEADER bytes, and then READ.
    cdef Connection **byDescriptor
    cdef int descriptors
    cdef Connection heard, silent     # The heads of two rings; see keepAlive().
    cdef uint64_t showable            # Messages that the log may still be shown.
    cdef uint64_t held                # Bytes of memory for frames, and for what is unsent.
    cdef bint hasThrottled            # Some are not read ahead.
    cdef bint hasCounted
    cdef Counts counts                # Without the messages that it was shown; in this turn ...
    # ... and until counted() asks, under the lock of `told`; as is the other.
    cdef Counts untold
    cdef uint64_t toldHeld

    def __cinit__(self, maxMessage, mostHeld, pingInterval, pingTimeout, reported):
        # First of all, and no argument has a type: __dealloc__() closes what these say.
        self.epoll = self.ordered = -1
        self.maxMessage = maxMessage
        self.mostHeld = mostHeld
        self.pingInterval = pingInterval
        self.pingTimeout = pingTimeout
        self.reported = reported
        self.going = True
        setUp(&self.orders)
        setUp(&self.told)
        self.heard.before = self.heard.after = &self.heard
        self.silent.before = self.silent.after = &self.silent
        self.room = <uint8_t *>allocated(HEADER + READ)
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = NULL
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll >= 0:
            self.ordered = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.ordered < 0 or epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.ordered, &event):
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        cdef Letter *letter = emptied(&self.orders)
        while letter != NULL:
            letter = thrownAway(letter)
        letter = emptied(&self.told)
        while letter != NULL:
            letter = thrownAway(letter)
        pthread_mutex_destroy(&self.orders.lock)
        pthread_mutex_destroy(&self.told.lock)
        if self.epoll >= 0:
            close(self.epoll)
        if self.ordered >= 0:
            close(self.ordered)
        free(self.byDescriptor)
        free(self.room)

    # For the reactor's thread.

    def lend(self, int fd, uint64_t number, bytes data):
        """Serve the socket `fd`, which does not block, and which the caller leaves alone until
        `number` is returned; first `data`, which was read from it. No number is lent twice at a
        time."""
        self.lent += 1
        self.order(LEND, fd, number, False, data)

    def recall(self, int fd, uint64_t number, bint atOnce):
        """Return it: at once, or as soon as no frame is passing; if this was asked before, also if
        nothing of that frame has come since. It may be on its way already."""
        self.order(RECALL, fd, number, atOnce, b"")

    def grant(self, uint64_t messages):
        """Show the log the next `messages`, and count the others."""
        self.order(GRANT, -1, messages, False, b"")

    def ask(self):
        """Report that the loop turns."""
        self.order(ASK, -1, 0, False, b"")

    def stop(self):
        """Return all, and end. Nothing is lent any more."""
        self.order(STOP, -1, 0, False, b"")

    cdef void order(self, Kind kind, int fd, uint64_t number, bint atOnce, bytes data) noexcept:
        cdef Letter *letter = newLetter(kind, len(data))
        letter.fd = fd
        letter.number = number
        letter.flag = atOnce
        letter.first = len(data)
        memcpy(letter + 1, <const uint8_t *>data, letter.first)
        put(&self.orders, letter)
        eventfd_write(self.ordered, 1)

    def reports(self):
        """What has happened since the last call, in order. A list of tuples:

        - `("message", number, size, isBinary, beginning)`, of those that were granted;
        - `("returned", number, why, unjudged, unsent, isInside)`: the connection is the caller's
          again, who writes the bytes `unsent`, and reads the bytes `unjudged` before what the
          socket has. With `isInside` it is inside a frame, to its client and from it: nothing
          can be said any more, and nothing understood.
        - `("turning",)`: it was asked.
        """
        cdef Letter *letter = emptied(&self.told)
        cdef char *behind
        reports = []
        while letter != NULL:
            behind = <char *>(letter + 1)
            first = PyBytes_FromStringAndSize(behind, letter.first)
            if letter.kind == SHOW:
                reports.append(("message", letter.number, letter.size, letter.flag, first))
            elif letter.kind == ASK:
                reports.append(("turning",))
            else:
                self.lent -= 1
                second = PyBytes_FromStringAndSize(behind + letter.first, letter.second)
                reports.append(("returned", letter.number, WHY[letter.why], first, second,
                                letter.flag))
            letter = thrownAway(letter)
        return reports

    def counted(self):
        """What has happened since the last call: messages that the log was not shown, see
        `messagesOf`; and clients that did not read, and were waited for. And how many bytes are
        held now."""
        cdef Counts counts
        memset(&counts, 0, sizeof(counts))
        pthread_mutex_lock(&self.told.lock)
        move(&counts, &self.untold)
        held = self.toldHeld
        pthread_mutex_unlock(&self.told.lock)
        return messagesOf(&counts), counts.pauses, held

    # For the loop's thread.

    def run(self):
        """Serve until stop() is called."""
        with nogil:
            self.readClock()
            while self.going:
                self.serve(self.untilDue(), True)

    def turn(self, double now):
        """Serve what is ready, at this time in seconds, without waiting: a turn of run(), for
        tests. Returns how much was ready."""
        self.now = now
        return self.serve(0, False)

    def due(self):
        """When turn() next has something to do although nothing is ready; infinity: never."""
        return self.nextDue()

    cdef void readClock(self) noexcept nogil:
        cdef timespec time
        clock_gettime(CLOCK_MONOTONIC, &time)
        self.now = time.tv_sec + time.tv_nsec * 1e-9

    cdef int serve(self, int milliseconds, bint hasClock) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef double before = self.now
        cdef int ready = epoll_wait(self.epoll, events, EVENTS, milliseconds)
        cdef bint isOrdered = False
        cdef Connection *c
        cdef int i
        if hasClock:
            self.readClock()
        for i in range(ready):
            c = <Connection *>events[i].data.ptr
            if c == NULL:
                isOrdered = True
            elif c.unsent != NULL and events[i].events & EPOLLRDHUP and not isPassing(c):
                # The client's FIN, behind what is not read: there is a deadline for that.
                self.giveBack(c, UNUSUAL, NULL, 0, NULL, 0)
            elif c.unsent != NULL and (
                    events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP) or not isPassing(c)):
                self.sendUnsent(c)
            else:
                self.receive(c)
        # Not before: they may take a connection away of which an event tells.
        if isOrdered:
            self.obey()
        # Less than it can tell, and no signal: nothing else was there. See keepAlive().
        if 0 <= ready < EVENTS:
            self.looked = before
        self.keepAlive()
        if self.hasThrottled and self.held < self.mostHeld:
            self.hasThrottled = False
            self.attendAll(&self.heard)
            self.attendAll(&self.silent)
        if self.hasCounted:
            self.hasCounted = False
            pthread_mutex_lock(&self.told.lock)
            move(&self.untold, &self.counts)
            self.toldHeld = self.held
            pthread_mutex_unlock(&self.told.lock)
        if self.hasTold:
            self.hasTold = False
            eventfd_write(self.reported, 1)
        return ready

    cdef void obey(self) noexcept nogil:
        cdef eventfd_t times = 0
        eventfd_read(self.ordered, &times)
        cdef Letter *letter = emptied(&self.orders)
        cdef Connection *c
        while letter != NULL:
            if letter.kind == LEND:
                self.take(letter)
            elif letter.kind == RECALL:
                c = self.byDescriptor[letter.fd]
                if c != NULL and c.number == letter.number:
                    if letter.flag or not isPassing(c) or c.recalled and c.left == c.leftThen:
                        self.giveBack(c, RECALLED, NULL, 0, NULL, 0)
                    else:
                        c.recalled = True
                        c.leftThen = c.left
            elif letter.kind == GRANT:
                self.showable = letter.number
            elif letter.kind == ASK:
                self.tell(newLetter(ASK, 0))
            else:
                self.going = False
            letter = thrownAway(letter)
        if not self.going:
            while self.heard.after != &self.heard:
                self.giveBack(self.heard.after, RECALLED, NULL, 0, NULL, 0)
            while self.silent.after != &self.silent:
                self.giveBack(self.silent.after, RECALLED, NULL, 0, NULL, 0)

    cdef void take(self, Letter *letter) noexcept nogil:
        cdef Connection *c = <Connection *>allocated(sizeof(Connection))
        cdef uint8_t *data = <uint8_t *>(letter + 1)
        cdef int fd = letter.fd
        cdef int size = self.descriptors
        memset(c, 0, sizeof(Connection))
        c.fd = fd
        c.number = letter.number
        c.since = self.now
        append(&self.heard, c)
        if fd >= size:
            self.descriptors = 2 * fd + 64
            self.byDescriptor = <Connection **>realloc(
                self.byDescriptor, self.descriptors * sizeof(Connection *))
            if self.byDescriptor == NULL:
                abort()
            memset(self.byDescriptor + size, 0, (self.descriptors - size) * sizeof(Connection *))
        self.byDescriptor[fd] = c
        if self.attend(c):
            self.echo(c, data, data + letter.first)
        else:
            self.giveBack(c, UNUSUAL, NULL, 0, data, letter.first)

    cdef bint attend(self, Connection *c) noexcept nogil:
        """Wait for what the connection can do now. Returns False if epoll does not take it."""
        cdef uint32_t events = 0
        cdef epoll_event event
        if c.unsent != NULL:
            events |= EPOLLOUT
        if c.unsent == NULL:
            events |= EPOLLIN
        elif not isPassing(c):
            events |= EPOLLRDHUP
        else:
            if self.held < self.mostHeld:
                events |= EPOLLIN
            else:
                self.hasThrottled = True
        if events == c.events:
            return True
        event.events = events
        event.data.ptr = c
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD if c.events else EPOLL_CTL_ADD, c.fd, &event):
            return False
        c.events = events
        return True

    cdef void attendAll(self, Connection *ring) noexcept nogil:
        """There is memory again to read ahead for those for which there was none."""
        cdef Connection *c = ring.after
        cdef Connection *after
        while c != ring:
            after = c.after
            if not self.attend(c):
                self.giveBack(c, LOST, NULL, 0, NULL, 0)
            c = after

    # The way of the data.

    cdef void receive(self, Connection *c) noexcept nogil:
        """Read once, and send back what that has brought."""
        cdef uint8_t *at = self.room + HEADER
        cdef size_t most = READ if self.held < self.mostHeld else READ_LITTLE
        if c.unsent != NULL:
            if most == READ_LITTLE:
                self.attend(c)  # Not read ahead any more.
                return
            most = min(c.left, <uint64_t>READ)  # No further frame is begun.
        cdef ssize_t size = recv(c.fd, at, most, 0)
        if size > 0:
            self.hearOf(c)
            if c.left == 0:
                # What has come of a header stands before the rest of it.
                memcpy(at - c.headSize, c.head, c.headSize)
                at -= c.headSize
                size += c.headSize
                c.headSize = 0
            self.echo(c, at, at + size)
        elif size == 0:
            # The client's FIN, which the reactor will read again.
            self.giveBack(c, UNUSUAL, NULL, 0, NULL, 0)
        elif errno != EAGAIN and errno != EINTR:
            self.giveBack(c, LOST, NULL, 0, NULL, 0)

    cdef void echo(self, Connection *c, uint8_t *at, uint8_t *end) noexcept nogil:
        """Send back what is plain from `at` to `end`. If not all is, return the connection."""
        cdef uint8_t *out = at
        cdef uint8_t *to = at
        cdef uint8_t *payload
        cdef uint8_t *whole = NULL    # A frame that was held, and has got its end.
        cdef size_t wholeSize = 0
        cdef uint8_t *unsaid = NULL   # Payload of a frame that is taken back.
        cdef size_t unsaidSize = 0
        cdef size_t size
        cdef bint begins
        cdef Why why = PLAIN
        while at < end:
            begins = c.headSize == 0
            if begins:
                if c.recalled:
                    why = RECALLED
                    break
                size = end - at
                if size >= 2 and not mayBePlain(at):
                    why = UNUSUAL
                    break
                if size < 2 or size < headSizeOf(at):
                    memcpy(c.head, at, size)
                    c.headSize = size
                    at = end
                    break
                c.size = payloadSizeOf(at)
                size -= headSizeOf(at)
                if c.size > self.maxMessage or (at[0] & CONTROL and c.size > size):
                    why = UNUSUAL
                    break
                if size < c.size <= HOLD and self.held + HOLD > self.mostHeld:
                    why = FULL
                    break
                c.headSize = headSizeOf(at)
                memcpy(c.head, at, c.headSize)
                at += c.headSize
                c.left = c.size
                c.text.due = 0
                if c.size <= size or c.size > HOLD:
                    to = writeHead(c, to)
                else:
                    c.held = <uint8_t *>allocated(HEADER + c.size)
                    self.hold(HEADER + c.size)
                    writeHead(c, c.held)

            size = min(c.left, <uint64_t>(end - at))
            payload = to if c.held == NULL else c.held + c.headSize - 4 + (c.size - c.left)
            if not readPayload(c, payload, at, size):
                if c.held == NULL and not begins:
                    why = NOT_UTF8
                    break
                why = UNUSUAL
                at += size
                c.left -= size
                if c.held == NULL:
                    to -= c.headSize - 4
                    unsaid = payload
                    unsaidSize = size
                    c.left = 0
                break
            at += size
            c.left -= size
            if c.held == NULL:
                to += size
                if begins and c.left:
                    c.shown = newShown(c)
                if c.shown != NULL:
                    addBeginning(c.shown, payload, size)
            if c.left == 0:
                if c.held != NULL:
                    whole = c.held
                    wholeSize = c.headSize - 4 + c.size
                    payload = whole + c.headSize - 4
                    c.held = NULL
                    self.hold(-<int64_t>(HEADER + c.size))
                if not c.head[0] & CONTROL:
                    self.count(c, payload)
                elif opcodeOf(c) == PONG:
                    to = payload - (c.headSize - 4)  # Nothing answers it.
                c.headSize = 0

        if (whole != NULL or to > out) and not self.sendOut(c, whole, wholeSize, out, to - out):
            why = LOST
        free(whole)
        if why == PLAIN and c.recalled and not isPassing(c):
            why = RECALLED
        if why == PLAIN and c.unsent != NULL and not isPassing(c) and self.held > self.mostHeld:
            why = FULL
        if why == PLAIN and not self.attend(c):
            why = LOST
        if why != PLAIN:
            self.giveBack(c, why, unsaid, unsaidSize, at, end - at)

    cdef void count(self, Connection *c, const uint8_t *payload) noexcept nogil:
        """A message is complete. `payload` is all of it, unless it was passing."""
        cdef Letter *shown = c.shown
        c.shown = NULL
        if self.showable:
            self.showable -= 1
            if shown == NULL:
                shown = newShown(c)
                addBeginning(shown, payload, c.size)
            self.tell(shown)
        else:
            free(shown)
            add(&self.counts, c)
            self.hasCounted = True

    cdef bint sendOut(self, Connection *c, const uint8_t *first, size_t firstSize,
                      const uint8_t *second, size_t secondSize) noexcept nogil:
        """Send both, one after the other; keep what the socket does not take. Returns False if
        the socket has failed."""
        cdef iovec parts[2]
        cdef msghdr message
        cdef ssize_t sent
        cdef size_t skipped
        if c.unsent != NULL:
            sent = 0
        elif first == NULL:
            sent = send(c.fd, second, secondSize, MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            parts[0].iov_base, parts[0].iov_len = <void *>first, firstSize
            parts[1].iov_base, parts[1].iov_len = <void *>second, secondSize
            message.msg_iov, message.msg_iovlen = parts, 2
            sent = sendmsg(c.fd, &message, MSG_NOSIGNAL)
        if sent == <ssize_t>(firstSize + secondSize):
            return True
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                return False
            sent = 0
        if c.unsent == NULL:
            self.counts.pauses += 1
            self.hasCounted = True
        skipped = min(<size_t>sent, firstSize)
        if skipped < firstSize:
            self.keepUnsent(c, first + skipped, firstSize - skipped)
        skipped = sent - skipped
        if skipped < secondSize:
            self.keepUnsent(c, second + skipped, secondSize - skipped)
        return True

    cdef void keepUnsent(self, Connection *c, const uint8_t *data, size_t size) noexcept nogil:
        cdef size_t kept = c.unsentEnd - c.unsentAt
        cdef size_t room
        cdef uint8_t *larger
        if c.unsentRoom - c.unsentEnd < size:
            # Twice as much as is needed, so that a byte is copied once more on average.
            room = kept + size if c.unsent == NULL else 2 * (kept + size)
            larger = <uint8_t *>allocated(room)
            if kept:
                memcpy(larger, c.unsent + c.unsentAt, kept)
            free(c.unsent)
            self.hold(<int64_t>(room - c.unsentRoom))
            c.unsent = larger
            c.unsentAt = 0
            c.unsentEnd = kept
            c.unsentRoom = room
        memcpy(c.unsent + c.unsentEnd, data, size)
        c.unsentEnd += size

    cdef void hold(self, int64_t more) noexcept nogil:
        self.held += more
        self.hasCounted = True

    cdef void sendUnsent(self, Connection *c) noexcept nogil:
        cdef ssize_t sent = send(c.fd, c.unsent + c.unsentAt, c.unsentEnd - c.unsentAt,
                                 MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.giveBack(c, LOST, NULL, 0, NULL, 0)
            return
        c.unsentAt += sent
        if c.unsentAt == c.unsentEnd:
            self.hold(-<int64_t>c.unsentRoom)
            free(c.unsent)
            c.unsent = NULL
            c.unsentAt = c.unsentEnd = c.unsentRoom = 0
            if not self.attend(c):
                self.giveBack(c, LOST, NULL, 0, NULL, 0)

    cdef void giveBack(self, Connection *c, Why why, const uint8_t *unsaid, size_t unsaidSize,
                       const uint8_t *rest, size_t restSize) noexcept nogil:
        """Return it, and forget it. `unsaid` is payload of the frame that is taken back; `rest`
        is what has been read behind that."""
        cdef size_t unsentSize = c.unsentEnd - c.unsentAt
        cdef bint isInside = isPassing(c)
        cdef size_t headSize = 0 if isInside else c.headSize
        cdef Letter *letter
        cdef uint8_t *to
        if c.held != NULL:
            unsaid = c.held + c.headSize - 4
            unsaidSize = c.size - c.left
        letter = newLetter(RETURN, headSize + unsaidSize + restSize + unsentSize)
        letter.number = c.number
        letter.flag = isInside
        letter.why = why
        letter.first = headSize + unsaidSize + restSize
        letter.second = unsentSize
        to = <uint8_t *>(letter + 1)
        memcpy(to, c.head, headSize)
        to += headSize
        if unsaidSize:
            unmask(to, unsaid, unsaidSize, c.head + c.headSize - 4, 0)  # Masks it again.
            to += unsaidSize
        if restSize:
            memcpy(to, rest, restSize)
            to += restSize
        if unsentSize:
            memcpy(to, c.unsent + c.unsentAt, unsentSize)

        epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        self.byDescriptor[c.fd] = NULL
        unlink(c)
        if c.held != NULL:
            self.hold(-<int64_t>(HEADER + c.size))
        self.hold(-<int64_t>c.unsentRoom)
        free(c.held)
        free(c.shown)
        free(c.unsent)
        free(c)
        # Last: from here on the descriptor may be closed, and be another connection's.
        self.tell(letter)

    cdef void tell(self, Letter *letter) noexcept nogil:
        put(&self.told, letter)
        self.hasTold = True

    # Liveness, as EchoProtocol has it: a client that is silent for the interval is sent a ping,
    # and returned if nothing has moved at the end of the timeout. Those that were heard of are a
    # ring in the order of time, the silent ones another, so that only the first of each is
    # looked at.
    #
    # When a process goes on that was stopped (SIGSTOP, a virtual machine that was paused), time has
    # passed, and pongs are in the kernel: a stop ends epoll_wait() without a word of them. So
    # nobody is judged at a time at which not all had been read that had come, nor before each half
    # of the timeout has passed after the other.

    cdef void hearOf(self, Connection *c) noexcept nogil:
        # To a hundredth of the interval: the ring is not touched for each message.
        if c.isSilent or self.now - c.since > self.pingInterval / 100:
            unlink(c)
            append(&self.heard, c)
            c.isSilent = False
            c.since = self.now

    cdef void keepAlive(self) noexcept nogil:
        cdef Connection *c = self.heard.after
        cdef uint64_t left
        if not self.pingInterval:
            return
        while c != &self.heard and self.now >= c.since + self.pingInterval:
            unlink(c)
            append(&self.silent, c)
            c.isSilent = True
            c.isLate = False
            c.since = self.now
            c.waiting = unacknowledged(c)
            self.ping(c)
            c = self.heard.after
        c = self.silent.after
        while c != &self.silent and self.looked >= c.since + self.pingTimeout / 2:
            left = unacknowledged(c)
            if left >= c.waiting and c.isLate:
                self.giveBack(c, UNANSWERED, NULL, 0, NULL, 0)
            else:
                unlink(c)
                append(&self.silent, c)
                c.since = self.now
                c.isLate = left >= c.waiting
                if not c.isLate:
                    c.waiting = left
                    self.ping(c)
            c = self.silent.after

    cdef void ping(self, Connection *c) noexcept nogil:
        # Not inside a frame, and not behind what waits: that it moves says enough.
        if c.unsent == NULL and not isPassing(c):
            if not self.sendOut(c, NULL, 0, b"\x89\x00", 2) or not self.attend(c):
                self.giveBack(c, LOST, NULL, 0, NULL, 0)

    cdef double nextDue(self) noexcept nogil:
        """When keepAlive() next has something to do, on the clock of `now`; infinity: never."""
        cdef double due = INFINITY
        if self.pingInterval:
            if self.heard.after != &self.heard:
                due = self.heard.after.since + self.pingInterval
            if self.silent.after != &self.silent:
                due = min(due, self.silent.after.since + self.pingTimeout / 2)
        return due

    cdef int untilDue(self) noexcept nogil:
        """Milliseconds until then, as epoll_wait() wants them; -1: never."""
        cdef double due = self.nextDue()
        return -1 if due == INFINITY else <int>ceil(max(due - self.now, 0) * 1000)
