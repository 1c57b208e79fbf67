"""The verdicts on a path: each speaks where it must, and not of what looks alike."""

from typing import Any

import pytest
from support.paths import (
    LAB,
    arrived,
    changes,
    check,
    clean,
    cut,
    handshake,
    http2,
    ids,
    ladder,
    limit,
    only,
    refusal,
    rows,
    size,
    trickle,
    withFlow,
    withHandshake,
    withoutLab,
)

from echotwist.paths.finding import LEVELS, Finding
from echotwist.paths.measured import Arrived, Measured, Response, Unreached
from echotwist.paths.rules import judge

IN_ORDER = arrived("HTTP/1.1", ("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket"))
STRIPPED = arrived("HTTP/1.0", ("Connection", "close"))
NGINX = {"line": "HTTP/1.1 400 Bad Request", "headers": [["Server", "nginx/1.22.1"]]}


def refused(status: int | None, **changed: Any) -> Finding:
    """Of a handshake that has got no further."""
    return only({"handshake": {"refused": refusal(status, **changed)}})


def shown(response: dict[str, Any], status: int, **changed: Any) -> Finding:
    facts: Any = {"response": response, "refused": refusal(status, **changed)}
    return only({"handshake": facts})


def tls(**changed: Any) -> Measured:
    known: Any = handshake()["tls"]
    return withHandshake(tls={**known, **changed})


def sizes(*found: Any) -> Finding:
    return only(clean(sizes=[each for some in found for each in some]))


def test_a_clean_path_says_nothing() -> None:
    assert judge(clean()) == []
    assert judge(withoutLab(clean())) == []


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert judge({}) == []
    assert judge({"handshake": {}, "idle": [], "sizes": [], "bytes": [], "flow": {}}) == []
    assert ids(withHandshake(tls=None, http2=None)) == []


def test_the_worst_is_told_first() -> None:
    measured = tls(issuer="CN=Zscaler")
    measured["idle"] = rows(LAB, cut("silent", 60))
    measured["handshake"]["http2"] = http2("no h2")
    found = judge(measured)
    assert [each.level for each in found] == list(LEVELS)
    assert [each.rule for each in found] == ["idle-timeout", "tls-inspected", "http2-refused"]


# TLS.


def test_a_certificate_that_is_not_trusted_is_told_with_its_issuer() -> None:
    finding = only(tls(distrust="certificate has expired"))
    assert (finding.rule, finding.level) == ("tls-distrust", "problem")
    assert finding.title == "the certificate is not trusted: certificate has expired"
    assert "Let's Encrypt" in finding.evidence[0]
    assert finding.consistentWith == []  # Nothing says that somebody is between.
    assert any("renew what has expired" in each for each in finding.cures)


def test_a_certificate_of_an_inspector_is_told_whether_trusted_or_not() -> None:
    trusted = only(tls(issuer="CN=Kaspersky Anti-Virus Personal Root Certificate"))
    assert (trusted.rule, trusted.level) == ("tls-inspected", "limit")
    assert "inspects TLS" in trusted.consistentWith[0]
    assert trusted.cures
    other = only(tls(issuer="CN=ZAP Root CA", distrust="self-signed certificate in chain"))
    assert other.rule == "tls-distrust"
    assert other.consistentWith == trusted.consistentWith


@pytest.mark.parametrize("issuer", ["O=Reset Ltd", "CN=R11,O=Let's Encrypt", "CN=avgustin", ""])
def test_an_issuer_with_a_like_name_inspects_nothing(issuer: str) -> None:
    assert ids(tls(issuer=issuer)) == []


# No WebSocket.


def test_a_101_that_is_not_in_order_is_the_path_s_or_the_server_s() -> None:
    finding = refused(101, why="the 101 has no Upgrade: websocket")
    assert (finding.rule, finding.level) == ("answer-stripped", "problem")
    assert finding.title.endswith("the 101 has no Upgrade: websocket")
    assert finding.consistentWith[0].startswith("a proxy that strips")
    assert finding.consistentWith[1].startswith("a server")
    assert finding.cures


