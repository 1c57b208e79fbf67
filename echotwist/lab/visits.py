"""How often a client has come with the same URL, for the step `accepts`."""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise

from twisted.internet.interfaces import IReactorTime

from echotwist.limits import LAB_VISIT, LAB_VISITS

TIMED = 9
"""Visits that are timed, from the first: a client that waits longer each time has reached its limit
by then."""


@dataclass
class Visitor:
    """A client, and a URL that it comes with."""

    count: int = 0
    """Visits until now."""

    times: list[float] = field(default_factory=list)
    last: float = 0.0

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds from each visit to the next, of the first TIMED."""
        return tuple(after - before for before, after in pairwise(self.times))


class Visits:
    """Those of the last LAB_VISIT seconds."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._visitors: dict[bytes, Visitor] = {}
        """By a digest, as a URL may have 16 KB; the last that came is the last."""

    def add(self, client: str, url: bytes) -> Visitor:
        """`client` comes with `url`."""
        now = self._reactor.seconds()
        while self._visitors and now - next(iter(self._visitors.values())).last >= LAB_VISIT:
            del self._visitors[next(iter(self._visitors))]
        key = hashlib.sha256(b"%b %b" % (client.encode(), url)).digest()
        visitor = self._visitors.pop(key, None) or Visitor()
        visitor.count += 1
        visitor.last = now
        if len(visitor.times) < TIMED:
            visitor.times.append(now)
        self._visitors[key] = visitor
        if len(self._visitors) > LAB_VISITS:
            del self._visitors[next(iter(self._visitors))]
        return visitor
