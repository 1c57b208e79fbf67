"""What the service counts, for Prometheus: `/metrics` of --admin.

The names and units are those that Prometheus advises. The numbers are read when they are asked
for; see `totals`.
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
from echotwist.fastpath.lending import FastPath
from echotwist.http.answer import Answer, Exact
from echotwist.http.site import EchoSite
from echotwist.listen import tls
from echotwist.listen.certificate import Certificate
from echotwist.observe.journal import DROPPED
from echotwist.observe.totals import Histogram
from echotwist.operate.workers import Workers

NO_CODE = 1005
"""RFC 6455, 7.4.1: what stands for a close frame without a code."""

_USUAL = (1000, 1001, 1002, NO_CODE, 1006, 1007, 1009, 1013)

_log = Logger(namespace="echotwist")

_MEASURED = 0.25
"""Seconds between two measurements of the reactor's lag."""


class Metrics(Exact):
    """The page of numbers. Errors: none; an unknown Accept gets Prometheus's text format."""

    def __init__(
        self, site: EchoSite, fastPath: FastPath | None, certificates: Sequence[Certificate]
    ) -> None:
        super().__init__()
        # Its own: the library's global one belongs to whoever runs this in a process of theirs.
        self._registry = CollectorRegistry()
        self._registry.register(EchoCollector(site, fastPath, certificates))
        ProcessCollector(registry=self._registry)

    def render(self, request: Request) -> bytes:
        body = _encoded(self._registry, request)
        request.setHeader("Content-Length", str(len(body)))
        return b"" if request.method == b"HEAD" else body


class WorkersMetrics(Exact):
    """What all workers count, each sample with its worker's number; and the `certificates` of this
    process, of --admin, which have none."""

    def __init__(self, workers: Workers, certificates: Sequence[Certificate]) -> None:
        super().__init__()
        self._workers = workers
        self._certificates = certificates

    def render(self, request: Request) -> int:
        self._workers.ask("/metrics").addCallback(self._answer, request)
        return NOT_DONE_YET

    def _answer(self, told: dict[str, bytes | None], request: Request) -> None:
        try:
            body = _encoded(_Collected(list(self._collect(told))), request)
        except Exception:
            # Nobody else ends the request.
            _log.failure("what the workers count cannot be read")
            body = Answer(503, "what the workers count cannot be read").render(request)
        if request.channel is not None:  # Whoever asked may be gone.
            request.write(body)
            request.finish()

    def _collect(self, told: dict[str, bytes | None]) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "echotwist_worker_up", "Whether a worker answers.", labels=["worker"]
        )
        ours = _notAfter(self._certificates)
        families = {ours.name: ours}
        for worker, body in told.items():
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
            "echotwist_worker_restarts", "Workers that ended and were started again.",
            self._workers.restarts,
        )  # fmt: skip
        yield from families.values()