def test_a_redirect_is_told_with_where_to_connect() -> None:
    finding = refused(301, location="HTTPS://canary.example/echo/")
    assert (finding.rule, finding.level) == ("redirect", "problem")
    assert "redirected to HTTPS://canary.example/echo/" in finding.title
    assert finding.cures[0].startswith("connect to wss://canary.example/echo/, ")
    assert refused(302, location="http://x/").cures[0].startswith("connect to ws://x/, ")
    login = refused(307, location="/login?next=/echo")
    assert login.cures[0].startswith("connect to /login?next=/echo, ")
    assert "login" in login.consistentWith[1]
    assert "Cookie" in login.cures[1]


def test_an_answer_that_sends_nobody_elsewhere_is_no_redirect() -> None:
    assert refused(301).rule == "refused"
    for status in (200, 299, 400):
        assert refused(status, location="/elsewhere").rule == "refused"
    assert refused(300, location="/elsewhere").rule == "redirect"


def test_a_long_answer_is_not_told_whole() -> None:
    finding = refused(301, location="https://x/" + "a" * 100_000, body="b" * 100_000)
    assert len(finding.title) < 400
    assert all(len(each) < 400 for each in finding.evidence)


def test_an_upgrade_that_was_stripped_is_told_with_what_the_server_saw() -> None:
    finding = shown(NGINX, 426, arrived=STRIPPED, body=" the server speaks WebSocket ")
    assert (finding.rule, finding.level) == ("upgrade-stripped", "problem")
    assert finding.title == (
        "Upgrade and Connection: Upgrade did not arrive at the server: a hop does not pass on "
        "what belongs to an upgrade, and speaks HTTP/1.0 to it"
    )
    assert "its body begins with 'the server speaks WebSocket'" in finding.evidence
    assert "nginx is on the way: Server: nginx/1.22.1 (to the client)" in finding.evidence
    assert finding.evidence[-1] == "the server saw HTTP/1.0, connection: close"
    assert len(finding.cures) == 1
    assert finding.cures[0].startswith("nginx: `proxy_http_version 1.1;")


def test_a_version_that_was_not_told_is_no_other_one() -> None:
    untold = arrived("", *((name, value) for name, value in IN_ORDER["headers"]))
    assert refused(400, arrived=untold).rule == "refused"


def test_without_a_header_of_a_hop_each_cure_of_an_upgrade_is_told() -> None:
    products = [each.partition(":")[0] for each in refused(426, arrived=STRIPPED).cures]
    assert products == ["nginx", "Apache", "Varnish", "Envoy"]
    for status in (200, 400, 426):
        assert refused(status).cures == refused(426, arrived=STRIPPED).cures


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (arrived("HTTP/1.1", ("Upgrade", "websocket")), "Connection: Upgrade did not arrive"),
        (arrived("HTTP/1.1", ("Connection", "upgrade")), "Upgrade did not arrive"),
        (
            arrived("HTTP/1.0", ("Connection", "Upgrade"), ("Upgrade", "websocket")),
            "a hop speaks HTTP/1.0 to the server",
        ),
        (arrived("HTTP/1.1"), "Upgrade and Connection: Upgrade did not arrive"),
    ],
)
def test_whatever_an_upgrade_lacks_is_told(found: Arrived, words: str) -> None:
    finding = refused(400, arrived=found)
    assert finding.rule == "upgrade-stripped"
    assert finding.title.startswith(words)


def test_headers_that_come_several_times_are_one_list() -> None:
    found = arrived(
        "HTTP/1.1",
        ("Connection", "Upgrade"),
        ("Connection", "keep-alive"),
        ("Upgrade", "WebSocket"),
    )
    assert refused(404, arrived=found).rule == "refused"


def test_an_upgrade_that_arrives_elsewhere_is_refused_for_another_reason() -> None:
    finding = shown(NGINX, 404, arrived=IN_ORDER)
    assert (finding.rule, finding.level) == ("refused", "problem")
    assert "404" in finding.title
    assert finding.evidence[-1] == "the same request does arrive in order at /lab/inspect"
    assert not any("proxy_http_version" in each for each in finding.cures)
    assert finding.cures


def test_who_is_not_let_in_needs_no_upgrade_cured() -> None:
    for status in (401, 403):
        finding = shown(NGINX, status, arrived=STRIPPED)
        assert finding.rule == "refused"
        assert str(status) in finding.title
        assert "--header" in finding.cures[0]
    assert "--proxy" in refused(407).cures[0]


