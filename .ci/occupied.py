"""Listens on the ports told, on every interface, until it is ended.

A port that somebody has already is as good: nobody else can have it.
"""

import contextlib
import signal
import socket
import sys

listeners = []
for port in map(int, sys.argv[1:]):
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.suppress(OSError):
            listeners.append(socket.create_server((host, port), family=family))
signal.pause()
