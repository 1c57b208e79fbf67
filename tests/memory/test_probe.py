"""The probe on paths in memory: at full length, at a clock of their own."""

import pytest
from support.path import FrameHop, HeadHop, Hop, Path

from echotwist.paths.finding import Finding
from echotwist.probe.report import Report
from echotwist.testing.frames import PING, Frame


def only(report: Report) -> Finding:
    """The only finding that is no note."""
    (found,) = [finding for finding in report.findings if finding.level != "note"]
    return found


def rules(report: Report) -> list[str]:
    return [finding.rule for finding in report.findings]


def test_a_clean_path_has_no_findings() -> None:
    report = Path().probe()
    assert report.findings == []
    assert report.isClean
    assert report.duration == pytest.approx(150, abs=1)
    assert {row["row"]: row["alive"] for row in report.measured["idle"]} == {
        "silent": True,
        "serverPings": True,
        "serverData": True,
        "clientData": True,
        "both": True,
    }


# Idle and age.


class Idle(Hop):
    """Cuts what is silent for 60 s. `counts` says whose bytes are no silence."""

    counts = "either"
    seconds = 60.0

    def began(self) -> None:
        self._timer = self.reactor.callLater(self.seconds, self.cut)

    def _heard(self, side: str) -> None:
        if self.counts in ("either", side) and self._timer.active():
            self._timer.reset(self.seconds)

    def toServer(self, data: bytes) -> None:
        self._heard("client")
        super().toServer(data)

    def toClient(self, data: bytes) -> None:
        self._heard("server")
        super().toClient(data)


class ServerIdle(Idle):
    counts = "server"


class ClientIdle(Idle):
    counts = "client"


@pytest.mark.parametrize(
    ("hop", "words"),
    [
        (Idle, "data from either side keeps it open"),
        (ServerIdle, "only what the server sends keeps it open"),
        (ClientIdle, "only what the client sends keeps it open"),
    ],
)
def test_a_cut_by_silence_says_whose_silence(hop: type[Idle], words: str) -> None:
    found = only(Path(hop).probe(only=["idle"]))
    assert found.rule == "idle-timeout"
    assert found.title == f"cut after 60.0 s of silence: {words}, and pings count"


def test_a_limit_beyond_the_probe_is_not_seen() -> None:
    assert Path(Idle).probe(59, only=["idle"]).findings == []


class Age(Hop):
    """Cuts at an age of 30 s, whatever is sent."""

    def began(self) -> None:
        self.reactor.callLater(30.0, self.cut)


def test_a_cut_by_age_is_none_by_silence() -> None:
    found = only(Path(Age).probe(only=["idle"]))
    assert found.rule == "age-limit"
    assert "at an age of 30.0 s" in found.title
    assert found.consistentWith[0].startswith("Google load balancer")


class Reload(Hop):
    """Cuts all at one instant."""

    def began(self) -> None:
        if (left := 40.0 - self.reactor.seconds()) > 0:
            self.reactor.callLater(left, self.cut)


def test_an_end_of_all_at_one_instant_is_no_age() -> None:
    assert only(Path(Reload).probe(only=["idle"])).rule == "cut-at-once"


class HalfOpen(Idle):
    """Closes the server's side after a minute of silence, and says nothing to the client."""

    def cut(self, how: str = "fin", *, client: bool = True, server: bool = True) -> None:
        super().cut(how, client=False, server=server)


def test_half_open_is_told_by_the_server() -> None:
    report = Path(HalfOpen).probe(only=["idle"])
    assert "half-open" in rules(report)
    (row,) = [row for row in report.measured["idle"] if row["row"] == "silent"]
    assert (row["alive"], row["ended"]) == (False, None)
    assert row["server"] is not None
    assert row["server"]["age"] == pytest.approx(60, abs=0.1)


class Forgets(Idle):
    """Forgets a silent connection, as a NAT does; nobody is told."""

    def cut(self, how: str = "fin", *, client: bool = True, server: bool = True) -> None:
        super().cut(how, client=False, server=False)


