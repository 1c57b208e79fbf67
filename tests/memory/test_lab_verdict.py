"""/lab/verdict: what a page has measured, checked against its types and judged; and what a request
with a body may cost."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.memory import Client, Service

from echotwist.limits import LAB_MEASURED

CHANGES = {
    "line": {"name": "", "sent": "GET /a HTTP/1.1", "arrived": "GET /a HTTP/1.0"},
    "added": [["Via", "1.1 varnish"], ["X-Forwarded-For", "192.0.2.1"]],
    "removed": [["Origin", "https://a.example"]],
    "rewritten": [{"name": "Host", "sent": "a", "arrived": "b"}],
    "isReordered": True,
}

REFUSAL = {
    "why": "the answer is 'HTTP/1.1 400 Bad Request'",
    "status": 400,
    "location": None,
    "body": "no",
    "arrived": {"version": "HTTP/1.1", "headers": [["Connection", "close"]]},
}

OFFER = {"offered": "a", "arrived": None, "answered": None, "received": None}


def row(name: str, opened: float, ended: float | None) -> dict[str, Any]:
    return {
        "row": name,
        "opened": opened,
        "watched": ended or 150.0,
        "ended": ended,
        "client": ended and {"how": "close", "code": 1001, "reason": "bye"},
        "server": ended and {"age": ended, "by": "client", "how": "fin", "tcp": "fin"},
        "isServerKnown": True,
        "alive": None if ended else True,
        "fromServer": 60,
        "fromClient": 60.25,
    }


TRICKLE = {"interval": 0.2, "sent": [0.2] * 25, "received": [0.2] * 25}

WHOLE: dict[str, Any] = {
    "farEnd": {"isLab": True, "why": "", "server": "nginx"},
    "handshake": {
        "addresses": ["192.0.2.1"],
        "address": "192.0.2.1:443",
        "took": {"upgrade": 0.012},
        "notReached": {"stage": "tcp", "why": "connection refused"},
        "tls": {
            "version": "TLSv1.3",
            "cipher": "x",
            "alpn": None,
            "subject": "CN=a",
            "issuer": "CN=b",
            "notAfter": "2027-01-01T00:00:00+00:00",
            "distrust": None,
        },
        "response": {"line": "HTTP/1.1 101 x", "headers": [["Server", "nginx"]]},
        "refused": REFUSAL,
        "labRefused": REFUSAL,
        "toServer": CHANGES,
        "toClient": CHANGES,
        "extensions": OFFER,
        "subprotocols": OFFER,
        "limits": [{"what": "query", "size": 8000, "answer": "HTTP/1.1 414", "passed": False}],
        "http2": {
            "alpn": "h2",
            "connectProtocol": True,
            "status": 502,
            "echoed": False,
            "why": "refused",
        },
    },
    "idle": [row("silent", 0.0, 60.0), row("serverData", 2.0, None), row("both", 4.0, None)],
    "sizes": [
        {
            "size": 65536,
            "shape": "whole",
            "passed": False,
            "why": "a close frame with 1009",
            "code": 1009,
            "arrived": False,
            "refusedByServer": False,
        }
    ],
    "bytes": [{"check": "text", "passed": None, "why": "no"}],
    "flow": {
        "toClient": TRICKLE,
        "toServer": TRICKLE,
        "tcpRoundTrip": None,
        "pingRoundTrips": [],
        "messageRoundTrips": [0.001, 0.002],
        "burst": {"count": 500, "seconds": 0.1, "inOrder": True},
        "down": 1e6,
        "up": 1000000,
        "loadedRoundTrips": [0.001],
    },
}

TYPE = "application/json"


@pytest.fixture
def service() -> Service:
    return Service(isFast=False)


def ask(
    service: Service, body: bytes, kind: str | None = TYPE, more: str = ""
) -> tuple[int, dict[str, str], Any]:
    client = service.connect()
    client.send(posted(body, kind, more))
    return answer(client)


def posted(
    body: bytes, kind: str | None = TYPE, more: str = "", target: str = "/lab/verdict"
) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return "\r\n".join([*lines, f"{more}\r\n"]).encode() + body


def answer(client: Client) -> tuple[int, dict[str, str], Any]:
    """The status, the headers, and the body, which is JSON if it says so."""
    head, _, body = client.received().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    isJson = headers.get("Content-Type") == TYPE
    return int(first.split()[1]), headers, json.loads(body) if isJson else body.decode()


def judged(service: Service, measured: Any) -> tuple[int, Any]:
    status, _, found = ask(service, json.dumps(measured).encode())
    return status, found


def wrong(service: Service, body: bytes, kind: str | None = TYPE) -> tuple[str, str]:
    """Where it is, and what."""
    status, _, found = ask(service, body, kind)
    assert status == 400
    return found["error"]["at"], found["error"]["problem"]


# The verdict.


def test_nothing_measured_is_nothing_found(service: Service) -> None:
    assert judged(service, {}) == (200, {"findings": [], "lines": []})


def test_what_was_measured_is_judged(service: Service, log: Any) -> None:
    status, found = judged(service, WHOLE)
    assert status == 200
    rules = {finding["rule"] for finding in found["findings"]}
    assert {"idle-timeout", "size", "origin-changed"} <= rules
    idle = next(each for each in found["findings"] if each["rule"] == "idle-timeout")
    assert idle["level"] == "problem"
    assert idle["title"].startswith("cut after 60.0 s of silence")
    assert set(idle) == {"rule", "level", "title", "evidence", "consistentWith", "cures"}
    assert ["bytes", "text", "not seen: no"] in found["lines"]
    assert ["idle and age", "data both ways", "open after 150 s"] in found["lines"]
    assert log.events == []


def test_any_page_may_ask(service: Service) -> None:
    status, headers, _ = ask(service, b"{}", f"{TYPE}; charset=utf-8", "Origin: https://a\r\n")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
    client = service.connect()
    client.send(b"OPTIONS /lab/verdict HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers, _ = answer(client)
    assert (status, headers["Access-Control-Allow-Methods"]) == (200, "GET, HEAD, OPTIONS, POST")
    assert headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_a_get_says_what_to_post(service: Service) -> None:
    client = service.connect()
    client.send(b"GET /lab/verdict HTTP/1.1\r\nHost: x\r\n\r\n")
    status, _, found = answer(client)
    assert (status, found) == (
        200,
        {"usage": f"POST what was measured, as JSON of at most {LAB_MEASURED:,} bytes"},
    )


def test_without_a_lab_there_is_none() -> None:
    service = Service("--no-lab", "--log-rate=0", isFast=False)
    client = service.connect()
    client.send(b"GET /lab/verdict HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer(client)[0] == 404
    status, _, why = ask(service, b"{}")
    assert (status, why) == (413, "no body is taken here\n")


# What is wrong with it.


@pytest.mark.parametrize("kind", [None, "text/plain", "application/jsonp", "multipart/form-data"])
def test_another_type_is_refused(service: Service, kind: str | None) -> None:
    assert wrong(service, b"{}", kind) == ("", "the Content-Type is not application/json")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "it is no JSON"),
        (b"{", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b'"\x80"', "it is no JSON"),
        (b"1" * 5000, "it is no JSON"),
        (b"[" * 30_000, "it is nested too deeply"),
        (b'{"flow": {"down": NaN}}', "NaN is no JSON"),
        (b'{"flow": {"down": -Infinity}}', "-Infinity is no JSON"),
        (b"null", "is no object"),
        (b"[]", "is no object"),
    ],
)
def test_what_is_no_measurement_is_refused(service: Service, body: bytes, problem: str) -> None:
    assert wrong(service, body) == ("", problem)


def changed(path: str, value: Any) -> Any:
    """A copy of WHOLE in which this is something else; `idle.0.row`."""
    measured = json.loads(json.dumps(WHOLE))  # A deepcopy would share what WHOLE has twice.
    put(measured, path, value)
    return measured


def put(where: Any, path: str, value: Any) -> None:
    *way, last = [int(each) if each.isdigit() else each for each in path.split(".")]
    for each in way:
        where = where[each]
    where[last] = value


@pytest.mark.parametrize(
    ("path", "value", "at", "problem"),
    [
        ("farEnd", None, "farEnd", "is no object"),
        ("farEnd.isLab", 1, "farEnd.isLab", "is neither true nor false"),
        ("farEnd.server", 1, "farEnd.server", "is no text"),
        ("idle", {}, "idle", "is no list"),
        ("idle", [None] * 101, "idle", "has more than 100 elements"),
        ("idle.2.row", None, "idle[2].row", "is no text"),
        ("idle.2.row", "x" * 4097, "idle[2].row", "has more than 4,096 characters"),
        ("idle.0.opened", "1", "idle[0].opened", "is no number"),
        ("idle.0.opened", True, "idle[0].opened", "is no number"),
        ("idle.0.opened", 1e300, "idle[0].opened", "is out of range"),
        ("idle.0.client.how", None, "idle[0].client.how", "is no text"),
        ("idle.0.server", {}, "idle[0].server", "age is missing"),
        ("sizes.0.size", 1.5, "sizes[0].size", "is no whole number"),
        ("sizes.0.size", 10**400, "sizes[0].size", "is out of range"),
        ("sizes.0.size", True, "sizes[0].size", "is no number"),
        ("handshake.took", {"\x00": None}, "handshake.took.'\\x00'", "is no number"),
        ("handshake.took", dict.fromkeys(map(str, range(101)), 1), "handshake.took",
         "has more than 100 members"),
        ("handshake.took", {"x" * 5000: 1}, "handshake.took", "has more than 4,096 characters"),
        ("handshake.toServer.added", [["Via"]], "handshake.toServer.added[0]",
         "is no pair of a name and a value"),
        ("handshake.toServer.added", [["Via", "x"]] * 41, "handshake.toServer.added",
         "has more than 40 elements"),
        ("handshake.refused.arrived.headers", [["Via", 1]],
         "handshake.refused.arrived.headers[0][1]", "is no text"),
        ("handshake.surprise", 1, "handshake", "'surprise' is not known here"),
        ("handshake.é" + "x" * 99, 1, "handshake", "'\\xe9" + "x" * 39 + "' is not known here"),
        ("flow.toClient.sent", ["0.1"], "flow.toClient.sent[0]", "is no number"),
    ],
)  # fmt: skip
def test_what_has_another_shape_is_refused(
    service: Service, path: str, value: Any, at: str, problem: str
) -> None:
    assert wrong(service, json.dumps(changed(path, value)).encode()) == (at, problem)


def test_an_infinity_that_is_written_as_a_number_is_refused(service: Service) -> None:
    assert wrong(service, b'{"flow": {"down": 1e999}}') == ("flow.down", "is out of range")


def test_the_log_has_no_word_of_a_client(log: Any) -> None:
    wrong(Service(isFast=False), json.dumps({"surprise": "more"}).encode())
    assert log.lines() == ["127.0.0.1:40000 refused: 400 what was measured is malformed"]


def pathsOf(value: Any, path: str = "") -> list[str]:
    """All that can be changed in it."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    found = [path] if path else []
    for name, each in inner:
        found += pathsOf(each, f"{path}.{name}" if path else str(name))
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(st.sampled_from(pathsOf(WHOLE)), JSON, st.sampled_from(pathsOf(WHOLE)), JSON)
@example("flow.toClient.sent", [], "flow.toServer.sent.0", None)
def test_whatever_comes_is_judged_or_refused(path: str, value: Any, other: str, more: Any) -> None:
    """An exception would be an answer 500."""
    measured = changed(path, value)
    if not other.startswith(path) and not path.startswith(other):
        put(measured, other, more)
    service = Service("--log-rate=0", isFast=False)
    status, found = judged(service, measured)
    assert (status, "findings" in found) in [(200, True), (400, False)]


