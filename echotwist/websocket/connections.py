"""The connections that are open: how many may be, and how they all end."""

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from echotwist.wire.context import Context


class Member(Protocol):
    """What has a place."""

    network: Hashable

    def goAway(self) -> None: ...

    def abort(self) -> None: ...


class Connection(Member, Protocol):
    """An open connection."""

    number: int
    address: str
    opened: float


class Connections:
    """Numbers them, from `numbers`, and counts them by the network of their client."""

    def __init__(self, context: Context, numbers: Iterator[int] | None = None) -> None:
        self.open: set[Member] = set()
        self.draining = False
        self._context = context
        self._numbers = numbers or itertools.count(1)
        self._perNetwork: Counter[Hashable] = Counter()
        self._emptied: Deferred[None] | None = None

    def unavailable(self, network: Hashable = None) -> str | None:
        """Why there is no place for another connection of the client that `network` stands for;
        None if there is."""
        limits = self._context.limits
        if self.draining:
            return "the server is going away"
        if len(self.open) >= limits.maxConnections:
            return "all connections are taken"
        if network is not None and self._perNetwork[network] >= limits.maxConnectionsPerAddress:
            return "all connections of this address are taken"
        return None

    def add(self, connection: Connection) -> None:
        self.hold(connection)
        self.admit(connection)

    def admit(self, connection: Connection) -> None:
        """Number one that has its place, and log it: it is answered with 101."""
        connection.number = next(self._numbers)
        connection.opened = self._context.reactor.seconds()
        self._context.journal.connected(connection)

    def remove(self, connection: Connection) -> None:
        lifetime = self._context.reactor.seconds() - connection.opened
        self._context.journal.totals.lifetimes.observe(lifetime)
        self.release(connection)

    def hold(self, member: Member) -> None:
        """Give a place to `member`. If it is no WebSocket, nobody numbers it, or logs it."""
        if member.network is not None:
            self._perNetwork[member.network] += 1
        self.open.add(member)

    def release(self, member: Member) -> None:
        if member.network is not None and member in self.open:
            self._perNetwork[member.network] -= 1
            if not self._perNetwork[member.network]:
                del self._perNetwork[member.network]
        self.open.discard(member)
        if self._emptied is not None and not self.open:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def drain(self) -> "Deferred[None]":
        """Take no further connection. Fires when all that are open have gone."""
        self.draining = True
        if not self.open:
            return succeed(None)
        self._emptied = Deferred()
        return self._emptied

    def abortAll(self) -> None:
        """Drop all that are open, at once."""
        for connection in list(self.open):
            connection.abort()