def test_a_forgotten_connection_is_found_in_the_end() -> None:
    report = Path(Forgets).probe(only=["idle"])
    assert "forgotten" in rules(report)
    (row,) = [row for row in report.measured["idle"] if row["row"] == "silent"]
    assert (row["alive"], row["server"], row["isServerKnown"]) == (False, None, True)


class Deaf(Hop):
    """Passes nothing any more after 20 s, and ends nothing."""

    def began(self) -> None:
        self.reactor.callLater(20.0, self.cut, "fin", client=False, server=False)


def test_a_path_that_passes_nothing_any_more_is_noticed_before_the_end() -> None:
    report = Path(Deaf).probe(only=["idle"])
    watched = {row["row"]: row["watched"] for row in report.measured["idle"]}
    assert watched["both"] < 60
    assert watched["serverData"] < 60
    assert {row["alive"] for row in report.measured["idle"]} == {False}
    assert report.status == 1


class Late(HeadHop, Idle):
    """Cuts what is silent, and has no traces."""

    def began(self) -> None:
        HeadHop.began(self)
        Idle.began(self)

    def toServer(self, data: bytes) -> None:
        self._heard("client")
        HeadHop.toServer(self, data)

    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"GET /trace/", b"GET /nothing/")


def test_without_a_trace_nothing_is_said_of_the_server() -> None:
    report = Path(Late).probe(only=["idle"])
    (row,) = [row for row in report.measured["idle"] if row["row"] == "silent"]
    assert (row["server"], row["isServerKnown"]) == (None, False)
    assert only(report).rule == "idle-timeout"


class ToldLate(Idle):
    """Forgets, and resets whoever comes again, as some firewalls do."""

    def cut(self, how: str = "fin", *, client: bool = True, server: bool = True) -> None:
        self._isForgotten = True

    _isForgotten = False

    def toServer(self, data: bytes) -> None:
        if self._isForgotten:
            super().cut("rst")
        else:
            super().toServer(data)


def test_a_reset_of_who_comes_again_is_no_end_that_was_told() -> None:
    report = Path(ToldLate).probe(only=["idle"])
    (row,) = [row for row in report.measured["idle"] if row["row"] == "silent"]
    assert row["alive"] is False
    assert row["ended"] == pytest.approx(150, abs=1)
    assert "half-open" in rules(report)


# Interrupted.


def test_an_interrupted_probe_reports_what_it_knows() -> None:
    report = Path(Idle).probe(until=100)
    assert report.incomplete == {"idle": "interrupted"}
    assert only(report).rule == "idle-timeout"


def test_an_interrupted_probe_says_nothing_of_what_it_did_not_see() -> None:
    """Only one connection is old enough to be cut by its age: that is no silence."""
    report = Path(Age).probe(until=31, only=["idle"])
    assert "idle-timeout" not in rules(report)


def test_a_probe_that_is_interrupted_while_it_asks_holds_nobody_for_dead() -> None:
    report = Path(Forgets).probe(until=155, only=["idle"])
    assert {row["alive"] for row in report.measured["idle"]} <= {True, None}


def test_an_interrupted_probe_of_a_clean_path_is_not_clean() -> None:
    report = Path().probe(until=40)
    assert report.findings == []
    assert not report.isClean
    assert report.status == 2


class NoPings(FrameHop):
    """Drops the pings of clients, as some servers do that were written by hand."""

    def frameUp(self, found: Frame) -> None:
        if found.opcode != PING:
            super().frameUp(found)


@pytest.mark.parametrize("options", [(), ("--no-lab",)])
def test_who_answers_no_pings_is_not_dead(options: tuple[str, ...]) -> None:
    report = Path(NoPings, *options).probe(10, only=["idle"])
    assert report.findings == []
    assert {row["alive"] for row in report.measured["idle"]} == {True}
