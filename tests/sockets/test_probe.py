"""The probe on real sockets: TLS, a proxy, resets, names; and its command, in this process."""

import asyncio
import socket
import ssl
import subprocess
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as globalReactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from echotwist.probe import probe, run
from echotwist.probe.connection import Ended
from echotwist.probe.dialer import Dialer
from echotwist.probe.farend import FarEnd
from echotwist.probe.report import Report
from echotwist.probe.target import Target
from echotwist.testing import ServiceProcess, startInReactor

reactor: Any = globalReactor

QUICK: dict[str, Any] = {"seconds": 1.0, "only": ["handshake"]}


@pytest_twisted.ensureDeferred
async def test_a_clean_path_on_loopback_has_no_findings() -> None:
    service = await startInReactor()
    report = await probe(service.url, seconds=3)
    assert report.findings == []
    assert report.isClean
    trip = report.measured["flow"]["tcpRoundTrip"]
    assert trip is not None
    assert 0 < trip < 1
    assert report.measured["handshake"]["addresses"] == ["127.0.0.1"]
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_tls_is_described() -> None:
    service = await startInReactor(tls=True)
    report = await probe(service.url, cacert=str(service.caFile), seconds=1, only=["idle", "bytes"])
    assert report.findings == []
    tls = report.measured["handshake"]["tls"]
    assert tls is not None
    assert tls["version"] == "TLSv1.3"
    assert tls["alpn"] == "http/1.1"
    assert tls["issuer"]
    assert tls["distrust"] is None
    assert list(report.measured["handshake"]["took"]) == ["dns", "tcp", "tls", "upgrade"]
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_trusted_is_a_finding_with_its_issuer() -> None:
    service = await startInReactor(tls=True)
    report = await probe(service.url, **QUICK)
    (finding,) = report.findings
    assert finding.rule == "tls-distrust"
    tls = report.measured["handshake"]["tls"]
    assert tls is not None
    assert tls["issuer"] in finding.evidence[0]
    assert report.status == 1
    insecure = await probe(service.url, **QUICK, insecure=True)
    assert insecure.findings == []
    byName = service.url.replace("127.0.0.1", "localhost")
    assert (await probe(byName, **QUICK, insecure=True)).findings == []
    await service.stop()


@pytest.mark.parametrize("wrong", [{"only": ["idel"]}, {"seconds": -5}, {"only": "idel"}])
@pytest_twisted.ensureDeferred
async def test_a_mistake_in_an_option_is_told_in_the_reactor_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is none of|takes a time"):
        await probe("ws://127.0.0.1/", **wrong)


@pytest_twisted.ensureDeferred
async def test_an_expired_certificate_is_said_to_be(tmp_path: Path) -> None:
    authority = trustme.CA()
    key, certificate, trusted = (tmp_path / name for name in ("key.pem", "cert.pem", "ca.pem"))
    ended = datetime.now(UTC) - timedelta(days=1)
    issued = authority.issue_cert("127.0.0.1", not_before=ended - timedelta(1), not_after=ended)
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(trusted))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def shake(listening: socket.socket) -> None:
        for _ in range(2):
            with suppress(OSError), listening.accept()[0] as accepted:
                context.wrap_socket(accepted, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        shaking = deferToThread(shake, listening)
        url = f"wss://127.0.0.1:{listening.getsockname()[1]}/"
        (finding,) = (await probe(url, **QUICK, cacert=str(trusted))).findings
        assert finding.title.endswith("certificate verify failed: it has expired")
        await shaking


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    authority = trustme.CA()
    key, certificate, trusted = (tmp_path / name for name in ("key.pem", "cert.pem", "ca.pem"))
    issued = authority.issue_cert("other.example")
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(trusted))
    where = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    service = await startInReactor(f"--listen={where}")
    (finding,) = (await probe(service.url, **QUICK, cacert=str(trusted))).findings
    assert finding.rule == "tls-distrust"
    assert "the certificate is for another name" in finding.title
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_tls_with_what_speaks_none_is_not_reached() -> None:
    service = await startInReactor()
    report = await probe(service.url.replace("ws:", "wss:"), **QUICK)
    notReached = report.measured["handshake"]["notReached"]
    assert notReached is not None
    assert notReached["stage"] == "tls"
    assert notReached["why"].startswith("this port does not speak TLS")
    assert report.status == 2
    await service.stop()


@pytest_twisted.ensureDeferred
async def test_a_closed_port_is_not_reached() -> None:
    service = await startInReactor()
    await service.stop()
    report = await probe(service.url, **QUICK)
    assert report.measured["handshake"]["notReached"] == {
        "stage": "tcp",
        "why": "connection refused",
    }


# How connections end.


