"""`echotwist probe URL --serve ENDPOINT`: when it probes, and what it serves."""

import re
from collections.abc import Callable
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.memory import Client, Service
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from echotwist.http.site import HttpSite
from echotwist.paths.finding import Finding
from echotwist.probe import command, exporter
from echotwist.probe.exporter import Exporter, makeRoot
from echotwist.probe.report import NOT_RUN, Report
from echotwist.probe.target import Target

BEGAN = "2026-11-27T07:00:00+00:00"
SECONDS = 1795762800

TCP = "tcp:9817:interface=127.0.0.1"


def report(**fields: Any) -> Report:
    return Report("ws://canary.example/echo", BEGAN, "1", **fields)


def row(name: str, ended: float | None, alive: bool | None) -> Any:
    return {"row": name, "ended": ended, "alive": alive}


class Probe:
    """Stands for a Probing: it takes a while, and then its report is the one that was asked for."""

    def __init__(self, reactor: Any, takes: float, found: Report | Exception) -> None:
        self._reactor, self._takes, self._found = reactor, takes, found
        self.report = found if isinstance(found, Report) else report()
        self.isInterrupted = False

    async def run(self) -> Report:
        try:
            await deferLater(self._reactor, self._takes)
        except CancelledError:
            self.isInterrupted = True
        if isinstance(self._found, Exception):
            raise self._found
        self.report.duration = self._takes
        return self.report


class World:
    """Exporters of one reactor, and operators who read what they serve."""

    def __init__(self) -> None:
        self.service = Service(isFast=False)
        self.reactor = self.service.reactor
        self.begun: list[float] = []
        self.probes: list[Probe] = []
        self.lines: list[str] = []
        self.takes = 6.0
        self.found: Callable[[], Report | Exception] = report

    def begin(self) -> Any:
        self.begun.append(self.reactor.seconds())
        self.probes.append(Probe(self.reactor, self.takes, self.found()))
        return self.probes[-1]

    def export(self, every: float = 300) -> Exporter:
        made = Exporter(self.reactor, self.begin, every, self.lines.append)
        exporter.listen(self.reactor, makeRoot(made), TCP)
        made.run()
        return made

    def get(self, path: str, **headers: str) -> tuple[str, str]:
        site = self.service.site
        self.service.site = cast(HttpSite, self.reactor.tcpServers[-1][1])
        client = Client(self.service)
        self.service.site = site
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        head, _, body = client.received().decode().partition("\r\n\r\n")
        return head, body

    def samples(self) -> dict[str, float]:
        """Those of the probe, without `echotwist_probe_`."""
        _, body = self.get("/metrics")
        return {
            sample.name.removeprefix("echotwist_probe_") + "".join(
                f" {name}={value}" for name, value in sorted(sample.labels.items())
            ): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name.startswith("echotwist_")
        }  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


def test_it_probes_at_once_and_then_each_time(world: World) -> None:
    world.export(300)
    world.service.advance(1000)
    assert world.begun == [0, 300, 600, 900]


def test_a_probe_that_overruns_is_followed_at_the_next_multiple(world: World) -> None:
    world.takes = 650
    world.export(300)
    world.service.advance(1000)
    assert world.begun == [0, 900]
    assert not world.probes[0].isInterrupted


def test_until_the_first_probe_is_done_nothing_is_said_of_the_path(world: World) -> None:
    world.export()
    assert world.samples() == {f"probes_total result={each}": 0 for each in RESULTS}
    head, body = world.get("/")
    assert head.startswith("HTTP/1.1 503 ")
    assert body == "the first probe is still running\n"
    assert world.get("/healthz")[0].startswith("HTTP/1.1 200 ")
    world.service.advance(7)
    assert world.samples()["success"] == 1
    assert world.get("/")[0].startswith("HTTP/1.1 200 ")


RESULTS = ("clean", "found", "incomplete")


def test_a_clean_probe(world: World) -> None:
    world.export()
    world.service.advance(7)
    assert world.samples() == {
        "probes_total result=clean": 1,
        "probes_total result=found": 0,
        "probes_total result=incomplete": 0,
        "success": 1,
        "duration_seconds": 6,
        "last_timestamp_seconds": SECONDS + 6,
    }
    assert world.lines == [f"{BEGAN} ws://canary.example/echo: clean, in 6 s"]


