"""Connections that were cut: what that tells of the path, and what it does not."""

from typing import Any

import pytest
from support.paths import (
    LAB,
    ONE_SIDED,
    RST,
    changes,
    check,
    clean,
    cut,
    dead,
    ids,
    only,
    row,
    rows,
    size,
    withoutLab,
)

from echotwist.paths.cuts import told
from echotwist.paths.finding import Finding
from echotwist.paths.measured import Row
from echotwist.paths.rules import judge

CLOSE = {"how": "close", "code": 1001, "reason": "idle"}

_KEEPS = {
    "server": "only what the server sends keeps it open",
    "client": "only what the client sends keeps it open",
    "either": "data from either side keeps it open",
    "both": "data from one side alone does not keep it open",
}

_SILENCE = (
    (("serverData", "clientData"), "both", "have both sides send messages"),
    (("serverData",), "client", "have the client send messages"),
    (("clientData",), "server", "have the server send messages"),
    ((), "either", "have either side send messages"),
)


def lab(*special: Row, seconds: float = 150.0) -> Finding:
    return only(clean(idle=rows(LAB, *special, seconds=seconds)))


def oneSided(*special: Row, seconds: float = 150.0) -> Finding:
    return only(withoutLab(clean(idle=rows(ONE_SIDED, *special, seconds=seconds))))


def server(headers: list[list[str]], *special: Row) -> Finding:
    """With these headers in the 101."""
    measured = clean(idle=rows(LAB, *special))
    measured["handshake"]["response"] = {"line": "", "headers": headers}
    return only(measured)


def test_connections_that_live_to_the_end_say_nothing() -> None:
    assert ids(clean(idle=rows(LAB))) == ids(clean(idle=rows(ONE_SIDED))) == []
    assert ids(clean(idle=[])) == []


def test_an_interrupted_probe_says_nothing_of_what_was_open_until_then() -> None:
    interrupted = [row(name, watched=3.0, alive=None) for name in LAB]
    assert ids(clean(idle=interrupted)) == []


@pytest.mark.parametrize(("cutToo", "kept", "cure"), _SILENCE)
def test_silence_is_told_with_whose_data_keeps_a_connection(
    cutToo: tuple[str, ...], kept: str, cure: str
) -> None:
    finding = lab(*(cut(name, 60.2) for name in ("silent", "serverPings", *cutToo)))
    assert (finding.rule, finding.level) == ("idle-timeout", "problem")
    assert finding.title == f"cut after 60.2 s of silence: {_KEEPS[kept]}, and pings do not count"
    assert finding.cures[-1] == f"{cure} more often than every 60.2 s: pings do not help"
    assert len(finding.evidence) == 5


@pytest.mark.parametrize(("cutToo", "kept", "_"), _SILENCE)
def test_pings_that_keep_a_connection_are_the_cure(
    cutToo: tuple[str, ...], kept: str, _: str
) -> None:
    finding = lab(*(cut(name, 60.2) for name in ("silent", *cutToo)))
    assert finding.title == f"cut after 60.2 s of silence: {_KEEPS[kept]}, and pings count"
    assert finding.cures[-1] == "have the server send pings more often than every 60.2 s"


@pytest.mark.parametrize("late", ["client", "server"])
def test_who_is_told_late_of_an_end_does_not_hide_a_pattern(late: str) -> None:
    silent = cut("silent", 60.2)
    if late == "client":
        silent["ended"] = silent["fromServer"] = silent["fromClient"] = 63.0
    else:
        assert silent["server"] is not None
        silent["server"]["age"] = 63.0
    finding = lab(silent, cut("clientData", 60.1))
    assert finding.rule == "idle-timeout"
    assert finding.title.startswith("cut after 60.2 s of silence: only what the server sends")


def test_a_default_that_several_share_is_told_of_all_that_do_the_same() -> None:
    either = lab(cut("silent", 60)).consistentWith
    products = [each.partition(":")[0] for each in either]
    assert products == ["nginx", "Varnish", "Apache", "AWS ALB", "HAProxy"]
    assert "if it is set to 60.0 s" in either[-1]
    assert "if it is set" not in either[0]
    both = lab(*(cut(name, 60) for name in ("silent", "serverData", "clientData"))).consistentWith
    assert len(both) == 1
    assert "independent-streams" in both[0]