@pytest.mark.parametrize("status", [502, 503, 504, 520, 527])
def test_a_gateway_without_a_server_is_told(status: int) -> None:
    finding = refused(status)
    assert (finding.rule, finding.level) == ("unreachable", "problem")
    assert str(status) in finding.title
    assert "whether the server runs" in finding.cures[0]


def test_a_server_that_answers_elsewhere_does_run() -> None:
    finding = refused(502, arrived=IN_ORDER)
    assert finding.rule == "unreachable"
    assert "whether the server runs" not in finding.cures[0]


@pytest.mark.parametrize("status", [None, 404, 500, 528])
def test_any_other_answer_is_a_refusal(status: int | None) -> None:
    finding = refused(status)
    assert (finding.rule, finding.level) == ("refused", "problem")
    assert "look at the path" in finding.cures[0]


def test_a_lab_that_no_websocket_reaches_is_a_note() -> None:
    finding = only(withHandshake(labRefused=refusal(404)))
    assert (finding.rule, finding.level) == ("lab-refused", "note")
    assert finding.evidence == ["at /lab the answer is 'HTTP/1.1 404 …', where it should be a 101"]
    assert finding.consistentWith
    assert finding.cures
    assert ids(withHandshake(labRefused=None)) == []


# Headers.


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (
            {"rewritten": [{"name": "Origin", "sent": "https://a", "arrived": "https://b"}]},
            "it arrived as 'https://b'",
        ),
        ({"removed": [["origin", "https://a"]]}, "it did not arrive"),
    ],
)
def test_an_origin_that_arrives_otherwise_misleads_servers(
    change: dict[str, Any], evidence: str
) -> None:
    finding = only(withHandshake(toServer=changes(**change)))
    assert (finding.rule, finding.level) == ("origin-changed", "limit")
    assert finding.evidence == [evidence]
    assert finding.consistentWith
    assert finding.cures


def test_what_every_proxy_does_to_headers_is_no_finding() -> None:
    usual = changes(
        added=[["X-Forwarded-For", "192.0.2.1"]],
        removed=[["Priority", "u=1"]],
        rewritten=[{"name": "Host", "sent": "a", "arrived": "b"}],
        line={"name": "", "sent": "GET /a HTTP/1.1", "arrived": "GET /b HTTP/1.1"},
        isReordered=True,
    )
    added = changes(added=[["Date", "now"]], isReordered=True)
    assert ids(withHandshake(toServer=usual, toClient=added)) == []
    assert ids(withHandshake(toServer=None, toClient=None)) == []


KEY = {"name": "sec-websocket-key", "sent": "a", "arrived": "b"}


def test_another_key_is_that_of_a_hop() -> None:
    finding = only(withHandshake(toServer=changes(rewritten=[KEY])))
    assert (finding.rule, finding.level) == ("terminated", "note")


def test_http_1_0_at_the_server_is_a_note() -> None:
    line = {"name": "", "sent": "GET / HTTP/1.1", "arrived": "GET / HTTP/1.0"}
    finding = only(withHandshake(toServer=changes(line=line)))
    assert (finding.rule, finding.level) == ("http-1.0", "note")
    assert finding.evidence == ["GET / HTTP/1.0"]
    assert finding.cures == ["nginx: `proxy_http_version 1.1;`"]


def test_headers_of_the_answer_that_are_lost_are_a_note() -> None:
    finding = only(withHandshake(toClient=changes(removed=[["X-A", "1"], ["X-B", "2"]])))
    assert (finding.rule, finding.level) == ("answer-shortened", "note")
    assert finding.title == "headers of the 101 did not arrive: X-A, X-B"
    assert finding.evidence == ["X-A: 1", "X-B: 2"]


def offer(arrived: str | None, answered: str | None, received: str | None) -> dict[str, Any]:
    return {"offered": "x", "arrived": arrived, "answered": answered, "received": received}


