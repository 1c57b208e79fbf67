"""How a connection ends, and what may still happen to it meanwhile.

`transport.loseConnection()` closes the socket as soon as the last byte is written. If the
peer had sent something that was not read yet, the kernel then answers with a reset, and a
reset throws away what the peer has not read: the close frame, the 413, the last echo. So
an end here is what nginx calls a lingering close: write what is left, say FIN, throw away
what still arrives, and wait for the peer's FIN. A deadline aborts it once nothing moves any more:
eight megabytes of echo take a slow client ten seconds, and it may have all of them.

This module is also the one place that reads private attributes of Twisted's transports.
"""

import select
from array import array
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol

STEPS = 5
"""Times that a deadline looks. More would be more exact, and wake the process more often."""


class Deadline:
    """Calls `late` when nothing has `moved` for `timeout` seconds.

    `moved` is asked STEPS times in these, and says whether anything has since it was asked before.
    So it takes up to a step longer. Each step is a timer of its own, and before `late` the
    reactor has one more turn, in which it reads: if the process was stopped meanwhile (SIGSTOP, a
    virtual machine that was paused), all but one of the steps still have their length, and
    what the kernel has got from the peer counts.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        timeout: float,
        moved: Callable[[], bool],
        late: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._step = timeout / STEPS
        self._moved = moved
        self._late = late
        self._wait(STEPS)

    def _wait(self, left: int) -> None:
        delay = self._step if left else 0
        self._call: IDelayedCall = self._reactor.callLater(delay, self._look, left)

    def _look(self, left: int) -> None:
        if self._moved():
            self._wait(STEPS)
        elif left:
            self._wait(left - 1)
        else:
            self._late()

    def active(self) -> bool:
        return bool(self._call.active())

    def cancel(self) -> None:
        self._call.cancel()


def delivery(transport: Any) -> Callable[[], bool]:
    """Says, each time that it is called, whether the peer has acknowledged anything since the
    time before, of what is `waiting` for it."""
    before = waiting(transport)

    def moved() -> bool:
        nonlocal before
        then, before = before, waiting(transport)
        return before < then

    return moved


_NOTIFY = 64
"""Bytes that TLS takes for a close_notify, at most: 31 in TLS 1.2, 24 in TLS 1.3."""


def isEnding(transport: Any) -> bool:
    """Whether the peer of a `transport` that is not read has said that it sends no more.

    A FIN is seen behind anything else. A close_notify is looked for, that is, read, if it is all
    that is there; it then ends the connection by itself.
    """
    below = lowest(transport)
    unread = array("i", [0])
    with suppress(OSError, ValueError, AttributeError):  # Linux has POLLRDHUP.
        fd = below.getHandle().fileno()
        poll = select.poll()
        poll.register(fd, select.POLLRDHUP)
        if poll.poll(0):
            return True
        ioctl(fd, FIONREAD, unread)
    if ISSLTransport.providedBy(transport) and 0 < unread[0] <= _NOTIFY:
        below.doRead()
    return False


def linger(
    transport: Any,
    reactor: IReactorTime,
    timeout: float,
    late: Callable[[], object] | None = None,
) -> Deadline:
    """End `transport` in order. When for `timeout` seconds the peer has neither followed nor
    acknowledged anything of what waits for it, `late` is called, or else it is aborted. So a peer
    to which all is delivered has `timeout` seconds, whatever it still sends.

    Returns the deadline, to be cancelled in `connectionLost`. The caller discards what is
    received from now on.
    """
    transport.unregisterProducer()  # A paused producer would keep the write side open.
    if ISSLTransport.providedBy(transport):
        # Waits for the peer's close_notify by itself. A half-close of the socket below
        # (the attribute is there, by delegation) would cut off what TLS has not written.
        transport.loseConnection()
    else:
        transport.loseWriteConnection()
        transport.doWrite()  # Now, if nothing is unsent, and not in a turn of the reactor's own.
    transport.resumeProducing()  # The peer's FIN is not seen by a transport that does not read.
    return Deadline(reactor, timeout, delivery(transport), late or transport.abortConnection)


def isPlain(transport: Any) -> bool:
    """Whether `transport` writes to a socket what it is given, without TLS."""
    return not ISSLTransport.providedBy(transport) and transport.getHandle().fileno() >= 0


def isAtRest(transport: Any) -> bool:
    """Whether nothing waits to be written, and nothing will begin to read by itself."""
    return not (unsent(transport) or transport.producerPaused or transport.disconnecting)


def waiting(transport: Any) -> int:
    """Bytes written to `transport` that the peer has not acknowledged, as far as can be known.

    The kernel takes megabytes at once, so `unsent` alone stands still for minutes while a slow
    peer reads. What the peer's kernel holds for its program is invisible here.
    """
    transport = lowest(transport)
    queued = array("i", [0])
    # Linux calls it SIOCOUTQ; where it is not known, nothing is.
    with suppress(OSError, ValueError):
        ioctl(transport.getHandle().fileno(), TIOCOUTQ, queued)
    return unsent(transport) + queued[0]


def lowest(transport: Any) -> Any:
    """The socket's own transport. TLS and PROXY wrappers would delegate to it, at 2 µs for each
    attribute."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def unsent(transport: Any) -> int:
    """Bytes written to `transport` that the kernel has not taken yet.

    Twisted has no public way to ask (twisted/internet/abstract.py, FileDescriptor, 26.10).
    """
    transport = lowest(transport)
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


def send(transport: Any, data: bytes) -> None:
    """Write, now if the kernel takes it.

    `transport.write` only keeps the data for the reactor's next turn, and Twisted's TLS keeps it
    for a turn before that, in the hope of more.
    """
    if isinstance(transport, BufferingTLSTransport) and not transport.disconnecting:
        transport._aggregator.flush()  # What was written and waits comes first.
        TLSMemoryBIOProtocol.write(transport, data)
        below: Any = transport.transport
        below.doWrite()  # If that fails, so will the reactor's next, which says so.
        return
    if not ISSLTransport.providedBy(transport) and not unsent(transport):
        sent = transport.writeSomeData(data)
        if isinstance(sent, int):
            data = data[sent:]
    if data:
        transport.write(data)