@pytest.mark.parametrize(
    ("tls", "steps", "how"),
    [
        (False, ["drop=rst"], "rst"),
        (False, ["drop=fin"], "fin"),
        (True, ["drop=rst"], "eof"),
        (True, ["drop=fin"], "closeNotify"),
        (False, ["close=4000,bye"], "close"),
        (False, ["frame=818100000000ff"], "broken"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_end_is_told_by_its_kind(tls: bool, steps: list[str], how: str) -> None:
    service = await startInReactor(tls=tls)
    target = Target.parse(service.url, caFile=None if service.caFile is None else service.caFile)
    near = Dialer(reactor, target)
    far = FarEnd(near)
    await far.look()
    path, _ = far.script("coalesce", *steps, "drop=fin")
    connection = (await near.upgrade(path)).connection
    with pytest.raises(Ended) as caught:
        await connection.frame(reactor.seconds() + 20)
    assert caught.value.end.how == how
    assert caught.value.end.words()
    near.abortAll()
    await service.stop()


# Through a proxy.


class Connecting(Protocol):
    """A proxy that is asked to CONNECT. `wants` are its credentials."""

    wants = b""

    transport: Any

    def connectionMade(self) -> None:
        self._head, self._other = b"", None

    def dataReceived(self, data: bytes) -> None:
        if self._other is not None:
            self._other.transport.write(data)
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._answer()

    def _answer(self) -> None:
        line, _, headers = self._head.partition(b"\r\n")
        if self.wants and b64encode(self.wants) not in headers:
            self.transport.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            self.transport.loseConnection()
            return
        method, authority, _ = line.split()
        assert method == b"CONNECT"
        host, _, port = authority.decode().rpartition(":")
        connecting = TCP4ClientEndpoint(reactor, host, int(port)).connect(Factory.forProtocol(Back))
        connecting.addCallback(self._connected)

    def _connected(self, other: Any) -> None:
        self._other, other.other = other, self
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: object = None) -> None:
        if self._other is not None:
            self._other.transport.loseConnection()


class Back(Protocol):
    other: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.other.transport.loseConnection()


class Asks(Connecting):
    wants = b"me:secret word"


class Ends(Connecting):
    def _answer(self) -> None:
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_proxy_is_asked_to_connect() -> None:
    service = await startInReactor(tls=True)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(Asks))
    at = f"127.0.0.1:{port.getHost().port}"
    cacert = str(service.caFile)
    report = await probe(service.url, **QUICK, proxy=f"http://me:secret%20word@{at}", cacert=cacert)
    assert report.findings == []
    took = report.measured["handshake"]["took"]
    assert list(took) == ["tcp", "proxy", "tls", "upgrade"]
    assert report.measured["handshake"]["address"] == at
    refused = await probe(service.url, **QUICK, proxy=f"http://{at}", cacert=cacert)
    assert refused.measured["handshake"]["notReached"] == {
        "stage": "proxy",
        "why": "the proxy answers CONNECT with 'HTTP/1.1 407 Proxy Authentication Required'",
    }
    await port.stopListening()
    port = await endpoint.listen(Factory.forProtocol(Ends))
    at = f"127.0.0.1:{port.getHost().port}"
    ended = await probe(service.url, **QUICK, proxy=f"http://{at}", cacert=cacert)
    assert ended.measured["handshake"]["notReached"] == {
        "stage": "proxy",
        "why": "no answer to CONNECT, but a FIN",
    }
    await port.stopListening()
    await service.stop()


# In asyncio, and without a loop.


@pytest_twisted.ensureDeferred
async def test_it_is_awaited_in_asyncio_too() -> None:
    service = await startInReactor()

    def inAsyncio() -> Report:
        return asyncio.run(probe(service.url, **QUICK, headers={"X-Token": "a"}))

    report = await deferToThread(inAsyncio)
    assert report.findings == []
    assert report.measured["handshake"]["response"]["line"].startswith("HTTP/1.1 101")
    await service.stop()


def test_a_task_that_is_cancelled_ends_the_probe() -> None:
    async def cancelled(listening: socket.socket) -> None:
        port = listening.getsockname()[1]
        task = asyncio.create_task(probe(f"ws://127.0.0.1:{port}/echo"))
        # It says nothing, so that the probe waits.
        accepted, _ = await asyncio.to_thread(listening.accept)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with accepted, suppress(ConnectionError):
            while await asyncio.to_thread(accepted.recv, 65536):
                pass  # Up to the end, since nobody is there any more.

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(cancelled(listening))


def test_it_can_be_waited_for() -> None:
    with ServiceProcess(tls=True) as service:
        options: dict[str, Any] = {"cacert": service.caFile, "only": ["handshake"]}
        assert run(service.url, **options, seconds=1).isClean
        assert not run(service.url, only=["handshake"], seconds=1).isClean
        assert run(service.url, only=["handshake"], seconds=1, insecure=True).isClean


def test_no_secret_is_among_the_arguments_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def started(command: list[str], **options: Any) -> Any:
        given.append(command)
        assert b"secret" in options["input"]
        return subprocess.CompletedProcess(command, 2, b"", b"not run")

    monkeypatch.setattr(subprocess, "run", started)
    with pytest.raises(ValueError, match="not run"):
        run("ws://127.0.0.1/", headers={"A": "secret"}, proxy="http://me:secret@127.0.0.1:1")
    assert "secret" not in str(given)


def test_what_is_no_url_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="begins with ws:// or wss://"):
        run("ftp://example/")
    with pytest.raises(ValueError, match="'nothing' is none of"):
        run("ws://127.0.0.1/", only=["nothing"])
    with pytest.raises(ValueError, match=r"^takes a time"):
        run("ws://127.0.0.1/", seconds=-1)
    headers: Any = ["A: b"]
    with pytest.raises(ValueError, match="headers are a mapping"):
        run("ws://127.0.0.1/", headers=headers)
    assert run("ws://127.0.0.1:1/", only="handshake", seconds=1).status == 2