@pytest.mark.parametrize("key", ["extensions", "subprotocols"])
def test_an_offer_that_does_not_arrive_is_a_limit(key: str) -> None:
    finding = only(withHandshake(**{key: offer(None, None, None)}))
    assert (finding.rule, finding.level) == (f"{key}-stripped", "limit")
    assert finding.evidence == [
        "offered x",
        "arrived: nothing",
        "answered: nothing",
        "came back: nothing",
    ]
    assert ("ZAP" in finding.consistentWith[0]) == (key == "extensions")
    assert finding.cures


@pytest.mark.parametrize("key", ["extensions", "subprotocols"])
@pytest.mark.parametrize("received", [None, "y"])
def test_an_answer_that_comes_otherwise_is_a_problem(key: str, received: str | None) -> None:
    finding = only(withHandshake(**{key: offer("x", "x", received)}))
    assert (finding.rule, finding.level) == (f"{key}-answer-changed", "problem")
    assert finding.consistentWith
    assert finding.cures


@pytest.mark.parametrize("key", ["extensions", "subprotocols"])
def test_spaces_and_refusals_change_no_answer(key: str) -> None:
    assert ids(withHandshake(**{key: offer("x;y", "x; y", "x;y")})) == []
    assert ids(withHandshake(**{key: offer("x", None, None)})) == []


def test_of_an_offer_nothing_is_said_that_one_side_alone_saw() -> None:
    for lacking in ("toServer", "toClient"):
        some = {lacking: None, "extensions": offer(None, None, "x")}
        assert ids(withHandshake(**some)) == []
    facts: Any = {**handshake()}
    del facts["extensions"]
    assert ids(clean(handshake=facts)) == []


def test_a_hop_with_a_websocket_of_its_own_agrees_on_its_own_extensions() -> None:
    some = {"toServer": changes(rewritten=[KEY]), "extensions": offer(None, None, "x")}
    assert ids(withHandshake(**some)) == ["terminated"]
    some = {"toServer": changes(rewritten=[KEY]), "subprotocols": offer("x", "x", None)}
    assert ids(withHandshake(**some)) == ["subprotocols-answer-changed", "terminated"]


def test_a_large_handshake_that_is_refused_is_told_with_its_least_size() -> None:
    limits = [
        limit("cookie", 4_000),
        limit("cookie", 8_000),
        limit("cookie", 16_000, "HTTP/1.1 400"),
    ]
    finding = only(withHandshake(limits=limits))
    assert (finding.rule, finding.level) == ("large-cookie", "note")
    assert finding.title == "a handshake with a cookie of 16,000 bytes is refused"
    assert finding.evidence == ["16,000 bytes: HTTP/1.1 400"]
    assert finding.consistentWith[0].startswith("nginx: large_client_header_buffers")
    assert not any("Tomcat" in each for each in finding.consistentWith)  # It took 8,000.
    measured = withHandshake(limits=limits, response={"headers": [["Server", "Apache"]]})
    assert only(measured).consistentWith[0].startswith("Apache: LimitRequestFieldSize")
    for added, product in (("X-Forwarded-Server", "Apache"), ("X-Varnish", "Varnish")):
        there = changes(added=[[added, "1"]])
        shown = only(withHandshake(limits=limits, toServer=there)).consistentWith[0]
        assert shown.startswith(f"{product}: ")
    assert finding.cures
    finding = only(withHandshake(limits=[limit("query", 8_000, "HTTP/1.1 414 URI Too Long")]))
    assert (finding.rule, finding.level) == ("large-query", "note")
    assert finding.consistentWith == ["Tomcat: maxHttpHeaderSize, 8 KB for all headers by default"]


def test_a_usual_cookie_that_is_refused_is_a_problem() -> None:
    finding = only(withHandshake(limits=[limit("cookie", n, "no") for n in (4_000, 8_000)]))
    assert finding.level == "problem"
    assert "4,000 bytes" in finding.title
    assert finding.consistentWith == []  # All that are known take as much.
    finding = only(withHandshake(limits=[limit("cookie", 8_000, "no")]))
    assert finding.level == "note"


def test_a_refusal_below_a_size_that_passes_is_not_for_the_size() -> None:
    limits = [limit("cookie", 4_000, "connection refused"), limit("cookie", 8_000)]
    assert ids(withHandshake(limits=limits)) == []


