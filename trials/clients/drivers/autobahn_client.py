"""Autobahn on Twisted. It offers compression only if it is told to."""

from collections.abc import Iterable
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    connectWS,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from clients.drivers.harness import LIMIT, SUBPROTOCOL, Given, tell
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorCore
from twisted.internet.task import react
from twisted.python.failure import Failure


class Ask(WebSocketClientProtocol):  # type: ignore[misc]
    """Gives the one message of the server."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.saw = payload.decode()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.end(self.factory.saw)


class Echo(WebSocketClientProtocol):  # type: ignore[misc]
    """Gives what it saw of the end."""

    _limit: IDelayedCall | None = None

    def onConnect(self, response: Any) -> None:
        self._limit = self.factory.reactor.callLater(LIMIT, self.transport.abortConnection)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        self.factory.end(f"closed with {code}: {reason}" if reason else f"closed with {code}")


class Factory(WebSocketClientFactory):  # type: ignore[misc]
    def __init__(self, url: str, protocol: type[WebSocketClientProtocol]) -> None:
        super().__init__(url, protocols=[SUBPROTOCOL])
        self.protocol = protocol
        self.saw = ""
        self.ended: Deferred[str] = Deferred()

    def end(self, saw: str) -> None:
        self.ended.callback(saw)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.ended.errback(reason)


def accept(response: Any) -> PerMessageDeflateResponseAccept | None:
    if isinstance(response, PerMessageDeflateResponse):
        return PerMessageDeflateResponseAccept(response)
    return None


def connect(url: str, protocol: type[WebSocketClientProtocol]) -> "Deferred[str]":
    factory = Factory(url, protocol)
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=accept,
    )
    connectWS(factory)
    return factory.ended


async def work(given: Given, cases: Iterable[int]) -> None:
    for case in cases:
        try:
            tell(case, await connect(given.case(case), Echo))
        except Exception as e:
            tell(case, e)


async def run(given: Given) -> None:
    cases = iter(given.cases(await connect(given.count, Ask)))
    await gatherResults([ensureDeferred(work(given, cases)) for _ in range(given.atOnce)])
    await connect(given.update, Echo)


def main(reactor: IReactorCore) -> "Deferred[None]":
    return ensureDeferred(run(Given()))


react(main)
