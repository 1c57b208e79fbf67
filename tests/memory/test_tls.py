"""A TLS handshake that fails: what the client is told, and the trace that it leaves."""

import contextlib
import ssl
from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from support.memory import Client, Service
from support.secure import TLS12, Peer, certified, connected, trusting
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from echotwist.listen import tls
from echotwist.listen.certificate import Certificate
from echotwist.testing.frames import text
from echotwist.testing.raw import request
from echotwist.wire.tls import renewBuffers

LOST = Failure(ConnectionLost())

PEER = "127.0.0.1:40000"

V1 = b"PROXY TCP4 192.0.2.7 1.2.3.4 1234 80\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certified(tmp_path_factory.mktemp("tls"), key_type=trustme.KeyType.RSA)


@pytest.fixture(params=[False, True], ids=["tls", "proxied tls"])
def isProxied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first flight of a client."""
    context = trusting()
    context.minimum_version = context.maximum_version = version
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def dropped(service: Service) -> dict[str, int]:
    return dict(service.context.journal.totals.dropped)


def isOver(client: Client) -> bool:
    """Whether nothing of the connection is left, nor any timer but the journal's."""
    client.service.advance(1)
    return bool(client.socket.closed) and not client.service.timers()


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n\r\n",
        request(),
    ],
)
def test_plain_http_on_a_tls_port_is_answered_400(
    certificate: Certificate, log: Any, line: bytes, isProxied: bool
) -> None:
    client = connected(certificate, isProxied)
    client.send(line)
    answer = client.received()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\nthis port speaks TLS, not plain HTTP\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert log.lines() == [f"{PEER} refused: 400 this port speaks TLS, not plain HTTP"]
    refused = client.service.context.journal.totals.refused
    assert refused == {(400, "this port speaks TLS, not plain HTTP"): 1}
    assert isOver(client)


def test_plain_http_on_a_tls_port_may_come_byte_by_byte(certificate: Certificate, log: Any) -> None:
    client = connected(certificate)
    client.send(b"GET / HTTP/1.1\r\n", 1)
    assert client.received().startswith(b"HTTP/1.1 400 ")
    assert len(log.lines()) == 1