def test_no_websocket_over_http_2_is_a_note() -> None:
    finding = only(withHandshake(http2=http2("no SETTINGS_ENABLE_CONNECT_PROTOCOL")))
    assert (finding.rule, finding.level) == ("http2-refused", "note")
    assert finding.evidence == ["no SETTINGS_ENABLE_CONNECT_PROTOCOL"]
    assert finding.cures
    assert ids(withHandshake(http2=None)) == []


# Sizes.


def test_a_limit_of_frames_leaves_fragments_alone() -> None:
    finding = sizes(ladder("whole", 65_535), ladder("fragments", 2_000_000))
    assert (finding.rule, finding.level) == ("size-limit", "limit")
    assert finding.title == (
        "a frame above 65,535 bytes does not pass; the same message in fragments does"
    )
    assert finding.consistentWith == ["APISIX (APISIX, websocket-proxy)"]
    assert "fragments" in finding.cures[0]
    assert finding.evidence[0] == "65,536 bytes, whole: a reset"


def test_a_limit_of_frames_and_one_of_messages_are_told_apart() -> None:
    finding = sizes(ladder("whole", 32_768), ladder("fragments", 131_072))
    assert finding.title.endswith("in fragments does, up to 131,072 bytes")
    assert finding.consistentWith[0].startswith("AWS API Gateway")


def test_a_limit_of_messages_is_that_of_fragments_too() -> None:
    finding = sizes(ladder("whole", 1_048_576), ladder("fragments", 1_048_576))
    assert (
        finding.title
        == "a message above 1,048,576 bytes does not pass, neither whole nor in fragments"
    )
    assert finding.consistentWith[0].startswith("Cloudflare Workers")
    assert "raise the limit" in finding.cures[0]


def test_a_hop_that_shows_itself_is_the_likeliest_with_a_limit() -> None:
    measured = clean(sizes=ladder("whole", 32_768) + ladder("fragments", 1_048_576))
    first, second = only(measured).consistentWith
    assert (first[:15], second[:18]) == ("AWS API Gateway", "Cloudflare Workers")
    measured["handshake"]["response"]["headers"] = [["CF-Ray", "1"]]
    assert only(measured).consistentWith == [second, first]


def test_fragments_may_have_a_smaller_limit() -> None:
    finding = sizes(ladder("whole", 65_536), ladder("fragments", 32_768))
    assert finding.title == (
        "a message above 65,536 bytes does not pass, and in fragments none above 32,768 bytes"
    )
    finding = sizes(ladder("whole", 2_000_000), ladder("fragments", 32_768))
    assert finding.title == (
        "a message above 32,768 bytes in fragments does not pass, and whole it does"
    )
    assert finding.cures[0].startswith("have clients and server send it whole")


def test_a_shape_that_was_not_tried_does_not_pass() -> None:
    finding = sizes(ladder("whole", 65_535))
    assert finding.title == "a message above 65,535 bytes does not pass"
    finding = sizes(ladder("fragments", 65_535))
    assert finding.title == "a message above 65,535 bytes in fragments does not pass"


def test_echoes_that_are_lost_are_lost_on_their_way_back() -> None:
    back = sizes(ladder("whole", 65_535, arrived=True), ladder("fragments", 2_000_000))
    assert back.title.endswith(", on its way back")
    there = sizes(ladder("whole", 65_535), ladder("fragments", 2_000_000))
    assert "way back" not in there.title


def test_a_server_that_cannot_be_asked_may_have_the_limit_itself() -> None:
    both = ladder("whole", 1_048_576, arrived=None) + ladder("fragments", 1_048_576, arrived=None)
    finding = only(withoutLab(clean(sizes=both)))
    assert "the server itself" in finding.consistentWith[-1]
    assert "of the server" in finding.cures[0]
    seen = sizes(ladder("whole", 1_048_576), ladder("fragments", 1_048_576))
    assert not any("the server itself" in each for each in seen.consistentWith)


def test_what_is_late_may_be_slow() -> None:
    late = [*ladder("whole", 65_535), *ladder("fragments", 65_535)]
    assert not any("slow" in each for each in sizes(late).consistentWith)
    late = [size(125), size(16_777_216, why="no echo in 60 s", arrived=True)]
    assert sizes(late).consistentWith == ["a path that is too slow for as much: see its rates"]


