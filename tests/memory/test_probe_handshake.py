"""What the probe finds out of handshakes, on hops in memory that change, refuse or hold them."""

import pytest
from support.path import HeadHop, Hop, Path

from echotwist.paths.finding import Finding
from echotwist.probe.report import Report
from echotwist.probe.target import parseProxy


def found(report: Report) -> dict[str, Finding]:
    return {finding.rule: finding for finding in report.findings}


def handshake(hop: type[Hop], *options: str, url: str = "ws://127.0.0.1:8080/echo") -> Report:
    return Path(hop, *options).probe(5, only=["handshake"], url=url)


def without(head: bytes, name: bytes) -> bytes:
    """The head without a header."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


# What arrives.


class Strips(HeadHop):
    """A reverse proxy that was not told of WebSockets."""

    def request(self, head: bytes) -> bytes | None:
        head = without(without(head, b"upgrade"), b"connection")
        return head.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: close\r\n", 1)


def test_an_upgrade_that_does_not_arrive_is_told_by_the_server() -> None:
    report = handshake(Strips)
    finding = found(report)["upgrade-stripped"]
    assert finding.level == "problem"
    assert "the server saw HTTP/1.0" in finding.evidence[-1]
    assert any("proxy_set_header Upgrade $http_upgrade" in cure for cure in finding.cures)
    assert "lab-refused" not in found(report), "it would say the same again"
    assert set(report.measured) == {"handshake", "farEnd"}


class Rewrites(HeadHop):
    """Adds, removes, rewrites and reorders."""

    def request(self, head: bytes) -> bytes | None:
        if b"Sec-WebSocket" not in head:
            return head
        head = without(head, b"origin").replace(b"Host: 127.0.0.1:8080", b"Host: inner")
        lines = head.split(b"\r\n")
        lines[2:4] = lines[3:1:-1]
        lines.insert(1, b"X-Forwarded-For: 192.0.2.1")
        return b"\r\n".join(lines)

    def response(self, head: bytes) -> bytes | None:
        return head.replace(b"Server: echotwist", b"Via: 1.1 varnish\r\nServer: other")


def test_what_became_of_the_headers_is_compared_both_ways() -> None:
    report = handshake(Rewrites)
    there = report.measured["handshake"]["toServer"]
    back = report.measured["handshake"]["toClient"]
    assert there is not None
    assert back is not None
    assert ["X-Forwarded-For", "192.0.2.1"] in there["added"]
    assert [name for name, _ in there["removed"]] == ["Origin"]
    assert {"name": "Host", "sent": "127.0.0.1:8080", "arrived": "inner"} in there["rewritten"]
    assert there["isReordered"]
    assert ["Via", "1.1 varnish"] in back["added"]
    assert [each["name"] for each in back["rewritten"]] == ["Server"]
    assert "origin-changed" in found(report)


class NoExtensions(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        return without(head, b"sec-websocket-extensions")


class NoExtensionsBack(HeadHop):
    def response(self, head: bytes) -> bytes | None:
        return without(head, b"sec-websocket-extensions")


def test_an_offer_that_is_stripped_is_told_from_an_answer_that_is() -> None:
    assert "extensions-stripped" in found(handshake(NoExtensions))
    finding = found(handshake(NoExtensionsBack))["extensions-answer-changed"]
    assert finding.level == "problem"


# What is answered.


class Answers(HeadHop):
    """Answers each handshake by itself."""

    answer = b""

    def request(self, head: bytes) -> bytes | None:
        if b"Upgrade: websocket" not in head:
            return head
        self.sendToClient(self.answer)
        self.cut()
        return None


def answering(data: bytes) -> type[Hop]:
    class This(Answers):
        answer = data

    return This


def test_a_redirect_is_said_where_to() -> None:
    report = handshake(
        answering(b"HTTP/1.1 301 Moved\r\nLocation: https://other.example/echo\r\n\r\n")
    )
    finding = found(report)["redirect"]
    assert "https://other.example/echo" in finding.title
    assert finding.cures[0].startswith("connect to wss://other.example/echo, ")


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "refused"),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            "unreachable",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\nnone", "unreachable"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "refused"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "answer-stripped"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", "answer-stripped"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: dGhlIHdyb25nIG9uZQ==\r\n\r\n",
            "answer-stripped",
        ),
        (b"", "refused"),
        (b"HTTP/1.1 101 Swi", "refused"),
    ],
)
def test_an_answer_that_is_no_101_is_a_finding(answer: bytes, rule: str) -> None:
    report = handshake(answering(answer))
    assert set(found(report)) == {rule}
    assert report.status == 1


class Silent(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        if b"Upgrade: websocket" not in head:
            return head
        self.cut(client=False)
        return None


def test_a_handshake_that_is_never_answered_is_a_finding() -> None:
    (finding,) = handshake(Silent).findings
    assert "no answer in 15 s" in finding.title


class Endless(HeadHop):
    """A head that does not end."""

    def request(self, head: bytes) -> bytes | None:
        if b"Upgrade: websocket" not in head:
            return head
        self.sendToClient(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000)
        return None


def test_a_head_that_does_not_end_is_bounded() -> None:
    (finding,) = handshake(Endless).findings
    assert "the head of the answer does not end" in finding.title


# Limits.


class SmallHeaders(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        if len(head) < 8_192:
            return head
        self.sendToClient(b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n")
        return None


class Resets(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        if len(head) < 8_192:
            return head
        self.cut("rst")
        return None


def test_large_cookies_and_queries_are_notes() -> None:
    report = handshake(SmallHeaders)
    assert found(report)["large-cookie"].evidence[0] == "8,000 bytes: HTTP/1.1 431 Too Large"
    assert "large-query" in found(report)
    assert report.isClean
    assert "a reset" in found(handshake(Resets))["large-cookie"].evidence[0]


class EchoIsRefused(HeadHop):
    """Refuses /echo alone."""

    def request(self, head: bytes) -> bytes | None:
        if not head.startswith(b"GET /echo"):
            return head
        self.sendToClient(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        return None


def test_a_refusal_is_told_from_an_upgrade_that_does_not_arrive() -> None:
    report = handshake(EchoIsRefused)
    (finding,) = report.findings
    assert finding.rule == "refused"
    refused = report.measured["handshake"]["refused"]
    assert refused is not None
    assert refused["arrived"] is not None
    assert ["Upgrade", "websocket"] in refused["arrived"]["headers"]
    assert any("/lab/inspect" in each for each in finding.evidence)


class InspectIsMute(EchoIsRefused):
    """Upgrades at /lab/inspect, and then resets."""

    def down(self, data: bytes) -> None:
        self.cut("rst", server=False)


def test_what_cannot_be_inspected_is_not_told() -> None:
    refused = handshake(InspectIsMute).measured["handshake"]["refused"]
    assert refused is not None
    assert refused["arrived"] is None


class Last(HeadHop):
    """After the first handshake no connection is accepted any more."""

    def response(self, head: bytes) -> bytes | None:
        if self.sawRequest.startswith(b"GET /echo"):
            self.path.refuses = True
        return head


def test_a_server_that_goes_away_meanwhile_is_said_to() -> None:
    report = Path(Last).probe(5)
    assert "lab-refused" in found(report)
    # It refuses the small as well as the large.
    assert report.measured["handshake"]["limits"] == []
    assert report.incomplete == dict.fromkeys(
        ("idle", "bytes", "sizes", "flow"), "tcp: connection refused"
    )


class Refusing(HeadHop):
    """After the first handshakes each one is refused."""

    def request(self, head: bytes) -> bytes | None:
        if b"fragment=" in head or b"compress=" in head or b"push=" in head:
            self.sendToClient(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
            return None
        return head


def test_an_area_whose_handshakes_are_refused_is_not_finished() -> None:
    report = Path(Refusing).probe(5)
    assert report.incomplete == dict.fromkeys(
        ("idle", "bytes", "sizes", "flow"), "the answer is 'HTTP/1.1 429 Too Many Requests'"
    )
    assert report.status == 2


# What cannot be reached.


def test_a_refused_connection_is_not_run() -> None:
    path = Path()
    path.refuses = True
    report = path.probe(5)
    assert report.findings == []
    assert report.status == 2
    assert report.measured["handshake"]["notReached"] == {
        "stage": "tcp",
        "why": "connection refused",
    }
    assert set(report.incomplete) == {"handshake", "bytes", "sizes", "flow", "idle"}


def test_a_proxy_that_does_not_connect_is_not_reached() -> None:
    proxy = parseProxy("http://127.0.0.1:3128")
    report = Path().probe(5, proxy=proxy)
    notReached = report.measured["handshake"]["notReached"]
    assert notReached is not None
    assert notReached["stage"] == "proxy"
    assert "answers CONNECT with" in notReached["why"]

    class Mute(HeadHop):
        def request(self, head: bytes) -> bytes | None:
            self.cut(client=False)
            return None

    report = Path(Mute).probe(5, proxy=proxy, url="ws://[::1]:8080/echo")
    assert report.measured["handshake"]["notReached"] == {
        "stage": "proxy",
        "why": "no answer to CONNECT in 15 s",
    }


class LabIsPlain(HeadHop):
    """Lets WebSockets through to /echo alone."""

    def request(self, head: bytes) -> bytes | None:
        return head if head.startswith(b"GET /echo") else without(head, b"upgrade")


def test_a_lab_that_no_websocket_reaches_is_a_note() -> None:
    report = Path(LabIsPlain).probe(5)
    assert set(found(report)) == {"lab-refused"}
    assert report.isClean
    assert not report.measured["farEnd"]["isLab"]
    assert [row["row"] for row in report.measured["idle"]] == ["silent", "clientPings", "both"]


class LabIsGone(HeadHop):
    """Does not answer at all at /lab."""

    def request(self, head: bytes) -> bytes | None:
        if head.startswith(b"GET /lab"):
            self.cut()
            return None
        return head


class LabIsOther(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"GET /lab ", b"GET /healthz ").replace(b"GET /lab?", b"GET /no?")


@pytest.mark.parametrize("hop", [LabIsGone, LabIsOther])
def test_a_path_to_no_lab_is_probed_from_one_side(hop: type[Hop]) -> None:
    report = Path(hop).probe(5)
    assert report.findings == []
    assert not report.measured["farEnd"]["isLab"]
    assert report.measured["farEnd"]["why"]


class LabResets(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        if head.startswith((b"GET /lab?", b"GET /lab/inspect")):
            self.cut("rst")
            return None
        return head


def test_a_lab_that_resets_handshakes_is_a_note() -> None:
    report = handshake(LabResets)
    assert set(found(report)) == {"lab-refused"}


class TracesAreBroken(HeadHop):
    """Answers no JSON, where a trace is asked for."""

    body = b"{"

    def request(self, head: bytes) -> bytes | None:
        if not head.startswith(b"GET /trace/"):
            return head
        size = str(len(self.body)).encode()
        self.sendToClient(b"HTTP/1.1 200 OK\r\nContent-Length: " + size + b"\r\n\r\n" + self.body)
        return None


class TracesAreReset(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        if head.startswith(b"GET /trace/"):
            self.cut("rst")
            return None
        return head


class TracesAreOther(TracesAreBroken):
    body = b"[]"


class TracesAreEmpty(TracesAreBroken):
    body = b'{"events": [], "ended": {"time": 1, "by": "client", "how": "fin", "tcp": "fin"}}'


@pytest.mark.parametrize("hop", [TracesAreBroken, TracesAreReset, TracesAreOther, TracesAreEmpty])
def test_a_trace_that_is_none_tells_nothing(hop: type[Hop]) -> None:
    report = handshake(hop)
    assert report.findings == []
    assert "toServer" not in report.measured["handshake"]


def test_a_url_with_a_query_keeps_it() -> None:
    class Sees(HeadHop):
        heads: list[bytes] = []

        def request(self, head: bytes) -> bytes | None:
            self.heads.append(head)
            return head

    report = handshake(Sees, url="ws://127.0.0.1:8080/echo?token=a")
    assert report.findings == []
    lines = [head.partition(b" HTTP")[0] for head in Sees.heads]
    assert b"GET /echo?token=a" in lines
    assert any(line.startswith(b"GET /echo?token=a&probe=qqq") for line in lines)
    assert b"GET /lab" in lines


class Swaps(HeadHop):
    """Removes one header of the user, rewrites another, and sets a cookie."""

    def request(self, head: bytes) -> bytes | None:
        return without(head, b"authorization").replace(b"one-secret", b"two-secret-2")

    def response(self, head: bytes) -> bytes | None:
        return head.replace(b"\r\n", b"\r\nSet-Cookie: session=three-secret\r\n", 1)


def test_no_secret_is_in_a_report() -> None:
    headers = (("Authorization", "Bearer one-secret"), ("X-Token", "one-secret"))
    report = Path(Swaps).probe(5, only=["handshake"], headers=headers)
    assert "secret" not in report.asJson()
    there = report.measured["handshake"]["toServer"]
    assert there is not None
    assert ["Authorization", "17 bytes, not shown"] in there["removed"]
    (rewritten,) = [each for each in there["rewritten"] if each["name"] == "X-Token"]
    assert rewritten["sent"] == "10 bytes, not shown"
    back = report.measured["handshake"]["toClient"]
    assert back is not None
    assert ["Set-Cookie", "20 bytes, not shown"] in back["added"]
    assert ["Set-Cookie", "20 bytes, not shown"] in report.measured["handshake"]["response"][
        "headers"
    ]


def test_an_origin_of_the_user_replaces_that_of_the_probe() -> None:
    class Sees(HeadHop):
        heads: list[bytes] = []

        def request(self, head: bytes) -> bytes | None:
            self.heads.append(head)
            return head

    Path(Sees).probe(5, only=["handshake"], headers=(("origin", "https://mine.example"),))
    upgrades = [head for head in Sees.heads if b"Upgrade" in head]
    assert all(head.lower().count(b"\norigin: ") == 1 for head in upgrades)
    assert b"origin: https://mine.example\r\n" in upgrades[0]


class LabIsMute(HeadHop):
    """Takes the question whether there is a lab, and does not answer."""

    def request(self, head: bytes) -> bytes | None:
        if head.startswith(b"GET /lab "):
            self.cut(client=False)
            return None
        return head


def test_a_plain_answer_that_never_comes_is_waited_for_in_vain() -> None:
    report = handshake(LabIsMute)
    assert report.measured["farEnd"]["why"] == "no answer in 15 s"
    assert report.findings == [], "no connection was left waiting meanwhile"


def test_headers_of_the_user_are_sent() -> None:
    class Sees(HeadHop):
        heads: list[bytes] = []

        def request(self, head: bytes) -> bytes | None:
            self.heads.append(head)
            return head

    Path(Sees).probe(5, only=["handshake"], headers=(("X-Token", "secret"),))
    assert all(b"X-Token: secret\r\n" in head for head in Sees.heads)


class LabSays(HeadHop):
    """Answers the question whether there is a lab."""

    answer = b""

    def request(self, head: bytes) -> bytes | None:
        if not head.startswith(b"GET /lab "):
            return head
        self.sendToClient(self.answer)
        return None


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"-2\r\n" * 200_000 + b"0\r\n\r\n",
        CHUNKED + b"1\r\nx\r\n" * 600_000 + b"0\r\n\r\n",
        CHUNKED + b"ffffffff\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
        b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["steps"]',
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["negative", "many chunks", "a huge chunk", "digits", "nested", "a list", "204"],
)
def test_an_odd_answer_is_no_lab_and_holds_nothing_up(answer: bytes) -> None:
    class This(LabSays):
        pass

    This.answer = answer
    report = handshake(This)
    assert report.findings == []
    assert not report.measured["farEnd"]["isLab"]


class Early(HeadHop):
    """Sends an interim answer first."""

    def response(self, head: bytes) -> bytes | None:
        return b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + head


def test_an_interim_answer_is_none() -> None:
    assert Path(Early, "--no-lab").probe(5, only=["handshake"]).findings == []


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"Sec-WebSocket-Extensions: x-other", "an extension that was not offered"),
        (b"Sec-WebSocket-Protocol: chat", "a subprotocol that was not offered"),
    ],
)
def test_a_101_with_what_was_not_offered_must_be_refused(header: bytes, words: str) -> None:
    class Adds(HeadHop):
        def response(self, head: bytes) -> bytes | None:
            return head.replace(b"\r\n", b"\r\n" + header + b"\r\n", 1)

    assert words in found(Path(Adds, "--no-lab").probe(5))["answer-stripped"].title


def test_what_a_proxy_sends_behind_its_answer_is_not_the_servers() -> None:
    class Injects(HeadHop):
        def request(self, head: bytes) -> bytes | None:
            self.sendToClient(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nServer: forged\r\n\r\n")
            return None

    report = Path(Injects).probe(5, proxy=parseProxy("http://127.0.0.1:3128"))
    assert report.incomplete["handshake"] == "the proxy sends more behind its answer to CONNECT"


def test_the_users_own_headers_count_among_the_large_ones() -> None:
    report = Path().probe(5, only=["handshake"], headers=(("X-Long", "x" * 1200),))
    assert report.findings == []


def test_a_refused_request_hides_what_the_user_gave() -> None:
    headers = (("X-Request-Id", "secret"),)
    report = Path(Strips).probe(5, headers=headers)
    refused = report.measured["handshake"]["refused"]
    assert refused is not None
    assert refused["arrived"] is not None
    assert ["X-Request-Id", "6 bytes, not shown"] in refused["arrived"]["headers"]
    assert "secret" not in report.asJson()


class LastLook(HeadHop):
    """No connection is accepted any more once it was asked for a lab."""

    def response(self, head: bytes) -> bytes | None:
        if self.sawRequest.startswith(b"GET /lab "):
            self.path.refuses = True
        return head


def test_a_server_that_goes_away_before_the_handshake_is_not_reached() -> None:
    report = Path(LastLook).probe(5)
    assert report.measured["handshake"]["notReached"] == {
        "stage": "tcp",
        "why": "connection refused",
    }
    assert report.status == 2


@pytest.mark.parametrize(
    ("isMute", "stage", "why"),
    [(False, "dns", "the name has no address"), (True, "tcp", "no connection in 15 s")],
)
def test_a_name_without_an_address_is_not_reached(isMute: bool, stage: str, why: str) -> None:
    path = Path()
    path.forgetNames(isMute=isMute)
    report = path.probe(5, url="ws://nobody.example/echo")
    assert report.measured["handshake"]["notReached"] == {"stage": stage, "why": why}
    assert report.status == 2
    assert report.duration < 60


class LimitsRate(HeadHop):
    """Answers all handshakes at /echo but the first with 429."""

    def request(self, head: bytes) -> bytes | None:
        if head.startswith(b"GET /echo"):
            self.path.reactor.count = getattr(self.path.reactor, "count", 0) + 1
            if self.path.reactor.count > 1:
                self.sendToClient(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
                return None
        return head


def test_a_limit_of_rates_is_none_of_sizes() -> None:
    report = Path(LimitsRate).probe(5, only=["handshake"])
    assert report.findings == []
    assert report.measured["handshake"]["limits"] == []


class OneCookie(HeadHop):
    """Refuses what no client may send: two fields of cookies."""

    def request(self, head: bytes) -> bytes | None:
        if head.count(b"Cookie:") > 1:
            self.sendToClient(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return None
        assert b"Cookie: session=1" in head
        return head


def test_a_cookie_of_the_user_is_sent_in_one_field_with_the_large_one() -> None:
    headers = (("Cookie", "session=1"),)
    report = Path(OneCookie).probe(5, only=["handshake"], headers=headers)
    assert report.findings == []
    assert all(limit["passed"] for limit in report.measured["handshake"]["limits"])


class Reflects(HeadHop):
    """Refuses, and shows the request as it came."""

    def request(self, head: bytes) -> bytes | None:
        token = b"".join(line for line in head.split(b"\r\n") if line.startswith(b"Authorization"))
        answer = b"HTTP/1.1 400 Bad\r\nLocation: /login?" + token.replace(b" ", b"+")
        self.sendToClient(answer + b"\r\nX-Saw: " + token + b"\r\n\r\n" + b"x" * 380 + head)
        self.cut()
        return None


def test_a_refusal_that_shows_the_request_tells_no_secret() -> None:
    headers = (("Authorization", "Bearer one-secret"), ("X-Short", "abc"), ("Origin", "https://o"))
    report = Path(Reflects).probe(5, only=["handshake"], headers=headers)
    assert "secret" not in report.asJson()
    refused = report.measured["handshake"]["refused"]
    assert refused is not None
    assert refused["location"] is not None
    assert "10 bytes, not shown" in refused["location"]
    assert ["X-Saw", "Authorization: 17 bytes, not shown"] in report.measured["handshake"][
        "response"
    ]["headers"]


def test_a_head_that_does_not_end_is_not_read_on() -> None:
    path = Path(Endless)
    path.probe(5, only=["handshake"])
    assert all(hop._near.isDone for hop in path._hops)
