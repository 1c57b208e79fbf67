"""Runs a command under what a unit's SystemCallFilter=, MemoryDenyWriteExecute= and
RestrictAddressFamilies= forbid, without systemd:

    python confined.py UNIT COMMAND...

What systemd would answer with an error ends the process here (SIGSYS), so that nothing is
overlooked that the process tries and can do without.
"""

import ctypes
import os
import re
import socket
import subprocess
import sys
from functools import cache
from mmap import PROT_EXEC, PROT_WRITE
from pathlib import Path

ALLOW, KILL = 0x7FFF0000, 0x80000000
NOT_EQUAL, MASKED_EQUAL = 1, 7
SHM_EXEC = 0o100000


class Argument(ctypes.Structure):
    """scmp_arg_cmp."""

    _fields_ = [
        ("number", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


class Filter:
    """A filter of libseccomp(3), until it is loaded."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))

    def add(self, action: int, name: str, *arguments: Argument) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # Of another architecture.
            return
        array = (Argument * len(arguments))(*arguments)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(arguments), array
        )
        assert failed in (0, -17), (name, failed)  # EEXIST: two names, one call.

    def load(self) -> None:
        assert self._library.seccomp_load(self._context) == 0


@cache
def members(name: str) -> frozenset[str]:
    """The system calls of a set such as @system-service."""
    if not name.startswith("@"):
        return frozenset([name])
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.findall(r"^    ([@a-z0-9_-]+)$", shown, re.M)
    return frozenset().union(*map(members, found))


def settings(unit: Path, name: str) -> list[str]:
    """The values of a setting, in their order."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.M)


def allowed(unit: Path) -> set[str]:
    calls: set[str] = set()
    for value in settings(unit, "SystemCallFilter"):
        named = frozenset().union(*map(members, value.removeprefix("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    return calls | members("@default")


def confine(unit: Path) -> None:
    calls = allowed(unit)
    forbidden = Filter(ALLOW)
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        both = PROT_EXEC | PROT_WRITE
        forbidden.add(KILL, "mmap", Argument(2, MASKED_EQUAL, both, both))
        forbidden.add(KILL, "mprotect", Argument(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        forbidden.add(KILL, "pkey_mprotect", Argument(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        forbidden.add(KILL, "shmat", Argument(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    # A rule of libseccomp compares an argument once: with more families, none is forbidden here.
    if settings(unit, "RestrictAddressFamilies") == ["AF_UNIX"]:
        forbidden.add(KILL, "socket", Argument(0, NOT_EQUAL, socket.AF_UNIX))
    forbidden.load()
    rest = Filter(KILL)
    for name in sorted(calls):
        rest.add(ALLOW, name)
    rest.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
