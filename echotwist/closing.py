"""How a connection ends, and what may still happen to it meanwhile.

`transport.loseConnection()` closes the socket as soon as the last byte is written. If the
peer had sent something that was not read yet, the kernel then answers with a reset, and a
reset throws away what the peer has not read: the close frame, the 413, the last echo. So
an end here is what nginx calls a lingering close: write what is left, say FIN, throw away
what still arrives, and wait for the peer's FIN, until a deadline aborts it.

This module is also the one place that reads private attributes of Twisted's transports.
"""

from array import array
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol


def linger(transport: Any, reactor: IReactorTime, timeout: float) -> IDelayedCall:
    """End `transport` in order; abort it if the peer has not followed after `timeout` seconds.

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
    return reactor.callLater(timeout, transport.abortConnection)


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