def test_sizes_that_do_not_pass_while_larger_ones_do_are_no_limit() -> None:
    finding = sizes(
        [size(125), size(126, why="a reset"), size(16_384)], ladder("fragments", 65_535)
    )
    assert (finding.rule, finding.level) == ("size", "problem")
    assert finding.title == "some sizes do not pass, and larger ones do"
    assert finding.consistentWith
    assert finding.cures
    erratic = [size(125, "fragments"), size(126, "fragments", "a FIN"), size(127, "fragments")]
    assert sizes([size(125)], erratic).rule == "size"
    assert sizes([size(125), size(126, "of a stranger", "a FIN")]).rule == "size"


def test_a_path_on_which_no_message_passes_has_no_limit() -> None:
    finding = sizes([size(n, why="no echo in 60 s") for n in (125, 126, 16_384)])
    assert (finding.rule, finding.level) == ("size", "problem")
    assert finding.title == "no message comes back, of whatever size"
    assert finding.cures


def test_what_the_server_refuses_is_no_limit_of_the_path() -> None:
    own = ladder("whole", 65_536, why="a close frame with 1009", refusedByServer=True)
    finding = sizes([{**each, "refusedByServer": not each["passed"]} for each in own])
    assert (finding.rule, finding.level) == ("server-limit", "note")
    assert finding.title == "the server itself takes no message of 131,072 bytes"
    assert finding.cures


def test_a_limit_of_the_server_and_one_of_a_hop_are_told_apart() -> None:
    fragments = [
        size(65_536, "fragments"),
        size(131_072, "fragments", "1009", refusedByServer=True),
    ]
    limit, own = judge(clean(sizes=[*ladder("whole", 65_535), *fragments]))
    assert (limit.rule, own.rule) == ("size-limit", "server-limit")
    assert limit.title.endswith("the same message in fragments does")
    assert own.evidence == ["131,072 bytes, fragments: 1009"]


# Bytes.


@pytest.mark.parametrize(
    ("name", "why", "rule", "level"),
    [
        ("a compressed message", "a reset", "compression", "problem"),
        ("who answers pings", "the ping did not arrive", "pings-between", "limit"),
        ("frames and masks", "the frames came to the server with other masks", "reframed", "note"),
        (
            "the client's close",
            "4321 came to the server as 1000 ('')",
            "close-to-server",
            "problem",
        ),
        ("the server's close", "no answer in time", "close-to-client", "problem"),
        ("text", "21 bytes came back as 3f", "bytes", "problem"),
        ("of a stranger", "", "bytes", "problem"),
    ],
)
def test_what_does_not_arrive_as_it_was_sent_is_told(
    name: str, why: str, rule: str, level: str
) -> None:
    finding = only(clean(bytes=[check("binary"), check(name, why, passed=False)]))
    assert (finding.rule, finding.level) == (rule, level)
    assert finding.evidence == [why]
    assert len(finding.consistentWith) == 1
    assert bool(finding.cures) == (level != "note")
    assert ids(clean(bytes=[check(name)])) == []
    assert ids(clean(bytes=[{"check": name, "passed": None, "why": "not seen"}])) == []


@pytest.mark.parametrize(
    "why", ["no answer in time", "a reset", "a close frame with 1002 ('a\nb')"]
)
def test_what_is_not_answered_was_not_answered_by_somebody_between(why: str) -> None:
    found = judge(clean(bytes=[check("who answers pings", why), check("frames and masks", why)]))
    assert [(each.rule, each.title) for each in found] == [
        ("bytes", "a ping is not answered"),
        ("bytes", "a message in fragments does not come back"),
    ]


def test_a_server_that_cannot_be_asked_may_have_changed_it_itself() -> None:
    for name in ("text", "a compressed message"):
        finding = only(withoutLab(clean(bytes=[check(name, "a FIN")])))
        assert finding.consistentWith[-1] == "the server itself, which could not be asked"


def test_a_server_may_answer_a_close_with_a_code_of_its_own() -> None:
    measured = clean(bytes=[check("the client's close", "4321 was answered by 1000")])
    finding = only(withoutLab(measured))
    assert (finding.rule, finding.level) == ("close-to-server", "note")
    assert finding.consistentWith[0].startswith("many a server")
    assert only(measured).level == "problem"