def test_a_header_of_a_hop_moves_it_to_the_front() -> None:
    finding = server([["Server", "awselb/2.0"]], cut("silent", 60))
    assert finding.consistentWith[0].startswith("AWS ALB: idle_timeout")
    assert "[it is on the way: Server: awselb/2.0 (to the client)]" in finding.consistentWith[0]
    assert finding.cures[0].startswith("AWS: raise the idle timeout")
    assert not any("nginx" in each for each in finding.cures)


def test_a_hop_whose_default_is_another_may_have_been_set() -> None:
    finding = server([["Server", "nginx/1.22.1"]], cut("silent", 5))
    assert finding.consistentWith[0].startswith(
        "nginx: proxy_read_timeout, 60 s by default, if it is set to 5.0 s"
    )
    assert finding.cures[0].startswith("nginx: `proxy_read_timeout 1h;`")


def test_a_hop_that_nobody_can_set_is_no_candidate_at_another_time() -> None:
    heroku = [["Via", "1.1 vegur"]]
    assert server(heroku, cut("silent", 55)).consistentWith[0].startswith("Heroku: ")
    assert not any("Heroku" in each for each in server(heroku, cut("silent", 5)).consistentWith)


def test_a_hop_that_does_something_else_is_no_candidate() -> None:
    cuts = [cut(name, 60) for name in LAB]
    finding = server([["Server", "nginx"]], *cuts)
    assert finding.rule == "age-limit"
    assert not any("nginx" in each for each in finding.consistentWith)


def test_each_cure_is_told_once() -> None:
    finding = lab(cut("silent", 600), seconds=700)
    assert len(finding.cures) == len(set(finding.cures))
    assert any(each.startswith("API", 4) for each in finding.consistentWith)
    assert any(each.startswith("CloudFront") for each in finding.consistentWith)


def test_a_timeout_of_each_direction_is_told_with_both() -> None:
    """HAProxy with option independent-streams, timeout client 30s, timeout server 50s."""
    finding = lab(cut("silent", 30), cut("serverData", 30.2), cut("clientData", 50))
    assert finding.rule == "idle-timeout"
    assert finding.title == (
        "cut after 30.2 s without data from the client, and after 50.0 s without data from the "
        "server: data from one side alone does not keep it open, and pings count"
    )
    assert finding.consistentWith[0].startswith("HAProxy: timeout client and timeout server")
    assert "if they are set to 30.0 s and 50.0 s" in finding.consistentWith[0]
    assert finding.cures[0].startswith("HAProxy: ")


def test_two_hops_may_each_have_a_timeout_of_their_own() -> None:
    finding = lab(cut("silent", 30), cut("clientData", 60))
    assert finding.title == (
        "cut after 30.0 s of silence, and after 60.0 s without data from the server: only what the "
        "server sends keeps it open, and pings count"
    )
    assert finding.consistentWith[0] == "two hops, each with a timeout of its own"


def test_a_server_that_cannot_be_asked_leaves_open_whose_data_counts() -> None:
    finding = oneSided(cut("silent", 60, isLab=False))
    assert finding.rule == "idle-timeout"
    assert finding.title == (
        "cut after 60.0 s of silence: whose data keeps it open could not be told, and pings count"
    )
    assert finding.consistentWith[0].startswith("nginx")
    assert finding.cures[-1] == "have the client send pings more often than every 60.0 s"
    finding = oneSided(cut("silent", 60, isLab=False), cut("clientPings", 60, isLab=False))
    assert finding.title.endswith(", and pings do not count")
    assert finding.cures[-1].startswith("have both sides send messages more often")


def test_pings_of_one_side_alone_may_count() -> None:
    names = ("silent", "serverPings", "clientPings", "both")
    finding = only(clean(idle=rows(names, cut("silent", 60), cut("clientPings", 60))))
    assert finding.title.endswith(", and the server's pings")
    assert finding.cures[-1] == "have the server send pings more often than every 60.0 s"


def test_without_pings_nothing_is_said_of_them() -> None:
    finding = only(clean(idle=rows(("silent", "both"), cut("silent", 60))))
    assert "ping" not in finding.title
    assert finding.cures[-1] == "have both sides send messages more often than every 60.0 s"


def test_a_row_that_was_not_watched_for_long_enough_keeps_nothing_open() -> None:
    """The last three had no time to be cut at the age of 60 s, or after 60 s of silence."""
    finding = lab(cut("silent", 60), cut("serverPings", 60.1), seconds=63.0)
    assert finding.rule == "cut"
    assert (
        finding.title == "cut after 60.1 s: by silence or by age, the probe was too short to tell"
    )
    assert finding.cures == ["probe again, with --for 130s or more"]
    products = " ".join(finding.consistentWith)
    assert "nginx" in products
    finding = lab(*(cut(name, 30) for name in LAB[:4]), seconds=38.0)
    assert finding.rule == "cut"
    assert "Google load balancer" in " ".join(finding.consistentWith)


