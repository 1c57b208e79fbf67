"""Memory for the fast path.

A loop cannot recover from a failed allocation, and a process without memory cannot serve anyway: it
ends, and whatever supervises it starts another. So no caller checks for NULL.
"""

from libc.stdlib cimport abort, malloc, realloc


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
