"""The whole service in memory: real Twisted transports, the sockets of which are two buffers.

Everything from the bytes of the request to the bytes of the echo is what runs in production,
Twisted's buffers, producers and half-closes included; only time and the kernel are ours.

Or, with `Service.isFast`, the whole service with the fast path: its loops do not run on threads
but are turned here, at our time, so that tests remain exact; and since they want descriptors, the
sockets are the kernel's, with as little room in them as it allows.
"""

import array
import errno
import fcntl
import itertools
import math
import os
import select
import socket
import struct
import termios
from collections import deque
from dataclasses import replace
from typing import Any, ClassVar

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from echotwist.service import EchoService
from echotwist.tap import Options, makeService
from echotwist.testing.frames import Frame, parse
from echotwist.testing.raw import request


class Socket:
    """What Twisted needs of a socket. `window` is how many bytes the peer still takes."""

    def __init__(self) -> None:
        self.arriving = bytearray()
        self.sent = bytearray()
        self.window: float = float("inf")
        self.peerDone = False
        self.fin = self.closed = self.reset = self.broken = False

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        pass

    def getsockopt(self, level: int, option: int) -> int:
        return 1

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if option == socket.SO_LINGER:
            self.reset = value == struct.pack("ii", 1, 0)

    def recv(self, size: int) -> bytes:
        if self.arriving:
            data = bytes(self.arriving[:size])
            del self.arriving[:size]
            return data
        if self.peerDone:
            return b""
        raise OSError(errno.EWOULDBLOCK, "nothing there")

    def send(self, data: Any) -> int:
        if self.broken:
            raise OSError(errno.EPIPE, "the peer is gone")
        if not self.window:
            raise OSError(errno.EWOULDBLOCK, "the peer does not read")
        n = int(min(len(data), self.window))
        self.sent += data[:n]
        self.window -= n
        return n

    def shutdown(self, how: int) -> None:
        self.fin = True

    def close(self) -> None:
        self.closed = True


def isReady(file: Any, events: int) -> bool:
    """Whether a descriptor has one of these events. select() knows none above 1023."""
    poll = select.poll()
    poll.register(file, events)
    return any(found & (events | select.POLLERR) for _, found in poll.poll(0))