def test_one_data_row_that_was_interrupted_leaves_open_whose_data_counts() -> None:
    interrupted = row("clientData", watched=10.0, alive=None)
    finding = lab(cut("silent", 60), interrupted)
    assert finding.rule == "idle-timeout"
    assert "could not be told" in finding.title


def test_any_row_that_lived_on_tells_that_it_was_no_age() -> None:
    interrupted = row("both", watched=10.0, alive=None)
    finding = lab(cut("silent", 60), cut("clientData", 60), interrupted)
    assert finding.title == (
        "cut after 60.0 s of silence: only what the server sends keeps it open, and pings count"
    )


def test_a_probe_that_was_too_short_has_seen_one_time_only() -> None:
    assert lab(cut("silent", 30), cut("serverPings", 40), seconds=42.0).title.endswith("is known")


def test_one_silent_connection_alone_tells_neither_silence_nor_age() -> None:
    assert only(clean(idle=[cut("silent", 60)])).title.endswith("too short to tell")


def test_a_server_that_talks_by_itself_makes_no_silence() -> None:
    finding = oneSided(cut("silent", 60, isLab=False, fromServer=20.0))
    assert finding.title.startswith("cut after 60.0 s, though the server sent something 20.0 s be")


@pytest.mark.parametrize("names", [LAB, ONE_SIDED])
def test_an_age_at_which_each_is_cut_is_told(names: tuple[str, ...]) -> None:
    ages = [30.0, 30.3, 30.1, 29.9, 30.2]
    cuts = [cut(name, age) for name, age in zip(names, ages, strict=False)]
    finding = only(clean(idle=rows(names, *cuts)))
    assert (finding.rule, finding.level) == ("age-limit", "problem")
    assert finding.title == "each connection is cut at an age of 30.1 s, whatever is sent"
    assert finding.consistentWith[0].startswith("Google load balancer: the backend service's")
    assert finding.cures[0].startswith("Google: raise the timeout")
    assert finding.cures[-1] == "have clients reconnect: pings do not help"


def test_an_age_is_not_told_if_one_of_them_lived_on() -> None:
    assert lab(*(cut(name, 60) for name in LAB[:4])).rule == "idle-timeout"


def test_an_age_is_not_told_of_one_connection_alone() -> None:
    assert only(clean(idle=[cut("both", 60)])).rule == "cut"


def test_what_has_no_time_to_show_does_not_keep_an_age_from_being_told() -> None:
    late = row("clientData", watched=20.0, alive=None)
    assert lab(*(cut(name, 60) for name in LAB if name != "clientData"), late).rule == "age-limit"


@pytest.mark.parametrize("seconds", [40.0, 300.0])
def test_one_instant_is_no_age(seconds: float) -> None:
    """Also late, when 3 % of an age are more than what they were opened apart."""
    cuts = [cut(name, seconds - 2 * number) for number, name in enumerate(LAB)]
    finding = lab(*cuts)
    assert (finding.rule, finding.level) == ("cut-at-once", "problem")
    assert finding.title == "all connections, though of different age, were cut at one instant"
    assert "a reload or a deploy" in finding.consistentWith[0]
    assert finding.cures


def test_some_that_are_cut_at_one_instant_were_not_cut_by_silence() -> None:
    """One of several servers, or workers, that is reloaded."""
    finding = lab(cut("silent", 100), cut("serverPings", 98))
    assert finding.rule == "cut-at-once"
    assert finding.title.startswith("2 of 5 connections, though")


def test_one_instant_and_one_age_are_not_told_apart_if_all_were_opened_at_once() -> None:
    cuts = [
        {**cut(name, 30.0 - number / 5), "opened": number / 5} for number, name in enumerate(LAB)
    ]
    finding = only(clean(idle=cuts))
    assert finding.rule == "age-limit"
    assert finding.title == "all connections were cut after 29.6 s, at one instant or at one age"
    assert finding.cures[0].startswith("probe again")


