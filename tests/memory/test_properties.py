"""Whatever the messages are and wherever the network cuts them, they come back."""

import contextlib
import zlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.differential import segments
from support.memory import Service
from twisted.protocols.haproxy._v2parser import V2Parser

from echotwist.listen.proxy import Malformed, split
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    frame,
)
from echotwist.testing.raw import request

texts = st.text().map(lambda text: (TEXT, text.encode()))
binaries = st.binary(max_size=300).map(lambda data: (BINARY, data))
# Around the two steps of the length field.
sized = st.sampled_from([125, 126, 127, 65535, 65536]).map(lambda n: (BINARY, bytes(n)))
pings = st.binary(max_size=125).map(lambda data: (PING, data))
messages = st.lists(st.one_of(texts, binaries, sized, pings), max_size=12)
masks = st.binary(min_size=4, max_size=4)
cuts = st.lists(st.integers(1, 5000), max_size=40)
fast = st.booleans()
sliced = st.booleans()

calm = settings(suppress_health_check=list(HealthCheck))


def expected(sent: list[tuple[int, bytes]]) -> list[Frame]:
    return [Frame(PONG if opcode == PING else opcode, payload) for opcode, payload in sent]


@calm
@given(messages, masks, cuts, fast, sliced)
def test_any_messages_segmented_anywhere_are_echoed(
    sent: list[tuple[int, bytes]], mask: bytes, sizes: list[int], isFast: bool, isSliced: bool
) -> None:
    """Segmented from the first byte of the handshake on."""
    client = Service("--log-rate=0", isFast=isFast, isSliced=isSliced).connect()
    data = request() + b"".join(frame(opcode, payload, mask=mask) for opcode, payload in sent)
    for segment in segments(data, sizes):
        client.send(segment)
    head, _, rest = client.received().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    client.socket.sent += rest
    assert client.frames() == expected(sent)


@calm
@given(st.lists(st.one_of(texts, binaries), max_size=6), st.data(), cuts, fast, sliced)
def test_any_fragments_are_echoed_as_whole_messages(
    sent: list[tuple[int, bytes]],
    data: st.DataObject,
    sizes: list[int],
    isFast: bool,
    isSliced: bool,
) -> None:
    client = Service("--log-rate=0", isFast=isFast, isSliced=isSliced).open()
    stream = b""
    pongs = 0
    for opcode, payload in sent:
        pieces = segments(payload, data.draw(st.lists(st.integers(0, 30), max_size=5))) or [b""]
        for n, piece in enumerate(pieces):
            stream += frame(CONTINUATION if n else opcode, piece, fin=n == len(pieces) - 1)
            if data.draw(st.booleans()):
                stream += frame(PING, b"between")
                pongs += 1
    for segment in segments(stream, sizes):
        client.send(segment)
    frames = client.frames()
    assert [f for f in frames if f.opcode != PONG] == expected(sent)
    assert [f for f in frames if f.opcode == PONG] == [Frame(PONG, b"between")] * pongs


@calm
@given(
    st.lists(st.one_of(texts, binaries, sized), max_size=6),
    st.data(),
    cuts,
    st.booleans(),
    fast,
    sliced,
)
def test_any_compressed_messages_are_echoed(
    sent: list[tuple[int, bytes]],
    data: st.DataObject,
    sizes: list[int],
    takeover: bool,
    isFast: bool,
    isSliced: bool,
) -> None:
    options = ["--context-takeover"] if takeover else []
    service = Service("--log-rate=0", *options, isFast=isFast, lends=False, isSliced=isSliced)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    stream = b""
    z = zlib.compressobj(wbits=-15)
    for opcode, payload in sent:
        if not takeover:
            z = zlib.compressobj(data.draw(st.integers(0, 9)), wbits=-data.draw(st.integers(9, 15)))
        stream += frame(opcode, (z.compress(payload) + z.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)
    for segment in segments(stream, sizes):
        client.send(segment)
    out = zlib.decompressobj(wbits=-15)
    for (opcode, payload), echo in zip(sent, client.frames(), strict=True):
        if not takeover:
            out = zlib.decompressobj(wbits=-15)
        assert (echo.opcode, echo.rsv, echo.fin) == (opcode, 4, True)
        assert out.decompress(echo.payload + b"\0\0\xff\xff") == payload


@calm
@given(st.lists(st.one_of(st.binary(max_size=40), messages.map(
    lambda sent: b"".join(frame(opcode, payload) for opcode, payload in sent))), max_size=6), cuts,
    st.booleans(), fast, sliced)  # fmt: skip
def test_any_bytes_after_the_handshake_do_no_harm(
    parts: list[bytes], sizes: list[int], deflate: bool, isFast: bool, isSliced: bool
) -> None:
    """The answer is well-formed, has at most one close frame, at its end, and nothing is leaked."""
    service = Service("--log-rate=0", isFast=isFast, isSliced=isSliced)
    offer = "permessage-deflate" if deflate else None
    client = service.open(Sec_WebSocket_Extensions=offer)
    for segment in segments(b"".join(parts), sizes):
        client.send(segment)
    frames = client.frames()
    assert all(f.fin for f in frames)
    assert not [f for f in frames[:-1] if f.opcode == CLOSE]
    client.send(close(1000))
    client.finish()
    assert client.socket.closed
    assert service.connections.open == set()
    assert service.timers() == 0


@calm
@given(st.binary(max_size=200), st.integers(0, 200), cuts, sliced)
def test_any_bytes_in_a_request_do_no_harm(
    noise: bytes, at: int, sizes: list[int], isSliced: bool
) -> None:
    """The request is refused, unless it still is a valid upgrade."""
    service = Service("--log-rate=0", isSliced=isSliced)
    client = service.connect()
    for segment in segments(request()[:at] + noise + request()[at:], sizes):
        client.send(segment)
    answer = client.received()
    assert answer == b"" or answer[:9] == b"HTTP/1.1 "
    client.finish()
    service.advance(20)
    assert client.socket.closed
    assert service.site.channels == {}
    assert service.connections.open == set()
    assert service.timers() == 0


@given(st.one_of(st.binary(), st.binary().map(lambda b: V2Parser.PREFIX + b"\x21\x11" + b),
                 st.binary().map(lambda b: b"PROXY TCP4 " + b + b"\r\n")))  # fmt: skip
def test_any_bytes_are_a_proxy_protocol_header_or_none(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        split(data)
