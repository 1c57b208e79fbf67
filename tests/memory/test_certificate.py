"""TLS: what is spoken, and with which certificate, while its files are replaced."""

import datetime
import functools
import ssl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from support.memory import Service
from support.secure import CA, TLS12, Files, Peer, connected, issued, trusting
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from echotwist.listen.certificate import (
    WARNING_INTERVAL,
    Certificate,
    ExpiryReminder,
    UnusableCertificate,
)
from echotwist.listen.endpoints import endpointOf
from echotwist.listen.proxy import ProxyFactory
from echotwist.listen.tls import TlsFactory

RSA, ECDSA = trustme.KeyType.RSA, trustme.KeyType.ECDSA

# RFC 3526, 3: it takes minutes to find one.
MODP = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E"
    "3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF"
    "5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D3"
    "9A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08"
    "CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF69558171839"
    "95497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write(issued())
    return files


@functools.cache
def pair(kind: trustme.KeyType) -> trustme.LeafCert:
    """The same for all: an RSA key takes a tenth of a second."""
    return issued(key_type=kind)


# What is spoken


@pytest.mark.parametrize("kind", [RSA, ECDSA])
@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"])
def test_tls_1_2_is_forward_secret_and_authenticated(files: Files, kind: Any, suite: str) -> None:
    files.write(pair(kind))
    cipher = f"ECDHE-{kind.name}-{suite}"
    peer = Peer(files.certificate(), ciphers=cipher, version=TLS12)
    assert peer.tls.cipher()[:2] == (cipher, "TLSv1.2")  # type: ignore[index]
    assert peer.tls.compression() is None


def test_tls_1_3_is_preferred(files: Files) -> None:
    assert Peer(files.certificate()).tls.version() == "TLSv1.3"


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_versions_are_refused(files: Files, version: str) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        Peer(files.certificate(), ciphers="ALL:@SECLEVEL=0", version=ssl.TLSVersion[version])


@pytest.mark.parametrize(
    "suite",
    [
        "AES128-GCM-SHA256",  # No forward secrecy: the key of the certificate decrypts it later.
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "ECDHE-RSA-AES128-SHA",  # CBC.
        "ECDHE-RSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",  # Without parameters.
        "DHE-RSA-AES128-SHA",
        "AECDH-AES128-SHA",
        "ECDHE-RSA-CAMELLIA128-SHA256",
    ],
)
def test_weaker_suites_are_refused(files: Files, suite: str) -> None:
    files.write(pair(RSA))
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        Peer(files.certificate(), ciphers=f"{suite}:@SECLEVEL=0", version=TLS12)


def test_with_parameters_diffie_hellman_is_spoken(files: Files, tmp_path: Path) -> None:
    files.write(pair(RSA))
    # In DER: the prime, and the generator 2.
    der = bytes.fromhex("30820108 02820101 00") + MODP.to_bytes(256) + bytes.fromhex("020102")
    (tmp_path / "dh.pem").write_text(
        ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "DH PARAMETERS")
    )
    certificate = files.certificate(dhParameters=str(tmp_path / "dh.pem"))
    suite = "DHE-RSA-AES128-GCM-SHA256"
    peer = Peer(certificate, ciphers=suite, version=TLS12)
    assert peer.tls.cipher()[0] == suite  # type: ignore[index]
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        Peer(certificate, ciphers="DHE-RSA-AES128-SHA", version=TLS12)