def test_connections_that_are_dead_at_once_have_met_no_timeout() -> None:
    finding = lab(*(cut(name, 0.1) for name in LAB))
    assert (finding.rule, finding.level) == ("dead-at-once", "problem")
    assert finding.title == "each connection is cut 0.1 s after its 101"
    assert finding.consistentWith == [
        "a firewall or a proxy that takes the 101 for the end of an answer"
    ]
    assert finding.cures
    assert lab(*(cut(name, 3.5) for name in LAB)).rule == "age-limit"


def test_no_pattern_is_said_to_be_none() -> None:
    finding = lab(cut("serverPings", 12), cut("both", 80))
    assert (finding.rule, finding.level) == ("cut", "problem")
    assert finding.title == "2 of 5 connections were cut, by no pattern that is known"
    assert finding.cures


@pytest.mark.parametrize(
    "cuts",
    [
        (("silent", 60), ("serverPings", 90)),  # Silence would have cut pings at once, or never.
        (("silent", 10), ("serverPings", 12.5)),
        (("silent", 60), ("clientData", 30)),  # And data not before.
        (("silent", 60), ("both", 90)),
        (("both", 60),),
        (("serverData", 60),),
    ],
)
def test_what_silence_does_not_do_is_not_called_silence(
    cuts: tuple[tuple[str, float], ...],
) -> None:
    assert lab(*(cut(name, age) for name, age in cuts)).rule == "cut"


def test_a_client_that_is_not_told_is_half_open() -> None:
    server: dict[str, Any] = {"age": 60.0, "by": "client", "how": "fin", "tcp": "fin"}
    half, idle = (
        finding for finding in _found(dead("silent", server=server), cut("serverPings", 60))
    )
    assert (half.rule, half.level, idle.rule) == ("half-open", "problem", "idle-timeout")
    assert "the client was not told" in half.title
    assert half.evidence == [
        "silent: no answer after 160 s, and the client saw no end; "
        "the server saw a FIN after 60.0 s"
    ]
    assert half.consistentWith
    assert half.cures


def test_a_server_that_is_not_told_is_half_open() -> None:
    half, idle = _found(cut("silent", 60, server=None))
    assert (half.rule, half.level, idle.rule) == ("half-open-server", "problem", "idle-timeout")
    assert half.evidence == ["silent: the client saw a FIN after 60.0 s; the server saw no end"]
    assert half.consistentWith
    assert half.cures


def test_a_server_that_cannot_be_asked_is_not_half_open() -> None:
    assert ids(clean(idle=rows(LAB, cut("silent", 60, isLab=False)))) == ["idle-timeout"]


def test_a_connection_of_whose_end_nobody_was_told_was_forgotten() -> None:
    finding = lab(dead("silent", 310.0))
    assert (finding.rule, finding.level) == ("forgotten", "problem")
    assert finding.title == "connections are dead after 310 s or less, and nobody was told"
    assert "Azure load balancer: 4 min" in finding.consistentWith[0]
    assert finding.cures[0].startswith("send pings much more often")


def test_what_the_server_was_told_is_not_known_without_a_lab() -> None:
    assert oneSided(dead("silent", isServerKnown=False)).title.endswith("no client was told")


def test_a_path_that_went_away_has_not_forgotten_what_is_silent() -> None:
    finding = lab(*(dead(name, 40.0) for name in LAB))
    assert finding.rule == "forgotten"
    assert "VPN" in finding.consistentWith[0]
    assert not any("more often" in each for each in finding.cures)


def test_a_server_that_gives_up_by_itself_was_told_nothing_either() -> None:
    """As it does when its pings go where everything goes."""
    own = {"age": 11.0, "by": "server", "how": "drop", "tcp": "us"}
    finding = lab(*(dead(name, 40.0, server=own if "Pings" in name else None) for name in LAB))
    assert finding.rule == "forgotten"
    assert finding.evidence[1] == (
        "pings from the server: no answer after 40.0 s, and the client saw no end; "
        "the server ended it itself by a drop after 11.0 s"
    )
    byServer, half = _found(dead("serverPings", server=own))
    assert (byServer.rule, half.rule) == ("ended-by-server", "half-open")


def test_a_client_that_finds_out_when_it_sends_was_not_told() -> None:
    finding = lab(dead("silent", ended=150.1, client=RST))
    assert finding.rule == "forgotten"
    assert finding.evidence == [
        "silent: the client saw a reset after 150 s, when it sent something again; the server saw "
        "no end"
    ]


