"""One stream of bytes, given to the service in each of its ways: all must come to the same."""

from dataclasses import dataclass
from typing import Any

from twisted.logger import globalLogPublisher

from support.deflate import readableStream
from support.memory import Service
from support.recorder import Recorder
from support.secure import Peer


def segments(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [part for part in [*parts, data] if part]


@dataclass
class Outcome:
    """What a client and the operator saw. `received` has the payload of compressed frames
    inflated: in which way they were compressed is nobody's business."""

    received: bytes
    fin: bool
    reset: bool
    closed: bool
    messages: int
    bytes: int


def outcome(
    stream: bytes,
    sizes: list[int],
    isFinished: bool,
    isFast: bool,
    offer: str | None = None,
    certificate: Any = None,
    **how: bool,
) -> Outcome:
    """`offer` is the extension that the client offers, `how` is Service's. With a `certificate`,
    over TLS; then `sizes` cut the stream into records, and what they are encrypted into, in the
    reverse order, into segments."""
    recorder = Recorder()
    globalLogPublisher.addObserver(recorder)
    try:
        service = Service("--log-rate=4", "--max-message=1M", isFast=isFast, **how)
        peer: Any
        if certificate is None:
            peer = client = service.open(Sec_WebSocket_Extensions=offer)
            for segment in segments(stream, sizes):
                client.send(segment)
        else:
            peer = Peer(certificate, service=service).open(Sec_WebSocket_Extensions=offer)
            client = peer.client
            for record in segments(stream, sizes):
                peer.tls.write(record)
            for segment in segments(peer.ciphertext(), sizes[::-1]):
                client.send(segment)
        if isFinished:
            peer.finish()
        service.advance(2)
        skt = client.socket
        state = skt.fin, skt.reset, skt.closed
        client.finish()
        service.advance(6)
        assert service.connections.open == set()
        assert service.timers() == 0
        assert service.context.budget.buffered == 0
        if isFast:
            assert service.fastPath.lent == 0
            service.fastPath.count()
            assert service.fastPath.buffered == 0
        messages = [e for e in recorder.events if "preview" in e]
        counted = [e for e in recorder.events if "messages" in e]
    finally:
        globalLogPublisher.removeObserver(recorder)
    return Outcome(
        readableStream(peer.received()),
        *state,
        len(messages) + sum(e["messages"] for e in counted),
        sum(e["size"] for e in messages) + sum(e["bytes"] for e in counted),
    )