@pytest.mark.parametrize("version", [TLS12, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(files: Files, version: Any) -> None:
    """The key of a session would outlive its connection."""
    certificate = files.certificate()
    context = trusting()
    first = Peer(certificate, context=context, version=version).open()
    again = Peer(certificate, context=context, session=first.tls.session)
    assert not again.tls.session_reused


def test_a_client_cannot_renegotiate(files: Files) -> None:
    """pyOpenSSL can ask for it, Python's own TLS cannot."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    tls = SSL.Connection(context, None)
    tls.set_connect_state()
    client = connected(files.certificate())

    def shake() -> None:
        for _ in range(5):
            try:
                tls.do_handshake()
            except SSL.WantReadError:
                client.send(tls.bio_read(100_000))
                tls.bio_write(client.received())

    shake()
    assert tls.get_cipher_name() is not None
    assert tls.renegotiate()
    with pytest.raises(SSL.Error, match="no renegotiation"):
        shake()


@pytest.mark.parametrize("isProxied", [False, True])
def test_alpn_selects_http_1_1(files: Files, isProxied: bool) -> None:
    certificate = files.certificate()
    for alpn, chosen in (
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.1"], "http/1.1"),
        (None, None),
    ):
        peer = Peer(certificate, alpn=alpn, isProxied=isProxied)
        assert peer.tls.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("isProxied", [False, True])
@pytest.mark.parametrize("version", [TLS12, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("alpn", [["h2"], ["h2", "http/1.0", "spdy/3"]])
def test_alpn_without_a_common_protocol_is_the_alert_of_rfc_7301(
    files: Files, alpn: list[str], version: Any, isProxied: bool
) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.no.application.protocol"):
        Peer(files.certificate(), alpn=alpn, version=version, isProxied=isProxied)


@pytest.mark.parametrize("isOne", [False, True])
def test_the_whole_certificate_chain_is_sent(files: Files, tmp_path: Path, isOne: bool) -> None:
    """certKey may be certbot's fullchain.pem, or its cert.pem and extraCertChain its chain.pem."""
    pair = issued(ca=CA.create_child_ca())
    leaf, between = (pem.bytes() for pem in pair.cert_chain_pems[:2])
    files.key.write_bytes(pair.private_key_pem.bytes())
    files.chain.write_bytes(leaf + between if isOne else leaf)
    extra = tmp_path / "extra.pem"
    extra.write_bytes(between)
    chain = [str(files.chain)] if isOne else [str(files.chain), str(extra)]
    # The client knows only the root.
    assert Peer(Certificate(files.clock, str(files.key), chain)).open().name == "localhost"


# Renewal


def renewals(log: Any) -> list[str]:
    """What was logged since the last call."""
    lines = [line for line in log.lines() if "certificate" in line]
    log.events.clear()
    return lines


def test_a_renewed_certificate_serves_new_connections(files: Files, log: Any) -> None:
    certificate = files.certificate()
    old = Peer(certificate).open()
    files.write(issued("renewed"))
    assert Peer(certificate).name == "localhost"  # The files have not been looked at yet.
    files.clock.advance(1)
    new = Peer(certificate).open()
    assert (old.name, new.name) == ("localhost", "renewed")
    old.echo("still here")
    new.echo("here")
    (line,) = renewals(log)
    assert line == f"the certificate in {files.chain} is in use, until 3000-01-01 00:00 UTC"
    files.clock.advance(1)
    Peer(certificate)
    assert renewals(log) == []


def test_half_a_renewal_changes_nothing_and_is_logged_once(files: Files, log: Any) -> None:
    certificate = files.certificate()
    renewed = issued("renewed")
    files.key.write_bytes(renewed.private_key_pem.bytes())
    for _ in range(10):
        files.clock.advance(1)
        assert Peer(certificate).name == "localhost"
    assert renewals(log) == [
        "the last certificate stays in use, for now: "
        f"the key in {files.key} does not match the certificate in {files.chain}"
    ]
    files.chain.unlink()
    for _ in range(10):
        files.clock.advance(1)
        assert Peer(certificate).name == "localhost"
    assert renewals(log) == [
        "the last certificate stays in use, for now: "
        f"cannot read {files.chain}: No such file or directory"
    ]
    files.write(renewed)
    files.clock.advance(1)
    assert Peer(certificate).name == "renewed"
    assert len(renewals(log)) == 1


def test_a_renewal_taken_back_is_logged_too(files: Files, log: Any) -> None:
    certificate = files.certificate()
    key = files.key.read_bytes()
    files.key.write_bytes(b"")
    files.clock.advance(1)
    Peer(certificate)
    files.key.write_bytes(key)
    files.clock.advance(1)
    Peer(certificate)
    failed, mended = renewals(log)
    assert failed.endswith(f"the key in {files.key} cannot be used")
    assert "is in use" in mended


def test_a_certificate_renewed_by_kubernetes_symlink_swap_is_served(tmp_path: Path) -> None:
    """The files are links into ..data, which is a link to a folder."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Files(tmp_path / name).write(issued(name))
    data = tmp_path / "..data"
    data.symlink_to("one")
    files = Files(tmp_path)
    for path in (files.key, files.chain):
        path.symlink_to(Path("..data") / path.name)
    certificate = files.certificate()
    assert Peer(certificate).name == "one"
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").rename(data)
    files.clock.advance(1)
    assert Peer(certificate).name == "two"


def test_certificate_paths_survive_a_change_of_folder(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.key.parent)
    certificate = Certificate(files.clock, "key.pem", ["chain.pem"])
    monkeypatch.chdir("/")
    files.write(issued("renewed"))
    files.clock.advance(1)
    assert Peer(certificate).name == "renewed"


def ending(left: datetime.timedelta) -> trustme.LeafCert:
    now = datetime.datetime.now(datetime.UTC)
    return issued(not_before=now - datetime.timedelta(days=30), not_after=now + left)


@pytest.mark.parametrize(
    ("left", "line", "level"),
    [
        (datetime.timedelta(days=-1), "has ended: 20", LogLevel.error),
        (datetime.timedelta(days=6), "ends soon: 20", LogLevel.warn),
        (datetime.timedelta(days=8), None, None),
    ],
)
def test_an_expiring_certificate_is_logged_when_loaded_and_each_day(
    files: Files, log: Any, left: Any, line: Any, level: Any
) -> None:
    files.write(ending(left))
    certificate = files.certificate()
    reminder = ExpiryReminder(files.clock, [certificate])
    reminder.startService()
    for _ in range(3):
        assert [event["log_level"] for event in log.events] == ([level] if line else [])
        lines = renewals(log)
        assert len(lines) == (line is not None)
        assert line is None or f"the certificate in {files.chain} {line}" in lines[0]
        files.clock.advance(WARNING_INTERVAL - 1)
        assert renewals(log) == []
        files.clock.advance(1)
    log.events.clear()
    reminder.stopService()
    assert files.clock.getDelayedCalls() == []
    files.clock.advance(2 * WARNING_INTERVAL)
    assert renewals(log) == []


def test_the_expiry_reminder_sees_a_renewal_before_any_client(files: Files, log: Any) -> None:
    files.write(ending(datetime.timedelta(days=6)))
    reminder = ExpiryReminder(files.clock, [files.certificate()])
    reminder.startService()
    files.write(issued())
    log.events.clear()
    files.clock.advance(WARNING_INTERVAL)
    (line,) = renewals(log)
    assert "is in use" in line


def test_an_expiry_reminder_that_never_started_can_be_stopped(files: Files) -> None:
    ExpiryReminder(files.clock, []).stopService()
    assert files.clock.getDelayedCalls() == []


def test_the_reported_expiry_is_that_of_the_files(files: Files) -> None:
    certificate = files.certificate()
    assert certificate.notAfter == datetime.datetime(3000, 1, 1, tzinfo=datetime.UTC).timestamp()
    renewed = ending(datetime.timedelta(days=50))
    files.write(renewed)
    files.clock.advance(1)
    left = certificate.notAfter - datetime.datetime.now(datetime.UTC).timestamp()
    assert left == pytest.approx(50 * 86400, abs=60)


@pytest.mark.parametrize("options", [[], ["--admin=tcp:1"]])
def test_every_tls_endpoint_gets_an_expiry_reminder(files: Files, options: list[str]) -> None:
    service = Service(f"--listen=ssl:443:privateKey={files.key}:certKey={files.chain}", *options)
    (reminder,) = [each for each in service.tree if isinstance(each, ExpiryReminder)]
    (listener, *_) = service.echo._specs
    assert reminder._certificates == [listener.endpoint.certificate]
    service = Service("--listen=tcp:1", *options)
    assert not any(isinstance(each, ExpiryReminder) for each in service.tree)


# What cannot be used


def pem(key: Any, password: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    return data


ODD = b"""\
-----BEGIN CERTIFICATE-----
MIIBNDCB/qADAgECAhRavRl9odDidQBvEtrpKcpxBuMiujAKBggqhkjOPQQDAjAU
MRIwEAYDVQQDDAlsb2NhbGhvc3QwIBcNMjYxMTIzMTY0MDA0WhgPMjEyNjEwMzAx
NjQwMDRaMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDAyMBAGByqGSM49AgEGBSuBBAAG
Ax4ABNR9ZGSpr6rHewWRC7GAm7+/jObmIHU+9CFNgFCjUzBRMB0GA1UdDgQWBBRE
o5cLi1WKXxL+zksr159jFHu2gTAfBgNVHSMEGDAWgBREo5cLi1WKXxL+zksr159j
FHu2gTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCAyUAMCICDwDTDCUPUMZh
LWHSMHLr7gIPALLVx95yV5TtScEUqoEw
-----END CERTIFICATE-----
"""
"""With a key of the curve secp112r1, which cryptography does not know."""

BROKEN = {
    "no key": (lambda key, chain: (None, chain), "cannot read {key}: No such file"),
    "no chain": (lambda key, chain: (key, None), "cannot read {chain}: No such file"),
    "empty key": (lambda key, chain: (b"", chain), "the key in {key} cannot be used"),
    "half a key": (lambda key, chain: (key[:99], chain), "the key in {key} cannot be"),
    "half a chain": (lambda key, chain: (key, chain[:-40]), "{chain} has no certificate, or a mal"),
    "key for chain": (lambda key, chain: (key, key), "{chain} has no certificate, or a malformed"),
    "other key": (
        lambda key, chain: (issued().private_key_pem.bytes(), chain),
        "the key in {key} does not match the certificate in {chain}",
    ),
    "odd key": (lambda key, chain: (key, ODD), "{chain} has a key that cannot be used"),
    "password": (
        lambda key, chain: (pem(load_pem_private_key(key, None), b"secret"), chain),
        "the key in {key} has a password",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unusable_certificate_is_one_clear_line(files: Files, name: str) -> None:
    breaks, error = BROKEN[name]
    key, chain = files.key.read_bytes(), files.chain.read_bytes()
    for path, data in zip((files.key, files.chain), breaks(key, chain), strict=True):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        Service(f"--listen=ssl:443:privateKey={files.key}:certKey={files.chain}")
    message = str(caught.value)
    assert message.startswith("echotwist: --listen 'ssl:443:")
    assert error.format(key=files.key, chain=files.chain) in message
    assert "\n" not in message


def test_a_certificate_that_openssl_rejects_is_one_clear_line(files: Files) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    weak = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    weak = weak.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=30))
    files.key.write_bytes(pem(key))
    files.chain.write_bytes(weak.sign(key, SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(UnusableCertificate, match=r"^OpenSSL rejects \S+: .*too small"):
        files.certificate()


def test_a_key_and_its_certificates_may_be_in_one_file(files: Files) -> None:
    files.key.write_bytes(
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + files.key.read_bytes()
        + files.chain.read_bytes()
    )
    endpoint: Any = endpointOf(Clock(), f"ssl:443:privateKey={files.key}")
    assert Peer(endpoint.certificate).name == "localhost"


# The endpoint


def test_the_tls_endpoint_takes_the_parameters_of_twisteds(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_bytes(files.chain.read_bytes())
    service = Service(
        f"--listen=ssl:8443:privateKey={files.key}:certKey={tmp_path}/a\\:b:"
        f"extraCertChain={files.chain}:interface=\\:\\:1:backlog=7"
    )
    service.echo.privilegedStartService()
    ((port, factory, backlog, interface),) = service.reactor.tcpServers
    assert isinstance(factory, TlsFactory)
    assert (port, factory.wrappedFactory, backlog, interface) == (8443, service.site, 7, "::1")
    (listener,) = service.echo._specs
    assert Peer(listener.endpoint.certificate).name == "localhost"


def test_the_tls_endpoint_has_a_backlog_and_takes_the_proxy_protocol(files: Files) -> None:
    service = Service(f"--listen=haproxy:ssl:8443:privateKey={files.key}:certKey={files.chain}")
    service.echo.privilegedStartService()
    factory: Any
    ((_, factory, backlog, _),) = service.reactor.tcpServers
    assert isinstance(factory.wrappedFactory, ProxyFactory)
    assert backlog == 1024


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ("sslmethod=TLSv1_METHOD", "is not supported: TLS 1.2 and 1.3 are spoken"),
        ("caCertsDir=/x", "ssl: takes no caCertsDir=, only port, privateKey, certKey, sslmethod"),
        ("backlog=many", "backlog='many': takes a whole number such as 100"),
        ("dhParameters=/none", "cannot read /none: No such file or directory"),
        ("dhParameters=/dev/null", "/dev/null has no Diffie-Hellman parameters"),
        ("extraCertChain=/none", "cannot read /none: No such file or directory"),
    ],
)
def test_an_unknown_parameter_of_the_tls_endpoint_is_one_clear_line(
    files: Files, parameters: str, error: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        Service(f"--listen=ssl:443:privateKey={files.key}:certKey={files.chain}:{parameters}")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endpoint_secures_also_what_has_no_journal(files: Files) -> None:
    """Such as the supervisor's reservation of a port: no endpoint says TLS and serves without."""
    listened: list[Any] = []
    endpoint: Any = endpointOf(Clock(), f"ssl:443:privateKey={files.key}:certKey={files.chain}")
    below = SimpleNamespace(listen=listened.append)
    replace(endpoint, below=below).listen(Factory())
    (factory,) = listened
    assert isinstance(factory, TlsFactory)
