"""/metrics, and what is counted on the way there."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.admin import ADMIN, Operator, get
from support.certificate import tlsEndpoint
from support.memory import Hung, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.interfaces import IListeningPort
from zope.interface import implementer

from echotwist import __version__
from echotwist.observe.totals import Histogram
from echotwist.testing.frames import CONTINUATION, TEXT, binary, close, frame, text
from echotwist.testing.raw import request

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "echotwist.json"

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


pytestmark = pytest.mark.usefixtures("way")


def samples(service: Service) -> dict[str, float]:
    """Each sample by its name and labels, as a query spells them."""
    _, body = get(service, "/metrics")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def changed(service: Service, before: dict[str, float]) -> dict[str, float]:
    """What the service, not the process, has counted since."""
    return {
        name: value - before.get(name, 0)
        for name, value in samples(service).items()
        if value != before.get(name, 0) and name.startswith("echotwist_") and "duration" not in name
    }


@pytest.mark.parametrize("rate", ["0", "1", "100"])
def test_messages_are_counted_whether_they_are_logged_or_not(rate: str) -> None:
    service = Service(ADMIN, f"--log-rate={rate}")
    client = service.open()
    before = samples(service)
    client.send(text("four") + binary(bytes(100)) + text("sixsix"))
    client.send(frame(TEXT, b"one", fin=False) + frame(CONTINUATION, b"two") + text("x" * 100))
    after = changed(service, before)
    assert {name: count for name, count in after.items() if "fastpath" not in name} == {
        f'echotwist_{what}_total{{direction="{way}",type="{kind}"}}': count
        for way in ("received", "sent")
        for what, kind, count in [
            ("messages", "text", 4),
            ("messages", "binary", 1),
            ("message_bytes", "text", 116),
            ("message_bytes", "binary", 100),
        ]
    }


def test_metrics_tell_the_share_of_the_fast_path() -> None:
    service = Service(ADMIN, "--log-rate=1")
    isFast = service.isFast
    client = service.open()
    client.send(text("a") * 3)
    assert samples(service)[_echoed("plain")] == (3 if isFast else 0)
    assert samples(service)["echotwist_fastpath_connections"] == (1 if isFast else 0)
    client.send(frame(TEXT, bytes(70_000), fin=False))
    assert samples(service)["echotwist_fastpath_connections"] == 0
    client.send(frame(CONTINUATION, b"two"))
    assert samples(service)[_echoed("fragmented")] == 0
    client.send(frame(TEXT, b"one", fin=False) + frame(CONTINUATION, b"two") + text("x")[:-1])
    client.send(text("x")[-1:])
    assert samples(service)[_echoed("plain")] == (4 if isFast else 0)
    assert samples(service)[_echoed("fragmented")] == (1 if isFast else 0)
    client = service.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.send(text("x") + frame(TEXT, b"\xaa\x04\x00", rsv=4))
    assert samples(service)[_echoed("compressed")] == (1 if isFast else 0)
    assert samples(service)[_echoed("compressed", "true")] == 0


def _echoed(kind: str, tls: str = "false") -> str:
    return f'echotwist_fastpath_messages_total{{kind="{kind}",tls="{tls}"}}'


def test_compressed_messages_and_those_of_autobahn_are_counted() -> None:
    service = Service(ADMIN, "--log-rate=0", lends=False)
    client = service.open()
    before = samples(service)
    client.send(text("four") + binary(b"12"))
    after = changed(service, before)
    assert after['echotwist_messages_total{direction="received",type="text"}'] == 1
    assert after['echotwist_message_bytes_total{direction="sent",type="binary"}'] == 2


def test_connections_are_counted_as_they_come_and_go() -> None:
    service = Service(ADMIN, "--max-connections=3")
    before = samples(service)
    assert before["echotwist_connections_open"] == 0
    assert before["echotwist_connections_max"] == 3
    clients = [service.open() for _ in range(3)]
    assert samples(service)["echotwist_connections_open"] == 3
    service.connect().send(request())
    service.connect().send(request(Sec_WebSocket_Key="short"))
    service.connect().send(request(Sec_WebSocket_Key="short"))
    assert samples(service)["echotwist_http_connections_open"] == 3
    clients[0].send(close(1000))
    clients[1].send(frame(8, b""))
    clients[2].finish()
    for client in clients:
        client.finish()
    after = changed(service, before)
    del after["echotwist_http_connections_open"]
    assert after == {
        "echotwist_connections_accepted_total": 3,
        'echotwist_connections_closed_total{code="1000"}': 1,
        'echotwist_connections_closed_total{code="1005"}': 1,
        'echotwist_connections_closed_total{code="1006"}': 1,
        'echotwist_requests_refused_total{reason="all connections are taken",status="503"}': 1,
        'echotwist_requests_refused_total{reason="the Sec-WebSocket-Key is not 16 bytes in '
        'base64",status="400"}': 2,
    }


def test_close_codes_of_clients_make_no_unbounded_series() -> None:
    service = Service(ADMIN)
    for code in (1001, 1011, 3000, 3999, 4000, 4321):
        client = service.open()
        client.send(close(code))
        client.finish()
    assert {name: n for name, n in samples(service).items() if n and "_closed_total" in name} == {
        'echotwist_connections_closed_total{code="1001"}': 1,
        'echotwist_connections_closed_total{code="1011"}': 1,
        'echotwist_connections_closed_total{code="3000-3999"}': 2,
        'echotwist_connections_closed_total{code="4000-4999"}': 2,
    }


def test_a_client_under_backpressure_is_counted() -> None:
    service = Service(ADMIN)
    client = service.open()
    client.send(text("a"))
    client.socket.window = 0
    before = samples(service)
    client.send(binary(bytes(60_000)) * 4)
    assert before["echotwist_backpressure_pauses_total"] == 0
    assert changed(service, before)["echotwist_backpressure_pauses_total"] >= 1
    client.socket.window = float("inf")
    service.run()
    pauses = changed(service, before)["echotwist_backpressure_pauses_total"]
    client.send(text("b"))
    assert changed(service, before)["echotwist_backpressure_pauses_total"] == pauses


def test_dropped_connections_are_counted_by_reason() -> None:
    service = Service(ADMIN, "--max-connections=1")
    for _ in range(60):
        service.connect()
    assert (
        samples(service)[
            'echotwist_connections_dropped_total{reason="its place was needed for another"}'
        ]
        == 9
    )


def test_handshakes_and_lifetimes_are_timed() -> None:
    service = Service(ADMIN)
    client = service.connect()
    service.advance(0.03)
    client.send(request())
    service.advance(7)
    client.send(close(1000))
    client.finish()
    found = samples(service)
    assert found["echotwist_handshake_duration_seconds_sum"] == pytest.approx(0.03)
    assert found['echotwist_handshake_duration_seconds_bucket{le="0.025"}'] == 0
    assert found['echotwist_handshake_duration_seconds_bucket{le="0.05"}'] == 1
    assert found["echotwist_connection_duration_seconds_sum"] == pytest.approx(7, abs=0.1)
    assert found['echotwist_connection_duration_seconds_bucket{le="1.0"}'] == 0
    assert found['echotwist_connection_duration_seconds_bucket{le="10.0"}'] == 1
    assert found['echotwist_connection_duration_seconds_bucket{le="+Inf"}'] == 1


def test_a_clock_that_is_set_back_makes_no_time_negative() -> None:
    histogram = Histogram(1, 2)
    histogram.observe(-5)
    histogram.observe(1)
    histogram.observe(3)
    assert (histogram.counts, histogram.sum) == ([2, 0, 1], 4)


def test_the_lag_of_the_reactor_is_measured() -> None:
    service = Service(ADMIN)
    _, lag, _ = service.tree.services[1:]
    lag.startService()
    service.reactor.advance(0.25)
    service.reactor.advance(0.25 + 0.3)  # It was busy,
    service.reactor.advance(0.25 + 0.2)  # and still is.
    found = samples(service)
    assert found["echotwist_reactor_lag_seconds_count"] == 3
    assert found["echotwist_reactor_lag_seconds_sum"] == pytest.approx(0.5)
    assert found['echotwist_reactor_lag_seconds_bucket{le="0.25"}'] == 2
    lag.stopService()


def test_a_lag_measurement_that_never_started_can_be_stopped() -> None:
    service = Service(ADMIN)
    service.tree.services[2].stopService()
    assert service.timers() == 0


def test_metrics_come_in_the_format_of_the_accept_header() -> None:
    service = Service(ADMIN)
    head, body = get(service, "/metrics")
    assert b"Content-Type: text/plain; version=" in head
    assert f'echotwist_build_info{{version="{__version__}"}} 1.0'.encode() in body
    assert b"process_open_fds" in body
    head, body = get(service, "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert b"Content-Type: application/openmetrics-text" in head
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["text/plain; version=1.x.0", "text/plain; version=abc"])
def test_an_unknown_accept_header_gets_the_text_format(accept: str) -> None:
    head, body = get(Service(ADMIN), "/metrics", Accept=accept)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"echotwist_connections_open 0.0" in body


def test_metrics_answer_head() -> None:
    service = Service(ADMIN)
    client = Operator(service)
    client.send(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = client.received().partition(b"\r\n\r\n")
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) > 1000  # type: ignore[index]
    assert body == b""


@pytest.mark.parametrize("path", ["/", "/echo", "/metrics/x", "/websockets.html"])
def test_the_admin_port_serves_nothing_else(path: str) -> None:
    assert get(Service(ADMIN), path)[0].startswith(b"HTTP/1.1 404 ")


def test_clients_cannot_see_the_metrics() -> None:
    client = Service(ADMIN).connect()
    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.received().startswith(b"HTTP/1.1 404 ")


def test_the_admin_port_answers_when_max_connections_is_reached() -> None:
    service = Service(ADMIN, "--max-connections=1")
    for _ in range(60):
        service.connect()
    assert get(service, "/healthz")[1] == b"ok\n"


def test_connections_to_the_admin_port_are_limited() -> None:
    service = Service(ADMIN)
    operators = [Operator(service) for _ in range(30)]
    assert sum(operator.socket.closed for operator in operators) == 10


@implementer(IListeningPort)
class Port:
    """A port that is also the endpoint that opens it."""

    def __init__(self, name: str, stopped: list[str]) -> None:
        self._name = name
        self._stopped = stopped

    def listen(self, factory: Any) -> Any:
        return succeed(self)

    def getHost(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def startListening(self) -> None:
        """Done."""

    def stopListening(self) -> None:
        self._stopped.append(self._name)


def test_the_admin_port_stays_open_during_a_drain(log: Any) -> None:
    service = Service(ADMIN)
    stopped: list[str] = []
    for listener in service.echo._specs:
        listener.endpoint = Port(listener.description, stopped)
    service.start()
    assert "metrics on tcp:9090:interface=127.0.0.1" in log.lines()
    client = service.open()
    service.tree.stopService()
    service.run()
    assert stopped == ["port 0"]
    assert get(service, "/readyz")[0].startswith(b"HTTP/1.1 503 ")
    assert get(service, "/healthz")[0].startswith(b"HTTP/1.1 200 ")
    client.send(close(1001))
    client.finish()
    assert stopped == ["port 0", "tcp:9090:interface=127.0.0.1"]


def test_hanging_threads_are_counted(log: Any) -> None:
    service = Service(ADMIN, "--threads=2", isFast=True)
    _, thread = service.fastPath._running[0]
    thread.loop = Hung()
    for seconds, hanging in ((10, 0), (0, 1)):
        assert samples(service)["echotwist_fastpath_hanging"] == hanging
        service.advance(seconds)
    log.events.clear()


def test_metrics_tell_the_expiry_of_each_certificate(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    clients, operators = (tlsEndpoint(folder) for folder in folders)
    service = Service(f"--listen={clients}", f"--listen={clients}", f"--admin={operators}")
    end = datetime(3000, 1, 1, tzinfo=UTC).timestamp()
    assert {name: n for name, n in samples(service).items() if "certificate_" in name} == {
        f'echotwist_certificate_not_after_seconds{{file="{folder}/chain.pem"}}': end
        for folder in folders
    }
    assert not [name for name in samples(Service(ADMIN)) if "certificate_" in name]


def test_the_dashboard_queries_only_metrics_that_exist(tmp_path: Path) -> None:
    service = Service(ADMIN, f"--listen={tlsEndpoint(tmp_path)}")
    client = service.open()
    client.send(text("x") + close(1000))
    client.finish()
    service.connect().send(request(Host=None))
    told = set(re.findall(r"[a-z]+_\w+", " ".join(samples(service))))
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    asked = {name for query in queries for name in re.findall(r"(?:echotwist|process)_\w+", query)}
    assert len(queries) > 10
    assert asked <= told
    # And it shows every metric but the sums and counts of histograms.
    named = {name for name in told if name.startswith("echotwist_")}
    assert named - asked <= {name for name in named if name.endswith(("_sum", "_count"))}


def test_the_operators_are_told_of_every_metric(tmp_path: Path) -> None:
    service = Service(ADMIN, f"--listen={tlsEndpoint(tmp_path)}")
    told = set(re.findall(r"`(echotwist_\w+)`", OPERATIONS.read_text()))
    for name in re.findall(r"echotwist_\w+", " ".join(samples(service))):
        assert re.sub("_(bucket|sum|count)$", "", name) in told
