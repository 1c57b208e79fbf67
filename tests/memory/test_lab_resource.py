"""The URLs of the lab together: a script is traced, a case is judged, and both can be read."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from support.memory import Client, Service
from support.secure import TLS12, TLS13, Peer, certified
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from echotwist.http.channel import Request
from echotwist.lab.cases import CASES
from echotwist.lab.observer import HEAD
from echotwist.limits import LAB_TRACES
from echotwist.testing.frames import TEXT, Frame, close, text
from echotwist.testing.raw import request

ID = "Zm9yIHlvdXIgZXllcyBvbmx5"

OFFERS: Any = {
    "Sec_WebSocket_Protocol": "a, b",
    "Sec_WebSocket_Extensions": "x-lab, permessage-deflate; server_max_window_bits=8, "
    "permessage-deflate, permessage-deflate; client_max_window_bits",
}


AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.fixture
def service() -> Service:
    return Service("--log-rate=0", isFast=False)


def get(service: Service, target: str, method: str = "GET", peer: Any = None, **how: str) -> Any:
    """The status, and the body, which is JSON if it is any."""
    client = service.connect(peer)
    headers = "".join(f"{name}: {value}\r\n" for name, value in how.items())
    client.send(f"{method} {target} HTTP/1.0\r\nHost: x\r\n{headers}\r\n".encode())
    head, _, body = client.received().partition(b"\r\n\r\n")
    client.finish()
    status = int(head.split()[1])
    return status, json.loads(body) if body.startswith((b"{", b"[")) else body


def trace(service: Service) -> Any:
    status, found = get(service, f"/trace/{ID}")
    assert status == 200
    return found


def connected(service: Service, target: str, peer: Any = None, **how: Any) -> Client:
    client = service.connect(peer)
    client.send(request(target, **how))
    return client


# Headers. A page can ask for all of this with the user's cookies and the proxy's headers.

HIDDEN = [
    "Cookie", "cookie", "AUTHORIZATION", "Proxy-Authorization", "X-Forwarded-Access-Token",
    "Cf-Access-Jwt-Assertion", "X-Amzn-Oidc-Data", "X-Api-Key", "X-Session-Id",
    "X-MS-CLIENT-PRINCIPAL", "X-Forwarded-User", "Tailscale-User-Login", "X-Forwarded-Client-Cert",
    "X-Forwarded-Forx", "xHost", "Referer", "X",
]  # fmt: skip
SHOWN = [
    "Host", "UPGRADE", "connection", "Origin", "User-Agent", "Accept", "accept-Language",
    "Sec-WebSocket-Key", "Sec-Fetch-Site", "Via", "Forwarded", "X-Forwarded-For",
    "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Cache-Control", "Pragma",
    "X-Real-IP", "CF-Ray", "X-Amzn-Trace-Id", "X-Request-Id", "traceparent",
]  # fmt: skip


def shown(service: Service, headers: list[str]) -> list[Any]:
    """How `/lab/inspect`, the same as a WebSocket, and a trace show these headers of a request."""
    lines = "".join(f"{header}\r\n" for header in headers).encode()
    client = service.connect()
    client.send(b"GET /lab/inspect HTTP/1.0\r\n" + lines + b"\r\n")
    found = [json.loads(client.received().partition(b"\r\n\r\n")[2])["headers"]]
    for target in ("/lab/inspect", f"/lab?trace={ID}"):
        client = service.connect()
        client.send(request(target)[:-2] + lines + b"\r\n")
        client.opened()
        if "inspect" in target:
            found.append(json.loads(client.frames()[0].payload)["headers"])
    (asked,) = [event for event in trace(service)["events"] if event["type"] == "requested"]
    return [*(pairs[-len(headers) :] for pairs in found), asked["headers"][-len(headers) :]]


def test_of_headers_that_are_not_known_the_size_is_shown(service: Service) -> None:
    over, socket, traced = shown(service, [f"{name}: {'s3cret' * 20}" for name in HIDDEN])
    assert over == socket == [[name, "120 bytes, not shown"] for name in HIDDEN]
    assert traced == [{"name": name, "value": None, "redacted": 120} for name in HIDDEN]


@pytest.mark.parametrize("name", SHOWN)
def test_headers_that_tell_the_path_are_shown(service: Service, name: str) -> None:
    client = service.connect()
    client.send(f"GET /lab/inspect HTTP/1.0\r\n{name}: some\r\n\r\n".encode())
    assert json.loads(client.received().partition(b"\r\n\r\n")[2])["headers"] == [[name, "some"]]


def test_a_trace_shows_the_headers_of_a_handshake(service: Service) -> None:
    connected(service, f"/lab?trace={ID}", Origin="http://localhost", **OFFERS)
    (asked,) = [event for event in trace(service)["events"] if event["type"] == "requested"]
    assert {"name": "Origin", "value": "http://localhost"} in asked["headers"]
    assert all(each["value"] for each in asked["headers"])


def test_a_header_that_is_folded_is_hidden_as_a_whole(service: Service) -> None:
    over, socket, traced = shown(service, ["Cookie: a\r\n\tHost: s3cret"])
    assert over == socket == [["Cookie", "14 bytes, not shown"]]
    assert traced == [{"name": "Cookie", "value": None, "redacted": 14}]


# Traces.


def test_a_trace_has_what_was_agreed_to_and_what_was_not(service: Service) -> None:
    connected(service, f"/lab?trace={ID}", **OFFERS)
    found = trace(service)
    assert found["subprotocol"] == "a"
    assert found["extensions"].startswith("permessage-deflate")
    assert [(each["offer"], each["why"].split(":")[0]) for each in found["declined"]] == [
        ("b", "the first one is agreed to"),
        ("x-lab", "it is not known here"),
        ("permessage-deflate; server_max_window_bits=8",
         "it is malformed, or asks for what is not possible"),
        ("permessage-deflate; client_max_window_bits", "another offer came first"),
    ]  # fmt: skip


def test_a_trace_says_that_compression_is_off() -> None:
    service = Service("--log-rate=0", "--no-compression", isFast=False)
    connected(service, f"/lab?trace={ID}", Sec_WebSocket_Extensions="permessage-deflate")
    assert [each["why"] for each in trace(service)["declined"]] == ["compression is off"]


@pytest.mark.parametrize(
    ("script", "subprotocol", "extensions", "whys"),
    [
        ("extension=none", "a", None, ["the first one is agreed to", "it is not known here",
         *["compression is off"] * 2]),
        ("extension=x-lab", "a", "x-lab", ["the first one is agreed to",
         *["compression is off"] * 2]),
        ("subprotocol=zzz&newline=lf", "zzz", AGREED,
         [*["the script answers otherwise"] * 2, "it is not known here",
          "another offer came first"]),
        ("subprotocol=none", None, AGREED,
         [*["the script answers otherwise"] * 2, "it is not known here",
          "another offer came first"]),
        ("subprotocol=b&header=Sec-WebSocket-Extensions:x-other", "b",
         f"{AGREED}, x-other",
         ["the script answers otherwise", "it is not known here", "another offer came first"]),
        ("subprotocol=twice", "a, a", AGREED,
         ["the script answers otherwise", "it is not known here", "another offer came first"]),
        ("status=401&header=Sec-WebSocket-Protocol:a", None, None, []),
        ("garbage", None, None, []),
    ],
)  # fmt: skip
def test_a_trace_has_what_the_answer_says(
    service: Service, script: str, subprotocol: str | None, extensions: str | None, whys: list[str]
) -> None:
    offers: Any = {
        "Sec_WebSocket_Protocol": "a, b",
        "Sec_WebSocket_Extensions": "x-lab, permessage-deflate, permessage-deflate",
    }
    connected(service, f"/lab?{script}&trace={ID}", **offers)
    service.run()
    found = trace(service)
    assert found["subprotocol"] == subprotocol
    assert found["extensions"] == extensions
    assert [each["why"].split(":")[0] for each in found["declined"]] == whys


@pytest.mark.parametrize("how", ["", "&coalesce"])
def test_a_trace_has_the_beginning_of_a_long_answer(service: Service, how: str) -> None:
    connected(service, f"/lab?headers=1000,100{how}&trace={ID}").opened()
    (opened,) = [event for event in trace(service)["events"] if event["type"] == "opened"]
    assert len(opened["head"]) == HEAD


@pytest.mark.parametrize("step", ["hold", "wait"])
def test_a_connection_that_is_traced_does_not_keep_its_request(service: Service, step: str) -> None:
    target = f"/lab?{step}=9s&trace={ID}"
    connected(service, target)
    gc.collect()
    requests = [each for each in gc.get_objects() if type(each) is Request]
    assert target.encode() not in [getattr(each, "uri", None) for each in requests]


def test_a_trace_has_the_request_as_it_came(service: Service) -> None:
    client = service.connect()
    data = request(f"/lab?send=hi&trace={ID}", Cookie="secret=1")
    client.send(data.replace(b"Host:", b"hOsT:"))
    (asked,) = [event for event in trace(service)["events"] if event["type"] == "requested"]
    names = [each["name"] for each in asked["headers"]]
    assert names[0] == "hOsT"
    assert "secret" not in json.dumps(asked)


def test_a_trace_has_the_proxy_that_is_believed() -> None:
    service = Service("--log-rate=0", "--trusted-proxy=127.0.0.1", isFast=False)
    client = service.connect(IPv4Address("TCP", "127.0.0.1", 40000))
    client.send(request(f"/lab?trace={ID}", X_Forwarded_For="192.0.2.7"))
    found = trace(service)
    assert (found["peer"], found["client"]) == ("127.0.0.1:40000", "192.0.2.7")
    assert found["proxies"] == ["127.0.0.1:40000"]


def test_a_trace_has_tls(tmp_path: Path) -> None:
    service = Service("--log-rate=0", isFast=False)
    plain = service.site
    peer = Peer(certified(tmp_path), service=service)
    peer.send(request(f"/lab?trace={ID}"))
    service.site = plain
    assert trace(service)["tls"]["version"] == "TLSv1.3"


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize(
    ("how", "by", "end", "tcp"),
    [
        ("close_notify", "client", "fin", "fin"),
        ("fin", "client", "fin", "eof"),
        ("garbage", "client", "fin", "eof"),
        ("reset", "client", "rst", "rst"),
        ("abort", "server", "drop", "us"),
    ],
)
def test_a_trace_has_the_end_of_tls(
    service: Service, tmp_path: Path, version: Any, how: str, by: str, end: str, tcp: str
) -> None:
    """Clients that end TCP without a close_notify are many, and have reset nothing."""
    plain = service.site
    peer = Peer(certified(tmp_path), service=service, version=version)
    peer.send(request(f"/lab?trace={ID}"))
    match how:
        case "close_notify":
            peer.finish()
        case "fin":
            peer.client.finish()
        case "garbage":
            peer.client.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        case "reset":
            peer.client.transport.connectionLost(Failure(ConnectionLost()))
        case "abort":
            peer.connection.abort()
    service.advance(10)
    service.site = plain
    found = trace(service)["ended"]
    assert (found["by"], found["how"], found["tcp"]) == (by, end, tcp)


def test_a_client_that_leaves_tls_open_is_told_from_one_that_ends_it(
    service: Service, tmp_path: Path
) -> None:
    plain, whys = service.site, {}
    for isEnding in (True, False):
        service.site = plain
        peer = Peer(certified(tmp_path), service=service)
        peer.send(request("/runCase?casetuple=F01&agent=me"))
        peer.send(text("hello"))
        peer.send(close(1002))
        if isEnding:
            peer.client.finish()
        service.advance(10)
        service.site = plain
        found = get(service, "/lab/report?agent=me&format=json")[1]["me"]["F01"]
        whys[isEnding] = found["behavior"], "left TCP open" in found["why"]
    assert whys == {True: ("OK", False), False: ("UNCLEAN", True)}


def test_a_trace_has_frames_both_ways_and_the_end(service: Service) -> None:
    client = connected(service, f"/lab?send=hi&trace={ID}")
    client.send(text("yes") + close(1000, "bye"))
    client.finish()
    found = trace(service)
    frames = [(e["type"], e["opcode"]) for e in found["events"] if "opcode" in e]
    assert [opcode for _, opcode in frames] == [1, 1, 1, 8, 8]
    assert [kind for kind, _ in frames][:2] == ["frameSent", "frameReceived"]
    assert (found["ended"]["by"], found["ended"]["how"]) == ("client", "close")


def test_an_id_is_one_connections_alone(service: Service) -> None:
    first = connected(service, f"/lab?trace={ID}")
    again = connected(service, f"/lab?trace={ID}")
    answer = again.received()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"is in use; choose another ID" in answer
    first.send(close(1000))
    first.finish()


def test_so_many_traces_run_at_a_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echotwist.lab.trace.LAB_TRACES", 2)
    assert LAB_TRACES > 100
    ids = [ID[:-1] + letter for letter in "abc"]
    answers = [connected(service, f"/lab?trace={each}").received() for each in ids]
    assert [answer.split()[1] for answer in answers] == [b"101", b"101", b"503"]


def test_a_script_that_is_malformed_leaves_no_trace(service: Service) -> None:
    connected(service, f"/lab?trace={ID}&sned=x")
    connected(service, f"/lab?trace={ID}", Sec_WebSocket_Key="no")
    assert get(service, f"/trace/{ID}")[0] == 404


def test_a_traced_case_has_its_verdict(service: Service) -> None:
    client = connected(service, f"/lab?case=F01&trace={ID}")
    client.send(close(1000))
    client.finish()
    service.advance(10)
    found = trace(service)
    assert found["case"] == "F01"
    assert found["verdict"]["behavior"] == "FAILED"


# Cases.


def test_a_case_is_run_judged_and_reported(service: Service) -> None:
    number = list(CASES).index("H20") + 1
    client = connected(service, f"/runCase?case={number}&agent=me")
    client.opened()
    assert client.frames() == [Frame(TEXT, b"hello")]
    client.send(text("hello"))
    service.advance(3)
    assert client.received()[:2] == b"\x88\x02"
    client.send(close(1000))
    client.finish()
    status, found = get(service, "/lab/report?agent=me")
    assert status == 200
    assert found["me"]["H20"]["behavior"] == "OK"
    asked = connected(service, f"/getCaseStatus?case={number}&agent=me")
    asked.opened()
    service.advance(1)
    answer, _ = asked.frames()
    assert json.loads(answer.payload) == {"behavior": "OK"}


@pytest.mark.parametrize("query", ["", "?case=1", "?agent=me", "?case=0&agent=me"])
def test_a_case_that_is_not_there_is_refused(service: Service, query: str) -> None:
    client = connected(service, f"/runCase{query}")
    assert client.received().startswith(b"HTTP/1.1 400 ")
    assert service.connections.open == set()


def test_the_catalogue(service: Service) -> None:
    status, found = get(service, "/lab/cases")
    assert status == 200
    assert [case["id"] for case in found] == list(CASES)
    assert all(case["title"] and case["script"] and case["source"] for case in found)


def test_violate_sends_the_broken_frame_of_a_case(service: Service) -> None:
    client = connected(service, "/lab?send=a&violate=F02&send=b")
    sent = client.received().partition(b"\r\n\r\n")[2]
    violation = CASES["F02"].violation
    assert violation is not None
    assert sent == b"\x81\x01a" + violation + b"\x81\x01b"


@pytest.mark.parametrize("query", ["violate=H01", "case=F01&send=a"])
def test_a_case_that_does_not_fit_is_explained(service: Service, query: str) -> None:
    answer = connected(service, f"/lab?{query}").received()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["step"] == query[:7].split("=")[0]


def test_all_cases_at_the_same_time(service: Service) -> None:
    """As a harness that does not wait runs them."""
    clients = [connected(service, f"/runCase?casetuple={case}&agent=all") for case in CASES]
    for _ in range(20):
        for client in clients:
            if not client.socket.closed:
                client.send(close(1000))
                client.finish()
        service.advance(5)
    assert all(client.socket.closed for client in clients)
    assert len(get(service, "/lab/report?agent=all&format=json")[1]["all"]) == len(CASES)


# Checks of a script.


@pytest.mark.parametrize(
    ("script", "step", "meant"),
    [("hold=2h", "hold", None), ("sned=a", "sned", "send"), ("send=a&hold=2s", "hold", None)],
)
def test_a_script_is_checked_without_an_upgrade(
    service: Service, script: str, step: str, meant: str | None
) -> None:
    status, found = get(service, f"/lab?{script}")
    assert status == 400
    assert (found["error"]["step"], found["error"]["meant"]) == (step, meant)
    refused = connected(service, f"/lab?{script}").received()
    assert json.loads(refused.partition(b"\r\n\r\n")[2]) == found


def test_a_check_is_no_client_that_is_refused(log: Any) -> None:
    service = Service(isFast=False)
    assert get(service, "/lab?sned=a")[0] == 400
    assert log.lines() == []
    assert service.context.journal.totals.refused == {}


@pytest.mark.parametrize(
    "target", ["/lab?hold=2s&send=a", f"/lab?trace={ID}", "/lab?", "/runCase?casetuple=F01&agent=a"]
)
def test_what_would_be_run_is_answered_with_the_manual(service: Service, target: str) -> None:
    status, found = get(service, target)
    assert status == 200
    assert found["steps"]
    assert get(service, f"/trace/{ID}")[0] == 404


# The rest.


def test_inspect_is_told_over_both(service: Service) -> None:
    status, found = get(service, "/lab/inspect", Via="y")
    assert status == 200
    assert ["Via", "y"] in found["headers"]
    client = connected(service, "/lab/inspect", Via="y")
    client.opened()
    (message,) = client.frames()
    assert ["Via", "y"] in json.loads(message.payload)["headers"]
    client.send(text("a"))
    assert client.frames() == [Frame(TEXT, b"a")]


@pytest.mark.parametrize("target", ["/lab", "/lab/cases", "/lab/inspect", "/lab/report"])
def test_pages_of_every_origin_may_read(service: Service, target: str) -> None:
    client = service.connect()
    client.send(f"OPTIONS {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = client.received()
    assert b"Access-Control-Allow-Origin: *" in answer
    assert b"Access-Control-Allow-Methods: GET, HEAD, OPTIONS" in answer


def test_nothing_of_it_is_there_without_the_lab() -> None:
    service = Service("--no-lab", isFast=False)
    for target in ("/lab/cases", f"/trace/{ID}", "/runCase", "/getCaseCount"):
        assert get(service, target)[0] == 404
