"""What small proxies of tests have in common."""

import contextlib
import socket
import threading


def readHead(source: socket.socket) -> bytes:
    """A head of HTTP, up to its empty line; less if the connection ends before."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := source.recv(1)):
        head += byte
    return head


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on all that comes, and its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def pumpBoth(client: socket.socket, upstream: socket.socket) -> None:
    back = threading.Thread(target=pump, args=(upstream, client))
    back.start()
    pump(client, upstream)
    back.join()
