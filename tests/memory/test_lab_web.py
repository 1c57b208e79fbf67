"""The lab over plain HTTP, the reports, and what harnesses ask."""

import json
import re
import ssl
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import Client, Service
from support.secure import CA, TLS13, Peer, certified
from twisted.web.http_headers import Headers

from echotwist.http.answer import Exact
from echotwist.lab import harness, report
from echotwist.lab.cases import Behavior, Case, Fail
from echotwist.lab.companions import ServerSentEvents, Stream
from echotwist.lab.connection import LabConnection
from echotwist.lab.harness import makeHarness
from echotwist.lab.judge import Verdict
from echotwist.lab.report import ReportResource, Reports
from echotwist.lab.resource import InspectResource
from echotwist.limits import (
    LAB_AGENT_CHARACTERS,
    LAB_AGENTS,
    LAB_ANSWER,
    LAB_REPORT,
    LAB_VERDICT,
    OVERFLOW_CONNECTIONS,
)
from echotwist.testing.frames import CLOSE, PING, PONG, TEXT, Frame, close, frame, parse, text
from echotwist.testing.raw import request
from echotwist.websocket import deflate
from echotwist.websocket.connection import Connection, ConnectionFactory

MUST = Fail((1002,))

CASES = {
    case.id: case
    for case in (
        Case("A01", "masks a frame", "frame=8180", MUST, "RFC 6455, 5.1"),
        Case("A02", "says <nothing> & waits", "hang", MUST, "RFC 6455, 5.5"),
        Case("A03", "sends a text", "send=x", MUST, "RFC 6455, 5.6"),
    )
}

OK = Verdict(Behavior.OK, Behavior.OK, "closed with 1002 after 3 ms", 3, 1002)
FAILED = Verdict(Behavior.FAILED, Behavior.UNCLEAN, "went on <b>and</b> echoed", 1001, None)

SSE, STREAM = "/lab/sse", "/lab/stream"

INTERVAL = {"parameter": "interval", "problem": "is malformed, or out of range",
            "takes": "a time from 100ms to 600s"}  # fmt: skip


class Lab:
    """The service, with the lab's plain resources in it."""

    def __init__(self, *options: str, **others: Any) -> None:
        self.service = Service(*options, **others)
        self.context = self.service.context
        self.connections = self.service.connections
        self.reports = Reports(self.context)
        folder, root = Exact(), self.service.site.resource
        root.putChild(b"lab", folder)
        folder.putChild(b"inspect", InspectResource(self.factoryOf(LabConnection), []))
        folder.putChild(b"sse", ServerSentEvents(self.context, self.connections))
        folder.putChild(b"stream", Stream(self.context, self.connections))
        folder.putChild(b"report", ReportResource(self.reports))
        for name, resource in makeHarness(self.factoryOf, self.reports, []).items():
            root.putChild(name, resource)

    def factoryOf(self, kind: type[Connection]) -> ConnectionFactory:
        return ConnectionFactory(
            kind, self.context, self.connections, None, deflate.acceptFirst(False)
        )

    def ask(self, target: str, **others: Any) -> "Answer":
        client = self.service.connect()
        client.send(get(target, **others))
        return Answer(client)

    def places(self) -> int:
        return len(self.connections.open)


class Answer:
    """An answer over HTTP, and the connection that it came by."""

    def __init__(self, client: Client) -> None:
        self.client = client
        head, _, body = client.received().partition(b"\r\n\r\n")
        client.socket.sent += body
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = Headers()
        for line in lines:
            self.headers.addRawHeader(*line.split(": ", 1))

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return None if values is None else ", ".join(values)

    def body(self) -> bytes:
        """What has come since the last call."""
        return self.client.received()

    def json(self) -> Any:
        assert self.header("Content-Type") == "application/json"
        return json.loads(self.body())

    def chunks(self) -> list[bytes]:
        """Those that have come since the last call; the last of an answer is empty."""
        found, data = [], self.client.received()
        while data:
            size, _, rest = data.partition(b"\r\n")
            end = int(size, 16)
            assert rest[end : end + 2] == b"\r\n"
            found.append(rest[:end])
            data = rest[end + 2 :]
        return found


def get(
    target: str, method: str = "GET", version: str = "HTTP/1.1", headers: str = "", host: str = "h"
) -> bytes:
    return f"{method} {target} {version}\r\nHost: {host}\r\n{headers}\r\n".encode("latin-1")


def isOver(lab: Lab, client: Client) -> bool:
    """Whether nothing of the connection is left, nor any timer but the journal's."""
    lab.service.advance(1)
    return bool(client.socket.closed) and not lab.places() and not lab.service.timers()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(harness, "CASES", CASES)
    monkeypatch.setattr(report, "CASES", CASES)
    return Lab()


# What all have in common.

URLS = ["/lab/inspect", SSE, STREAM, "/lab/report?agent=me"]


@pytest.mark.parametrize("target", URLS)
def test_pages_of_every_origin_may_read_it_and_nobody_stores_it(lab: Lab, target: str) -> None:
    lab.reports.add("me", CASES["A01"], OK)
    for method in ("GET", "HEAD", "OPTIONS"):
        answer = lab.ask(target, method=method)
        assert answer.status == 200
        assert answer.header("Access-Control-Allow-Origin") == "*"
        assert answer.header("Access-Control-Allow-Credentials") is None
        assert answer.header("Cache-Control") == "no-store"