def test_what_was_found_and_measured(world: World) -> None:
    measured: Any = {
        "handshake": {
            "took": {"dns": 0.001, "tcp": 0.02, "tls": 0.03, "upgrade": 0.04},
            "tls": {"notAfter": "2026-11-28T07:00:00+00:00"},
        },
        "idle": [
            row("silent", 60.0, None),
            row("serverPings", 90.0, False),  # It was found dead then, by who knows when.
            row("serverData", None, False),
            row("both", None, True),
        ],
        "flow": {
            "tcpRoundTrip": 0.01,
            "pingRoundTrips": [0.02, 0.03, 0.1],
            "messageRoundTrips": [0.04],
            "down": 2e6,
            "up": 1e6,
        },
    }
    findings = [
        Finding("idle-timeout", "problem", "…"),
        Finding("bytes", "problem", "…"),
        Finding("bytes", "problem", "…"),
        Finding("http2-refused", "note", "…"),
    ]
    world.found = lambda: report(measured=measured, findings=findings)
    world.export()
    world.service.advance(7)
    assert world.samples() == {
        "probes_total result=clean": 0,
        "probes_total result=found": 1,
        "probes_total result=incomplete": 0,
        "success": 0,
        "findings level=problem rule=idle-timeout": 1,
        "findings level=problem rule=bytes": 2,
        "findings level=note rule=http2-refused": 1,
        "duration_seconds": 6,
        "last_timestamp_seconds": SECONDS + 6,
        "handshake_seconds stage=dns": 0.001,
        "handshake_seconds stage=tcp": 0.02,
        "handshake_seconds stage=tls": 0.03,
        "handshake_seconds stage=upgrade": 0.04,
        "certificate_not_after_timestamp_seconds": SECONDS + 24 * 3600,
        "idle_cut_seconds row=silent": 60,
        "round_trip_seconds kind=tcp": 0.01,
        "round_trip_seconds kind=ping": 0.03,
        "round_trip_seconds kind=message": 0.04,
        "rate_bytes_per_second direction=down": 2e6,
        "rate_bytes_per_second direction=up": 1e6,
    }
    assert world.lines == [f"{BEGAN} ws://canary.example/echo: idle-timeout, bytes, in 6 s"]


def test_a_finding_that_is_gone_is_gone_from_the_metrics(world: World) -> None:
    world.found = lambda: report(findings=[Finding("size", "problem", "…")])
    world.export()
    world.service.advance(7)
    assert world.samples()["findings level=problem rule=size"] == 1
    world.found = report
    world.service.advance(300)
    assert world.samples()["success"] == 1
    assert not any("findings" in name for name in world.samples())


def test_a_path_that_could_not_be_probed(world: World) -> None:
    world.found = lambda: report(incomplete={"handshake": "connection refused", "flow": "…"})
    world.export()
    world.service.advance(7)
    assert world.samples()["success"] == 0
    assert world.samples()["probes_total result=incomplete"] == 1
    assert world.lines[0].endswith(": incomplete; not finished: handshake, flow, in 6 s")


