"""Connections with TLS, which a loop serves on the object that Twisted has."""

import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from support.deflate import deflated, inflated
from support.libssl import OpensslPeer
from support.memory import Service
from support.secure import TLS12, TLS13, Peer, certified, connected

from echotwist.fastpath import openssl
from echotwist.listen.certificate import Certificate
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    binary,
    close,
    frame,
    parse,
    text,
)
from echotwist.wire.transport import unsent

pytestmark = pytest.mark.usefixtures("way")

LARGE = bytes(range(256)) * 1200


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return certified(tmp_path)


@pytest.fixture(params=[TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
def peer(certificate: Certificate, request: pytest.FixtureRequest) -> Peer:
    """An open connection; it is lent, if there is a fast path."""
    return lent(Peer(certificate, version=request.param).open())


def lent(peer: Peer) -> Peer:
    peer.echo("lend me")
    assert peer.connection.isLent == Service.isFast
    return peer


def lentOpenssl(
    certificate: Certificate, version: ssl.TLSVersion = TLS13, **how: bool
) -> OpensslPeer:
    peer = OpensslPeer(connected(certificate), version, **how)
    peer.send(text("lend me"))
    assert peer.received() == b"\x81\x07lend me"
    return peer


def closeOf(peer: Peer) -> int:
    """The code of the close frame that came last."""
    return int.from_bytes(peer.frames()[-1].payload[:2], "big")


@pytest.mark.parametrize("segment", [None, 1, 1000])
def test_every_kind_of_message_is_echoed_over_tls(peer: Peer, segment: int | None) -> None:
    peer.send(
        text("é") + binary(b"x" * 20_000) + frame(PING, b"p") + frame(TEXT, b"a", fin=False)
        + frame(CONTINUATION, b"b"),
        segment,
    )  # fmt: skip
    assert peer.frames() == [
        Frame(TEXT, "é".encode()), Frame(BINARY, b"x" * 20_000), Frame(PONG, b"p"),
        Frame(TEXT, b"ab"),
    ]  # fmt: skip
    assert peer.connection.isLent == Service.isFast


@pytest.mark.parametrize("segment", [None, 30_000])
def test_a_large_message_passes_over_tls(peer: Peer, segment: int | None) -> None:
    peer.send(binary(LARGE) * 3 + text("behind"), segment)
    assert peer.frames() == [Frame(BINARY, LARGE)] * 3 + [Frame(TEXT, b"behind")]


def test_a_client_may_send_a_large_message_over_tls_before_it_reads(peer: Peer) -> None:
    peer.client.socket.window = 0
    peer.send(binary(LARGE) + text("next"))
    assert peer.client.socket.arriving == b""
    peer.client.socket.window = float("inf")
    peer.client.service.run()
    assert peer.frames() == [Frame(BINARY, LARGE), Frame(TEXT, b"next")]


def test_a_slow_reader_gets_all_over_tls(peer: Peer) -> None:
    peer.client.socket.window = 100
    peer.tls.write(b"".join(binary(bytes([n]) * 40_000) for n in range(10)))
    ciphertext = peer.ciphertext()
    received = b""
    for start in range(0, len(ciphertext), 50_000):
        peer.client.socket.window += 3_000
        peer.client.send(ciphertext[start : start + 50_000])
        received += peer.received()
    peer.client.socket.window = float("inf")
    peer.client.service.run()
    assert parse(received + peer.received()) == [
        Frame(BINARY, bytes([n]) * 40_000) for n in range(10)
    ]


def test_compressed_messages_are_echoed_over_tls(certificate: Certificate) -> None:
    peer = Peer(certificate).open(Sec_WebSocket_Extensions="permessage-deflate")
    peer.send(frame(BINARY, deflated(LARGE[:50_000]), rsv=4))
    [echo] = peer.frames()
    assert echo.rsv == 4
    assert inflated(echo.payload) == LARGE[:50_000]
    assert peer.connection.isLent == Service.isFast


@pytest.mark.parametrize("isProxied", [False, True])
def test_a_connection_with_tls_is_lent_behind_a_proxy_too(
    certificate: Certificate, isProxied: bool
) -> None:
    peer = Peer(certificate, isProxied=isProxied)
    if isProxied:
        peer.call(peer.tls.write, b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\n")
    lent(peer.open())


def test_an_error_over_tls_is_judged_by_autobahn(peer: Peer) -> None:
    peer.send(text("before") + frame(TEXT, b"\xff"))
    before, failure = peer.frames()
    assert before == Frame(TEXT, b"before")
    assert failure.payload[:2] == (1007).to_bytes(2, "big")


def test_the_closing_handshake_over_tls(peer: Peer) -> None:
    peer.send(text("before") + close(1000, "bye"))
    assert peer.frames() == [Frame(TEXT, b"before"), Frame(CLOSE, b"\x03\xe8bye")]


@pytest.mark.parametrize("how", ["close_notify", "FIN", "both"])
def test_a_client_ends_tls(peer: Peer, how: str, log: Any) -> None:
    """What came before is answered."""
    peer.tls.write(text("last"))
    if how != "FIN":
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
    peer.client.send(peer.ciphertext())
    if how != "close_notify":
        peer.client.finish()
    peer._in.write(peer.client.received())
    assert peer.tls.read(100) == b"\x81\x04last"
    peer.client.finish()
    assert peer.client.socket.closed
    assert log.lines()[-1].endswith("closed: 1006 'no closing handshake'")
    service = peer.client.service
    service.advance(2)
    assert service.connections.open == set()
    assert service.timers() == 0


@pytest.mark.parametrize("at", [0, 3, 20, -1], ids=["type", "length", "payload", "tag"])
def test_a_record_that_is_damaged_ends_the_connection(peer: Peer, at: int) -> None:
    peer.tls.write(text("damaged"))
    record = bytearray(peer.ciphertext())
    record[at] ^= 0x55
    peer.client.send(bytes(record))
    peer.client.finish()
    peer.client.service.advance(10)
    assert peer.client.socket.closed
    assert peer.client.service.connections.open == set()


def damaged(peer: Peer, data: bytes) -> bytes:
    peer.tls.write(data)
    record = bytearray(peer.ciphertext())
    record[-1] ^= 0x55
    return bytes(record)


def test_a_damaged_record_is_answered_by_an_alert(peer: Peer, log: Any) -> None:
    peer.client.send(damaged(peer, text("damaged")))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        peer.received()
    assert peer.client.socket.fin
    assert not peer.client.socket.reset
    peer.client.finish()
    assert peer.client.socket.closed
    assert log.lines()[-1].endswith("closed: 1006 'no closing handshake'")


@pytest.mark.parametrize("message", [text("right"), close(1000)], ids=["text", "close"])
def test_a_damaged_record_behind_a_message_ends_the_connection_in_order(
    peer: Peer, message: bytes
) -> None:
    """Also if both come in one read."""
    peer.tls.write(message)
    right = peer.ciphertext()
    peer.client.send(right + damaged(peer, text("damaged")))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        peer.received()
    assert peer.client.socket.fin
    assert not peer.client.socket.reset
    peer.client.finish()
    assert peer.client.socket.closed


@pytest.mark.parametrize("end", ["close_notify", "damage", "FIN"])
def test_tls_ends_inside_a_large_frame(peer: Peer, end: str) -> None:
    peer.send(binary(LARGE)[:-1000])
    if end == "damage":
        peer.client.send(damaged(peer, bytes(500)))
    elif end == "close_notify":
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        peer.client.send(peer.ciphertext())
    if end == "FIN":
        peer.client.finish()
    assert peer.client.socket.fin
    peer.client.finish()
    assert peer.client.socket.closed
    service = peer.client.service
    service.advance(2)
    assert service.connections.open == set()
    assert service.timers() == 0


def test_half_a_record_costs_a_client_its_place_like_silence(peer: Peer) -> None:
    peer.tls.write(text("half"))
    peer.client.send(peer.ciphertext()[:-1])
    service = peer.client.service
    service.advance(29)
    assert not peer.client.socket.closed
    service.advance(1)
    service.advance(20)
    service.advance(1)
    assert peer.client.socket.closed


def test_a_record_may_come_byte_by_byte_while_a_loop_has_the_connection(peer: Peer) -> None:
    peer.send(text("slow"), segment=1)
    assert peer.frames() == [Frame(TEXT, b"slow")]
    assert peer.connection.isLent == Service.isFast


def test_a_drain_recalls_a_connection_with_tls(peer: Peer) -> None:
    peer.client.service.echo.stopService()
    peer.client.service.advance(0.1)
    assert closeOf(peer) == 1001
    peer.send(close(1001))
    with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
        peer.tls.unwrap()
    peer.client.send(peer.ciphertext())
    peer.client.finish()
    assert peer.client.socket.closed


def test_echoes_that_wait_go_out_before_the_close(peer: Peer) -> None:
    peer.client.socket.window = 1000
    peer.send(binary(bytes(60_000)))
    peer.client.service.echo.stopService()
    peer.client.socket.window = float("inf")
    peer.client.service.advance(0.1)
    echo, goingAway = peer.frames()
    assert echo == Frame(BINARY, bytes(60_000))
    assert goingAway.opcode == CLOSE


def test_keepalive_pings_over_tls(peer: Peer) -> None:
    peer.client.service.advance(30)
    assert peer.frames() == [Frame(PING, b"")]
    peer.client.service.advance(20)
    peer.client.service.advance(1)
    assert peer.client.socket.closed


def test_a_record_that_comes_slowly_is_a_sign_of_life(peer: Peer) -> None:
    """No pong can overtake it, and nothing of it is decrypted before all of it is there."""
    peer.tls.write(binary(bytes(16_000)))
    data = peer.ciphertext()
    for at in range(0, len(data), 1000):
        peer.client.send(data[at : at + 1000])
        peer.client.service.advance(15)
    assert not peer.client.socket.closed
    assert [f for f in peer.frames() if f.opcode != PING] == [Frame(BINARY, bytes(16_000))]
    # Half of one, and nothing more, is none.
    peer.tls.write(binary(bytes(16_000)))
    peer.client.send(peer.ciphertext()[:8000])
    for _ in range(6):
        peer.client.service.advance(15)
    assert peer.client.socket.closed


def test_a_drain_waits_for_a_record_that_comes_slowly(peer: Peer) -> None:
    """It is a part of a message that has begun, as it is without TLS."""
    message = binary(bytes(200_000))
    peer.send(message[:100_000])
    peer.connection.goAway()
    peer.tls.write(message[100_000:116_000])
    data = peer.ciphertext()
    for at in range(0, len(data), 1000):
        peer.client.send(data[at : at + 1000])
        peer.client.service.advance(3)
    assert not peer.client.socket.closed
    peer.client.service.advance(11)
    assert peer.client.socket.closed


def test_keys_are_updated_while_a_loop_has_the_connection(certificate: Certificate) -> None:
    peer = lentOpenssl(certificate)
    for n in range(3):
        peer.updateKeys()
        peer.send(text(f"key {n}"))
        assert peer.received() == f"\x81\x05key {n}".encode("latin-1")
    # Twisted goes on with the new keys.
    peer.send(close(1000))
    assert peer.received() == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_client_may_want_small_records(certificate: Certificate, version: Any) -> None:
    peer = lentOpenssl(certificate, version, hasSmallRecords=True)
    for payload in (LARGE[:60_000], LARGE):
        peer.send(binary(payload))
        received = peer.received()
        assert parse(received) == [Frame(BINARY, payload)]


def test_a_handshake_inside_a_connection_is_refused(certificate: Certificate) -> None:
    """By a warning (RFC 5246, 7.2.2), after which the service would go on. OpenSSL as a client does
    not."""
    peer = lentOpenssl(certificate, TLS12)
    peer.renegotiate()
    assert not peer.client.socket.fin
    assert peer.client.protocol.wrappedProtocol.isLent == Service.isFast
    assert peer.lib.SSL_do_handshake(peer.ssl) == -1
    peer.move()
    assert peer.client.socket.closed


def test_an_alert_of_the_client_ends_the_connection(peer: Peer) -> None:
    """As when it has got a damaged record."""
    peer.send(text("x"))
    echo = bytearray(peer.client.received())
    echo[-1] ^= 0x55
    peer._in.write(bytes(echo))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        peer.tls.read(100)
    peer.client.send(peer.ciphertext())
    assert peer.client.socket.closed
    assert peer.client.service.connections.open == set()


def test_answers_to_key_updates_wait_for_a_client_that_does_not_read(
    certificate: Certificate,
) -> None:
    """They are counted like echoes, and it is not read meanwhile."""
    peer = lentOpenssl(certificate)
    skt, service = peer.client.socket, peer.client.service
    skt.window = 0
    for _ in range(100):
        peer.client.send(peer.keyUpdates(10) + peer.encrypted(text("x")))
    if service.isFast:
        assert skt.unread()
        service.fastPath.count()
        assert 0 < service.fastPath.buffered < 10_000
    skt.window = float("inf")
    service.run()
    peer.move()
    assert peer.received() == b"\x81\x01x" * 100
    if service.isFast:
        service.fastPath.count()
        assert service.fastPath.buffered == 0


@pytest.mark.parametrize("way", ["fast path"], indirect=True)
def test_answers_to_key_updates_inside_a_frame_are_bounded(certificate: Certificate) -> None:
    """The loop reads the rest of a frame although its client does not read."""
    peer = lentOpenssl(certificate)
    skt, service = peer.client.socket, peer.client.service
    skt.window = 0
    peer.client.send(peer.encrypted(binary(LARGE)[:-1]))
    for _ in range(10):
        peer.client.send(peer.keyUpdates(10))
    assert peer.client.protocol.wrappedProtocol.isLent
    for _ in range(20):
        peer.client.send(peer.keyUpdates(10))
    assert not peer.client.protocol.wrappedProtocol.isLent
    assert unsent(peer.client.transport) < len(LARGE) + 10_000
    service.advance(6)
    assert skt.closed


@pytest.mark.parametrize("way", ["fast path"], indirect=True)
def test_key_updates_take_no_more_than_their_time(certificate: Certificate) -> None:
    """Each costs as much as 10,000 bytes of data. A read of 64 KiB would take 30 ms."""
    peer = lentOpenssl(certificate)
    skt = peer.client.socket
    skt.arriving += peer.keyUpdates(2000)
    reads: list[int] = []
    while not reads or reads[-1]:
        skt.move()
        before = skt.unread()
        peer.client.service._turnLoops()
        reads.append(before - skt.unread())
    assert max(reads) <= 8192
    assert len(reads) > 10
    peer.send(text("x"))
    assert peer.received() == b"\x81\x01x"


@pytest.mark.parametrize("way", ["fast path"], indirect=True)
def test_those_whose_input_is_costly_take_turns(certificate: Certificate) -> None:
    """Otherwise each of them would take half a millisecond of every turn."""
    first = connected(certificate, options=["--threads=1"])
    service = first.service
    peers = [OpensslPeer(client) for client in (first, *(service.connect() for _ in range(7)))]
    for peer in peers:
        peer.send(text("lend me"))
        peer.received()
    for peer in peers:
        peer.client.socket.arriving += peer.keyUpdates(1000)
        peer.client.socket.move()
    reads = []
    for _ in range(30):
        before = [peer.client.socket.unread() for peer in peers]
        service._turnLoops()
        after = [peer.client.socket.unread() for peer in peers]
        reads.append(sum(a != b for a, b in zip(after, before, strict=True)))
        for peer in peers:
            peer.client.socket.move()
    assert reads[0] == 8
    assert 0 < sum(reads[5:25]) <= 3 * 20
    service.run()
    for peer in peers:
        peer.send(text("x"))
        assert peer.received() == b"\x81\x01x"
    # A read that costs little makes nobody trusted again.
    for peer in peers:
        peer.client.socket.arriving += peer.keyUpdates(1000)
        peer.client.socket.move()
    before = [peer.client.socket.unread() for peer in peers]
    service._turnLoops()
    after = [peer.client.socket.unread() for peer in peers]
    assert 0 < sum(a != b for a, b in zip(after, before, strict=True)) <= 3


@pytest.mark.parametrize("way", ["fast path"], indirect=True)
def test_without_pings_a_client_that_does_not_read_tls_answers_is_the_reactors(
    certificate: Certificate,
) -> None:
    """Its close_notify would not be seen behind what is not read."""
    client = connected(certificate, options=["--ping-interval=0"])
    peer = OpensslPeer(client)
    peer.send(text("lend me"))
    connection = client.protocol.wrappedProtocol
    assert connection.isLent
    client.socket.window = 0
    for _ in range(1000):
        client.send(peer.keyUpdates(1))
        if not connection.isLent:
            break
    assert not connection.isLent
    client.socket.window = float("inf")
    client.service.run()
    peer.move()
    peer.send(text("x"))
    assert peer.received() == b"\x81\x07lend me\x81\x01x"


def test_a_connection_goes_to_and_fro(peer: Peer) -> None:
    """Twisted and the loop use the same keys and sequence numbers, in turn."""
    large = b"y" * 70_000
    for _ in range(5):
        peer.send(text("loop") + frame(TEXT, large, fin=False) + frame(CONTINUATION, b""))
        peer.send(text("loop"))
        assert peer.frames() == [Frame(TEXT, b"loop"), Frame(TEXT, large), Frame(TEXT, b"loop")]


# Whether it can be done here.


@pytest.fixture
def untried() -> Any:
    openssl.whyNot.cache_clear()
    yield
    openssl.whyNot.cache_clear()


@pytest.mark.usefixtures("untried")
def test_tls_can_be_done_here() -> None:
    assert openssl.whyNot() == ""


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    ("received", "why"),
    [
        ([b"other"], "an echo does not come back"),
        ([b"ping", b"other"], "TLS does not go on after it"),
    ],
)
def test_without_the_right_echo_tls_stays_with_twisted(
    monkeypatch: pytest.MonkeyPatch, received: list[bytes], why: str
) -> None:
    def connected(version: int) -> tuple[Any, Any]:
        client, server = make(version)
        client.recv = lambda size: next(echoes)
        return client, server

    make, echoes = openssl._connected, iter(received)
    monkeypatch.setattr(openssl, "_connected", connected)
    assert openssl.whyNot() == why


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    "name", ["SSL_read", "SSL_write", "SSL_get_error", "BIO_read", "BIO_write", "ERR_clear_error"]
)
def test_without_one_of_the_functions_tls_stays_with_twisted(
    monkeypatch: pytest.MonkeyPatch, name: str, certificate: Certificate
) -> None:
    names = tuple(n if n != name else f"{name}_is_gone" for n in openssl._FUNCTIONS)
    monkeypatch.setattr(openssl, "_FUNCTIONS", names)
    assert f"{name}_is_gone" in openssl.whyNot()
    peer = Peer(certificate).open()
    peer.echo("not lent")
    assert not peer.connection.isLent