@pytest.mark.parametrize("target", URLS)
def test_a_preflight_is_told_what_is_allowed(lab: Lab, target: str) -> None:
    answer = lab.ask(target, method="OPTIONS", headers="Access-Control-Request-Headers: x-y\r\n")
    assert (answer.status, answer.body()) == (200, b"")
    assert answer.header("Allow") == "GET, HEAD, OPTIONS"
    assert answer.header("Access-Control-Allow-Methods") == "GET, HEAD, OPTIONS"
    assert answer.header("Access-Control-Allow-Headers") == "*"


@pytest.mark.parametrize("target", ["/lab/inspect", "/lab/report?agent=me", "/lab/report"])
def test_head_has_the_headers_of_get(lab: Lab, target: str) -> None:
    lab.reports.add("me", CASES["A01"], OK)
    headed, answer = lab.ask(target, method="HEAD"), lab.ask(target)
    size = len(answer.body()) + ("inspect" in target)  # HEAD has a letter more than GET.
    assert headed.header("Content-Length") == str(size)
    assert (headed.status, headed.body()) == (answer.status, b"")


@pytest.mark.parametrize("target", [SSE, STREAM])
def test_head_of_an_answer_that_lasts_ends_at_once(lab: Lab, target: str) -> None:
    headed = lab.ask(target, method="HEAD")
    assert headed.header("Content-Type") == lab.ask(target).header("Content-Type")
    assert headed.header("Content-Length") is None
    assert headed.body() == b""
    headed.client.send(get("/healthz"))
    assert Answer(headed.client).status == 200


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (f"{SSE}?interval=99ms", INTERVAL),
        (f"{SSE}?interval=601s", INTERVAL),
        (f"{SSE}?interval=", INTERVAL),
        (f"{SSE}?interval=x", INTERVAL),
        (f"{SSE}?interval=%FF", INTERVAL),
        (f"{SSE}?interval=1s&interval=1s", {**INTERVAL, "problem": "came twice"}),
        (f"{SSE}?count=0", {"parameter": "count", "takes": "a whole number from 1 to 1,000,000"}),
        (f"{SSE}?count=1000001", {"parameter": "count"}),
        (f"{STREAM}?rate=2M", {"parameter": "rate", "takes": "bytes a second, from 1 to 1M"}),
        (f"{STREAM}?size=17M", {"parameter": "size", "takes": "a size of at most 16M"}),
        (f"{STREAM}?size=-1", {"parameter": "size"}),
        (f"{STREAM}?x=", {"parameter": "x", "problem": "is no parameter here",
                         "takes": "rate, size"}),
        (f"{STREAM}?x", {"parameter": "x", "problem": "is no parameter here"}),
        (f"{STREAM}?&rate=1&&" + "x&" * 100, {"parameter": "x"}),
        (f"{STREAM}?" + "&" * 19 + "rate=1&rate=1", {"parameter": "rate"}),
        (f"{STREAM}?" + "x" * 100 + "=1", {"parameter": "x" * 40}),
        (f"{STREAM}?%0A%FF=1", {"parameter": "\n\\xff"}),
        (f"{STREAM}?rate=1;size=1", {"parameter": "rate"}),
        ("/lab/report", {"parameter": "agent", "problem": "is missing",
                         "takes": "a name of 1 to 100 characters that print"}),
        ("/lab/report?agent=", {"parameter": "agent"}),
        ("/lab/report?agent=a%0Ab", {"parameter": "agent"}),
        ("/lab/report?agent=%E2%80%AEa", {"parameter": "agent"}),
        ("/lab/report?agent=%FF", {"parameter": "agent"}),
        ("/lab/report?agent=" + "a" * 101, {"parameter": "agent"}),
        ("/lab/report?agent=me&format=xml", {"parameter": "format", "takes": "html or json"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_bad_parameter_is_explained(
    lab: Lab, log: Any, target: str, error: dict[str, str], method: str
) -> None:
    answer = lab.ask(target, method=method)
    assert answer.status == 400
    assert answer.header("Access-Control-Allow-Origin") == "*"
    if method == "GET":
        found = answer.json()["error"]
        assert set(found) == {"parameter", "problem", "takes"}
        assert found | error == found
    assert log.lines() == ["127.0.0.1:40000 refused: 400 a parameter of the lab is wrong"]


_QUERY = st.lists(
    st.tuples(
        st.sampled_from(["interval", "count", "rate", "size", "agent", "format", "case", "%00"]),
        st.sampled_from(["1", "2s", "100ms", "1M", "0", "-1", "html", "json", "me", "%FF", ""])
        | st.text(max_size=8).map(quote),
    ).map("=".join),
    max_size=3,
).map("&".join)

_PATHS = [*("inspect", "sse", "stream", "report"), "../getCaseCount", "../getCaseInfo",
          "../getCaseStatus", "../updateReports"]  # fmt: skip


@given(st.sampled_from(_PATHS), _QUERY, st.sampled_from(["GET", "HEAD", "OPTIONS", "upgrade"]))
def test_whatever_is_asked_is_answered_and_ends(path: str, query: str, method: str) -> None:
    lab = Lab(isFast=False)
    lab.reports.add("me", Case("A01", "masks a frame", "frame=8180", MUST, "5.1"), OK)
    client = lab.service.connect()
    target = f"/lab/{path}?{query}".replace("/lab/../", "/")
    client.send(request(target) if method == "upgrade" else get(target, method))
    assert Answer(client).status in (101, 200, 204, 400, 404, 426)
    lab.service.advance(30)
    client.finish()
    assert isOver(lab, client)


# /lab/inspect


def test_a_request_is_shown_as_it_came(lab: Lab) -> None:
    lines = "via: 1\r\nACCEPT:\t*/* \r\nVIA:2\r\nvia:\r\nForwarded: a\r\n\tb\r\nPragma: \xe9\r\n"
    answer = lab.ask("/lab/inspect?a=%20&b", headers=lines)
    assert answer.json() == {
        "method": "GET",
        "target": "/lab/inspect?a=%20&b",
        "version": "HTTP/1.1",
        "peer": "127.0.0.1:40000",
        "client": "127.0.0.1:40000",
        "tls": None,
        "headers": [
            ["Host", "h"], ["via", "1"], ["ACCEPT", "*/*"], ["VIA", "2"], ["via", ""],
            ["Forwarded", "a b"], ["Pragma", "\xe9"],
        ],
    }  # fmt: skip


def test_each_request_of_a_connection_has_its_own_headers(lab: Lab) -> None:
    client = lab.service.connect()
    for value in ("1", "2"):
        client.send(get("/lab/inspect", headers=f"Via: {value}\r\n"))
        assert Answer(client).json()["headers"] == [["Host", "h"], ["Via", value]]


def test_what_a_client_writes_is_ascii_in_the_answer(lab: Lab) -> None:
    body = lab.ask("/lab/inspect", headers="Via: \xff<\r\n").body()
    assert body.isascii()
    assert rb'"\u00ff<"' in body


def test_the_client_that_a_trusted_proxy_names_is_shown() -> None:
    lab = Lab("--trusted-proxy=127.0.0.1")
    found = lab.ask("/lab/inspect", headers="X-Forwarded-For: 192.0.2.7\r\n").json()
    assert (found["peer"], found["client"]) == ("127.0.0.1:40000", "192.0.2.7")


class _Naming(ssl.SSLContext):
    """Says the name of the server (RFC 6066, 3)."""

    def wrap_bio(self, *arguments: Any, **others: Any) -> ssl.SSLObject:
        return super().wrap_bio(*arguments, **{**others, "server_hostname": "localhost"})


@pytest.mark.parametrize("isProxied", [False, True])
@pytest.mark.parametrize("name", [None, "localhost"])
def test_tls_is_shown(lab: Lab, tmp_path: Path, isProxied: bool, name: str | None) -> None:
    context = (_Naming if name else ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.check_hostname = False
    peer = Peer(
        certified(tmp_path),
        service=lab.service,
        context=context,
        version=TLS13,
        isProxied=isProxied,
    )
    header = b"PROXY TCP4 192.0.2.7 1.2.3.4 1234 80\r\n" if isProxied else b""
    peer.send(header + get("/lab/inspect"))
    found = json.loads(peer.received().partition(b"\r\n\r\n")[2])
    cipher, _, _ = peer.tls.cipher() or ("", "", 0)
    assert found["tls"] == {"version": "TLSv1.3", "cipher": cipher, "serverName": name}
    assert found["peer"] == ("192.0.2.7:1234" if isProxied else "127.0.0.1:40000")


# /lab/sse


def events(answer: Answer) -> list[dict[str, Any]]:
    """The data of the events that have come since the last call."""
    found = re.findall(r"^data: (.*)$", b"".join(answer.chunks()).decode(), re.M)
    return [json.loads(data) for data in found]


def test_an_event_comes_at_once_and_one_each_interval(lab: Lab) -> None:
    lab.service.advance(5)
    answer = lab.ask(f"{SSE}?interval=2s")
    assert answer.header("Content-Type") == "text/event-stream"
    assert answer.header("Connection") == "close"
    assert answer.chunks() == [
        b"retry: 1000\nid: 1\n"
        b'data: {"number": 1, "seconds": 0.0, "sent": "1970-01-01T00:00:05.000000Z"}\n\n'
    ]
    lab.service.advance(1.9)
    assert answer.chunks() == []
    lab.service.advance(0.1)
    assert answer.chunks() == [
        b'id: 2\ndata: {"number": 2, "seconds": 2.0, "sent": "1970-01-01T00:00:07.000000Z"}\n\n'
    ]
    lab.service.advance(8)
    assert [event["number"] for event in events(answer)] == [3, 4, 5, 6]


def test_after_the_count_the_answer_ends(lab: Lab) -> None:
    answer = lab.ask(f"{SSE}?interval=1m&count=2")
    lab.service.advance(60)
    first, second, end = answer.chunks()
    assert (first[:13], second[:6], end) == (b"retry: 1000\ni", b"id: 2\n", b"")
    assert answer.client.socket.fin
    answer.client.finish()
    assert isOver(lab, answer.client)


@pytest.mark.parametrize(
    ("last", "numbers"), [("1", [2, 3]), ("", [1, 2, 3]), ("x", [1, 2, 3]), ("-1", [1, 2, 3])]
)
def test_who_comes_back_gets_what_it_has_missed(lab: Lab, last: str, numbers: list[int]) -> None:
    answer = lab.ask(f"{SSE}?count=3", headers=f"Last-Event-ID: {last}\r\n")
    lab.service.advance(3)
    assert [event["number"] for event in events(answer)] == numbers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_comes_back_after_the_last_event_is_told_to_stay_away(lab: Lab, method: str) -> None:
    """WHATWG HTML, 9.2.3: an EventSource does not come back after 204."""
    answer = lab.ask(f"{SSE}?count=3", method=method, headers="Last-Event-ID: 3\r\n")
    assert (answer.status, answer.body()) == (204, b"")
    assert answer.header("Content-Length") is None
    answer.client.send(get("/healthz"))
    assert Answer(answer.client).status == 200


# /lab/stream


def test_a_stream_has_its_size_and_its_rate(lab: Lab) -> None:
    answer = lab.ask(f"{STREAM}?rate=1000&size=5000")
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.header("Transfer-Encoding") == "chunked"
    assert len(b"".join(answer.chunks())) == 64  # At once.
    sizes = []
    for _ in range(5):
        lab.service.advance(1)
        sizes.append(len(b"".join(answer.chunks())))
    assert all(abs(size - 1000) < 64 for size in sizes[:4])
    assert 64 + sum(sizes) == 5000
    assert answer.client.socket.fin


def test_each_line_says_when_it_was_sent(lab: Lab) -> None:
    answer = lab.ask(f"{STREAM}?rate=64&size=130")
    lab.service.advance(2)
    first, second, third, end = answer.chunks()
    assert first == b"1 0.000 s 1970-01-01T00:00:00.000000Z ".ljust(63, b".") + b"\n"
    assert second == b"2 1.000 s 1970-01-01T00:00:01.000000Z ".ljust(63, b".") + b"\n"
    assert (third, end) == (b"3\n", b"")


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65])
def test_a_stream_may_be_short(lab: Lab, size: int) -> None:
    answer = lab.ask(f"{STREAM}?rate=1M&size={size}")
    lab.service.advance(1)
    body = b"".join(answer.chunks())
    assert len(body) == size
    assert body.endswith(b"\n")


def test_a_fast_stream_has_long_lines(lab: Lab) -> None:
    answer = lab.ask(f"{STREAM}?rate=1M&size=16M")
    lab.service.advance(0.99)
    assert len(answer.chunks()) == 20
    lab.service.advance(15.1)
    assert answer.chunks()[-1] == b""


# Both last.


@pytest.mark.parametrize("target", [f"{SSE}?count=2", f"{STREAM}?size=65&rate=64"])
def test_http_1_0_has_no_chunks(lab: Lab, target: str) -> None:
    answer = lab.ask(target, version="HTTP/1.0")
    assert answer.header("Transfer-Encoding") is None
    lab.service.advance(1)
    body = answer.body()
    assert body.startswith((b"retry: ", b"1 0.000 s "))
    assert body.endswith(b"\n")
    assert answer.client.socket.fin


@pytest.mark.parametrize(
    ("target", "farewell"),
    [
        (f"{SSE}?interval=599s", b'event: end\ndata: {"why": "an answer lasts 3,600 s"}\n\n'),
        (f"{STREAM}?rate=1", b"ended: an answer lasts 3,600 s\n"),
    ],
)
def test_an_answer_lasts_an_hour_at_most(lab: Lab, target: str, farewell: bytes) -> None:
    answer = lab.ask(target)
    lab.service.advance(LAB_ANSWER - 1)
    assert answer.chunks()[-1] != b""
    lab.service.advance(1)
    assert answer.chunks() == [farewell, b""]
    assert answer.client.socket.fin
    lab.service.advance(10)  # The client does not follow.
    assert isOver(lab, answer.client)


@pytest.mark.parametrize("target", [SSE, STREAM])
def test_a_client_that_leaves_ends_its_answer(lab: Lab, target: str) -> None:
    answer = lab.ask(target)
    assert lab.places() == 1
    answer.client.finish()
    assert isOver(lab, answer.client)


@pytest.mark.parametrize("target", [SSE, STREAM])
def test_a_client_that_is_gone_ends_its_answer(lab: Lab, target: str) -> None:
    answer = lab.ask(target)
    answer.client.socket.broken = True
    lab.service.advance(2)
    assert isOver(lab, answer.client)


def test_a_client_that_leaves_while_the_answer_ends_is_gone_at_once(lab: Lab) -> None:
    answer = lab.ask(f"{SSE}?count=1")
    lab.service.advance(1)
    assert answer.client.socket.fin
    assert lab.places() == 1
    answer.client.finish()
    assert isOver(lab, answer.client)


def test_a_client_that_does_not_read_stops_the_answer(lab: Lab) -> None:
    answer = lab.ask(f"{STREAM}?rate=1M&size=16M")
    answer.client.socket.window = 0
    lab.service.advance(3)
    assert 0 < lab.context.budget.buffered < 200_000
    answer.chunks()
    answer.client.socket.window = float("inf")
    lab.service.run()
    assert answer.chunks()
    assert lab.context.budget.buffered == 0
    lab.service.advance(1)
    assert len(answer.chunks()) == 20
    # It is read meanwhile, so that its end is seen.
    answer.client.socket.window = 0
    lab.service.advance(1)
    assert answer.client.reading
    answer.client.finish()
    lab.service.advance(10)
    assert isOver(lab, answer.client)


def test_a_client_that_reads_nothing_is_dropped(lab: Lab, log: Any) -> None:
    answer = lab.ask(f"{STREAM}?rate=1M&size=16M")
    answer.client.socket.window = 0
    lab.service.advance(8)
    assert answer.client.socket.closed
    assert isOver(lab, answer.client)


def test_an_answer_that_is_blocked_in_its_turn_sends_nothing(lab: Lab) -> None:
    answer = lab.ask(SSE)
    answer.chunks()
    lab.service.reactor.advance(1)  # It waits for its turn now.
    answer.client.protocol.pauseProducing()
    lab.service.run()
    assert answer.chunks() == []
    answer.client.protocol.resumeProducing()
    answer.client.protocol.resumeProducing()
    lab.service.run()
    assert [event["number"] for event in events(answer)] == [2]


def test_an_answer_over_the_budget_is_dropped(log: Any) -> None:
    lab = Lab("--memory-budget=512k", "--max-message=64k")
    answers = [lab.ask(f"{STREAM}?rate=1M&size=16M") for _ in range(10)]
    for answer in answers:
        answer.client.socket.window = 0
    lab.service.advance(3)
    gone = [answer for answer in answers if answer.client.socket.closed]
    assert 0 < len(gone) < 10
    assert lab.places() == 10 - len(gone)


@pytest.mark.parametrize("target", [SSE, STREAM])
def test_what_a_client_asks_meanwhile_is_not_answered(lab: Lab, target: str) -> None:
    client = lab.service.connect()
    client.send(get(target) + get("/healthz"))
    answer = Answer(client)
    for _ in range(100):
        client.send(get("/healthz") * 1000)
    lab.context.budget.refresh()
    assert lab.context.budget.buffered == 0
    lab.service.advance(3)
    assert len(answer.chunks()) > 3  # All that came.
    answer.client.finish()
    assert b"HTTP" not in answer.body()
    assert isOver(lab, client)


def test_answers_take_turns() -> None:
    lab = Lab(isSliced=True)
    answers = [lab.ask(SSE) for _ in range(5)]
    for answer in answers:
        answer.chunks()
    lab.service.reactor.advance(1)
    assert [len(answer.chunks()) for answer in answers] == [0] * 5
    lab.service.turn()
    assert sum(len(answer.chunks()) for answer in answers) == 1
    lab.service.run()
    assert sum(len(answer.chunks()) for answer in answers) == 4


def test_an_answer_has_a_place_among_the_connections() -> None:
    lab = Lab("--max-connections=1")
    answer = lab.ask(SSE)
    for method in ("GET", "HEAD"):
        refused = lab.ask(STREAM, method=method)
        assert (refused.status, refused.header("Retry-After")) == (503, "5")
        assert refused.header("Access-Control-Allow-Origin") == "*"
    answer.client.finish()
    assert lab.ask(STREAM).status == 200


def test_an_answer_counts_for_its_client() -> None:
    lab = Lab("--max-connections-per-address=1")
    answer = lab.ask(SSE)
    assert lab.ask(SSE).status == 503
    answer.client.finish()
    assert lab.ask(SSE).status == 200


def test_no_answer_has_to_make_room_in_its_midst() -> None:
    lab = Lab("--max-connections=1")
    answer = lab.ask(SSE)
    others = [lab.service.connect() for _ in range(OVERFLOW_CONNECTIONS + 5)]
    assert [client.socket.closed for client in others].count(True) == 5
    lab.service.advance(1)
    assert [event["number"] for event in events(answer)] == [1, 2]


def test_an_answer_is_no_handshake(lab: Lab) -> None:
    lab.ask(SSE)
    totals = lab.context.journal.totals
    assert (totals.accepted, sum(totals.handshakes.counts)) == (0, 0)


@pytest.mark.parametrize(
    ("target", "farewell"),
    [(SSE, b'event: end\ndata: {"why": "the server is going away"}\n\n'),
     (STREAM, b"ended: the server is going away\n")],
)  # fmt: skip
def test_a_drain_ends_answers_in_order(lab: Lab, target: str, farewell: bytes) -> None:
    answer = lab.ask(target)
    answer.chunks()
    drained = lab.service.echo.stopService()
    assert answer.chunks() == [farewell, b""]
    assert answer.client.socket.fin
    lab.service.advance(1)
    assert not drained.called
    answer.client.finish()
    lab.service.advance(1)
    assert drained.called
    assert isOver(lab, answer.client)


def test_an_answer_that_ends_by_itself_is_not_ended_again_by_a_drain(lab: Lab) -> None:
    answer = lab.ask(f"{SSE}?count=1")
    lab.service.advance(1)
    assert answer.chunks()[-1] == b""
    lab.service.echo.stopService()
    assert answer.chunks() == []


def test_a_drain_drops_answers_that_are_not_read(lab: Lab) -> None:
    answer = lab.ask(f"{STREAM}?rate=1M&size=16M")
    answer.client.socket.window = 0
    lab.service.advance(2)
    drained = lab.service.echo.stopService()
    lab.service.advance(10)
    assert drained.called
    assert isOver(lab, answer.client)


def test_the_end_of_a_drain_drops_answers(lab: Lab) -> None:
    answer = lab.ask(SSE)
    lab.service.echo.stopService()
    lab.service.echo.abortDrain()
    assert isOver(lab, answer.client)
    assert lab.ask(SSE).status == 503


def test_a_part_of_an_answer_is_not_taken_for_the_whole(lab: Lab) -> None:
    """Its end said once that it was complete (RFC 9112, 8)."""
    client = lab.service.connect()
    client.send(get(f"{SSE}?interval=1s"))
    client.finish()
    assert b"id: 1\n" in client.socket.sent
    assert not client.socket.sent.endswith(b"0\r\n\r\n")
    assert isOver(lab, client)


@pytest.mark.parametrize("isProxied", [False, True])
def test_answers_last_over_tls(lab: Lab, tmp_path: Path, isProxied: bool) -> None:
    peer = Peer(certified(tmp_path), service=lab.service, isProxied=isProxied)
    header = b"PROXY TCP4 192.0.2.7 1.2.3.4 1234 80\r\n" if isProxied else b""
    peer.send(header + get(SSE))
    assert b"id: 1\n" in peer.received()
    lab.service.advance(1)
    assert b"id: 2\n" in peer.received()
    peer.finish()
    assert isOver(lab, peer.client)


# Reports


def test_the_report_is_as_index_json_of_the_testsuite(lab: Lab) -> None:
    lab.reports.add("my client/1.0", CASES["A02"], FAILED)
    lab.reports.add("my client/1.0", CASES["A01"], OK)
    answer = lab.ask("/lab/report?agent=my%20client/1.0")
    assert answer.header("Vary") == "Accept"
    body = answer.body()
    assert json.loads(body) == {
        "my client/1.0": {
            "A01": {
                "behavior": "OK",
                "behaviorClose": "OK",
                "duration": 3,
                "remoteCloseCode": 1002,
                "reportfile": "report?agent=my%20client%2F1.0&format=html#A01",
                "why": "closed with 1002 after 3 ms",
            },
            "A02": {
                "behavior": "FAILED",
                "behaviorClose": "UNCLEAN",
                "duration": 1001,
                "remoteCloseCode": None,
                "reportfile": "report?agent=my%20client%2F1.0&format=html#A02",
                "why": "went on <b>and</b> echoed",
            },
        }
    }
    assert body.index(b"A01") < body.index(b"A02")  # As in the catalogue.


@pytest.mark.parametrize(
    ("accept", "isHtml"),
    [
        (None, False),
        ("*/*", False),
        ("text/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html;level=1", True),
        ("TEXT/HTML", True),
        ("application/json, text/html;q=0.9", False),
        ("application/json;q=0.9, text/html ; Q=1.0", True),
        ("text/html, application/json", True),
        ("text/html;q=0", False),
        ("text/html;q=x", True),
        ("x/y," * 20 + "text/html", False),
    ],
)
def test_accept_chooses_between_html_and_json(lab: Lab, accept: str | None, isHtml: bool) -> None:
    lab.reports.add("me", CASES["A01"], OK)
    headers = "" if accept is None else f"Accept: {accept}\r\n"
    answer = lab.ask("/lab/report?agent=me", headers=headers)
    kind = "text/html; charset=utf-8" if isHtml else "application/json"
    assert answer.header("Content-Type") == kind
    for form, kind in (("html", "text/html; charset=utf-8"), ("json", "application/json")):
        answer = lab.ask(f"/lab/report?agent=me&format={form}", headers=headers)
        assert answer.header("Content-Type") == kind


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts[self.tags[-1][0]][-1] += data.strip("\n")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


EVIL = "<script>&\"'"


@pytest.fixture
def page(lab: Lab) -> Page:
    lab.reports.add(EVIL, CASES["A03"], OK)
    lab.reports.add(EVIL, CASES["A02"], FAILED)
    lab.reports.add(EVIL, CASES["A01"], OK)
    answer = lab.ask("/lab/report?agent=%3Cscript%3E%26%22%27&format=html")
    source = answer.body().decode()
    policy = answer.header("Content-Security-Policy") or ""
    style = source.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert " style=" not in source
    return Page(source)


def test_the_page_groups_the_cases_by_verdict(page: Page) -> None:
    assert page.texts["caption"] == ["FAILED: the client broke a rule.", "OK: as it should be."]
    assert page.texts["p"] == ["3 of 3 cases were run."]
    assert [a["href"] for a in page.all("a")[1:]] == ["#FAILED", "#OK"]
    assert page.texts["a"] == ["The same as JSON.", "FAILED: 1", "OK: 2"]
    assert [row.get("id") for row in page.all("tr")] == [None, "A02", None, "A01", "A03"]
    cells = page.texts["td"]
    assert [cells[i : i + 3] for i in range(0, len(cells), 4)] == [
        ["says <nothing> & waits", "FAILED: went on <b>and</b> echoed", "RFC 6455, 5.5"],
        ["masks a frame", "OK: closed with 1002 after 3 ms", "RFC 6455, 5.1"],
        ["sends a text", "OK: closed with 1002 after 3 ms", "RFC 6455, 5.6"],
    ]
    assert page.texts["code"] == [f"/lab?case={name}" for name in ("A02", "A01", "A03")]


def test_the_page_can_be_read_by_everybody(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "color-scheme: light dark" in page.texts["style"][0]
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    assert [table["id"] for table in page.all("table")] == ["FAILED", "OK"]


def test_the_page_quotes_nothing_raw(page: Page) -> None:
    assert page.texts["h1"] == [EVIL]
    assert page.texts["title"] == [f"{EVIL}: report"]
    assert {tag for tag, _ in page.tags} == {
        "html", "meta", "title", "style", "h1", "p", "a", "ul", "li", "table", "caption", "thead",
        "tbody", "tr", "th", "td", "code",
    }  # fmt: skip
    assert page.all("a")[0]["href"] == "report?agent=%3Cscript%3E%26%22%27&format=json"


def test_the_link_of_a_page_leads_to_the_same_as_json(lab: Lab, page: Page) -> None:
    answer = lab.ask(f"/lab/{page.all('a')[0]['href']}")
    assert list(answer.json()[EVIL]) == ["A01", "A02", "A03"]


def test_an_unknown_client_has_no_report(lab: Lab, log: Any) -> None:
    answer = lab.ask("/lab/report?agent=nobody")
    assert answer.status == 404
    assert answer.json()["error"]["problem"] == "has run no case, or long ago"
    assert log.lines() == []


def test_a_report_is_kept_for_a_day_after_the_last_verdict(lab: Lab) -> None:
    lab.reports.add("me", CASES["A01"], FAILED)
    lab.service.advance(LAB_REPORT - 1)
    lab.reports.add("me", CASES["A02"], OK)
    lab.service.advance(LAB_REPORT - 1)
    assert set(lab.reports.get("me")) == {"A01", "A02"}
    lab.service.advance(1)
    assert lab.reports.get("me") == {}
    lab.reports.add("me", CASES["A03"], OK)
    assert set(lab.reports.get("me")) == {"A03"}


def test_the_client_that_ran_no_case_for_longest_makes_room(lab: Lab) -> None:
    for number in range(LAB_AGENTS):
        lab.reports.add(f"{number}", CASES["A01"], OK)
    lab.reports.add("0", CASES["A02"], OK)
    lab.reports.add("new", CASES["A01"], OK)
    assert lab.reports.get("1") == {}
    for name in ("0", "2", "new"):
        assert lab.reports.get(name)


def test_a_case_that_is_run_again_has_no_verdict_meanwhile(lab: Lab) -> None:
    lab.reports.begin("me", CASES["A01"])
    assert lab.reports.get("me") == {}
    lab.reports.add("me", CASES["A01"], FAILED)
    lab.reports.add("me", CASES["A02"], OK)
    lab.reports.begin("me", CASES["A01"])
    lab.reports.begin("me", CASES["A03"])
    assert lab.reports.get("me") == {"A02": OK}
    lab.reports.add("me", CASES["A01"], OK)
    assert lab.reports.get("me") == {"A02": OK, "A01": OK}


@pytest.mark.parametrize("query", ["a+b;c=1", "a%20b;c=1", "a+b%3Bc%3D1"])
def test_a_name_may_be_that_of_a_browser(lab: Lab, query: str) -> None:
    lab.reports.add("a b;c=1", CASES["A01"], OK)
    assert told(lab, f"/getCaseStatus?agent={query}&case=1") == say('{"behavior": "OK"}')
    assert list(lab.ask(f"/lab/report?agent={query}").json()) == ["a b;c=1"]


def test_any_name_that_prints_will_do(lab: Lab) -> None:
    name = "\N{GRINNING FACE}" * LAB_AGENT_CHARACTERS
    lab.reports.add(name, CASES["A01"], OK)
    quoted = "%F0%9F%98%80" * LAB_AGENT_CHARACTERS
    assert list(lab.ask(f"/lab/report?agent={quoted}").json()) == [name]


# Harnesses


def told(lab: Lab, target: str) -> list[Frame]:
    """What a harness is told there, and the connection ends in order."""
    client = lab.service.connect()
    client.send(request(target))
    client.opened()
    assert client.frames() == []  # It may be lost in one segment with the 101.
    lab.service.advance(0.01)
    return ended(lab, client)


def ended(lab: Lab, client: Client) -> list[Frame]:
    *frames, last = client.frames()
    assert last == Frame(CLOSE, b"\x03\xe8")
    client.send(close(1000))
    assert client.socket.fin
    client.finish()
    assert isOver(lab, client)
    return frames


def say(what: str) -> list[Frame]:
    return [Frame(TEXT, what.encode())]


def test_a_harness_is_told_how_many_cases_there_are(lab: Lab) -> None:
    assert told(lab, "/getCaseCount") == say("3")


@pytest.mark.parametrize("query", ["case=2", "casetuple=A02", "casetuple=%20A02%20", "case=002",
                                   "case=2&casetuple=A01"])  # fmt: skip
def test_a_harness_is_told_what_a_case_is(lab: Lab, query: str) -> None:
    expected = '{"id": "A02", "description": "The server says <nothing> & waits (RFC 6455, 5.5)."}'
    assert told(lab, f"/getCaseInfo?{query}") == say(expected)


@pytest.mark.parametrize("query", ["case=1", "casetuple=A01"])
def test_a_harness_is_told_the_verdict(lab: Lab, query: str) -> None:
    lab.reports.add("me", CASES["A01"], FAILED)
    assert told(lab, f"/getCaseStatus?{query}&agent=me") == say('{"behavior": "FAILED"}')


def test_a_harness_has_no_report_to_wait_for(lab: Lab) -> None:
    assert told(lab, "/updateReports?agent=me") == []


def test_a_verdict_is_waited_for(lab: Lab) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseStatus?case=1&agent=me"))
    client.opened()
    lab.service.advance(LAB_VERDICT - 2)
    client.send(frame(PING, b"x") + text("nobody listens"))
    assert client.frames() == [Frame(PONG, b"x")]
    lab.reports.add("me", CASES["A01"], OK)
    lab.service.advance(1)
    assert ended(lab, client) == say('{"behavior": "OK"}')


def test_a_verdict_that_does_not_come_is_not_made_up(lab: Lab) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseStatus?case=1&agent=me"))
    client.opened()
    lab.reports.add("me", CASES["A02"], OK)
    lab.reports.add("somebody else", CASES["A01"], OK)
    lab.service.advance(LAB_VERDICT + 1)
    assert ended(lab, client) == say('{"behavior": "UNIMPLEMENTED"}')


@pytest.mark.parametrize("how", ["close", "fin", "reset", "drain"])
def test_a_harness_that_leaves_is_not_told_any_more(lab: Lab, how: str) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseStatus?case=1&agent=me"))
    client.opened()
    match how:
        case "close":
            client.send(close(1000))
            assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]
        case "fin":
            client.finish()
        case "reset":
            client.protocol.transport.abortConnection()
        case "drain":
            lab.service.echo.stopService()
            lab.service.run()
            assert client.frames() == [Frame(CLOSE, b"\x03\xe9server going away")]
    lab.reports.add("me", CASES["A01"], OK)
    lab.service.advance(1)
    assert client.frames() == []
    client.finish()
    assert isOver(lab, client)


def test_a_harness_that_does_not_answer_the_close_is_dropped(lab: Lab) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseCount"))
    client.opened()
    lab.service.advance(7)
    assert isOver(lab, client)


def test_nothing_is_compressed_for_a_harness(lab: Lab) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseCount", Sec_WebSocket_Extensions="permessage-deflate"))
    client.opened()
    lab.service.advance(1)
    assert parse(client.received())[0] == Frame(TEXT, b"3")


CASE = "there is no such case; /getCaseCount says how many there are"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/getCaseInfo", "the parameter case is missing"),
        ("/getCaseInfo?case=0", CASE),
        ("/getCaseInfo?case=4", CASE),
        ("/getCaseInfo?case=-1", CASE),
        ("/getCaseInfo?case=", CASE),
        ("/getCaseInfo?case=A01", CASE),
        ("/getCaseInfo?case=" + "1" * 5000, CASE),
        ("/getCaseInfo?case=%D9%A1", CASE),
        ("/getCaseInfo?case=4&casetuple=A01", CASE),
        ("/getCaseInfo?casetuple=a01", CASE),
        ("/getCaseInfo?casetuple=%FF", CASE),
        ("/getCaseInfo?case=1&case=1", "the parameter case came twice"),
        ("/getCaseStatus?case=1", "the parameter agent is missing"),
        ("/getCaseStatus?agent=me", "the parameter case is missing"),
        ("/getCaseStatus?case=1&agent=", "an agent has 1 to 100 characters that print"),
        ("/getCaseStatus?case=1&agent=a%0Ab", "an agent has 1 to 100 characters that print"),
        ("/updateReports", "the parameter agent is missing"),
        ("/updateReports?agent=a&agent=b", "the parameter agent came twice"),
    ],
)
def test_what_no_harness_asks_is_refused(lab: Lab, log: Any, target: str, why: str) -> None:
    client = lab.service.connect()
    client.send(request(target))
    answer = Answer(client)
    assert (answer.status, answer.body()) == (400, f"{why}\n".encode())
    assert log.lines() == [f"127.0.0.1:40000 refused: 400 {why}"]
    assert lab.places() == 0


@pytest.mark.parametrize(
    "name", ["getCaseCount", "getCaseInfo?case=1", "getCaseStatus?case=1&agent=a", "updateReports"]
)
def test_a_harness_has_to_upgrade(lab: Lab, name: str) -> None:
    assert lab.ask(f"/{name}").status == 426


def test_a_frame_that_is_wrong_ends_a_harness_too(lab: Lab) -> None:
    client = lab.service.connect()
    client.send(request("/getCaseStatus?case=1&agent=me"))
    client.opened()
    client.send(frame(3, b"x"))
    assert client.frames()[0].opcode == CLOSE
    client.finish()
    assert isOver(lab, client)
