"""A probe again and again, for Prometheus: `echotwist probe URL --serve ENDPOINT`.

    /                 the last report as text, or as JSON by Accept
    /?format=json     as JSON
    /metrics          what Prometheus scrapes
    /healthz          200 while alive, whatever was found

A scrape starts no probe: one takes minutes, and Prometheus gives up after seconds.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from statistics import median
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource

from echotwist.fatal import Fatal
from echotwist.http.answer import Answer, Exact
from echotwist.http.channel import Request
from echotwist.http.forwarded import TrustedProxies
from echotwist.http.site import AdminSite, Health
from echotwist.lab.answer import answerText, argumentsOf
from echotwist.limits import ADMIN_CONNECTIONS, Limits
from echotwist.listen.endpoints import endpointOf
from echotwist.listen.ports import ListenService, ListenSpec
from echotwist.observe.journal import Journal
from echotwist.operate.metrics import Metrics
from echotwist.paths.measured import Flow, Handshake
from echotwist.probe.probing import Probing
from echotwist.probe.report import CLEAN, FOUND, NOT_RUN, Report
from echotwist.probe.show import asText
from echotwist.wire.budget import Budget
from echotwist.wire.context import Context
from echotwist.wire.turns import Turns

_RESULTS = {CLEAN: "clean", FOUND: "found", NOT_RUN: "incomplete"}

_NOT_YET = Answer(503, "the first probe is still running", {"Retry-After": "30"})
_BAD_FORMAT = Answer(400, "the format is json or text")


class Exporter(Collector):
    """Runs a probe of its own `begin` at once, and then each `every` seconds. A probe that takes
    longer is not disturbed: the next one begins at the next multiple. `say` is told of each."""

    def __init__(
        self,
        reactor: Any,
        begin: Callable[[], Probing],
        every: float,
        say: Callable[[str], object],
    ) -> None:
        self.report: Report | None = None
        """The last one that is whole; None until the first is."""

        self._reactor, self._begin, self._every, self._say = reactor, begin, every, say
        self._counts = dict.fromkeys(_RESULTS.values(), 0)
        self._call = LoopingCall(lambda: ensureDeferred(self._probe()))
        self._call.clock = reactor
        self._running: Deferred[Report] | None = None

    def run(self) -> "Deferred[Any]":
        """Fires once it has been stopped."""
        return self._call.start(self._every)

    def stop(self) -> None:
        """The probe that runs is interrupted, and is not reported."""
        self._call.stop()
        if self._running is not None:
            self._running.cancel()

    async def _probe(self) -> None:
        probing = self._begin()
        self._running = ensureDeferred(probing.run())
        try:
            report = await self._running
        except Exception as error:  # Ours. Others may be probed all the same, so it goes on.
            traceback.print_exc()
            report = probing.report
            report.incomplete["probe"] = f"an error of the probe itself: {error!r}"
        self._running = None
        if self._call.running:
            self.report = report
            self._counts[_RESULTS[report.status]] += 1
            self._say(_line(report))

    def collect(self) -> Iterator[Metric]:
        probes = CounterMetricFamily(
            "echotwist_probe_probes",
            "Probes by their result: clean; found, a problem or a limit; or incomplete.",
            labels=["result"],
        )
        for result, count in self._counts.items():
            probes.add_metric([result], count)
        yield probes
        if self.report is not None:
            yield from _ofReport(self.report)


def _line(report: Report) -> str:
    """What came of a probe, in one line."""
    rules = [finding.rule for finding in report.findings if finding.level != "note"]
    what = ", ".join(dict.fromkeys(rules)) or _RESULTS[report.status]
    if report.incomplete:
        what += f"; not finished: {', '.join(report.incomplete)}"
    url = report.url.partition("?")[0]  # A query may have a token, and this is a log.
    return f"{report.began} {url}: {what}, in {report.duration:.0f} s"


def _ofReport(report: Report) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "echotwist_probe_success",
        "Whether the last probe was whole, and found no problem and no limit.",
        report.isClean,
    )
    found: dict[tuple[str, ...], float] = {}
    for finding in report.findings:
        labels = finding.rule, finding.level
        found[labels] = found.get(labels, 0) + 1
    yield _gauge("findings", "Findings of the last probe, notes included.", found, "rule", "level")
    yield GaugeMetricFamily(
        "echotwist_probe_duration_seconds", "How long the last probe took.", report.duration
    )
    yield GaugeMetricFamily(
        "echotwist_probe_last_timestamp_seconds",
        "When the last probe ended, in seconds since 1970.",
        datetime.fromisoformat(report.began).timestamp() + report.duration,
    )
    yield from _ofHandshake(report.measured.get("handshake", {}))
    yield from _ofFlow(report.measured.get("flow", {}))
    yield _gauge(
        "idle_cut_seconds",
        "At what age a connection was cut, as the client saw it; absent if it was not.",
        # One that a client learns of only by sending something has been dead for longer.
        {
            (row["row"],): row["ended"]
            for row in report.measured.get("idle", [])
            if row["ended"] is not None and row["alive"] is None
        },
        "row",
    )


def _ofHandshake(handshake: Handshake) -> Iterator[Metric]:
    yield _gauge(
        "handshake_seconds",
        "Time that each stage of the handshake took.",
        {(stage,): seconds for stage, seconds in handshake.get("took", {}).items()},
        "stage",
    )
    tls = handshake.get("tls")
    if tls is not None:
        yield GaugeMetricFamily(
            "echotwist_probe_certificate_not_after_timestamp_seconds",
            "When the certificate that was shown expires, in seconds since 1970.",
            datetime.fromisoformat(tls["notAfter"]).timestamp(),
        )


def _ofFlow(flow: Flow) -> Iterator[Metric]:
    tcp = flow.get("tcpRoundTrip")
    trips = {
        "tcp": [] if tcp is None else [tcp],
        "ping": flow.get("pingRoundTrips", []),
        "message": flow.get("messageRoundTrips", []),
    }
    yield _gauge(
        "round_trip_seconds",
        "Round trips, their median: as TCP estimates it, of pings, and of messages.",
        {(kind,): median(seconds) for kind, seconds in trips.items() if seconds},
        "kind",
    )
    rates = {("down",): flow.get("down"), ("up",): flow.get("up"), ("echo",): flow.get("echo")}
    yield _gauge(
        "rate_bytes_per_second",
        "Payload of large messages, from the server (down) and to it (up).",
        {labels: rate for labels, rate in rates.items() if rate is not None},
        "direction",
    )


def _gauge(
    name: str, documentation: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    family = GaugeMetricFamily(f"echotwist_probe_{name}", documentation, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


class LastReport(Exact):
    """`/`: the last report of `exporter`."""

    def __init__(self, exporter: Exporter) -> None:
        super().__init__()
        self._exporter = exporter

    def render(self, request: Request) -> bytes:
        kind = _formatOf(request)
        if kind not in ("json", "text"):
            return _BAD_FORMAT.render(request)
        report = self._exporter.report
        if report is None:
            return _NOT_YET.render(request)
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("Vary", "Accept")
        if kind == "json":
            return answerText(request, "application/json", report.asJson())
        return answerText(request, "text/plain; charset=utf-8", asText(report))


def _formatOf(request: Request) -> str:
    if given := argumentsOf(request).get("format"):
        return given[-1].decode("latin-1")
    accepts = request.tokens("Accept")
    return "json" if any(each.startswith("application/json") for each in accepts) else "text"


def makeRoot(exporter: Exporter) -> Resource:
    """The URL map."""
    root = Exact()
    root.putChild(b"", LastReport(exporter))
    root.putChild(b"metrics", Metrics(exporter))
    root.putChild(b"healthz", Health(None))
    return root


def listen(reactor: Any, root: Resource, endpoint: str) -> ListenService:
    """Serve `root` on an endpoint, as --admin of the service takes one. Raises Fatal."""
    limits = Limits(maxConnections=ADMIN_CONNECTIONS)
    budget = Budget(limits.bufferBudget, limits.closeTimeout, reactor)
    context = Context(reactor, limits, Journal(0, reactor), budget, Turns(reactor))
    try:
        where = endpointOf(reactor, endpoint)
    except ValueError as error:
        raise Fatal(f"--serve {endpoint!r}: {error}") from error
    site = AdminSite(context, root, TrustedProxies([]))
    listening = ListenService(reactor, [ListenSpec(endpoint, where, site)])
    listening.startService()
    return listening


def placesOf(listening: ListenService) -> str:
    """Where it listens, for people."""
    places = [
        f"{each.scheme}://{each.authority}/metrics{each.remark}"
        if each.authority is not None
        else each.description
        for each in listening.locations(isAdmin=True)
    ]
    return ", ".join(places)


async def serve(reactor: Any, begin: Callable[[], Probing], endpoint: str, every: float) -> None:
    """Probe and serve until the reactor is stopped. Raises Fatal."""
    exporter = Exporter(reactor, begin, every, _say)
    listening = listen(reactor, makeRoot(exporter), endpoint)
    running: Deferred[None] = Deferred()
    reactor.callWhenRunning(running.callback, None)
    await running  # Once it says that it is there, a signal must end it in order.
    done: Deferred[None] = Deferred()

    def interrupt() -> "Deferred[None]":
        exporter.stop()
        return done

    reactor.addSystemEventTrigger("before", "shutdown", interrupt)
    _say(f"a probe each {every:g} s; metrics on {placesOf(listening)}")
    try:
        await exporter.run()
    finally:
        await listening.stopService()
        done.callback(None)


def _say(line: str) -> None:
    print(f"echotwist: {line}", file=sys.stderr, flush=True)