# The body.


def test_a_body_of_the_largest_size_is_taken(service: Service) -> None:
    body = b"{}" + b" " * (LAB_MEASURED - 2)
    assert ask(service, body)[0] == 200
    status, headers, why = ask(service, body + b" ")
    assert (status, why) == (413, f"a body has at most {LAB_MEASURED:,} bytes here\n")
    assert headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ("Content-Length: " + "9" * 5000, 413, "a body has at most 32,768 bytes here\n"),
        ("Content-Length: -1", 400, "the Content-Length is no number\n"),
        ("Content-Length: 2\r\nContent-Length: 2", 400, "the request is malformed\n"),
        ("Content-Length: 2\r\nContent-Length: 3", 400, "the request is malformed\n"),
        ("Transfer-Encoding: chunked", 411, "a body needs a Content-Length here\n"),
        ("Content-Length: 2\r\nTransfer-Encoding: x", 411, "a body needs a Content-Length here\n"),
    ],
)
def test_a_body_that_cannot_be_taken_is_refused(
    service: Service, headers: str, status: int, why: str
) -> None:
    client = service.connect()
    client.send(f"POST /lab/verdict HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + b"{}")
    found, _, body = answer(client)
    assert (found, body) == (status, why)
    assert client.socket.fin


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/lab/verdict", 413),
        ("PUT", "/lab/verdict", 413),
        ("POST", "/lab/verdict/", 413),
        ("POST", "/lab/verdict/x", 413),
        ("POST", "/lab", 413),
        ("POST", "/verdict", 413),
        ("POST", "/", 413),
        ("POST", "*", 413),
        ("POST", "http://x/lab/verdict", 413),
    ],
)
def test_no_other_request_has_a_body(
    service: Service, method: str, target: str, status: int
) -> None:
    client = service.connect()
    client.send(posted(b"{}", target=target).replace(b"POST", method.encode(), 1))
    assert answer(client)[0] == status


