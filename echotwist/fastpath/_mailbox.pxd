"""The mailboxes between the reactor's thread and a loop's: commands one way, events the other.

A mailbox is a linked list under a lock that is held for a few instructions, so neither thread ever
waits for the other to work. What wakes the receiver, an eventfd, belongs to the `Loop`: it writes
one for many events.

A command or an event that carries bytes has them right behind its struct, in one piece of memory:
`<uint8_t *>(event + 1)`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from echotwist.fastpath._memory cimport allocate


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *lock)
    int pthread_mutex_lock(pthread_mutex_t *lock)
    int pthread_mutex_unlock(pthread_mutex_t *lock)


cdef struct Entry:
    # What a mailbox links. It comes first in everything that is put into one, so that a pointer to
    # either is a pointer to both.
    Entry *next


cdef struct Mailbox:
    pthread_mutex_t lock
    Entry *first
    Entry **end


cdef enum CommandKind:
    LEND
    RECALL
    GRANT
    CHECK
    SHED
    STOP


cdef struct Command:
    Entry entry
    CommandKind kind
    int fd                # LEND, RECALL
    uint64_t number       # LEND, RECALL: the connection's
    bint atOnce           # RECALL
    uint64_t messages     # GRANT
    int windowBits        # LEND: of permessage-deflate; 0 without it
    int memLevel          # LEND
    void *ssl             # LEND: of TLS, and the two it reads from and writes to; NULL without it
    void *into
    void *outof
    size_t dataSize       # LEND: bytes already read from the socket; they follow


cdef enum EventKind:
    MESSAGE
    FRAME
    RETURNED
    ALIVE                 # answers CHECK
    SHORT                 # asks for a SHED of the loop that buffers most


cdef enum Reason:
    # Why a connection is returned.
    NONE          # It is not.
    UNUSUAL       # Autobahn shall judge what comes next; the client's FIN is unusual, too.
    RECALLED
    FULL          # The loop may not buffer what it would have to.
    LOST          # The socket has failed.
    UNANSWERED    # Nothing has moved since a ping.
    NOT_UTF8      # In a frame the beginning of which is sent.


cdef struct Event:
    Entry entry
    EventKind kind
    uint64_t number       # MESSAGE, FRAME, RETURNED: the connection's
    uint64_t size         # MESSAGE: bytes of all of it
    bint isBinary         # MESSAGE
    size_t previewSize    # MESSAGE: bytes of its beginning; they follow
    size_t headerSize     # FRAME: bytes of its header; they follow
    bint isSent           # FRAME: not received
    Reason reason         # RETURNED
    bint isInside         # RETURNED: inside a frame
    size_t small          # RETURNED: what the fragments of a message that has begun count for
    # RETURNED: bytes of a fragment that stands for those, bytes that are not judged yet, and bytes
    # that are not sent yet; they follow.
    size_t begunSize, unjudgedSize, unsentSize


cdef inline Command *newCommand(CommandKind kind, size_t extra) noexcept nogil:
    """With room for `extra` bytes behind it."""
    cdef Command *command = <Command *>allocate(sizeof(Command) + extra)
    memset(command, 0, sizeof(Command))
    command.kind = kind
    return command


cdef inline Event *newEvent(EventKind kind, size_t extra) noexcept nogil:
    """With room for `extra` bytes behind it."""
    cdef Event *event = <Event *>allocate(sizeof(Event) + extra)
    memset(event, 0, sizeof(Event))
    event.kind = kind
    return event


cdef inline void initMailbox(Mailbox *mailbox) noexcept nogil:
    pthread_mutex_init(&mailbox.lock, NULL)
    mailbox.first = NULL
    mailbox.end = &mailbox.first


cdef inline void destroyMailbox(Mailbox *mailbox) noexcept nogil:
    cdef Entry *entry = takeAll(mailbox)
    while entry != NULL:
        entry = discard(entry)
    pthread_mutex_destroy(&mailbox.lock)


cdef inline void put(Mailbox *mailbox, Entry *entry) noexcept nogil:
    entry.next = NULL
    pthread_mutex_lock(&mailbox.lock)
    mailbox.end[0] = entry
    mailbox.end = &entry.next
    pthread_mutex_unlock(&mailbox.lock)


cdef inline Entry *takeAll(Mailbox *mailbox) noexcept nogil:
    """Empty the mailbox. Returns the first entry; NULL if there was none."""
    pthread_mutex_lock(&mailbox.lock)
    cdef Entry *first = mailbox.first
    mailbox.first = NULL
    mailbox.end = &mailbox.first
    pthread_mutex_unlock(&mailbox.lock)
    return first


cdef inline Entry *discard(Entry *entry) noexcept nogil:
    """Free it. Returns the next one."""
    cdef Entry *next = entry.next
    free(entry)
    return next