FAILURES: list[tuple[bytes, str]] = [
    (b"SSH-2.0-OpenSSH_9.2\r\n", "the client does not speak TLS"),
    (V1, "the client does not speak TLS"),
    (bytes(20), "the client does not speak TLS"),
    (b"\xff" * 20, "the client does not speak TLS"),
    (b"\x1b[31m\nforged line\r\n" * 9, "the client does not speak TLS"),
    (b"\x16\x03\x01\xff\xff" + b"x" * 99, ""),
    (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01x", ""),
    (b"\x15\x03\x01\x00\x02\x02\x28", ""),
]


@pytest.mark.parametrize(("data", "why"), FAILURES)
def test_garbage_on_a_tls_port_is_logged(
    certificate: Certificate, log: Any, data: bytes, why: str, isProxied: bool
) -> None:
    client = connected(certificate, isProxied)
    client.send(data)
    reason = f"TLS handshake failed: {why}".removesuffix(": ")
    assert log.lines() == [f"{PEER} dropped: {reason}"]
    assert dropped(client.service) == {reason: 1}
    assert isOver(client)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"ciphers": "ALL:@SECLEVEL=0", "version": ssl.TLSVersion.TLSv1_1},
            "the client is older than TLS 1.2",
        ),
        ({"ciphers": "AES128-SHA:@SECLEVEL=0", "version": TLS12}, "no cipher in common"),
        ({"ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256", "version": TLS12}, "no cipher in common"),
        ({"alpn": ["h2"]}, "no protocol in common (ALPN)"),
        ({"alpn": ["h2"], "version": TLS12}, "no protocol in common (ALPN)"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_tls_handshake_without_common_parameters_is_logged(
    certificate: Certificate, log: Any, options: Any, why: str, isProxied: bool
) -> None:
    with pytest.raises(ssl.SSLError):
        Peer(certificate, isProxied=isProxied, **options)
    assert log.lines() == [f"{PEER} dropped: TLS handshake failed: {why}"]


@pytest.mark.parametrize("version", [TLS12, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_does_not_trust_the_certificate_is_logged(
    certificate: Certificate, log: Any, version: Any, isProxied: bool
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Peer(certificate, context=trusting(trustme.CA()), version=version, isProxied=isProxied)
    assert log.lines() == [
        f"{PEER} dropped: TLS handshake failed: the client does not trust the certificate"
    ]


# certificate_expired, unknown_ca, certificate_unknown; handshake_failure, user_canceled.
@pytest.mark.parametrize(
    ("alert", "why"),
    [(45, tls._UNTRUSTED), (48, tls._UNTRUSTED), (46, tls._UNTRUSTED), (40, tls.FAILED),
     (255, tls.FAILED)],
)  # fmt: skip
def test_a_tls_alert_of_the_client_is_logged(
    certificate: Certificate, log: Any, alert: int, why: str
) -> None:
    client = connected(certificate)
    client.send(hello(TLS12))
    client.send(b"\x15\x03\x03\x00\x02\x02" + bytes([alert]))
    assert log.lines() == [f"{PEER} dropped: {why}"]
    assert isOver(client)


@pytest.mark.parametrize("size", [1, 5, 100, 100_000])
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_that_leaves_during_the_tls_handshake_is_logged(
    certificate: Certificate, log: Any, size: int, how: str, isProxied: bool
) -> None:
    client = connected(certificate, isProxied)
    client.send(hello()[:size])
    if how == "FIN":
        client.finish()
    else:
        client.transport.connectionLost(LOST)
        client.socket.closed = True
    assert log.lines() == [f"{PEER} dropped: TLS handshake failed: the client left"]
    assert isOver(client)


def test_a_close_notify_during_the_handshake_is_no_traceback(
    certificate: Certificate, log: Any, isProxied: bool
) -> None:
    """Twisted's own TLS raises an IndexError, and keeps the connection."""
    client = connected(certificate, isProxied)
    client.send(hello())
    client.send(b"\x15\x03\x03\x00\x02\x01\x00")
    assert log.lines() == [f"{PEER} dropped: TLS handshake failed: the client left"]
    assert isOver(client)


@pytest.mark.parametrize("sent", [b"\x16", b"G", b"\x16\x03\x01\x02\x00\x01", hello()])
def test_a_tls_handshake_timeout_is_logged(
    certificate: Certificate, log: Any, sent: bytes, isProxied: bool
) -> None:
    client = connected(certificate, isProxied)
    client.send(sent)
    client.service.advance(10.1)
    assert log.lines() == [f"{PEER} dropped: no TLS handshake in time"]
    assert isOver(client)


def test_half_a_proxy_protocol_header_before_tls_is_logged_as_such(
    certificate: Certificate, log: Any
) -> None:
    peer = Peer(certificate, isProxied=True)
    peer.call(peer.tls.write, V1[:10])
    peer.client.service.advance(10.1)
    assert log.lines() == [f"{PEER} dropped: half a header of the PROXY protocol"]
    peer = Peer(certificate, isProxied=True)
    log.events.clear()
    peer.call(peer.tls.write, V1[:10])
    peer.client.finish()
    assert log.lines() == [f"{PEER} dropped: half a header of the PROXY protocol"]


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_tls_probe_without_a_byte_leaves_no_line(
    certificate: Certificate, log: Any, how: str, isProxied: bool
) -> None:
    client = connected(certificate, isProxied)
    if how == "FIN":
        client.finish()
    else:
        client.transport.connectionLost(LOST)
        client.socket.closed = True
    assert log.lines() == []
    assert dropped(client.service) == {}
    assert isOver(client)


def test_a_client_that_leaves_after_the_tls_handshake_leaves_no_line(
    certificate: Certificate, log: Any, isProxied: bool
) -> None:
    Peer(certificate, isProxied=isProxied).client.finish()
    assert log.lines() == []


def test_a_drain_ends_a_tls_handshake_without_a_line(certificate: Certificate, log: Any) -> None:
    client = connected(certificate)
    client.send(hello()[:100])
    client.service.echo.stopService()
    client.service.advance(2)
    assert client.socket.closed
    assert log.lines() == []


def test_a_tls_handshake_closed_to_make_room_is_logged_once(
    certificate: Certificate, log: Any, isProxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connected(certificate, isProxied)
    client.send(hello()[:100])
    monkeypatch.setattr(type(client.service.echo._specs[0].site), "isAtCapacity", lambda site: True)
    client.service.connect()
    assert client.socket.closed
    assert log.lines() == [f"{PEER} dropped: its place was needed for another"]


def test_half_a_proxy_protocol_header_closed_to_make_room_is_logged_once(
    certificate: Certificate, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS reports the end of the connection with a reason of its own."""
    peer = Peer(certificate, isProxied=True)
    peer.call(peer.tls.write, V1[:10])
    service = peer.client.service
    monkeypatch.setattr(type(service.echo._specs[0].site), "isAtCapacity", lambda site: True)
    service.connect()
    assert peer.client.socket.closed
    assert log.lines() == [f"{PEER} dropped: its place was needed for another"]


def test_a_flood_of_bad_tls_handshakes_stays_within_the_log_rate(
    certificate: Certificate, log: Any
) -> None:
    client = connected(certificate)
    for _ in range(200):
        client.service.connect().send(b"\0" * 20)
    assert len(log.lines()) == 100
    assert sum(dropped(client.service).values()) == 200


def test_the_drop_reasons_of_tls_are_few_and_fixed() -> None:
    for error in (
        SSL.Error([("SSL routines", "", "a reason \x1b[31m of the future")]),
        SSL.Error([("SSL routines", "", "tlsv1 alert user cancelled")]),
        SSL.Error([]),
        SSL.Error(),
        SSL.SysCallError(-1, "Unexpected EOF"),
        SSL.ZeroReturnError(),
        ValueError("x"),
        None,
    ):
        assert tls._describe(error) in tls.DROP_REASONS
    assert len(tls.DROP_REASONS) < 15
    assert max(map(len, tls.DROP_REASONS)) < 80


@pytest.mark.parametrize(
    "data",
    [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", request() + text("hello")],
    ids=["page", "echo"],
)
def test_data_in_one_segment_with_close_notify_is_answered(
    certificate: Certificate, isProxied: bool, data: bytes
) -> None:
    """Twisted once sent its own close_notify before the answer that it had collected."""
    peer = Peer(certificate, isProxied=isProxied)
    peer.tls.write(V1 * isProxied + data)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.client.send(peer._out.read())
    peer._in.write(peer.client.received())
    answer = b""
    with contextlib.suppress(ssl.SSLZeroReturnError):
        while True:
            answer += peer.tls.read(10_000)
    assert answer.endswith((b"\r\n\r\nok\n", b"\x81\x05hello"))
    assert not peer.client.socket.reset


# OpenSSL's buffers.


def secured(peer: Peer) -> Any:
    connection: Any
    (connection,) = peer.client.service.connections.open
    return connection.transport


def buffersOf(peer: Peer) -> list[Any]:
    """They have addresses for values, and OpenSSL uses those of freed ones again."""
    connection = secured(peer)._tlsConnection
    return [connection._into_ssl, connection._from_ssl]


def areSame(some: list[Any], others: list[Any]) -> bool:
    return any(one is other for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("version", [TLS12, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_buffers_are_renewed_after_the_handshake_and_what_is_large(
    certificate: Certificate, version: ssl.TLSVersion
) -> None:
    peer = Peer(certificate, version=version, options=["--no-fast-path"]).open()
    peer.echo("small")
    after = buffersOf(peer)
    peer.echo("small")
    assert areSame(buffersOf(peer), after)
    large = text("x" * 60_000)
    echoed = bytearray()
    peer.call(peer.tls.write, large)
    while len(echoed) < len(large) - 4:
        echoed += peer.call(peer.tls.read, 100_000)
    assert not areSame(buffersOf(peer), after)
    peer.echo("small")


def test_buffers_are_renewed_after_what_is_written(certificate: Certificate) -> None:
    peer = Peer(certificate, options=["--no-fast-path"]).open()
    peer.echo("small")
    before = buffersOf(peer)
    secured(peer).write(bytes(5000))
    peer.client.service.advance(1)
    assert len(peer.call(peer.tls.read, 5000)) == 5000
    assert not areSame(buffersOf(peer), before)


def test_buffers_with_something_in_them_stay() -> None:
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    connection.set_connect_state()
    assert renewBuffers(connection)
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    assert not renewBuffers(connection)
    assert len(connection.bio_read(10_000)) > 100
    assert renewBuffers(connection)
    connection.bio_write(b"\x16")
    assert not renewBuffers(connection)
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    assert renewBuffers(connection)  # OpenSSL has taken the byte.
