"""A path in memory: the probe, a hop that may misbehave, and the whole service, at one clock.

So a probe of ten minutes takes a moment, and its figures are exact.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IHostnameResolver
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.probe.probing import AREAS, Probing
from echotwist.probe.report import Report
from echotwist.probe.target import Target
from echotwist.testing.frames import Frame, frame, length, masked, take
from support.memory import Client, Service

LATENCY = 0.005
"""Seconds that anything takes from one end to the other."""


class Hop:
    """One connection on its way through a hop, which passes everything on. A hop that misbehaves
    overrides what comes: `began`, `toServer` and `toClient`."""

    def __init__(self, path: "Path", transport: "Transport", client: Client) -> None:
        self.path, self.reactor = path, path.reactor
        self._near, self._far = transport, client
        self._hasFin = self._isCut = False

    def began(self) -> None:
        """The client has connected."""

    def toServer(self, data: bytes) -> None:
        self.sendToServer(data)

    def toClient(self, data: bytes) -> None:
        self.sendToClient(data)

    def sendToServer(self, data: bytes) -> None:
        self._far.socket.arriving += data

    def sendToClient(self, data: bytes) -> None:
        self._near.arrives(data)

    def cut(self, how: str = "fin", *, client: bool = True, server: bool = True) -> None:
        """End it, on both sides or on one; `fin` or `rst`. On the other nothing is told, and
        nothing passes any more."""
        self._isCut = True
        if client:
            self._near.ends(how)
        if server and not self._far.socket.closed:
            if how == "fin":
                self._far.socket.peerDone = True
            else:
                self._far.transport.connectionLost(Failure(ConnectionLost()))
                self._far.socket.closed = True

    # What Path calls.

    def move(self) -> bool:
        """Pass on what has come; returns whether anything was done."""
        near, far = self._near, self._far
        up, near.written = bytes(near.written), bytearray()
        down = far.received()
        if self._isCut:
            return False
        if up:
            self.toServer(up)
        if down:
            self.toClient(down)
        if near.isDone and not far.socket.peerDone:
            far.socket.peerDone = True
            return True
        if (far.socket.fin or far.socket.closed) and not self._hasFin and not self._isCut:
            self._hasFin = True
            near.ends("rst" if far.socket.reset else "fin")
            return True
        return bool(up or down)


class Transport:
    """The probe's end of it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.protocol: Any = None
        self.written = bytearray()
        self.isDone = False
        self._isEnded = self.isPaused = False

    def write(self, data: bytes) -> None:
        if not self.isDone:
            self.written += data

    def arrives(self, data: bytes) -> None:
        if not self._isEnded:
            self._reactor.callLater(LATENCY, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self._isEnded:
            self.protocol.dataReceived(data)

    def ends(self, how: str) -> None:
        self._reactor.callLater(LATENCY, self._end, how)

    def _end(self, how: str) -> None:
        if self._isEnded:
            return
        if how == "fin":
            self.protocol.readConnectionLost()
        else:
            self._lose(ConnectionLost())

    def loseConnection(self) -> None:
        self._lose(ConnectionDone())

    def abortConnection(self) -> None:
        self._lose(ConnectionDone())

    def _lose(self, why: Exception) -> None:
        self.isDone = True
        if not self._isEnded:
            self._isEnded = True
            self.protocol.connectionLost(Failure(why))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def pauseProducing(self) -> None:
        self.isPaused = True

    def resumeProducing(self) -> None:
        self.isPaused = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getHandle(self) -> None:
        return None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8080)