def test_what_the_server_has_ended_itself_is_no_timeout_of_a_hop() -> None:
    own = {"age": 20.0, "by": "server", "how": "close", "tcp": "us"}
    finding = lab(cut("serverPings", 20, server=own, client=CLOSE))
    assert (finding.rule, finding.level) == ("ended-by-server", "problem")
    assert "the server ended it itself by a close frame after 20.0 s" in finding.evidence[1]
    assert finding.consistentWith
    assert finding.cures


def test_pings_say_nothing_if_the_server_has_ended_their_connection_itself() -> None:
    own = {"age": 20.0, "by": "server", "how": "drop", "tcp": "us"}
    byServer, idle = _found(cut("silent", 60), cut("serverPings", 20, server=own))
    assert (byServer.rule, idle.rule) == ("ended-by-server", "idle-timeout")
    assert "ping" not in idle.title


@pytest.mark.parametrize("names", [("silent",), LAB])
def test_a_close_frame_is_of_somebody_who_speaks_websocket(names: tuple[str, ...]) -> None:
    finding = lab(*(cut(name, 60, client=CLOSE) for name in names))
    assert finding.consistentWith[0] == "a hop that speaks WebSocket: it sends close frames"
    finding = lab(*(cut(name, 60, isLab=False, client=CLOSE) for name in names))
    assert finding.consistentWith[0].startswith("the server itself, or a hop that speaks WebSocket")
    assert not any("close frames" in each for each in lab(cut("silent", 60)).consistentWith)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (row("both"), "data both ways: open after 150 s"),
        (row("of a stranger"), "of a stranger: open after 150 s"),
        (cut("silent", 5, isLab=False, client=None), "silent: the client saw an end after 5.0 s"),
        (
            cut("silent", 5, isLab=False, client=CLOSE),
            "silent: the client saw a close frame with 1001 after 5.0 s",
        ),
        (
            cut("silent", 5, client={"how": "broken", "code": None, "reason": ""}),
            "silent: the client saw an error after 5.0 s; the server saw a FIN after 5.0 s",
        ),
    ],
)
def test_what_became_of_a_connection_is_told(found: Row, words: str) -> None:
    assert told(found) == words


def _found(*special: Row) -> list[Finding]:
    return judge(clean(idle=rows(LAB, *special)))


def test_a_long_silence_that_pings_prevent_is_a_note() -> None:
    long = only(clean(idle=rows(LAB, cut("silent", 120))))
    assert (long.rule, long.level) == ("idle-timeout", "note")
    assert only(clean(idle=rows(LAB, cut("silent", 60)))).level == "problem"
    mute = only(clean(idle=rows(LAB, cut("silent", 120), cut("serverPings", 120))))
    assert mute.level == "problem"


def test_a_header_of_two_products_speaks_for_each() -> None:
    measured = clean(idle=rows(LAB, cut("silent", 60)))
    measured["handshake"]["toServer"] = changes(added=[["X-Forwarded-Server", "front"]])
    assert only(measured).consistentWith[0].startswith("Apache: ProxyTimeout")
    measured["handshake"]["toServer"] = changes(added=[["X-Varnish", "7"]])
    finding = only(measured)
    assert finding.consistentWith[0].startswith("Varnish: pipe_timeout")
    assert "pipe_timeout=3600" in finding.cures[0]


def test_what_dies_at_once_is_not_blamed_for_its_messages() -> None:
    dead = [cut(name, 0.5) for name in LAB]
    failed = size(125, why="a FIN")
    measured = clean(idle=dead, sizes=[failed], bytes=[check("text", "a FIN")])
    assert ids(measured) == ["dead-at-once"]


@pytest.mark.parametrize("names", [("silent",), ONE_SIDED])
def test_a_server_that_cannot_be_asked_may_have_cut_it_itself(names: tuple[str, ...]) -> None:
    cuts = [cut(name, 30, isLab=False) for name in names]
    finding = oneSided(*cuts)
    assert finding.consistentWith[-1] == "the server itself, which could not be asked"
    assert "or raise the server's own limit, if it has one" in finding.cures
    told = lab(*(cut(name, 30) for name in ("silent",)))
    assert not any("server itself" in each for each in told.consistentWith)
    assert not any("server's own" in each for each in told.cures)


def test_a_tomcat_is_no_apache() -> None:
    finding = server([["Server", "Apache-Coyote/1.1"]], cut("silent", 60))
    assert not any("on the way" in each for each in finding.consistentWith)
    finding = server([["Server", "Apache/2.4.62 (Debian)"]], cut("silent", 60))
    assert "on the way" in finding.consistentWith[0]