class _Collected(Collector):
    """What is collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


class EchoCollector(Collector):
    """The numbers of one `site` and its connections, and of the `certificates` in use."""

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
            "echotwist_connections_open", "WebSocket connections.", len(self._site.connections.open)
        )
        yield GaugeMetricFamily(
            "echotwist_connections_max",
            "WebSocket connections that are accepted at a time.",
            context.limits.maxConnections,
        )
        yield GaugeMetricFamily(
            "echotwist_http_connections_open",
            "Connections that are not upgraded, or not yet.",
            len(self._site.channels),
        )
        yield CounterMetricFamily(
            "echotwist_connections_accepted", "Handshakes answered with 101.", totals.accepted
        )
        yield _byLabels(
            "echotwist_requests_refused",
            "Requests that were refused, handshakes above all, by HTTP status and by reason as the "
            "log has it.",
            ["status", "reason"],
            {(str(status), why): count for (status, why), count in totals.refused.items()},
        )
        yield _byLabels(
            "echotwist_connections_dropped",
            "Connections dropped without an answer, before a handshake, by reason as in the log.",
            ["reason"],
            {
                (why,): totals.dropped[why]
                for why in sorted({*DROPPED, *tls.DROPPED, *totals.dropped})
            },
        )
        yield _byLabels(
            "echotwist_connections_closed",
            "WebSocket connections ended, by close code (RFC 6455, 7.4.1): 1005 if the close frame "
            "had none, 1006 if there was no close frame, or its echo was not read.",
            ["code"],
            _byCode(totals.closed),
        )
        directions = ("received", "sent")
        yield _byLabels(
            "echotwist_messages",
            "Whole messages; an echo is sent when it is given to the transport.",
            ["direction", "type"],
            {(way, kind): count for way in directions
             for kind, count in (("text", totals.texts), ("binary", totals.binaries))},
        )  # fmt: skip
        yield _byLabels(
            "echotwist_message_bytes",
            "Bytes of payload in them, after decompression.",
            ["direction", "type"],
            {(way, kind): count for way in directions
             for kind, count in (("text", totals.textBytes), ("binary", totals.binaryBytes))},
        )  # fmt: skip
        yield CounterMetricFamily(
            "echotwist_fastpath_messages",
            "Messages that the threads of the fast path echoed.",
            0 if fastPath is None else fastPath.messages,
        )
        yield GaugeMetricFamily(
            "echotwist_fastpath_connections",
            "WebSocket connections that the threads of the fast path serve.",
            0 if fastPath is None else fastPath.lent,
        )
        yield GaugeMetricFamily(
            "echotwist_fastpath_hanging",
            "Threads of the fast path that hang.",
            0 if fastPath is None else len(fastPath.hanging()),
        )
        yield CounterMetricFamily(
            "echotwist_backpressure_pauses",
            "How often a client did not read, and was not read until it did.",
            totals.pauses,
        )
        yield GaugeMetricFamily(
            "echotwist_buffered_bytes",
            "Memory for what clients have not sent whole, or do not read.",
            context.budget.buffered + (0 if fastPath is None else fastPath.buffered),
        )
        yield GaugeMetricFamily(
            "echotwist_buffered_max_bytes",
            "The most that this may be: two thirds of --memory-budget.",
            context.limits.bufferBudget,
        )
        yield _histogram(
            "echotwist_handshake_duration_seconds",
            "From accept, or the answer to the request before, to 101.",
            totals.handshakes,
        )
        yield _histogram(
            "echotwist_connection_duration_seconds",
            "From 101 to the end of the connection.",
            totals.lifetimes,
        )
        yield _histogram(
            "echotwist_reactor_lag_seconds",
            "How late the event loop comes to what is due; the fast path does not wait for it.",
            totals.lag,
        )
        yield _notAfter(self._certificates)


class Lag(Service):
    """Measures how late the reactor is. Not with a LoopingCall, which leaves out what it is too
    late for."""

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
        due = self._reactor.seconds() + _MEASURED
        self._call = self._reactor.callLater(_MEASURED, self._observe, due)

    def _observe(self, due: float) -> None:
        self._lag.observe(self._reactor.seconds() - due)
        self._measure()


def _encoded(collector: Collector, request: Request) -> bytes:
    """In the format that was asked for."""
    try:
        encode, contentType = choose_encoder(request.getHeader("Accept") or "")
    except (TypeError, ValueError):  # It does not understand what was asked for (0.26).
        encode, contentType = choose_encoder("")
    request.setHeader("Content-Type", contentType)
    body: bytes = encode(collector)
    return body


def _notAfter(certificates: Sequence[Certificate]) -> Metric:
    family = GaugeMetricFamily(
        "echotwist_certificate_not_after_seconds",
        "When the certificate in use ends, in seconds since 1970.",
        labels=["file"],
    )
    # Several endpoints may have one file.
    for file, notAfter in {each.file: each.notAfter for each in certificates}.items():
        family.add_metric([file], notAfter)
    return family


def _byCode(closed: Counter[int | None]) -> Counter[tuple[str, ...]]:
    """A client may say any code from 3000 to 4999, and would make as many series."""
    # The usual ones from the start: a rate cannot tell of an event that made its own series.
    found: Counter[tuple[str, ...]] = Counter({(str(code),): 0 for code in _USUAL})
    for code, count in closed.items():
        if code is None:
            code = NO_CODE
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