def test_other_methods_are_refused(service: Service) -> None:
    client = service.connect()
    client.send(b"PUT /lab/verdict HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers, _ = answer(client)
    assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_a_query_is_ignored(service: Service) -> None:
    client = service.connect()
    client.send(posted(b"{}", target="/lab/verdict?x"))
    assert answer(client)[0] == 200


@pytest.mark.parametrize("segment", [1, 7, 100_000])
def test_requests_may_follow_one_another(service: Service, log: Any, segment: int) -> None:
    """A line that ends with LF alone is one in a body."""
    client = service.connect()
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(posted(b"{\n\n}") + get + posted(b"[\n]") + get, segment)
    received = client.received()
    starts = [received.find(each) for each in (b"HTTP/1.1 200", b"ok\n", b"HTTP/1.1 400", b"no o")]
    assert starts == sorted(starts)
    assert -1 not in starts
    assert received.endswith(b"ok\n")


def test_a_body_may_wait_behind_answers_that_are_not_read(service: Service) -> None:
    client = service.connect()
    client.socket.window = 0
    get = b"GET /workbench/workbench.css HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(get * 20 + posted(b"{\n\n}")[:-2])
    client.send(b"\n}")
    client.socket.window = float("inf")
    service.run()
    assert client.received().endswith(b'"lines": []\n}\n')


def test_a_body_has_to_come_in_time(service: Service) -> None:
    client = service.connect()
    client.send(posted(b"{}")[:-1])
    for _ in range(9):
        service.advance(1)
        client.send(b"")
    assert client.received() == b""
    service.advance(1.1)
    assert answer(client)[0] == 408


def test_a_client_may_leave_in_the_middle_of_a_body(service: Service, log: Any) -> None:
    for leave in (Client.finish, lambda client: client.transport.abortConnection()):
        client = service.connect()
        client.send(posted(b"{}")[:-1])
        leave(client)
        service.advance(10)
        assert client.socket.closed
    assert service.site.channels == {}
    assert log.events == []


def test_the_budget_has_what_has_come_of_a_body(service: Service) -> None:
    client = service.connect()
    body = b" " * LAB_MEASURED
    client.send(posted(body)[: -len(body)])
    before = service.context.budget.buffered
    client.send(body[:-1])
    assert service.context.budget.buffered >= before + LAB_MEASURED - 1
    client.send(b"{")
    assert service.context.budget.buffered < before


def test_a_client_may_ask_before_it_sends(service: Service) -> None:
    client = service.connect()
    head, body = posted(b"{}", more="Expect: 100-continue\r\n").split(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    assert answer(client)[0] == 200