class KernelSocket(socket.socket):
    """As Socket, with a descriptor. `window` is how many bytes the peer still reads; the kernel
    takes a few thousand more."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self.theirs.setblocking(False)
        super().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.arriving = bytearray()
        self.sent = bytearray()
        self.window: float = float("inf")
        self.peerDone = self._isFinished = False
        self.fin = self.closed = self.reset = False

    def setsockopt(self, level: int, option: int, value: Any) -> None:  # type: ignore[override]
        if option == socket.SO_LINGER:
            self.reset = value == struct.pack("ii", 1, 0)

    def getsockopt(self, level: int, option: int) -> int:  # type: ignore[override]
        return 1

    @property
    def broken(self) -> bool:
        return False

    @broken.setter
    def broken(self, value: bool) -> None:
        self.theirs.shutdown(socket.SHUT_RD)

    def shutdown(self, how: int) -> None:
        self.fin = True
        super().shutdown(how)

    def close(self) -> None:
        self.closed = True
        super().close()

    def __del__(self) -> None:
        super().close()
        self.theirs.close()

    def isReadable(self) -> bool:
        return not self.closed and isReady(self, select.POLLIN | select.POLLHUP)

    def isWritable(self) -> bool:
        return not self.closed and isReady(self, select.POLLOUT)

    def unread(self) -> int:
        """Bytes that the service has not read yet."""
        there = array.array("i", [0])
        if not self.closed:
            fcntl.ioctl(self.fileno(), termios.FIONREAD, there)
        return there[0]

    def move(self) -> bool:
        """What the kernel and the peer do. Returns whether anything was moved."""
        moved = False
        try:
            while self.arriving:
                n = self.theirs.send(self.arriving[:65536])
                del self.arriving[:n]
                moved = True
        except BlockingIOError:
            pass
        except OSError:  # The service has closed it.
            self.arriving.clear()
        if self.peerDone and not self.arriving and not self._isFinished:
            self._isFinished = moved = True
            self.theirs.shutdown(socket.SHUT_WR)
        try:
            while self.window and (data := self.theirs.recv(int(min(self.window, 65536)))):
                self.sent += data
                self.window -= len(data)
                moved = True
        except OSError:
            pass
        return moved


class Unthreaded:
    """What stands in for the thread of a loop."""

    def __init__(self, target: Any, args: tuple[Any], daemon: bool) -> None:
        (self.loop,) = args

    def start(self) -> None:
        pass

    def join(self) -> None:
        self.loop.run()  # It was told to stop.


class Hung:
    """Stands in for a loop on its thread, while that one does not turn."""

    def turn(self, now: float) -> int:
        return 0

    def due(self) -> float:
        return math.inf


class Reactor(MemoryReactorClock):
    def advance(self, amount: float) -> None:
        """As the real one: a timer that is set for now waits for the next turn."""
        self.rightNow += amount
        self.callDue()

    def callDue(self) -> bool:
        """Returns whether any timer was due."""
        self._sortCalls()
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        for call in due:
            if call.active() and call.getTime() <= self.seconds():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        return bool(due)


class Transport(Connection):
    def __init__(self, skt: Any, protocol: Any, reactor: Any, peer: Any) -> None:
        super().__init__(skt, protocol, reactor)
        self._peer = peer
        self.connected = True
        self.startReading()
        protocol.makeConnection(self)

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 8080)


class Client:
    """One connection to a `Service`, seen from its other end."""

    def __init__(self, service: "Service", peer: Any = None) -> None:
        self.service = service
        self.socket: Any = KernelSocket() if service.isFast and service.lends else Socket()
        peer = peer or IPv4Address("TCP", "127.0.0.1", 40000 + len(service.clients))
        protocol = service.site.buildProtocol(peer)
        self.transport = Transport(self.socket, protocol, service.reactor, peer)
        if not self.socket.closed:
            service.clients.append(self)

    def send(self, data: bytes, segment: int | None = None) -> None:
        """Send, in segments of so many bytes, and let the service act."""
        for start in range(0, len(data), segment or len(data) or 1):
            self.socket.arriving += data[start : start + (segment or len(data))]
            self.service.run()

    def finish(self) -> None:
        """Say FIN, as close() or shutdown(SHUT_WR) do."""
        self.socket.peerDone = True
        self.service.run()

    def received(self) -> bytes:
        """What the service has sent since the last call."""
        data = bytes(self.socket.sent)
        self.socket.sent.clear()
        return data

    def open(self, **changes: Any) -> "Client":
        """Shake hands."""
        self.send(request(**changes))
        return self.opened()

    def opened(self) -> "Client":
        """Read the answer to the handshake."""
        head, _, rest = self.received().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.socket.sent += rest
        return self

    def frames(self) -> list[Frame]:
        return parse(self.received())

    @property
    def protocol(self) -> Any:
        return self.transport.protocol

    @property
    def reading(self) -> bool:
        """Whether the service reads from this connection."""
        if getattr(self.protocol, "isLent", False):
            return bool(self.socket.unread() == 0)
        return self.transport in self.service.reactor.readers


class Service:
    """The service with these command-line options."""

    isFast = False
    """Whether with the fast path; the fixture `way` sets it for a test."""

    _open: ClassVar[deque["Service"]] = deque()

    def __init__(
        self,
        *arguments: str,
        isFast: bool | None = None,
        lends: bool = True,
        holds: bool = True,
        isSliced: bool = False,
    ) -> None:
        """`lends` False: the sockets have no descriptors, so that the fast path does for them
        what it does for TLS. `holds` False: its loops may hold nothing in memory. `isSliced`: a
        slice ends after one frame, one line of a request, or one piece of a message, and one is
        worked on in a turn of the reactor. Else none ends, however slow the machine is."""
        if isFast is not None:
            self.isFast = isFast
        self.lends = lends
        options = Options()
        way = [] if self.isFast else ["--no-fast-path"]
        # Another port is bound for real where a test starts the service.
        options.parseOptions(["--port=0", *way, *arguments])
        self.reactor = Reactor()
        self.tree = makeService(options, self.reactor)
        self.echo: Any = next(s for s in self.tree.services if isinstance(s, EchoService))
        self.site = self.echo._specs[0].site
        self.context = self.echo.context
        # A second for each look; or the reactor's clock, which stands still.
        clock = itertools.count().__next__ if isSliced else self.reactor.seconds
        self.context.turns.clock = clock
        self.connections = self.echo.connections
        self.echoes = self.site.resource.children[b"echo"]._factory
        self.clients: list[Client] = []
        self.isFast = self.fastPath is not None
        if self.isFast:
            self.fastPath.Thread = Unthreaded
            if not holds:
                limits = self.fastPath._limits
                self.fastPath._limits = replace(limits, memoryBudget=0)
            self.fastPath.start()
            self.fastPath.start = lambda: None  # In some tests the service starts it again.
            self._open.append(self)
            if len(self._open) > 10:  # A test with hypothesis makes hundreds.
                self._open.popleft().close()

    @property
    def fastPath(self) -> Any:
        return self.echo.fastPath

    def close(self) -> None:
        """Let go of all descriptors."""
        for client in self.clients:
            client.socket.close()
            if self.lends:
                client.socket.theirs.close()
        fastPath = self.fastPath
        if fastPath.isRunning:
            os.close(fastPath.fileno())

    @classmethod
    def closeAll(cls) -> None:
        while cls._open:
            cls._open.pop().close()

    def start(self) -> None:
        """What the reactor does as it starts to run."""
        self.tree.startService()
        for hook, args, keywords in self.reactor.whenRunningHooks:
            hook(*args, **keywords)

    def connect(self, peer: Any = None) -> Client:
        return Client(self, peer)

    def open(self, **changes: str | None) -> Client:
        return self.connect().open(**changes)

    def crowd(self, count: int, data: bytes = b"") -> list[Client]:
        """So many open connections that have sent this, made at once: each that is opened alone
        has the service look at all."""
        clients = [self.connect() for _ in range(count)]
        for client in clients:
            client.socket.arriving += request() + data
        self.run()
        return [client.opened() for client in clients]

    def advance(self, seconds: float) -> None:
        """Let time pass, each timer at its time, the loops' own included."""
        end = self.reactor.seconds() + seconds
        self.run()  # What a test has just called takes effect now.
        while (due := self._due()) <= end:
            self._jumpTo(max(due, self.reactor.seconds()))
        self._jumpTo(end)

    def _jumpTo(self, time: float) -> None:
        self.reactor.advance(time - self.reactor.seconds())
        self.reactor.rightNow = time  # Exactly, unlike a sum of floats.
        self.run()

    def _due(self) -> float:
        """When the next timer is due; infinity if there is none."""
        timers = [call.getTime() for call in self.reactor.getDelayedCalls()]
        return min([*timers, *(loop.due() for loop in self._loops())], default=math.inf)

    def _loops(self) -> list[Any]:
        fastPath = self.fastPath
        if not self.isFast or not fastPath.isRunning:
            return []
        return [thread.loop for _, thread in fastPath._running]

    def run(self) -> None:
        """What the reactor does until nothing is left to do."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("the service does not come to rest")

    def turn(self) -> bool:
        """One turn of the reactor, and of the loops. Returns whether anything was done."""
        turned = [self._turn(client) for client in list(self.clients)]
        turned.append(self._turnLoops())
        turned.append(self.reactor.callDue())
        return any(turned)

    def _turn(self, client: Client) -> bool:
        transport, skt = client.transport, client.socket
        if isinstance(skt, KernelSocket):
            moved = skt.move()
            isReadable, isWritable = skt.isReadable(), skt.isWritable()
        else:
            moved = False
            isReadable, isWritable = skt.arriving or skt.peerDone, skt.window
        if transport in self.reactor.readers and isReadable:
            self._did(transport, transport.doRead(), isRead=True)
            return True
        if transport in self.reactor.writers and isWritable:
            self._did(transport, transport.doWrite(), isRead=False)
            return True
        return moved

    def _turnLoops(self) -> bool:
        if not (loops := self._loops()):
            return False
        ready = [loop.turn(self.reactor.seconds()) for loop in loops]
        fastPath = self.fastPath
        if isReady(fastPath, select.POLLIN):
            fastPath.doRead()
            return True
        # A loop that only looked at its clock may have sent a ping.
        return any([*ready, *(c.socket.move() for c in self.clients if self.lends)])

    def _did(self, transport: Transport, why: Any, isRead: bool) -> None:
        # As twisted.internet.posixbase._DisconnectSelectableMixin.
        if why is None:
            return
        self.reactor.removeReader(transport)
        if isRead and isinstance(why, ConnectionDone):
            transport.readConnectionLost(Failure(why))
        else:
            self.reactor.removeWriter(transport)
            transport.connectionLost(Failure(why))

    def timers(self) -> int:
        return len(self.reactor.getDelayedCalls())
