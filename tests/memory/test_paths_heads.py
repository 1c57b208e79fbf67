"""Heads as they were sent and as they arrived, and who shows in them."""

import pytest
from support.paths import arrived, changes, clean, refusal, withHandshake

from echotwist.paths.comparison import compare
from echotwist.paths.head import Head
from echotwist.paths.hops import hopsOf

SENT = Head("GET / HTTP/1.1", [("Host", "a"), ("X-A", "1"), ("x-a", "2"), ("Cookie", "secret")])


def test_a_head_is_taken_apart() -> None:
    head = Head.parse(b"HTTP/1.1 101 OK\r\nA:  b \r\na: c\r\nno colon\r\nB: \xff\r\n\r\n")
    assert head.line == "HTTP/1.1 101 OK"
    assert head.headers == [("A", "b"), ("a", "c"), ("no colon", ""), ("B", "\xff")]
    assert head.all("a") == ["b", "c"]
    assert head.get("a") == "b, c"
    assert head.get("c") is None


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 101 Switching Protocols", 101),
        ("HTTP/1.0 200", 200),
        ("HTTP/1.1 1x1 OK", 0),
        ("HTTP/1.1", 0),
        ("SSH-2.0 200", 0),
        ("", 0),
    ],
)
def test_the_status_is_that_of_an_answer(line: str, status: int) -> None:
    assert Head(line, []).status == status


def test_a_word_is_found_in_a_list_and_not_within_another() -> None:
    head = Head("", [("Connection", "keep-alive, UPGRADE"), ("X", "not-upgrade")])
    assert head.has("connection", "upgrade")
    assert not head.has("x", "upgrade")
    assert not head.has("y", "upgrade")


def test_a_head_that_arrives_as_it_was_sent_has_no_changes() -> None:
    assert compare(SENT, SENT) == changes()


def test_names_are_compared_regardless_of_case_and_values_as_one_list() -> None:
    there = Head(SENT.line, [("HOST", "a"), ("x-a", "1, 2"), ("cookie", "secret")])
    assert compare(SENT, there) == changes()


def test_each_change_of_a_head_is_told() -> None:
    there = Head(
        "GET / HTTP/1.0", [("X-A", "1"), ("Host", "b"), ("Via", "1.1 x"), ("Via", "1.1 y")]
    )
    assert compare(SENT, there) == {
        "line": {"name": "", "sent": "GET / HTTP/1.1", "arrived": "GET / HTTP/1.0"},
        "added": [["Via", "1.1 x"], ["Via", "1.1 y"]],
        "removed": [["Cookie", "secret"]],
        "rewritten": [
            {"name": "Host", "sent": "a", "arrived": "b"},
            {"name": "X-A", "sent": "1, 2", "arrived": "1"},
        ],
        "isReordered": True,
    }


@pytest.mark.parametrize(
    ("shown", "isRewritten"),
    [
        ("6 bytes, not shown", False),
        ("7 bytes, not shown", True),
        ("1,006 bytes, not shown", True),
        # Who writes that is not the lab.
        (", bytes, not shown", True),
        ("9" * 5000 + " bytes, not shown", True),
    ],
)
def test_a_value_that_is_not_shown_is_compared_by_its_size(shown: str, isRewritten: bool) -> None:
    found = compare(Head("", [("Cookie", "secret")]), Head("", [("Cookie", shown)]))
    assert bool(found["rewritten"]) == isRewritten


@pytest.mark.parametrize(
    ("header", "product"),
    [
        (("Server", "nginx/1.22.1"), "nginx"),
        (("server", "openresty"), "nginx"),
        (("Server", "Apache/2.4.62 (Debian)"), "Apache"),
        (("Via", "1.1 Caddy"), "Caddy"),
        (("Server", "istio-envoy"), "Envoy"),
        (("X-Envoy-Upstream-Service-Time", "3"), "Envoy"),
        (("Via", "1.1 varnish (Varnish/7.1)"), "Varnish"),
        (("Server", "awselb/2.0"), "AWS ALB"),
        (("Apigw-Requestid", "x"), "AWS API Gateway"),
        (("X-Amz-Cf-Pop", "FRA2"), "CloudFront"),
        (("Server", "cloudflare"), "Cloudflare"),
        (("CF-RAY", "x"), "Cloudflare"),
        (("Via", "1.1 google"), "Google load balancer"),
        (("Server", "Google Frontend"), "Cloud Run"),
        (("X-Azure-Ref", "x"), "Azure Front Door"),
        (("Via", "1.1 vegur"), "Heroku"),
        (("X-Served-By", "cache-fra-1"), "Fastly"),
    ],
)
def test_a_hop_shows_in_an_answer(header: tuple[str, str], product: str) -> None:
    measured = withHandshake(response={"line": "", "headers": [list(header)]})
    assert [hop.product for hop in hopsOf(measured)] == [product]
    measured = withHandshake(toClient=changes(added=[list(header)]))
    assert hopsOf(measured)[0].evidence == f"{header[0]}: {header[1]} (to the client)"


@pytest.mark.parametrize(
    ("header", "product"),
    [
        (("X-Forwarded-Server", "x"), "Apache or Traefik"),
        (("X-Amzn-Trace-Id", "x"), "AWS ALB"),
        (("CF-Connecting-IP", "x"), "Cloudflare"),
        (("Via", "1.1 squid"), "Squid"),
        (("X-Cloud-Trace-Context", "x"), "Google load balancer"),
    ],
)
def test_a_hop_shows_in_a_request(header: tuple[str, str], product: str) -> None:
    measured = withHandshake(toServer=changes(added=[list(header)]))
    assert hopsOf(measured)[0].product == product
    for facts in ("refused", "labRefused"):
        found = refusal(400, arrived=arrived("HTTP/1.1", header))
        assert hopsOf(withHandshake(**{facts: found}))[0].product == product


def test_the_plain_answer_shows_a_hop_too() -> None:
    far = {"isLab": False, "why": "", "server": "nginx"}
    assert hopsOf(clean(farEnd=far))[0] == ("nginx", "Server: nginx (to the client)")
    assert hopsOf({}) == hopsOf(withHandshake(toServer=None, toClient=None)) == []


@pytest.mark.parametrize(
    "header", [("Server", "not-nginx"), ("X-Server", "nginx"), ("Server", "echotwist"), ("Via", "")]
)
def test_a_header_that_looks_alike_is_no_hop(header: tuple[str, str]) -> None:
    assert hopsOf(withHandshake(response={"line": "", "headers": [list(header)]})) == []


def test_what_a_hop_writes_is_not_told_whole() -> None:
    measured = withHandshake(response={"headers": [["CF-Ray", "x" * 100_000], ["CF-Ray", "y"]]})
    (hop,) = hopsOf(measured)
    assert len(hop.evidence) < 300
