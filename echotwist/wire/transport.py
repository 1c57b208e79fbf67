"""The transport below a connection: what waits in it, and how it ends without losing that.

`transport.loseConnection()` closes the socket as soon as the last byte is written. If the peer
has sent something that was not read, the kernel answers with a reset, and a reset throws away
what the peer has not read: the close frame, the 413, the last echo. So connections end here by
what nginx calls a lingering close: write what is left, say FIN, discard what still arrives, and
wait for the peer's FIN. A deadline aborts it once nothing moves: a slow client may take ten
seconds to read eight megabytes of echo, and gets all of them.

Private attributes of Twisted's transports are read here, and of its TLS in `wire.tls` and
`listen.tls`.
"""

import select
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorTime, ISSLTransport
from twisted.internet.main import CONNECTION_DONE
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from echotwist.wire.deadline import Deadline
from echotwist.wire.tls import LendableTls

_INT = bytes(4)
_MOST = FileDescriptor.SEND_LIMIT
_DONE = Failure(CONNECTION_DONE)

_CLOSE_NOTIFY = 64
"""Bytes that a close_notify takes at most: 31 in TLS 1.2, 24 in TLS 1.3."""


def lowest(transport: Any) -> Any:
    """The socket's own transport. TLS and PROXY wrappers would delegate to it, at 2 µs for each
    attribute."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def descriptor(transport: Any) -> int:
    """The descriptor of the socket below; -1 if there is none."""
    fd: int = lowest(transport).getHandle().fileno()
    return fd


def tlsOf(transport: Any) -> LendableTls | None:
    """The TLS in or below `transport`; None without TLS."""
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, LendableTls):
            return transport
        transport = transport.transport
    return None


def isAtRest(transport: Any) -> bool:
    """Whether nothing waits to be written, and no pending pause or close will change reading.

    Twisted has no public way to ask whether a connection was aborted, and ends it only in the next
    iteration of the reactor (26.10, internet/tcp.py, `_AbortingMixin`).
    """
    if unsent(transport) or transport.producerPaused or transport.disconnecting:
        return False
    if lowest(transport)._aborting:
        return False
    tls = tlsOf(transport)
    return tls is None or tls.isAtRest()


def writeUnsent(transport: Any, data: bytes) -> None:
    """Write what is meant for the socket: with TLS it is encrypted already."""
    lowest(transport).write(data)


def reads(transport: Any) -> int:
    """How often something has come from the socket below TLS; 0 without TLS."""
    return 0 if (tls := tlsOf(transport)) is None else tls.reads


def resumeTls(transport: Any) -> None:
    """See `LendableTls.resume`."""
    if (tls := tlsOf(transport)) is not None:
        tls.resume()


def unsent(transport: Any) -> int:
    """Bytes written to `transport` that the kernel has not taken yet.

    Twisted has no public way to ask (26.10, internet/abstract.py, `FileDescriptor`).
    """
    transport = lowest(transport)
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


def unacknowledged(transport: Any) -> int:
    """Bytes written to `transport` that the peer has not acknowledged, as far as we can know.

    The kernel takes megabytes at once, so `unsent` alone stands still for minutes while a slow
    peer reads. What the peer's kernel holds for its program is invisible here.
    """
    transport = lowest(transport)
    try:
        # Linux calls it SIOCOUTQ. Elsewhere the kernel's share stays unknown.
        queued = ioctl(transport.getHandle().fileno(), TIOCOUTQ, _INT)
    except (OSError, ValueError):
        queued = _INT
    return unsent(transport) + int.from_bytes(queued, sys.byteorder)


def delivery(transport: Any) -> Callable[[], bool]:
    """A function that says whether the peer has acknowledged any of the bytes that wait for it
    since the last call."""
    before = unacknowledged(transport)

    def moved() -> bool:
        nonlocal before
        then, before = before, unacknowledged(transport)
        return before < then

    return moved


def isHalfClosed(transport: Any) -> bool:
    """Whether the peer of a `transport` that is not read has said that it sends no more.

    The kernel sees a FIN behind unread bytes. A close_notify shows only when it is read; that
    happens here if nothing else is there, and then ends the connection by itself. If it was read
    before, it may still wait for the protocol to answer what is left.
    """
    if (tls := tlsOf(transport)) is not None and tls.isEnding:
        return True
    below = lowest(transport)
    unread = array("i", [0])
    with suppress(OSError, ValueError, AttributeError):  # POLLRDHUP is Linux's.
        fd = below.getHandle().fileno()
        poll = select.poll()
        poll.register(fd, select.POLLRDHUP)
        if poll.poll(0):
            return True
        ioctl(fd, FIONREAD, unread)
    if ISSLTransport.providedBy(transport) and 0 < unread[0] <= _CLOSE_NOTIFY:
        below.doRead()
    return False


def send(transport: Any, data: bytes) -> None:
    """Write, now if the kernel takes it.

    `transport.write` keeps the data for the reactor's next turn.
    """
    if isinstance(transport, LendableTls) and not transport.disconnecting:
        transport.writeNow(data)
        return
    if not ISSLTransport.providedBy(transport) and not unsent(transport):
        some = data if len(data) <= _MOST else memoryview(data)[:_MOST]
        with suppress(OSError):  # The reactor's next write fails as well, and handles that.
            data = data[transport.getHandle().send(some) :]
    if data:
        transport.write(data)


def lose(transport: Any) -> None:
    """Close a `transport` whose peer has said FIN, once everything is written."""
    below = lowest(transport)
    if below is transport and transport.connected and transport._writeDisconnected:
        # As loseConnection() would, but with one Failure for all.
        transport.connectionLost(_DONE)
    else:
        transport.loseConnection()


def linger(
    transport: Any,
    reactor: IReactorTime,
    timeout: float,
    expired: Callable[[], object] | None = None,
) -> Deadline:
    """End `transport` in order. Once the peer has neither followed nor acknowledged anything for
    `timeout` seconds, `expired` is called, or else the transport is aborted. So a peer that has
    received everything has `timeout` seconds, whatever it still sends.

    Returns the deadline, for the caller to cancel in `connectionLost`. The caller discards what it
    receives from now on.
    """
    transport.unregisterProducer()  # A paused producer would keep the write side open.
    if ISSLTransport.providedBy(transport):
        # Waits for the peer's close_notify by itself. A half-close of the socket below
        # (the attribute is there, by delegation) would cut off what TLS has not written.
        transport.loseConnection()
    elif unsent(transport):
        transport.loseWriteConnection()
        transport.doWrite()  # If the kernel takes it all, FIN goes out without another turn.
    else:
        # As those two would, but without two calls of epoll_ctl and an empty write (26.10,
        # internet/abstract.py, `FileDescriptor.doWrite`).
        below = lowest(transport)
        below._writeDisconnecting = below._writeDisconnected = True
        below._closeWriteConnection()
    transport.resumeProducing()  # A transport that does not read does not see the peer's FIN.
    return Deadline(reactor, timeout, delivery(transport), expired or transport.abortConnection)
