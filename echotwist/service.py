"""The service: listen, be ready, drain."""

import math
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import DeferredList, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from echotwist.fastpath import lending
from echotwist.fatal import Fatal
from echotwist.http.channel import Channel
from echotwist.listen.ports import Listener, Listening
from echotwist.websocket.connection import EchoFactory, EchoProtocol

_SPREAD = 20
"""Steps in which a drain says 1001 to everybody, so that not all clients return at once."""

_STEP = 0.05
"""Seconds between two steps."""

_log = Logger(namespace="echotwist")


class EchoService(Listening):
    """Serves the connections of `factory` on `listeners`; its `stopService` drains."""

    def __init__(self, reactor: Any, listeners: Sequence[Listener], factory: EchoFactory) -> None:
        super().__init__(reactor, listeners)
        self.factory = factory

    @property
    def connected(self) -> int:
        return len(self.factory.connections)

    def isAlive(self) -> bool:
        return self.factory.fastPath is None or not self.factory.fastPath.hanging()

    @property
    def drainTimeout(self) -> float:
        return self.factory.limits.drainTimeout

    def startService(self) -> None:
        super().startService()
        if self.factory.fastPath is not None:
            try:
                self.factory.fastPath.start()
            except (OSError, RuntimeError) as e:
                raise Fatal(f"cannot start {self.factory.fastPath.threads} threads: {e}") from e

    def _ready(self) -> None:
        super()._ready()
        if self.factory.fastPath is not None:
            _log.info("fast path: threads: {count}", count=self.factory.fastPath.threads)
        else:
            why = lending.whyNot or "it is turned off"
            _log.info("no fast path, {why}: Autobahn echoes everything", why=why)
        _log.info("taking up to {count:,} connections", count=self.factory.limits.maxConnections)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Drain. Fires when every client is gone, at the latest after the drain limit."""
        Service.stopService(self)
        started = self._reactor.seconds()
        emptied = self.factory.drain()
        closed = self._stopListening(isAdmin=False)
        leaving = list(self.factory.connections)
        if leaving:
            _log.info("draining, with {count:,} connected", count=len(leaving))
        deadline = self._reactor.callLater(self.factory.limits.drainTimeout, self.hurry)
        self._askToLeave(leaving, math.ceil(len(leaving) / _SPREAD))
        yield DeferredList([emptied, self._answerTheRest()])
        for channel in self._channels():
            channel.loseConnection()  # Writes what it still has.
        if deadline.active():
            deadline.cancel()
        yield closed
        # Until now an operator could look on.
        yield self._stopListening(isAdmin=True)
        if self.factory.fastPath is not None:
            self.factory.fastPath.stop()
        self.factory.journal.flush()
        if leaving:
            _log.info("drained in {seconds:.1f} s", seconds=self._reactor.seconds() - started)

    def _askToLeave(self, leaving: list[EchoProtocol], many: int) -> None:
        for connection in leaving[:many]:
            connection.goAway()
        if rest := leaving[many:]:
            self._reactor.callLater(_STEP, self._askToLeave, rest, many)

    @inlineCallbacks
    def _answerTheRest(self) -> Any:
        """Give those a second who were accepted just before, and have not asked yet.

        They are told 503. Who never asks, as a browser's spare connection does, would keep the
        drain from its end if it were given more.
        """
        for _ in range(_SPREAD):
            if all(channel.isAnswered for channel in self._channels()):
                break
            yield deferLater(self._reactor, _STEP)

    def hurry(self) -> None:
        """End a drain at once."""
        self.factory.abortAll()
        for channel in self._channels():
            channel.transport.abortConnection()

    def _channels(self) -> list[Channel]:
        return [
            channel for site in {each.site for each in self._listeners} for channel in site.channels
        ]