class Path:
    """To a service with these options."""

    def __init__(self, hop: Callable[..., Hop] = Hop, *options: str) -> None:
        self.service = Service(*options, isFast=False)
        self.reactor: Any = self.service.reactor
        self.reactor.connectTCP = self._connectTcp  # type: ignore[method-assign]
        self.refuses = False
        """Whether TCP is refused."""

        self._hop = hop
        self._hops: list[Hop] = []

    def forgetNames(self, *, isMute: bool) -> None:
        """No name has an address any more; or the resolver never says so."""
        self.reactor.nameResolver = Resolver(isMute)

    def probe(
        self,
        seconds: float = 150,
        only: Sequence[str] = AREAS,
        *,
        url: str = "ws://127.0.0.1:8080/echo",
        until: float = math.inf,
        **options: Any,
    ) -> Report:
        """The report of a probe; it is interrupted after `until` seconds."""
        probing = Probing(self.reactor, Target.parse(url, **options), seconds, only)
        running = ensureDeferred(probing.run())
        report: Report = self.drive(running, until, running.cancel)
        return report

    def drive(
        self, running: Any, until: float = math.inf, interrupt: Callable[[], object] | None = None
    ) -> Any:
        """The result of a Deferred; `interrupt` is called after `until` seconds."""
        results: list[Any] = []
        running.addBoth(results.append)
        ends = self.reactor.seconds() + until
        for _ in range(1_000_000):
            self._settle()
            if results:
                if isinstance(results[0], Failure):
                    results[0].raiseException()
                return results[0]
            due = self.service._due()
            assert due < math.inf, "nothing happens any more"
            if interrupt is not None and due >= ends:
                interrupt()
                interrupt = None
            else:
                self.service._jumpTo(max(due, self.reactor.seconds()))
        raise AssertionError("it does not come to an end")

    def _settle(self) -> None:
        while any([*[hop.move() for hop in self._hops], self.service.turn()]):
            pass

    def _connectTcp(self, host: str, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
        connector = Connector()
        factory.doStart()
        if self.refuses:
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
            return connector
        transport = Transport(self.reactor)
        transport.protocol = factory.buildProtocol(transport.getPeer())
        hop = self._hop(self, transport, self.service.connect())
        self._hops.append(hop)
        transport.protocol.makeConnection(transport)
        hop.began()
        return connector


@implementer(IHostnameResolver)
class Resolver:
    def __init__(self, isMute: bool) -> None:
        self._isMute = isMute

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolutionReceiver.resolutionBegan(None)
        if not self._isMute:
            resolutionReceiver.resolutionComplete()


class Connector:
    def stopConnecting(self) -> None:
        pass


class HeadHop(Hop):
    """Sees the heads. `request` and `response` give what is passed on instead; None is nothing.
    What comes after a 101 goes through `up` and `down`."""

    def began(self) -> None:
        self._ways = {"up": bytearray(), "down": bytearray()}
        self.isUpgraded = False
        self.sawRequest = b""

    def request(self, head: bytes) -> bytes | None:
        return head

    def response(self, head: bytes) -> bytes | None:
        return head

    def up(self, data: bytes) -> None:
        self.sendToServer(data)

    def down(self, data: bytes) -> None:
        self.sendToClient(data)

    def toServer(self, data: bytes) -> None:
        if self.isUpgraded:
            self.up(data)
            return
        self.sawRequest = data
        if (head := self.request(data)) is not None:
            self.sendToServer(head)

    def toClient(self, data: bytes) -> None:
        if self.isUpgraded:
            self.down(data)
            return
        head, end, rest = data.partition(b"\r\n\r\n")
        self.isUpgraded = head.startswith(b"HTTP/1.1 101 ")
        if (changed := self.response(head + end)) is not None:
            self.sendToClient(changed)
        if rest:
            self.toClient(rest) if self.isUpgraded else self.sendToClient(rest)


class FrameHop(HeadHop):
    """Sees the frames after the 101, unmasked. `frameUp` and `frameDown` pass them on."""

    def began(self) -> None:
        super().began()
        self._fromClient, self._fromServer = bytearray(), bytearray()

    def up(self, data: bytes) -> None:
        self._fromClient += data
        while (taken := takeMasked(self._fromClient)) is not None:
            found, end = taken
            del self._fromClient[:end]
            self.frameUp(found)

    def down(self, data: bytes) -> None:
        self._fromServer += data
        while (taken := take(self._fromServer)) is not None:
            found, end = taken
            del self._fromServer[:end]
            self.frameDown(found)

    def frameUp(self, found: Frame) -> None:
        self.sendToServer(masking(found))

    def frameDown(self, found: Frame) -> None:
        self.sendToClient(unmasking(found))


def masking(found: Frame) -> bytes:
    """A frame of a client."""
    return frame(found.opcode, found.payload, fin=found.fin, rsv=found.rsv)


def unmasking(found: Frame) -> bytes:
    """A frame of a server."""
    first = (found.fin << 7) | (found.rsv << 4) | found.opcode
    return bytes([first]) + length(len(found.payload), masked=False) + found.payload


def takeMasked(data: bytearray) -> tuple[Frame, int] | None:
    """The frame of a client at the beginning, and its end; None if a part of it is missing."""
    if len(data) < 2:
        return None
    size = data[1] & 127
    start = {126: 4, 127: 10}.get(size, 2)
    if size > 125:
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + 4 + size:
        return None
    payload = masked(bytes(data[start + 4 : start + 4 + size]), bytes(data[start : start + 4]))
    found = Frame(data[0] & 15, payload, bool(data[0] & 128), data[0] >> 4 & 7)
    return found, start + 4 + size
