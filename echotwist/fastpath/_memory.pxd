"""Memory for the fast path.

A loop cannot recover from a failed allocation, and a process without memory cannot serve anyway: it
ends, and whatever supervises it starts another. So no caller checks for NULL.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport abort, malloc, realloc


cdef extern from * nogil:
    """
    #define addShared(count, more) __atomic_fetch_add(count, (uint64_t)(more), __ATOMIC_RELAXED)
    #define readShared(count) __atomic_load_n(count, __ATOMIC_RELAXED)
    """
    # A count that several threads change. It orders nothing else.
    uint64_t addShared(uint64_t *count, int64_t more)
    uint64_t readShared(const uint64_t *count)


cdef inline void *allocate(size_t size) noexcept nogil:
    """`size` bytes, not cleared; free() releases them."""
    cdef void *memory = malloc(size)
    if memory == NULL:
        abort()
    return memory


cdef inline void *reallocate(void *memory, size_t size) noexcept nogil:
    cdef void *moved = realloc(memory, size)
    if moved == NULL:
        abort()
    return moved
