"""Metrics for Prometheus: `/metrics` of --admin.

Names and units follow Prometheus's conventions. The numbers are collected when they are scraped;
see `totals`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET, Request

from echotwist import __version__
from echotwist.fastpath.lending import KINDS, FastPath
from echotwist.http.answer import Answer, Exact
from echotwist.http.site import EchoSite
from echotwist.listen import tls
from echotwist.listen.certificate import Certificate
from echotwist.observe.journal import DROP_REASONS
from echotwist.observe.totals import Histogram
from echotwist.operate.supervisor import Supervisor

NO_STATUS_RECEIVED = 1005
"""RFC 6455, 7.4.1: stands for a close frame without a code."""

_COMMON_CODES = (1000, 1001, 1002, NO_STATUS_RECEIVED, 1006, 1007, 1009, 1013)

_LAG_INTERVAL = 0.25
"""Seconds between two measurements of the reactor's lag."""

_log = Logger(namespace="echotwist")


class Metrics(Exact):
    """The metrics of `collector`, and of this process, in OpenMetrics if Accept asks for it, or
    else in Prometheus's text format."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        # Not the library's global registry, which belongs to the application around the service.
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def render(self, request: Request) -> bytes:
        body = _encode(self._registry, request)
        request.setHeader("Content-Length", str(len(body)))
        return b"" if request.method == b"HEAD" else body


class WorkersMetrics(Exact):
    """The metrics of all workers, each sample with its worker's number. The `certificates` of the
    supervisor's --admin have no number."""

    def __init__(self, supervisor: Supervisor, certificates: Sequence[Certificate]) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._certificates = certificates

    def render(self, request: Request) -> int:
        self._supervisor.ask("/metrics").addCallback(self._answer, request)
        return NOT_DONE_YET

    def _answer(self, answers: dict[str, bytes | None], request: Request) -> None:
        try:
            body = _encode(_Precollected(list(self._collect(answers))), request)
        except Exception:
            # Without an answer the request would never end.
            _log.failure("the metrics of the workers cannot be read")
            body = Answer(503, "the metrics of the workers cannot be read").render(request)
        if request.channel is not None:  # The client may be gone.
            request.write(body)
            request.finish()

    def _collect(self, answers: dict[str, bytes | None]) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "echotwist_worker_up", "Whether a worker answers.", labels=["worker"]
        )
        own = _notAfter(self._certificates)
        families = {own.name: own}
        for worker, body in answers.items():
            up.add_metric([worker], body is not None)
            for family in text_string_to_metric_families((body or b"").decode()):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, "worker": worker})
                    for sample in family.samples
                ]
        yield up
        yield CounterMetricFamily(
            "echotwist_worker_restarts", "Workers that ended and were restarted.",
            self._supervisor.restarts,
        )  # fmt: skip
        yield from families.values()


