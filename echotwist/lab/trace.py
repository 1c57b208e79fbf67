"""What the server saw of a connection, kept for whoever has the ID of the trace.

The client chooses the ID, at random, so the ID is the secret: traces are never listed, and nobody
has to log in. It names one connection, until it expires; else a client that connects again by
itself would replace the trace of its failure.

A trace is a timeline of events, which have the names of the methods of `Observer`. It has room for
the first and the last LAB_TRACE_EVENTS of them, and for as many segments: the first tell how it
began, and the last why it ended. Events are numbered, also those that are left out.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

from echotwist.lab.agreement import Agreement, Offers
from echotwist.lab.observer import SHOWN, Frame, Observer
from echotwist.lab.redaction import headersOf
from echotwist.limits import (
    LAB_TRACE_EVENTS,
    LAB_TRACE_LIFETIME,
    LAB_TRACES,
    LAB_TRACES_BYTES,
)
from echotwist.wire.context import Context

_TRACE = 4000
"""Bytes of memory that a trace takes without its events."""

_EVENT = 500
"""Bytes that an event takes, which is most often a frame."""

_SEGMENT = 200
_HEADER = 150
"""Bytes that a header of the request takes, beside its text."""

_NO_OFFERS = Offers(b"")

_ENDED_BY = {
    "fin": ("client", "fin"),
    "eof": ("client", "fin"),
    "rst": ("client", "rst"),
    "us": ("server", "drop"),
}
"""Who began the end, and how, by what `lost` says, if nothing else has told before."""


class Taken(KeyError):
    """There is a trace with this ID."""


class Full(Exception):
    """There are LAB_TRACES traces, of connections that have not ended."""


class Tls(TypedDict):
    version: str
    """Such as TLSv1.3."""

    cipher: str
    serverName: str | None
    """The name that the client asked for (SNI); None if for none."""


class Facts(Agreement, total=False):
    """What is known of a connection, and is no event."""

    peer: str
    """Of the TCP connection, as the log has it: `192.0.2.1:40312`."""

    client: str | None
    """Whom the proxies name; None if none is believed."""

    proxies: Sequence[str]
    """The addresses of those that are believed, the nearest first."""

    tls: Tls | None
    case: str | None
    verdict: Mapping[str, Any] | None
    """A `Verdict` of `judge` as a dict."""


class Ended(TypedDict):
    """The end of a connection."""

    time: int
    by: str
    """Who began it: "client" or "server"."""

    how: str
    """By what: "close", a close frame; "fin"; "rst"; or "drop"."""

    tcp: str
    """How TCP ended; see `Observer.lost`."""


class Event(NamedTuple):
    number: int
    """From 0 on."""

    time: int
    """Microseconds since accept."""

    kind: str
    """The method of `Observer` that told of it."""

    what: Any
    """A Frame; the size of a segment; the first line of the request and its headers; the head of
    the response; or a dict."""


class Reader(Protocol):
    """Somebody to whom a trace is being written."""

    def wake(self) -> None:
        """An event was added."""

    def abort(self) -> None:
        """The trace is forgotten, and its memory needed."""


class _Kept:
    """The first and the last events of those that were added. `take` says whether there is room for
    so many more bytes."""

    def __init__(self, take: Callable[[int], bool]) -> None:
        self._take = take
        self._count = 0
        self._first: list[Event] = []
        self._last: deque[Event] = deque(maxlen=LAB_TRACE_EVENTS)

    @property
    def leftOut(self) -> int:
        return self._count - len(self._first) - len(self._last)

    def add(self, event: Event, size: int) -> None:
        self._count += 1
        if len(self._first) < LAB_TRACE_EVENTS and not self._last:
            if self._take(size):
                self._first.append(event)
        elif len(self._last) == LAB_TRACE_EVENTS or self._take(size):
            self._last.append(event)
        elif self._last:
            self._last.popleft()
            self._last.append(event)

    def after(self, number: int) -> Iterator[Event]:
        """The events that have greater numbers, the last of them first."""
        backwards = chain(reversed(self._last), reversed(self._first))
        return takewhile(lambda event: event.number > number, backwards)


class Trace(Observer):
    """One connection. What it is described with, it has as `facts`."""

    def __init__(self, traces: "Traces", traceId: str, accepted: float) -> None:
        """`accepted` is when TCP was, in seconds of the reactor's clock."""
        self.id = traceId
        self._traces = traces
        self._accepted = accepted
        self.began = traces.now() - (traces.seconds() - accepted)
        """When it was accepted, in seconds since 1970."""

        self.count = 0
        """Events, also those that are left out."""

        self.size = 0
        """Bytes of memory, as `Traces` counts them."""

        self.facts: Facts = {}
        self.ended: Ended | None = None
        """None while the connection is there."""

        self.readers: set[Reader] = set()

        self._events = _Kept(self._take)
        self._segments = _Kept(self._take)
        self._endedBy: tuple[str, str] | None = None
        self._offers = _NO_OFFERS

    @property
    def leftOut(self) -> dict[str, int]:
        """How many events are not kept."""
        return {"events": self._events.leftOut, "segments": self._segments.leftOut}

    def after(self, number: int) -> list[Event]:
        """The events with greater numbers, in their order. -1 for all that are kept."""
        found = [*self._events.after(number), *self._segments.after(number)]
        found.sort()  # By their numbers, no two of which are the same.
        return found

    def describe(self, **facts: Unpack[Facts]) -> None:
        """Add facts, at any time. After `lost` only at once: the reactor's next iteration tells
        readers the end."""
        self.facts.update(facts)

    # Observer's.

    def requested(self, request: bytes) -> None:
        first, *lines = request.rstrip(b"\r\n").split(b"\r\n")
        headers = list(headersOf(lines))
        self._offers = Offers(request)
        # What was offered, and later what was declined, takes no more again.
        self._note("requested", (first, headers), 3 * len(request) + _HEADER * len(headers))

    def opened(self, response: bytes) -> None:
        self._note("opened", response, _EVENT + len(response))
        self.describe(**self._offers.answered(response))
        self._offers = _NO_OFFERS

    def read(self, data: bytes) -> None:
        self._note("read", len(data), _SEGMENT, self._segments)

    def wrote(self, data: bytes) -> None:
        self._note("wrote", len(data), _SEGMENT, self._segments)

    def frameReceived(self, frame: Frame) -> None:
        self._note("frameReceived", frame)

    def frameSent(self, frame: Frame) -> None:
        self._note("frameSent", frame)

    def bytesSent(self, data: bytes) -> None:
        self._note("bytesSent", {"data": data[:SHOWN].hex()})

    def closeReceived(self, code: int | None, reason: bytes) -> None:
        self._endsBy("client", "close")

    def closeSent(self, code: int | None) -> None:
        self._endsBy("server", "close")

    def refused(self, code: int, reason: str) -> None:
        self._note("refused", {"code": code, "reason": reason})

    def scriptEnded(self) -> None:
        self._note("scriptEnded", {})

    def finReceived(self) -> None:
        self._endsBy("client", "fin")
        self._note("finReceived", {})

    def finSent(self) -> None:
        """We have ended our side of TCP."""
        self._endsBy("server", "fin")
        self._note("finSent", {})

    def lost(self, how: str) -> None:
        by, what = self._endedBy or _ENDED_BY[how]
        self._note("lost", {"how": how})
        self.ended = {"time": self._time(), "by": by, "how": what, "tcp": how}
        self._traces.ended(self)  # Not before, or it might make room for its own event.

    def _endsBy(self, by: str, how: str) -> None:
        """See Ended. Only the first counts."""
        self._endedBy = self._endedBy or (by, how)

    def _time(self) -> int:
        return round((self._traces.seconds() - self._accepted) * 1_000_000)

    def _note(self, kind: str, what: Any, size: int = _EVENT, kept: _Kept | None = None) -> None:
        if self.ended is not None:
            return
        (kept or self._events).add(Event(self.count, self._time(), kind, what), size)
        self.count += 1
        for reader in list(self.readers):
            reader.wake()

    def _take(self, size: int) -> bool:
        if isThere := self._traces.take(size):
            self.size += size
        return isThere