# Speed.

LUMPS = ([0.0] * 4 + [1.0]) * 4
"""Gaps of messages each 200 ms, which something passes on once a second."""


@pytest.mark.parametrize(
    ("way", "words"), [("toClient", "from the server"), ("toServer", "to the")]
)
def test_messages_that_come_in_lumps_are_held_back(way: str, words: str) -> None:
    finding = only(withFlow(**{way: trickle(LUMPS)}))
    assert (finding.rule, finding.level) == ("buffered", "problem")
    assert finding.title.startswith(f"messages {words}")
    assert finding.evidence == [
        "one was sent every 200 ms; 16 of 20 gaps were less than 50 ms as they came, and the "
        "longest was 1000 ms"
    ]
    assert finding.consistentWith
    assert finding.cures


def test_messages_that_all_come_at_once_are_held_back() -> None:
    assert only(withFlow(toClient=trickle([0.001] * 14))).rule == "buffered"


def test_messages_that_do_not_come_before_the_end_are_held_back() -> None:
    finding = only(withFlow(toClient=trickle([])))
    assert finding.rule == "buffered"
    assert finding.evidence[0].endswith("of 25, 1 or less had come by the end")


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ([0.2] * 24, None),
        ([0.17, 0.23] * 12, None),  # Jitter.
        ([0.2] * 9 + [0.8, 0.0, 0.0, 0.0] + [0.2] * 11, None),  # A segment that was lost.
        ([0.2] * 6 + [3.0] + [0.0] * 14 + [0.2] * 3 + [0.2] * 4, None),  # A network that stalls.
        (LUMPS, LUMPS),  # They left like that.
        ([0.0, 0.6], [0.2] * 4),  # Too few to tell.
        ([0.5] * 20, None),  # Slow, and not in lumps.
        ([0.2] * 9, None),  # From far away: the rest is on the way.
    ],
)
def test_a_network_that_is_slow_or_stalls_holds_nothing_back(
    received: list[float], sent: list[float] | None
) -> None:
    assert ids(withFlow(toClient=trickle(received, sent))) == []


def test_a_trickle_of_which_the_server_could_not_tell_says_nothing() -> None:
    assert ids(withFlow(toClient=trickle([0.2] * 20, []), toServer=trickle([]))) == []


def test_a_burst_in_another_order_is_a_problem() -> None:
    finding = only(withFlow(burst={"count": 500, "seconds": 1.0, "inOrder": False}))
    assert (finding.rule, finding.level) == ("burst", "problem")
    assert finding.title.startswith("500 messages at once do not come back")
    assert finding.consistentWith
    assert finding.cures
    assert ids(withFlow(burst={"count": 500, "seconds": 1.0, "inOrder": True})) == []


def test_pings_that_are_much_quicker_than_messages_may_be_answered_between() -> None:
    measured = withFlow(pingRoundTrips=[0.01] * 3, messageRoundTrips=[0.1] * 3)
    finding = only(withoutLab(measured))
    assert (finding.rule, finding.level) == ("pings-quick", "note")
    assert finding.evidence == ["10.0 ms a ping, 100.0 ms a message (medians)"]
    assert finding.cures
    assert ids(measured) == []  # The lab says who answers.


@pytest.mark.parametrize(
    ("pings", "messages"),
    [([0.001], [0.009]), ([0.1], [0.3]), ([], [1.0]), ([0.1], []), ([0.01] * 3, [9.0, 0.01, 0.01])],
)
def test_pings_that_are_a_little_quicker_say_nothing(
    pings: list[float], messages: list[float]
) -> None:
    measured = withFlow(pingRoundTrips=pings, messageRoundTrips=messages)
    assert ids(withoutLab(measured)) == []