def test_an_error_of_the_probe_is_no_success_and_the_next_one_is_tried(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.found = lambda: ZeroDivisionError("ours")
    world.export()
    world.service.advance(7)
    assert world.samples()["success"] == 0
    assert world.samples()["probes_total result=incomplete"] == 1
    assert "ZeroDivisionError: ours" in capsys.readouterr().err
    assert "an error of the probe itself: ZeroDivisionError('ours')" in world.get("/")[1]
    world.found = report
    world.service.advance(300)
    assert world.samples()["success"] == 1


@pytest.mark.parametrize(
    ("path", "accept", "isJson"),
    [
        ("/", "*/*", False),
        ("/", "text/html,application/xhtml+xml", False),
        ("/", "application/json; q=0.9, */*", True),
        ("/?format=json", "text/plain", True),
        ("/?format=text", "application/json", False),
    ],
)
def test_the_last_report_in_the_form_that_is_asked_for(
    world: World, path: str, accept: str, isJson: bool
) -> None:
    world.export()
    world.service.advance(7)
    head, body = world.get(path, Accept=accept)
    assert "Cache-Control: no-store" in head
    assert "Vary: Accept" in head
    if isJson:
        assert "Content-Type: application/json" in head
        assert Report.fromJson(body) == world.probes[0].report
    else:
        assert "Content-Type: text/plain; charset=utf-8" in head
        assert body.startswith(f"ws://canary.example/echo, {BEGAN}, 6 s\n")


def test_it_knows_no_other_form(world: World) -> None:
    world.export()
    head, body = world.get("/?format=xml")
    assert head.startswith("HTTP/1.1 400 ")
    assert body == "the format is json or text\n"


def test_it_serves_nothing_else(world: World) -> None:
    world.export()
    assert world.get("/echo")[0].startswith("HTTP/1.1 404 ")


def test_a_stop_between_two_probes(world: World) -> None:
    made = world.export()
    world.service.advance(7)
    made.stop()
    world.service.advance(1000)
    assert world.begun == [0]


# The command.


def options(*arguments: str) -> Any:
    return command._parser().parse_args(["probe", "ws://canary.example/echo", *arguments])


def running(world: World, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command, as the reactor begins to run; what it has come to is appended to the list."""
    made: list[Any] = []

    def probing(*given: Any) -> Any:
        made.append(given)
        return world.begin()

    ended: list[Any] = []
    monkeypatch.setattr(command, "_probing", probing)
    given = options(*arguments)
    target = Target.parse(given.url)
    ensureDeferred(command._serve(world.reactor, target, given)).addBoth(ended.append)
    for hook, hookArguments, keywords in world.reactor.whenRunningHooks:
        hook(*hookArguments, **keywords)
    return ended


def shutDown(world: World) -> list[Any]:
    """As SIGTERM and SIGINT do; what has ended it is appended to the list once it is there."""
    (hook, arguments, keywords) = world.reactor.triggers["before"]["shutdown"][-1]
    ended: list[Any] = []
    hook(*arguments, **keywords).addBoth(ended.append)
    return ended


def test_it_says_where_and_what_and_ends_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = running(world, f"--serve={TCP}", "--every=2m", monkeypatch=monkeypatch)
    world.service.advance(121)
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"echotwist: a probe each 120 s; metrics on http://[\d.]+:\d+/metrics.*", said[0]
    )
    assert said[1:] == [f"echotwist: {BEGAN} ws://canary.example/echo: clean, in 6 s"]
    assert not ended
    down = shutDown(world)
    world.service.advance(0)
    assert down == [None]
    assert ended == [None]
    assert world.probes[-1].isInterrupted
    assert capsys.readouterr().err == ""
    world.service.advance(1000)
    assert world.begun == [0, 120]


def test_on_a_unix_socket_it_says_which(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running(world, "--serve=unix:/nowhere/socket:lockfile=0", monkeypatch=monkeypatch)
    assert "metrics on unix:/nowhere/socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "error"),
    [
        ("9817", "echotwist: --serve '9817': must begin with tcp:, "),
        ("ssl:9817:privateKey=/nowhere/key.pem", "echotwist: --serve 'ssl:9817:privateKey="),
    ],
)
def test_a_bad_endpoint_is_one_line(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    endpoint: str,
    error: str,
) -> None:
    (failure,) = running(world, f"--serve={endpoint}", monkeypatch=monkeypatch)
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, SystemExit)
    assert failure.value.code == NOT_RUN
    said = capsys.readouterr().err
    assert said.startswith(error)
    assert said.count("\n") == 1
    assert world.begun == []


def test_the_command_chooses_between_one_probe_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def react(main: Any, arguments: Any) -> None:
        called.append(main.__name__)
        raise SystemExit(0)

    monkeypatch.setattr(command, "react", react)
    for more in ([], [f"--serve={TCP}"]):
        with pytest.raises(SystemExit):
            command.main(["probe", "ws://canary.example/echo", *more])
    assert called == ["_probe", "_serve"]


def test_what_it_serves_has_no_form_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["probe", "ws://canary.example/echo", f"--serve={TCP}", "--json"])
    assert "as JSON at /?format=json" in capsys.readouterr().err


def test_http2_without_its_library_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command.main(["probe", "wss://canary.example/echo", "--http2"])
    assert "pip install 'echotwist[http2]'" in capsys.readouterr().err


def test_each_probe_of_an_exporter_has_its_options(world: World) -> None:
    given = options("--http2", "--for=7s", "--only=bytes")
    target = Target.parse(given.url)
    first, second = (command._probing(world.reactor, target, given) for _ in range(2))
    assert first.report is not second.report
    assert first.triesHttp2
