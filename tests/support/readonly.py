"""Runs a command that can write no file, nowhere: what a read-only root file system is to a
container, without one. `python readonly.py COMMAND...`

By Landlock, which needs no privilege and mounts nothing. A write is then refused as EACCES, where
such a file system says EROFS.
"""

import ctypes
import os
import sys

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""The system calls, on every architecture."""

VERSION = 1
"""The flag of CREATE_RULESET that asks for the version alone."""

NO_NEW_PRIVS = 38

WRITES = 1 << 1 | sum(1 << bit for bit in range(4, 15))
"""LANDLOCK_ACCESS_FS_WRITE_FILE, and REMOVE_DIR to TRUNCATE: all that changes a file or folder."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of Landlock; TRUNCATE came with 3. Negative if the kernel has none."""
    return int(_libc.syscall(CREATE_RULESET, None, 0, VERSION))


def restrict() -> None:
    handled = ctypes.c_uint64(WRITES)
    ruleset = _libc.syscall(CREATE_RULESET, ctypes.byref(handled), 8, 0)
    if (
        ruleset < 0
        or _libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
        or _libc.syscall(RESTRICT_SELF, ruleset, 0)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    restrict()
    os.execv(sys.argv[1], sys.argv[1:])