def test_an_envoy_that_was_not_told_of_upgrades_wants_no_credentials() -> None:
    refused = withHandshake(refused=refusal(403))
    envoy: Response = {"line": "HTTP/1.1 403 Forbidden", "headers": [["server", "envoy"]]}
    refused["handshake"]["response"] = envoy
    finding = only(refused)
    assert (finding.rule, finding.level) == ("refused", "problem")
    assert "Envoy" in finding.title
    assert "upgrade_configs" in finding.cures[0]
    refused["handshake"]["refused"] = refusal(403, body="origin not allowed")
    assert "credentials" in only(refused).title
    refused["handshake"]["refused"] = refusal(403)
    behind = [["server", "envoy"], ["x-envoy-upstream-service-time", "3"]]
    refused["handshake"]["response"] = {**envoy, "headers": behind}
    assert "credentials" in only(refused).title
    refused["handshake"]["response"] = {**envoy, "headers": [["server", "nginx"]]}
    assert "credentials" in only(refused).title


def test_no_answer_at_all_may_be_a_proxy_that_takes_no_upgrades() -> None:
    finding = only(withHandshake(refused=refusal(None)))
    assert "http-proxy" in finding.consistentWith[0]
    refused = withHandshake(refused=refusal(None, arrived=arrived()))
    assert all("http-proxy" not in each for each in only(refused).consistentWith)


@pytest.mark.parametrize(
    ("line", "words", "cure"),
    [
        ("HTTP/1.1 407 Proxy Authentication Required", "wants credentials", "USER:PASSWORD@"),
        ("HTTP/1.1 403 Forbidden", "does not let CONNECT through", "443"),
        ("HTTP/1.0 503 Service Unavailable", "answers CONNECT with 503", "reaches the server"),
    ],
)
def test_a_proxy_that_refuses_to_connect_is_a_finding(line: str, words: str, cure: str) -> None:
    notReached: Unreached = {
        "stage": "proxy",
        "why": f"the proxy answers CONNECT with {line!r}",
    }
    finding = only({"handshake": {"notReached": notReached}})
    assert (finding.rule, finding.level) == ("proxy-refused", "problem")
    assert words in finding.title
    assert cure in finding.cures[0]


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ("proxy", "connection refused"),
        ("proxy", "no answer to CONNECT in 15 s"),
        ("tcp", "HTTP/1.1 403 is none of TCP's"),
        ("dns", "the name has no address"),
    ],
)
def test_what_is_not_reached_for_another_reason_is_none(stage: str, why: str) -> None:
    assert judge({"handshake": {"notReached": {"stage": stage, "why": why}}}) == []


def test_plain_http_on_a_port_of_tls_is_told_to_use_it() -> None:
    body = "400 The plain HTTP request was sent to HTTPS port"
    finding = only({"handshake": {"refused": refusal(400, body=body)}})
    assert (finding.rule, finding.level) == ("wants-tls", "problem")
    assert finding.cures == ["connect to wss://"]
    assert only({"handshake": {"refused": refusal(400, body="bad")}}).rule == "refused"


def test_plain_http_behind_tls_is_a_hop_s() -> None:
    body = "400 The plain HTTP request was sent to HTTPS port"
    finding = only(withHandshake(refused=refusal(400, body=body)))
    assert finding.rule == "wants-tls"
    assert finding.cures[0].startswith("nginx: `proxy_pass https://")


def test_a_certificate_of_the_client_that_is_wanted_is_told() -> None:
    why = "no answer, but an error: tlsv13 alert certificate required"
    finding = only(withHandshake(refused=refusal(None, why=why)))
    assert "wants a certificate" in finding.title
    assert finding.consistentWith == []


def test_a_404_asks_for_the_path() -> None:
    upgraded = arrived("HTTP/1.1", ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    finding = only(withHandshake(refused=refusal(404, body="try /echo", arrived=upgraded)))
    assert "path of the URL" in finding.cures[0]


def test_the_limit_of_headers_is_that_of_the_hop_that_shows_itself() -> None:
    small = [limit("cookie", 4_000, "HTTP/1.1 400 Bad Request")]
    alone = only(withHandshake(limits=small))
    assert alone.consistentWith == []
    response = {"line": "HTTP/1.1 101 …", "headers": [["Server", "nginx/1.22.1"]]}
    shown = only(withHandshake(limits=small, response=response))
    assert "large_client_header_buffers, if it is set to less" in shown.consistentWith[0]
    assert shown.cures == ["nginx: raise `large_client_header_buffers 4 32k;`"]