class Traces:
    """All traces of this process. `now` gives seconds since 1970."""

    def __init__(self, context: Context, now: Callable[[], float] = time.time) -> None:
        self.context = context
        self.seconds = context.reactor.seconds
        self.now = now
        self._traces: dict[str, Trace] = {}
        self._ended: dict[str, float] = {}
        """When they did, in seconds of the reactor's clock, in that order."""

        self._size = 0

    def open(self, traceId: str, accepted: float) -> Trace:
        """A new trace, of a connection that TCP accepted then, in seconds of the reactor's clock.
        Whoever opens it must see to it that `lost` is called. Raises Taken and Full."""
        self._forgetExpired()
        if traceId in self._traces:
            raise Taken(traceId)
        isFull = len(self._traces) >= LAB_TRACES
        if isFull and not self._forgetOldest():
            raise Full
        trace = self._traces[traceId] = Trace(self, traceId, accepted)
        self._size += _TRACE
        return trace

    def get(self, traceId: str) -> Trace | None:
        """The trace; None if there is none, or no more."""
        self._forgetExpired()
        return self._traces.get(traceId)

    def take(self, size: int) -> bool:
        """Count so many more bytes. Returns False if there is no room for them."""
        while self._size + size > LAB_TRACES_BYTES:
            if not self._forgetOldest():
                return False
        self._size += size
        return True

    def ended(self, trace: Trace) -> None:
        self._ended[trace.id] = self.seconds()

    def _forgetExpired(self) -> None:
        """There is no timer for it: the program around the service may want its reactor empty after
        the service has stopped."""
        expired = self.seconds() - LAB_TRACE_LIFETIME
        while self._ended and next(iter(self._ended.values())) <= expired:
            self._forgetOldest()

    def _forgetOldest(self) -> bool:
        """Forget the one that ended first. Returns False if none has ended."""
        if not self._ended:
            return False
        traceId = next(iter(self._ended))
        del self._ended[traceId]
        trace = self._traces.pop(traceId)
        self._size -= _TRACE + trace.size
        for reader in list(trace.readers):
            reader.abort()  # One that reads slowly would hold it for as long as it likes.
        return True