class _Precollected(Collector):
    """A collector of metrics that are collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


class EchoCollector(Collector):
    """Collects the metrics of one `site` and its connections, and of the `certificates` in use."""

    def __init__(
        self, site: EchoSite, fastPath: FastPath | None, certificates: Sequence[Certificate]
    ) -> None:
        self._site = site
        self._context = site.context
        self._fastPath = fastPath
        self._certificates = certificates

    def collect(self) -> Iterator[Metric]:
        context, fastPath = self._context, self._fastPath
        if fastPath is not None:
            fastPath.count()
        context.budget.refresh()
        totals = context.journal.totals

        yield InfoMetricFamily("echotwist_build", "What runs.", {"version": __version__})
        yield GaugeMetricFamily(
            "echotwist_connections_open",
            "WebSocket connections, and answers of the lab that last.",
            len(self._site.connections.open),
        )
        yield GaugeMetricFamily(
            "echotwist_connections_max",
            "WebSocket connections that are accepted at a time.",
            context.limits.maxConnections,
        )
        yield GaugeMetricFamily(
            "echotwist_http_connections_open",
            "HTTP connections: not upgraded, or not yet.",
            len(self._site.channels),
        )
        yield CounterMetricFamily(
            "echotwist_connections_accepted", "Handshakes answered with 101.", totals.accepted
        )
        yield _byLabels(
            "echotwist_requests_refused",
            "Requests refused, mostly handshakes, by HTTP status and by reason as in the log.",
            ["status", "reason"],
            {(str(status), why): count for (status, why), count in totals.refused.items()},
        )
        yield _byLabels(
            "echotwist_connections_dropped",
            "Connections dropped without an answer, before a handshake, by reason as in the log.",
            ["reason"],
            {
                (why,): totals.dropped[why]
                for why in sorted({*DROP_REASONS, *tls.DROP_REASONS, *totals.dropped})
            },
        )
        yield _byLabels(
            "echotwist_connections_closed",
            "WebSocket connections closed, by close code (RFC 6455, 7.4.1). 1005: the close frame "
            "had no code. 1006: there was no close frame, or its echo was not read.",
            ["code"],
            _byCode(totals.closed),
        )
        directions = ("received", "sent")
        yield _byLabels(
            "echotwist_messages",
            "Whole messages. An echo counts as sent when it is given to the transport.",
            ["direction", "type"],
            {(way, kind): count for way in directions
             for kind, count in (("text", totals.texts), ("binary", totals.binaries))},
        )  # fmt: skip
        yield _byLabels(
            "echotwist_message_bytes",
            "Bytes of payload in whole messages, after decompression.",
            ["direction", "type"],
            {(way, kind): count for way in directions
             for kind, count in (("text", totals.textBytes), ("binary", totals.binaryBytes))},
        )  # fmt: skip
        yield _byLabels(
            "echotwist_fastpath_messages",
            "Messages echoed by the threads of the fast path, by how the client sent them.",
            ["kind", "tls"],
            {(kind, str(isTls).lower()): 0 if fastPath is None else fastPath.messages[kind, isTls]
             for isTls in (False, True) for kind in KINDS},
        )  # fmt: skip
        yield GaugeMetricFamily(
            "echotwist_fastpath_connections",
            "WebSocket connections served by the threads of the fast path.",
            0 if fastPath is None else fastPath.lent,
        )
        yield GaugeMetricFamily(
            "echotwist_fastpath_hanging",
            "Threads of the fast path that hang.",
            0 if fastPath is None else len(fastPath.hanging()),
        )
        yield CounterMetricFamily(
            "echotwist_backpressure_pauses",
            "How often the service stopped reading a client because it did not read its echoes.",
            totals.pauses,
        )
        yield GaugeMetricFamily(
            "echotwist_buffered_bytes",
            "Memory for incomplete messages and unread echoes.",
            context.budget.buffered + (0 if fastPath is None else fastPath.buffered),
        )
        yield GaugeMetricFamily(
            "echotwist_buffered_max_bytes",
            "Limit of echotwist_buffered_bytes: two thirds of --memory-budget.",
            context.limits.bufferBudget,
        )
        yield _histogram(
            "echotwist_handshake_duration_seconds",
            "From accept, or the answer to the previous request, to 101.",
            totals.handshakes,
        )
        yield _histogram(
            "echotwist_connection_duration_seconds",
            "From 101 to the end of the connection.",
            totals.lifetimes,
        )
        yield _histogram(
            "echotwist_reactor_lag_seconds",
            "How late the event loop runs what is due; the fast path does not wait for it.",
            totals.lag,
        )
        yield _notAfter(self._certificates)


class ReactorLag(Service):
    """Measures how late the reactor runs what is due. It does not use a LoopingCall, which skips
    calls that it is too late for."""

    def __init__(self, reactor: IReactorTime, lag: Histogram) -> None:
        self._reactor = reactor
        self._lag = lag
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._measure()

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()

    def _measure(self) -> None:
        due = self._reactor.seconds() + _LAG_INTERVAL
        self._call = self._reactor.callLater(_LAG_INTERVAL, self._observe, due)

    def _observe(self, due: float) -> None:
        self._lag.observe(self._reactor.seconds() - due)
        self._measure()


def _encode(collector: Collector, request: Request) -> bytes:
    """Encode the metrics in the format that the request asks for, and set its Content-Type."""
    try:
        encode, contentType = choose_encoder(request.getHeader("Accept") or "")
    except (
        TypeError,
        ValueError,
    ):  # From prometheus_client 0.26, if it cannot parse Accept.
        encode, contentType = choose_encoder("")
    request.setHeader("Content-Type", contentType)
    body: bytes = encode(collector)
    return body


def _notAfter(certificates: Sequence[Certificate]) -> Metric:
    family = GaugeMetricFamily(
        "echotwist_certificate_not_after_seconds",
        "When the certificate in use expires, in seconds since 1970.",
        labels=["file"],
    )
    # Several endpoints may use one file.
    for file, notAfter in {each.file: each.notAfter for each in certificates}.items():
        family.add_metric([file], notAfter)
    return family


def _byCode(closed: Counter[int | None]) -> Counter[tuple[str, ...]]:
    """Merges codes from 3000 on by the thousand. Otherwise clients, who may choose any code from
    3000 to 4999, could create as many series."""
    # The common ones exist from the start, as in `journal.DROP_REASONS`.
    found: Counter[tuple[str, ...]] = Counter({(str(code),): 0 for code in _COMMON_CODES})
    for code, count in closed.items():
        if code is None:
            code = NO_STATUS_RECEIVED
        thousand = code // 1000 * 1000
        found[(f"{thousand}-{thousand + 999}" if code >= 3000 else str(code),)] += count
    return found


def _byLabels(
    name: str, documentation: str, labels: list[str], counts: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    below, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=histogram.sum)
