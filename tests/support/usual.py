"""Handshakes and close frames, each the short way and the long: both must come to the same."""

import re
from typing import Any
from unittest.mock import patch

from twisted.logger import globalLogPublisher

from echotwist.http.site import HttpSite
from echotwist.testing.frames import text
from echotwist.websocket.connection import Connection
from support.memory import Service
from support.recorder import Recorder


def _undated(response: bytes) -> bytes:
    return re.sub(rb"\r\nDate: .*", b"", response)


def _told(recorder: Recorder) -> list[dict[str, Any]]:
    """What was logged, but for what no two events share."""
    return [
        {n: v for n, v in event.items() if n == "log_format" or not n.startswith("log_")}
        for event in recorder.events
    ]


def _kept(connection: Any) -> dict[str, Any]:
    """What there is to know of it. Nobody asks a closed one for more than its end."""
    if connection.state != connection.STATE_OPEN:
        names = ("state", "wasClean", "remoteCloseCode", "remoteCloseReason", "_failure")
        return {name: getattr(connection, name) for name in names}
    deflate = connection._perMessageCompress
    return {**_plain(connection), "deflate": deflate and _plain(deflate)}


def _plain(thing: Any) -> dict[str, Any]:
    """Its attributes; of those that are no plain values, the type."""
    plain = bool | int | float | str | bytes | bytearray
    return {n: v if v is None or isinstance(v, plain) else type(v) for n, v in vars(thing).items()}


def _outcome(service: Service, data: list[bytes]) -> list[Any]:
    recorder = Recorder()
    globalLogPublisher.addObserver(recorder)
    seen: list[Any] = []

    def look() -> None:
        protocol, transport = client.protocol, client.transport
        skt = client.socket
        seen.append((_undated(client.received()), skt.fin, skt.reset, skt.closed, client.reading))
        seen.append((type(protocol).__name__, service.timers(), service.context.budget.buffered))
        seen.append((len(service.connections.open), len(service.site.channels)))
        seen.append(transport.producer is protocol and transport.streamingProducer)
        if isinstance(protocol, Connection):
            seen.append(_kept(protocol))

    try:
        client = service.connect()
        for segment in data:
            client.send(segment)
            if not client.socket.closed:
                look()
        if not client.socket.closed and isinstance(client.protocol, Connection):
            client.send(text("and then"))
            look()
        client.finish()
        service.advance(60)
        seen.append((_undated(client.received()), client.socket.closed, service.timers()))
        seen.append((len(service.connections.open), len(service.site.channels)))
        totals = service.context.journal.totals
        for histogram in (totals.handshakes, totals.lifetimes):
            seen.append((histogram.counts, histogram.sum))
        seen += [totals.accepted, totals.closed, totals.refused, totals.dropped, totals.texts]
    finally:
        globalLogPublisher.removeObserver(recorder)
    return [*seen, _told(recorder)]


def isUsual(data: list[bytes], *options: str, isDraining: bool = False) -> bool:
    """Whether any of the short ways took something of this. Fails if that makes a difference."""
    took = []

    def noting(method: Any) -> Any:
        def call(*arguments: Any) -> bool:
            isTaken: bool = method(*arguments)
            took.append(isTaken)
            return isTaken

        return call

    outcomes = []
    for isShort in (True, False):
        service = Service(*options, isFast=False)
        service.connections.draining = isDraining
        with (
            patch.object(
                HttpSite,
                "upgradeUsual",
                noting(HttpSite.upgradeUsual) if isShort else lambda *_: False,
            ),
            patch.object(
                Connection,
                "_answersClose",
                noting(Connection._answersClose) if isShort else lambda *_: False,
            ),
        ):
            outcomes.append(_outcome(service, data))
    for short, long in zip(*outcomes, strict=True):
        assert short == long, (short, long)
    return any(took)
