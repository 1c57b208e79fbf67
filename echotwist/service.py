"""The service: listen, be ready, drain."""

import math
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import DeferredList, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from echotwist.fastpath import lending, openssl
from echotwist.fastpath.lending import FastPath
from echotwist.fatal import Fatal
from echotwist.http.channel import Channel
from echotwist.listen.ports import ListenService, ListenSpec
from echotwist.listen.tls import certificatesOf
from echotwist.websocket.connections import Connections, Member
from echotwist.wire.context import Context

_SPREAD = 20
"""Steps in which a drain says 1001 to all clients, so that they do not all reconnect at once."""

_STEP = 0.05
"""Seconds between two steps."""

_log = Logger(namespace="echotwist")


class EchoService(ListenService):
    """Serves `connections` where `specs` say; its `stopService` drains."""

    def __init__(
        self,
        context: Context,
        specs: Sequence[ListenSpec],
        connections: Connections,
        fastPath: FastPath | None,
    ) -> None:
        super().__init__(context.reactor, specs)
        self.context = context
        self.connections = connections
        self.fastPath = fastPath

    @property
    def connected(self) -> int:
        return len(self.connections.open)

    def isAlive(self) -> bool:
        return self.fastPath is None or not self.fastPath.hanging()

    @property
    def drainTimeout(self) -> float:
        return self.context.limits.drainTimeout

    def startService(self) -> None:
        super().startService()
        if self.fastPath is not None:
            try:
                self.fastPath.start()
            except (OSError, RuntimeError) as e:
                raise Fatal(f"cannot start {self.fastPath.threads} threads: {e}") from e

    def _ready(self) -> None:
        super()._ready()
        if self.fastPath is not None:
            _log.info("fast path: threads: {count}", count=self.fastPath.threads)
            if lending.whyNotDeflate:
                why = lending.whyNotDeflate
                _log.info("compressed messages stay with the reactor: {why}", why=why)
            hasTls = certificatesOf(spec.endpoint for spec in self._specs)
            if hasTls and (why := openssl.whyNot()):
                _log.info("TLS stays with the reactor: {why}", why=why)
        else:
            why = lending.whyNot or "it is turned off"
            _log.info("no fast path, {why}: Autobahn echoes everything", why=why)
        _log.info("taking up to {count:,} connections", count=self.context.limits.maxConnections)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Drain. Fires when every client is gone, and soon after --drain-timeout at the latest."""
        Service.stopService(self)
        started = self._reactor.seconds()
        emptied = self.connections.drain()
        closed = self._stopListening(isAdmin=False)
        leaving = list(self.connections.open)
        if leaving:
            _log.info("draining, with {count:,} connected", count=len(leaving))
        deadline = self._reactor.callLater(self.drainTimeout, self.abortDrain)
        self._askToLeave(leaving, math.ceil(len(leaving) / _SPREAD))
        yield DeferredList([emptied, self._answerTheRest()])
        for channel in self._channels():
            channel.loseConnection()  # After what it has written.
        if deadline.active():
            deadline.cancel()
        yield closed
        # Last, so that an operator could watch the drain.
        yield self._stopListening(isAdmin=True)
        if self.fastPath is not None:
            self.fastPath.stop()
        self.context.journal.flush()
        if leaving:
            _log.info("drained in {seconds:.1f} s", seconds=self._reactor.seconds() - started)

    def _askToLeave(self, leaving: list[Member], many: int) -> None:
        for connection in leaving[:many]:
            connection.goAway()
        if rest := leaving[many:]:
            self._reactor.callLater(_STEP, self._askToLeave, rest, many)

    @inlineCallbacks
    def _answerTheRest(self) -> Any:
        """Give a second to connections that were accepted just before, and whose request has not
        arrived yet. Each gets a 503. Some never ask, such as a browser's spare connection, and
        would hold up the drain if they had more time.
        """
        for _ in range(_SPREAD):
            if all(each.isAnswered and not each.hasLeft for each in self._channels()):
                break
            yield deferLater(self._reactor, _STEP)

    def abortDrain(self) -> None:
        """End a drain at once."""
        self.connections.abortAll()
        for channel in self._channels():
            channel.transport.abortConnection()

    def _channels(self) -> list[Channel]:
        return [
            channel for site in {each.site for each in self._specs} for channel in site.channels
        ]
