"""What the server saw is kept, within bounds, and told in four formats."""

import gc
import json
import re
import tracemalloc
from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deflate import deflated
from support.memory import Client, Service
from support.schema import Schema
from twisted.web.http_headers import Headers

from echotwist.lab.observer import HEAD, SHOWN, Frame, Observer
from echotwist.lab.trace import Full, Taken, Trace, Traces
from echotwist.lab.traceresource import TraceResource
from echotwist.limits import (
    LAB_HEARTBEAT,
    LAB_TRACE_DECLINED,
    LAB_TRACE_EVENTS,
    LAB_TRACE_LIFETIME,
    LAB_TRACE_READERS,
    LAB_TRACES,
    LAB_TRACES_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_REQUEST_LINE,
)

ID = "Zm9yIHlvdXIgZXllcyBvbmx5"
ACCEPTED = 1_700_000_000.0
MASK = bytes.fromhex("37fa213d")
ROOT = Path(__file__).parents[2]
SCHEMA = Schema("trace.schema.json")

REQUEST = (
    b"GET /lab?trace=%b&send=hello HTTP/1.1\r\n"
    b"hOST: localhost:8080\r\n"
    b"COOKIE: session=hunter2\r\n"
    b"Connection: Upgrade\r\n"
    b"authorization:Bearer hunter2\r\n"
    b"Proxy-Authorization: Basic hunter2\r\n"
    b"Via: 1\r\n"
    b"via: 2\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7\r\n"
    b"sec-websocket-extensions: permessage-deflate\r\n"
    b"\r\n"
) % ID.encode()

RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    b"\r\n"
)


def text(payload: bytes, *, isMasked: bool = True, fin: bool = True, rsv: int = 0) -> Frame:
    """A text frame, as an observer sees it."""
    return Frame(fin, rsv, 1, len(payload), MASK if isMasked else None, payload[:SHOWN])


class Lab:
    """The service with traces, and nothing else of the lab."""

    def __init__(self, **how: Any) -> None:
        self.service = Service(**how)
        reactor = self.service.reactor
        self.traces = Traces(self.service.context, now=lambda: ACCEPTED + reactor.seconds())
        self.service.site.resource.putChild(
            b"trace", TraceResource(self.traces, self.service.connections)
        )

    def open(self, traceId: str = ID) -> Trace:
        return self.traces.open(traceId, self.traces.seconds())

    def wait(self, seconds: float) -> None:
        self.service.advance(seconds)

    def connect(
        self, target: str = f"/trace/{ID}", headers: str = "", method: str = "GET"
    ) -> Client:
        """A client that has sent this request."""
        client = self.service.connect()
        client.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        return client

    def stream(self, headers: str = "") -> Client:
        return self.connect(headers=f"Accept: text/event-stream\r\n{headers}")

    def ask(self, *arguments: str, **named: str) -> tuple[int, Headers, bytes]:
        return whole(self.connect(*arguments, **named).received())

    def read(self, format: str = "json") -> Any:
        status, _, body = self.ask(f"/trace/{ID}?format={format}")
        assert status == 200
        return body.decode() if format == "text" else json.loads(body)


def whole(data: bytes) -> tuple[int, Headers, bytes]:
    """The status, the headers and the body of a response."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = Headers()
    for line in lines:
        headers.addRawHeader(*line.split(b": ", 1))
    if headers.hasHeader(b"Transfer-Encoding"):
        body, isWhole = dechunked(body)
        assert isWhole
    return int(first.split()[1]), headers, body


def dechunked(data: bytes) -> tuple[bytes, bool]:
    """The body in these chunks (RFC 9112, 7.1), and whether its end is there."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
        if size == b"0":
            return body, True
    return body, False


def events(client: Client) -> tuple[list[tuple[str, str | None, Any]], bool]:
    """The server-sent events that have come: type, id, data; and whether the stream has ended. A
    comment has the type `:`."""
    data = client.received()
    if data.startswith(b"HTTP/"):
        data = data.partition(b"\r\n\r\n")[2]
    body, isOver = dechunked(data)
    found: list[tuple[str, str | None, Any]] = []
    for block in body.decode().split("\n\n")[:-1]:
        if block == ":":
            found.append((":", None, None))
            continue
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return found, isOver


def kinds(client: Client) -> list[str]:
    return [kind for kind, _, _ in events(client)[0]]


@pytest.fixture
def lab() -> Lab:
    return Lab()


def tell(lab: Lab, trace: Trace) -> None:
    """A whole connection, with something of everything."""

    def then(what: Callable[..., object], *arguments: Any) -> None:
        lab.wait(0.001)
        what(*arguments)

    trace.describe(
        peer="127.0.0.1:40312",
        client="203.0.113.7",
        proxies=["127.0.0.1"],
        tls={"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "serverName": "localhost"},
        case="F01",
    )
    trace.requested(REQUEST)
    then(trace.wrote, RESPONSE)
    then(trace.opened, RESPONSE)
    then(trace.frameSent, text(b"hello", isMasked=False))
    then(trace.wrote, b"\x81\x05hello")
    then(trace.bytesSent, b"\x81\x80")
    then(trace.scriptEnded)
    then(trace.read, bytes(11))
    then(trace.frameReceived, text("h\u00e9llo\x1b[31m".encode()))
    then(trace.messageReceived, b"hello", False)
    then(trace.frameReceived, Frame(True, 0, 2, 70_000, MASK, bytes(SHOWN)))
    then(trace.frameReceived, text(deflated(b"compressed"), fin=False, rsv=4))
    then(trace.refused, 1002, "a frame is not masked")
    then(trace.closeSent, 1002)
    then(trace.frameSent, Frame(True, 0, 8, 5, None, b"\x03\xeabad"))
    then(trace.frameReceived, Frame(True, 0, 8, 0, MASK, b""))
    then(trace.closeReceived, None, b"")
    then(trace.finSent)
    then(trace.finReceived)
    then(trace.lost, "fin")
    trace.describe(
        verdict={
            "behavior": "OK",
            "behaviorClose": "OK",
            "why": "closed with 1002 after 3 ms",
            "duration": 19,
            "remoteCloseCode": None,
        }
    )


# The schema.


def test_the_answer_conforms_to_the_schema_from_the_first_event_to_the_last(lab: Lab) -> None:
    trace = lab.open()
    assert SCHEMA.isValid(lab.read())
    tell(lab, trace)
    assert SCHEMA.isValid(lab.read())


def at(document: Any, *path: Any) -> Any:
    for name in path:
        document = document[name]
    return document


def typed(document: Any, kind: str) -> Any:
    return next(event for event in document["events"] if event["type"] == kind)


@pytest.mark.parametrize(
    "breakIt",
    [
        lambda d: d.pop("verdict"),
        lambda d: d.update(other=1),
        lambda d: d.update(peer=1),
        lambda d: d.update(accepted="yesterday"),
        lambda d: d["ended"].update(by="nobody"),
        lambda d: d["leftOut"].update(events=-1),
        lambda d: d["tls"].pop("cipher"),
        lambda d: d["declined"].append({"offer": "x"}),
        lambda d: d["verdict"].update(behavior="GOOD"),
        lambda d: d["events"].append({"number": 99, "time": 1, "type": "other"}),
        lambda d: typed(d, "requested")["headers"].append({"name": "x"}),
        lambda d: typed(d, "read").update(size="11"),
        lambda d: typed(d, "read").update(number=True),
        lambda d: typed(d, "frameSent").update(fin=1),
        lambda d: typed(d, "frameSent").update(rsv=8),
        lambda d: typed(d, "frameSent").update(data="0"),
        lambda d: typed(d, "frameReceived").update(mask="00"),
        lambda d: typed(d, "frameReceived").pop("mask"),
        lambda d: typed(d, "lost").update(how="somehow"),
        lambda d: typed(d, "scriptEnded").update(how="us"),
    ],
)
def test_an_answer_that_is_not_as_the_schema_says_is_found_out(
    lab: Lab, breakIt: Callable[[Any], object]
) -> None:
    tell(lab, lab.open())
    document = lab.read()
    breakIt(document)
    assert not SCHEMA.isValid(document)


FRAMES = st.builds(
    Frame,
    st.booleans(),
    st.integers(0, 7),
    st.integers(0, 15),
    st.integers(0, 2**64 - 1),
    st.none() | st.binary(min_size=4, max_size=4),
    st.binary(max_size=SHOWN),
)
CODES = st.integers(0, 65535)
CALLS = st.one_of(
    st.tuples(st.just("requested"), st.binary(max_size=200)),
    st.tuples(st.just("opened"), st.binary(max_size=200)),
    st.tuples(st.sampled_from(["read", "wrote", "bytesSent"]), st.binary(max_size=SHOWN)),
    st.tuples(st.sampled_from(["frameReceived", "frameSent"]), FRAMES),
    st.tuples(st.just("refused"), CODES, st.text(max_size=20)),
    st.tuples(st.just("closeReceived"), st.none() | CODES, st.binary(max_size=20)),
    st.tuples(st.just("closeSent"), st.none() | CODES),
    st.tuples(st.sampled_from(["scriptEnded", "finReceived", "finSent"])),
    st.tuples(st.just("lost"), st.sampled_from(["fin", "eof", "rst", "us"])),
)
ANY_TEXT = st.none() | st.text(max_size=20)


@given(
    calls=st.lists(CALLS, max_size=20),
    texts=st.tuples(*[ANY_TEXT] * 4),
    isDeflated=st.booleans(),
)
def test_whatever_happens_can_be_told_in_all_formats(
    calls: list[Any], texts: tuple[Any, ...], isDeflated: bool
) -> None:
    lab = Lab()
    trace = lab.open()
    peer, client, subprotocol, case = texts
    trace.describe(peer=peer or "", client=client, subprotocol=subprotocol, case=case)
    trace.describe(extensions="permessage-deflate" if isDeflated else None)
    for name, *arguments in calls:
        getattr(trace, name)(*arguments)
        if name == "lost":
            break
    document = lab.read()
    assert SCHEMA.isValid(document)
    assert [event["number"] for event in document["events"]] == list(range(trace.count))
    for line in lab.read("text").removesuffix("\n").split("\n"):
        assert line.isprintable()
    har = lab.read("har")
    isFrame = [event["type"].startswith("frame") for event in document["events"]]
    assert len(har["log"]["entries"][0]["_webSocketMessages"]) == sum(isFrame)
    found, isOver = events(lab.stream())
    numbered = [(kind, data) for kind, number, data in found if number]
    told = [(event["type"], event) for event in document["events"]]
    assert numbered == [*told, *([("end", found[-1][2])] if isOver else [])]
    assert isOver is any(name == "lost" for name, *_ in calls)


# JSON.


def test_a_trace_has_everything_in_its_order_with_microseconds(lab: Lab) -> None:
    tell(lab, lab.open())
    document = lab.read()
    found = [(event["time"], event["type"]) for event in document["events"]]
    assert found == [
        (0, "requested"),
        (1000, "wrote"),
        (2000, "opened"),
        (3000, "frameSent"),
        (4000, "wrote"),
        (5000, "bytesSent"),
        (6000, "scriptEnded"),
        (7000, "read"),
        (8000, "frameReceived"),
        (10000, "frameReceived"),
        (11000, "frameReceived"),
        (12000, "refused"),
        (14000, "frameSent"),
        (15000, "frameReceived"),
        (17000, "finSent"),
        (18000, "finReceived"),
        (19000, "lost"),
    ]
    assert [event["number"] for event in document["events"]] == list(range(17))
    assert [event["size"] for event in document["events"] if "size" in event] == [
        len(RESPONSE), 7, 11,
    ]  # fmt: skip
    assert document["events"][2]["head"] == RESPONSE.decode()
    assert document["events"][3] == {
        "number": 3,
        "time": 3000,
        "type": "frameSent",
        "fin": True,
        "rsv": 0,
        "opcode": 1,
        "length": 5,
        "mask": None,
        "data": "68656c6c6f",
        "text": "hello",
    }
    assert document["events"][5]["data"] == "8180"
    assert document["events"][8]["mask"] == "37fa213d"
    assert document["events"][9]["data"] == "00" * SHOWN
    assert document["events"][10]["text"] == "compressed"
    assert document["events"][11]["reason"] == "a frame is not masked"
    assert (document["events"][12]["code"], document["events"][12]["reason"]) == (1002, "bad")
    assert (document["events"][13]["code"], document["events"][13]["reason"]) == (None, "")
    assert document["accepted"] == "2023-11-14T22:13:20.000000Z"
    assert document["ended"] == {"time": 19000, "by": "server", "how": "close", "tcp": "fin"}
    assert document["verdict"]["why"] == "closed with 1002 after 3 ms"
    assert document["subprotocol"] == "chat"
    assert document["extensions"] == "permessage-deflate"
    (declined,) = document["declined"]
    assert declined["offer"] == "permessage-deflate; server_max_window_bits=7"
    assert document["leftOut"] == {"events": 0, "segments": 0}


def test_what_is_not_known_is_null(lab: Lab) -> None:
    lab.open()
    document = lab.read()
    assert document.pop("accepted")
    assert document.pop("leftOut")
    assert [document.pop(name) for name in ("events", "proxies", "declined")] == [[], [], []]
    assert set(document.values()) == {None}


def test_the_request_is_kept_as_it_came_without_its_secrets(lab: Lab) -> None:
    trace = lab.open()
    tell(lab, trace)
    event = lab.read()["events"][0]
    assert event["line"] == f"GET /lab?trace={ID}&send=hello HTTP/1.1"
    assert event["headers"] == [
        {"name": "hOST", "value": "localhost:8080"},
        {"name": "COOKIE", "value": None, "redacted": 15},
        {"name": "Connection", "value": "Upgrade"},
        {"name": "authorization", "value": None, "redacted": 14},
        {"name": "Proxy-Authorization", "value": None, "redacted": 13},
        {"name": "Via", "value": "1"},
        {"name": "via", "value": "2"},
        {"name": "Sec-WebSocket-Protocol", "value": "chat"},
        {
            "name": "Sec-WebSocket-Extensions",
            "value": "permessage-deflate; server_max_window_bits=7",
        },
        {"name": "sec-websocket-extensions", "value": "permessage-deflate"},
    ]


@pytest.mark.parametrize("format", ["json", "text", "har", "events"])
def test_no_format_tells_a_secret(lab: Lab, format: str) -> None:
    tell(lab, lab.open())
    _, _, body = lab.ask(f"/trace/{ID}?format={format}")
    assert b"hunter2" not in body
    assert b"cookie" in body.lower()


def test_a_trace_tells_what_it_was_accepted_after(lab: Lab) -> None:
    accepted = lab.traces.seconds()
    lab.wait(0.25)
    trace = lab.traces.open(ID, accepted)
    trace.finReceived()
    document = lab.read()
    assert document["accepted"] == "2023-11-14T22:13:20.000000Z"
    assert document["events"][0]["time"] == 250_000


@pytest.mark.parametrize(
    ("calls", "by", "how", "tcp"),
    [
        (
            [("closeReceived", 1000, b""), ("closeSent", 1000), ("finSent",)],
            "client",
            "close",
            "fin",
        ),
        ([("closeSent", 1001), ("closeReceived", 1001, b"")], "server", "close", "fin"),
        ([("finReceived",), ("finSent",)], "client", "fin", "fin"),
        ([("finSent",), ("finReceived",)], "server", "fin", "fin"),
        ([("closeSent", 1000)], "server", "close", "rst"),
        ([], "client", "fin", "fin"),
        ([], "client", "fin", "eof"),
        ([], "client", "rst", "rst"),
        ([], "server", "drop", "us"),
    ],
)
def test_the_first_to_say_so_has_ended_it(
    lab: Lab, calls: list[Any], by: str, how: str, tcp: str
) -> None:
    trace = lab.open()
    for name, *arguments in calls:
        getattr(trace, name)(*arguments)
    assert lab.read()["ended"] is None
    trace.lost(tcp)
    assert lab.read()["ended"] == {"time": 0, "by": by, "how": how, "tcp": tcp}


def test_what_is_told_after_the_end_is_not_kept(lab: Lab) -> None:
    """Nothing should be. But a trace may be forgotten by then, and would take memory for ever."""
    trace = lab.open()
    trace.lost("us")
    trace.wrote(b"x")
    assert [event.kind for event in trace.after(-1)] == ["lost"]


def test_what_is_told_at_too_great_length_is_cut(lab: Lab) -> None:
    trace = lab.open()
    trace.bytesSent(b"x" * 100_000)
    (sent,) = lab.read()["events"]
    assert sent["data"] == "78" * SHOWN


def test_declined_offers_are_bounded(lab: Lab) -> None:
    trace = lab.open()
    many = b"x," * 5000
    for name in (b"Extensions", b"Protocol"):
        trace.requested(b"GET / HTTP/1.1\r\nSec-WebSocket-%b: %b\r\n\r\n" % (name, many))
        trace.opened(RESPONSE)
        assert len(lab.read()["declined"]) == LAB_TRACE_DECLINED


# Text that is compressed, cut, or none.


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (text("é".encode()), "é"),
        (text(b"\xc3"), None),  # It ends amid a character.
        (text(b"\xc3", fin=False), ""),  # Its next fragment may have the rest.
        (Frame(True, 0, 1, 100, MASK, b"a" * 63 + b"\xc3"), "a" * 63),
        (text(deflated(b"hello"), rsv=4), "hello"),
        (Frame(True, 4, 1, 1000, MASK, deflated(b"x" * 1_000_000)[:SHOWN]), "x" * SHOWN),
        (text(b"\xff\xff", rsv=4), None),  # No deflate data.
        (text(b"hi", rsv=2), "hi"),
        (Frame(True, 0, 0, 2, MASK, b"hi"), None),
        (Frame(True, 0, 2, 2, MASK, b"hi"), None),
    ],
)
def test_text_is_told_where_it_is_text(lab: Lab, frame: Frame, shown: str | None) -> None:
    trace = lab.open()
    trace.describe(extensions="permessage-deflate; server_no_context_takeover")
    trace.frameReceived(frame)
    assert lab.read()["events"][0].get("text") == shown


def test_without_an_extension_rsv1_is_no_compression(lab: Lab) -> None:
    lab.open().frameReceived(text(deflated(b"hello"), rsv=4))
    assert lab.read()["events"][0].get("text") != "hello"


# HAR.


def test_chrome_imports_the_har(lab: Lab) -> None:
    """As its HARFormat and Importer take it apart (devtools-frontend, models/har)."""
    tell(lab, lab.open())
    log = lab.read("har")["log"]
    assert log["version"] == "1.2"
    assert log["creator"]["name"] == "echotwist"
    (entry,) = log["entries"]
    assert entry["startedDateTime"] == "2023-11-14T22:13:20.000000Z"
    assert entry["_resourceType"] == "websocket"
    assert entry["request"]["method"] == "GET"
    assert entry["request"]["url"] == f"wss://localhost:8080/lab?trace={ID}&send=hello"
    assert entry["request"]["httpVersion"] == "HTTP/1.1"
    assert entry["request"]["headers"][1] == {"name": "COOKIE", "value": "(15 bytes)"}
    assert entry["response"]["status"] == 101
    assert entry["response"]["statusText"] == "Switching Protocols"
    assert entry["response"]["headers"][0] == {"name": "Upgrade", "value": "websocket"}
    assert entry["time"] == sum(entry["timings"].values()) == 19
    assert entry["timings"]["wait"] == 2
    messages = entry["_webSocketMessages"]
    assert {frozenset(message) for message in messages} == {
        frozenset({"type", "time", "opcode", "data"})
    }
    assert [(message["type"], message["opcode"]) for message in messages] == [
        ("receive", 1), ("send", 1), ("send", 2), ("send", 1), ("receive", 8), ("send", 8),
    ]  # fmt: skip
    assert messages[0]["time"] == pytest.approx(ACCEPTED + 0.003)
    assert messages[0]["data"] == "hello"
    assert messages[1]["data"] == "h\u00e9llo\x1b[31m"
    assert b64decode(messages[2]["data"]) == bytes(SHOWN)
    assert messages[3]["data"] == "compressed"
    assert b64decode(messages[4]["data"]) == b"\x03\xeabad"


def test_the_har_of_what_has_no_text_is_base64(lab: Lab) -> None:
    trace = lab.open()
    trace.describe(extensions="permessage-deflate")
    for frame in (
        text(b"\xff"),
        text(b"\xff\xff", rsv=4),
        Frame(True, 4, 2, 9, MASK, deflated(b"x")),
    ):
        trace.frameReceived(frame)
    (entry,) = lab.read("har")["log"]["entries"]
    data = [b64decode(message["data"]) for message in entry["_webSocketMessages"]]
    assert data == [b"\xff", b"\xff\xff", b"x"]


@pytest.mark.parametrize(
    ("head", "url"),
    [
        (b"GET /lab HTTP/1.1\r\nHost: a:1\r\n\r\n", "ws://a:1/lab"),
        (b"GET /lab HTTP/1.0\r\n\r\n", "ws://unknown/lab"),
        (b"GET http://b/lab HTTP/1.1\r\nHost: a\r\n\r\n", "http://b/lab"),
        (b"", ""),
    ],
)
def test_the_har_has_the_url_of_the_request(lab: Lab, head: bytes, url: str) -> None:
    trace = lab.open()
    if head:
        trace.requested(head)
    (entry,) = lab.read("har")["log"]["entries"]
    assert entry["request"]["url"] == url
    assert entry["response"]["status"] == 0
    assert entry["_webSocketMessages"] == []


def test_the_har_has_a_response_that_is_none(lab: Lab) -> None:
    lab.open().opened(b"FOO BAR BAZ\r\n\r\n")
    (entry,) = lab.read("har")["log"]["entries"]
    assert entry["response"]["status"] == 0
    assert entry["response"]["statusText"] == "FOO BAR BAZ"


def test_the_har_has_as_many_headers_of_a_response_as_a_request_may_have(lab: Lab) -> None:
    lab.open().opened(b"HTTP/1.1 101 Switching Protocols\r\n" + b"A: b\r\n" * 1000 + b"\r\n")
    (entry,) = lab.read("har")["log"]["entries"]
    assert entry["response"]["headers"] == [{"name": "A", "value": "b"}] * MAX_HEADERS


# Text.


def test_the_text_reads_from_top_to_bottom(lab: Lab) -> None:
    tell(lab, lab.open())
    assert (
        lab.read("text")
        == f"""\
accepted 2023-11-14T22:13:20.000000Z from 127.0.0.1:40312
client: 203.0.113.7, says 127.0.0.1
TLS: TLSv1.3, TLS_AES_256_GCM_SHA384, server name: localhost
subprotocol: chat
extensions: permessage-deflate
declined: permessage-deflate; server_max_window_bits=7: \
it is malformed, or asks for what is not possible
case: F01

         0.000  client  GET /lab?trace={ID}&send=hello HTTP/1.1
                        hOST: localhost:8080
                        COOKIE: (15 bytes)
                        Connection: Upgrade
                        authorization: (14 bytes)
                        Proxy-Authorization: (13 bytes)
                        Via: 1
                        via: 2
                        Sec-WebSocket-Protocol: chat
                        Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7
                        sec-websocket-extensions: permessage-deflate
         1.000  server  wrote 132 bytes
         2.000  server  HTTP/1.1 101 Switching Protocols
                        Upgrade: websocket
                        Sec-WebSocket-Protocol: chat
                        Sec-WebSocket-Extensions: permessage-deflate
         3.000  server  text, FIN, payload length 5: 'hello'
         4.000  server  wrote 7 bytes
         5.000  server  bytes of the script: 81 80
         6.000  server  the script has ended
         7.000  client  read 11 bytes
         8.000  client  text, FIN, masked, payload length 11, masking-key 37fa213d: \
'h\u00e9llo\\x1b[31m'
        10.000  client  binary, FIN, masked, payload length 70,000, masking-key 37fa213d: \
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ...
        11.000  client  text, RSV1, masked, payload length 12, masking-key 37fa213d: 'compressed'
        12.000  server  refuses this with 1002: a frame is not masked
        14.000  server  close, FIN, payload length 5: 1002 'bad'
        15.000  client  close, FIN, masked, payload length 0, masking-key 37fa213d
        17.000  server  FIN
        18.000  client  FIN
        19.000  client  TCP has ended in order

the server began the end, with a close frame
verdict: OK, closed with 1002 after 3 ms
"""
    )


def test_the_text_of_what_little_is_known(lab: Lab) -> None:
    trace = lab.open()
    assert lab.read("text").endswith("extensions: none\n\n\nthe connection is open\n")
    trace.describe(
        client="192.0.2.1",
        tls={"version": "TLSv1.2", "cipher": "x", "serverName": None},
    )
    trace.frameSent(Frame(True, 0, 2, 300, None, b"x"))
    trace.frameSent(Frame(True, 0, 8, 1, None, b"x"))
    trace.wrote(b"x")
    trace.lost("us")
    found = lab.read("text")
    assert "server  wrote 1 byte\n" in found
    assert "client: 192.0.2.1, says a proxy\n" in found
    assert "server name: none\n" in found
    assert "server  binary, FIN, payload length 300: 78 ...\n" in found
    assert "server  close, FIN, payload length 1: 78\n" in found
    assert "server  has dropped the connection\n" in found
    assert found.endswith("\nthe server began the end, by dropping the connection\n")


def test_the_text_is_safe_for_a_terminal(lab: Lab) -> None:
    trace = lab.open()
    trace.requested(b"GET /\x1b[2J HTTP/1.1\r\nVia: \x9b31m\x07\r\n\r\n")
    trace.opened(b"HTTP/1.1 101 \x1b]0;title\x07\n\x00\r\n\r\n")
    trace.describe(case="\u202e")
    found = lab.read("text")
    assert all(line.isprintable() for line in found.split("\n"))
    assert "GET /\\x1b[2J HTTP/1.1" in found
    assert "Via: \\x9b31m\\x07" in found
    assert "case: \\u202e" in found


# Bounds.


def fill(trace: Trace, count: int) -> None:
    """So many frames, each in a segment of its own."""
    for _ in range(count):
        trace.read(b"x")
        trace.frameReceived(text(b"x" * SHOWN))


def test_the_first_and_the_last_events_and_segments_are_kept(lab: Lab) -> None:
    trace = lab.open()
    more = 7
    fill(trace, 2 * LAB_TRACE_EVENTS + more)
    document = lab.read()
    assert SCHEMA.isValid(document)
    assert document["leftOut"] == {"events": more, "segments": more}
    numbers = [event["number"] for event in document["events"]]
    half = 2 * LAB_TRACE_EVENTS
    assert numbers == [*range(half), *range(half + 2 * more, 2 * half + 2 * more)]
    trace.lost("rst")
    assert lab.read()["events"][-1]["type"] == "lost"
    found = lab.read("text")
    assert found.count("(from here on, not everything was kept)") == 1
    assert f"left out: {more + 1} events\nleft out: {more} segments\n" in found


def test_segments_do_not_take_the_place_of_frames(lab: Lab) -> None:
    trace = lab.open()
    trace.frameReceived(text(b"first"))
    for _ in range(3 * LAB_TRACE_EVENTS):
        trace.wrote(b"x")
    trace.frameReceived(text(b"last"))
    document = lab.read()
    assert [event["text"] for event in document["events"] if "text" in event] == ["first", "last"]
    assert document["leftOut"] == {"events": 0, "segments": LAB_TRACE_EVENTS}


def test_the_largest_trace_takes_no_more_than_is_counted() -> None:
    lab = Lab()
    # A request of the greatest size, with as many headers.
    line = b"GET /%b HTTP/1.1" % (b"x" * (MAX_REQUEST_LINE - 14))
    value = b"x" * (MAX_HEADER_BYTES // MAX_HEADERS - 3)
    request = b"\r\n".join([line, *(b"TE:%b" % value for _ in range(MAX_HEADERS)), b"", b""])
    gc.collect()
    tracemalloc.start()
    trace = lab.open()
    trace.requested(bytes(bytearray(request)))
    trace.opened(bytes(HEAD))
    for n in range(2 * LAB_TRACE_EVENTS):
        lab.service.reactor.rightNow += 0.001
        trace.read(bytes(1000 + n))
        trace.frameReceived(Frame(True, 0, 2, 1000 + n, n.to_bytes(4), n.to_bytes(SHOWN)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < trace.size < 1 << 20


def test_traces_that_have_ended_go_when_memory_is_short(lab: Lab) -> None:
    old, running = lab.open("old" * 8), lab.open("run" * 8)
    fill(old, 10)
    fill(running, 10)
    old.lost("us")
    count = 0
    while lab.traces.get("old" * 8) is not None:
        fill(lab.open(f"{count:024}"), LAB_TRACE_EVENTS)
        count += 1
    assert lab.traces.get("run" * 8) is running
    assert sum(trace.size for trace in lab.traces._traces.values()) <= LAB_TRACES_BYTES
    assert not any(running.leftOut.values())


def exhaust(lab: Lab) -> None:
    """Have traces of open connections take all the memory."""
    for n in range(LAB_TRACES - 2):
        fill(trace := lab.open(f"{n:024}"), 2 * LAB_TRACE_EVENTS)
        if trace.leftOut["events"]:
            break
    while lab.traces.take(1):
        pass


def test_without_memory_the_last_events_are_kept(lab: Lab) -> None:
    fill(trace := lab.open(), LAB_TRACE_EVENTS + 1)
    exhaust(lab)
    fill(trace, 10)
    trace.finReceived()
    trace.lost("fin")
    assert [event.kind for event in trace.after(-1)][-1] == "lost"
    assert trace.leftOut["events"] == 12
    after = lab.open("after" * 5)
    fill(after, 1)
    assert not any(after.leftOut.values())  # The trace that has ended made room.


def test_a_trace_without_memory_leaves_out_everything(lab: Lab) -> None:
    fill(other := lab.open("other" * 5), LAB_TRACE_EVENTS)
    exhaust(lab)
    fill(other, 1)
    assert other.leftOut == {"events": 1, "segments": 1}
    trace = lab.open()
    fill(trace, 3)
    trace.requested(REQUEST)
    assert lab.read()["leftOut"] == {"events": 4, "segments": 3}
    found, _ = events(lab.stream())
    assert [kind for kind, _, _ in found] == ["trace", ":"]
    trace.lost("us")
    assert kinds(lab.stream()) == ["trace", "end"]


def test_an_id_is_for_one_connection_until_its_trace_expires(lab: Lab) -> None:
    trace = lab.open()
    with pytest.raises(Taken):
        lab.open()
    trace.lost("fin")
    with pytest.raises(KeyError):
        lab.open()
    lab.wait(LAB_TRACE_LIFETIME)
    assert lab.open() is not trace


def test_when_there_are_too_many_the_oldest_that_has_ended_is_forgotten(lab: Lab) -> None:
    traces = [lab.open(f"{n:024}") for n in range(LAB_TRACES)]
    with pytest.raises(Full):
        lab.open()
    traces[7].lost("us")
    traces[3].lost("us")
    lab.open()
    assert lab.traces.get(f"{7:024}") is None
    assert lab.traces.get(f"{3:024}") is traces[3]
    with pytest.raises(Taken):
        lab.open()


def test_a_trace_expires_after_the_end_of_its_connection_and_not_before(lab: Lab) -> None:
    trace = lab.open()
    lab.wait(2 * LAB_TRACE_LIFETIME)
    assert lab.traces.get(ID) is trace
    trace.lost("us")
    lab.wait(LAB_TRACE_LIFETIME - 1)
    assert lab.traces.get(ID) is trace
    lab.wait(1)
    assert lab.traces.get(ID) is None
    assert not lab.service.timers()


def test_what_is_forgotten_takes_no_memory(lab: Lab) -> None:
    before = lab.traces._size
    fill(trace := lab.open(), 10)
    assert lab.traces._size > before
    trace.lost("us")
    lab.wait(LAB_TRACE_LIFETIME)
    assert lab.traces.get(ID) is None
    assert lab.traces._size == before


# Over HTTP.


def test_unknown_expired_and_malformed_are_the_same_404(lab: Lab) -> None:
    lab.open().lost("us")
    lab.open("running" * 4)
    assert lab.ask()[0] == 200
    lab.wait(LAB_TRACE_LIFETIME)
    targets = [
        f"/trace/{ID}",
        f"/trace/{'A' * 22}",
        "/trace",
        "/trace/",
        "/trace/%ff",
        f"/trace/{ID}?format=text",
        f"/trace/{'running' * 4}/",
        f"/trace/{'running' * 4}/x",
    ]
    answers = {re.sub(rb"Date: .*\r\n", b"", lab.connect(target).received()) for target in targets}
    assert len(answers) == 1
    status, headers, body = whole(answers.pop())
    assert status == 404
    assert headers.getRawHeaders("Access-Control-Allow-Origin") == ["*"]
    assert body == b"there is no trace with this ID, or no more\n"


@pytest.mark.parametrize(
    ("format", "type"),
    [
        ("json", "application/json"),
        ("har", "application/json"),
        ("text", "text/plain; charset=utf-8"),
        ("events", "text/event-stream"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_any_page_may_read_a_trace_and_nobody_stores_it(
    lab: Lab, format: str, type: str, method: str
) -> None:
    lab.open().lost("us")
    status, headers, body = lab.ask(f"/trace/{ID}?format={format}", method=method)
    assert status == 200
    assert headers.getRawHeaders("Access-Control-Allow-Origin") == ["*"]
    assert headers.getRawHeaders("Cache-Control") == ["no-store"]
    assert headers.getRawHeaders("Content-Type") == [type]
    assert bool(body) is (method == "GET")


@pytest.mark.parametrize("format", ["xml", "text;x=1", "", "%FF"])
def test_an_unknown_format_is_400_and_names_the_others(lab: Lab, format: str) -> None:
    lab.open()
    status, headers, body = lab.ask(f"/trace/{ID}?format={format}")
    assert status == 400
    assert headers.getRawHeaders("Access-Control-Allow-Origin") == ["*"]
    assert body == b"the format is json, text, har or events\n"


@pytest.mark.parametrize(
    ("accept", "type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json, Text/Event-Stream;q=0.9", "text/event-stream"),
        ("*/*", "application/json"),
    ],
)
def test_accept_asks_for_the_stream(lab: Lab, accept: str, type: str) -> None:
    lab.open().lost("us")
    _, headers, _ = lab.ask(headers=f"Accept: {accept}\r\n")
    assert headers.getRawHeaders("Content-Type") == [type]


def test_options_tells_a_page_what_it_may_ask(lab: Lab) -> None:
    lab.open()
    for target in (f"/trace/{ID}", "/trace/unknown"):  # So that the page may read the 404.
        status, headers, body = lab.ask(target, method="OPTIONS")
        assert (status, body) == (200, b"")
        assert headers.getRawHeaders("Access-Control-Allow-Origin") == ["*"]
        assert headers.getRawHeaders("Access-Control-Allow-Methods") == ["GET, HEAD, OPTIONS"]
        assert headers.getRawHeaders("Access-Control-Allow-Headers") == ["*"]


def test_a_connection_ends_after_an_answer_in_pieces(lab: Lab) -> None:
    tell(lab, lab.open())
    client = lab.connect(f"/trace/{ID}?format=text")
    status, headers, _ = whole(client.received())
    assert status == 200
    assert headers.getRawHeaders(b"Connection") == [b"close"]
    assert client.socket.fin


def test_a_client_of_http_1_0_gets_an_answer_that_ends_with_the_connection(lab: Lab) -> None:
    tell(lab, lab.open())
    client = lab.service.connect()
    client.send(f"GET /trace/{ID}?format=events HTTP/1.0\r\n\r\n".encode())
    head, _, body = client.received().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body.startswith(b"event: trace\ndata: {")
    assert body.endswith(b"}\n\n")
    assert client.socket.fin


# The stream.


def test_a_stream_tells_events_as_they_happen_and_ends_with_the_trace(lab: Lab) -> None:
    trace = lab.open()
    trace.describe(peer="127.0.0.1:40312")
    trace.requested(REQUEST)
    client = lab.stream()
    found, isOver = events(client)
    assert [(kind, number) for kind, number, _ in found] == [("trace", None), ("requested", "0")]
    assert found[0][2]["peer"] == "127.0.0.1:40312"
    assert not isOver
    trace.frameReceived(text(b"hello"))
    trace.read(b"x")
    lab.service.run()
    found, isOver = events(client)
    assert [(kind, number) for kind, number, _ in found] == [("frameReceived", "1"), ("read", "2")]
    assert found[0][2]["text"] == "hello"
    trace.lost("fin")
    trace.describe(verdict={"behavior": "OK"})
    lab.service.run()
    found, isOver = events(client)
    assert [(kind, number) for kind, number, _ in found] == [("lost", "3"), ("end", "4")]
    assert found[1][2]["verdict"] == {"behavior": "OK"}
    assert isOver
    assert not trace.readers


def test_a_stream_has_the_events_of_the_json(lab: Lab) -> None:
    trace = lab.open()
    client = lab.stream()
    tell(lab, trace)
    lab.service.run()
    found, isOver = events(client)
    document = lab.read()
    assert isOver
    assert [data for _, number, data in found[:-1] if number] == document.pop("events")
    assert found[-1][2] == document


def test_a_reader_goes_on_where_it_was(lab: Lab) -> None:
    trace = lab.open()
    fill(trace, 2)
    client = lab.stream("Last-Event-ID: 1\r\n")
    assert [number for _, number, _ in events(client)[0]] == [None, "2", "3"]


@pytest.mark.parametrize("last", ["x", "-1", "9" * 20, "\u0663"])
def test_a_last_event_that_cannot_be_is_none(lab: Lab, last: str) -> None:
    fill(lab.open(), 1)
    assert kinds(lab.stream(f"Last-Event-ID: {last}\r\n")) == ["trace", "read", "frameReceived"]


def test_an_event_source_that_has_had_the_end_is_told_to_stop(lab: Lab) -> None:
    fill(trace := lab.open(), 1)
    trace.lost("us")
    found, _ = events(lab.stream())
    _, number, _ = found[-1]
    data = lab.stream(f"Last-Event-ID: {number}\r\n").received()
    assert data.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Access-Control-Allow-Origin: *\r\n" in data
    assert b"Content-Length" not in data
    assert not trace.readers
    found, _ = events(lab.stream(f"Last-Event-ID: {int(number or 0) - 1}\r\n"))
    assert [kind for kind, _, _ in found] == ["trace", "end"]


def test_a_silent_stream_beats(lab: Lab) -> None:
    lab.open()
    client = lab.stream()
    assert kinds(client) == ["trace", ":"]
    lab.wait(LAB_HEARTBEAT - 1)
    assert kinds(client) == []
    lab.wait(1)
    assert kinds(client) == [":"]
    lab.wait(LAB_HEARTBEAT)
    assert kinds(client) == [":"]


def test_a_stream_stops_when_its_reader_is_gone(lab: Lab, log: Any) -> None:
    trace = lab.open()
    client = lab.stream()
    assert len(trace.readers) == 1
    client.finish()
    assert client.socket.closed
    assert not trace.readers
    assert not lab.service.timers()
    fill(trace, 1)
    lab.service.run()


def test_a_reader_that_is_gone_is_noticed_by_the_heartbeat(lab: Lab) -> None:
    trace = lab.open()
    client = lab.stream()
    client.finish()
    client.socket.broken = True
    lab.wait(LAB_HEARTBEAT)
    assert not trace.readers
    assert not lab.service.timers()


def test_nothing_piles_up_for_a_slow_reader() -> None:
    lab = Lab(isSliced=True)
    trace = lab.open()
    client = lab.stream()
    client.received()
    client.socket.window = 0
    for _ in range(20):
        fill(trace, LAB_TRACE_EVENTS)
        lab.service.run()
    waiting = client.protocol.buffered()
    assert waiting < 70_000  # Twisted pauses at 65,536.
    trace.lost("us")
    client.socket.window = float("inf")
    lab.service.run()
    found, isOver = events(client)
    assert isOver
    assert [kind for kind, _, _ in found][-2:] == ["lost", "end"]
    numbers = [int(number) for _, number, _ in found if number]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 6 * LAB_TRACE_EVENTS
    assert max(b - a for a, b in pairwise(numbers)) > LAB_TRACE_EVENTS


@pytest.mark.parametrize("target", [f"/trace/{ID}", f"/trace/{ID}?format=events"])
def test_a_reader_that_does_not_read_is_dropped(log: Any, target: str) -> None:
    lab = Lab(isSliced=True)
    fill(trace := lab.open(), 2 * LAB_TRACE_EVENTS)
    client = lab.service.connect()
    client.socket.window = 1000
    client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    lab.wait(4)
    client.socket.window = 1000  # It reads, and slowly.
    lab.wait(4)
    assert not client.socket.closed
    lab.wait(3)
    assert client.socket.closed
    assert log.lines() == ["127.0.0.1:40000 dropped: its answers were not read"]
    assert not trace.readers
    assert not lab.service.timers()


def test_a_stream_goes_on_when_its_reader_reads_again(lab: Lab) -> None:
    trace = lab.open()
    client = lab.service.connect()
    client.transport.bufferSize = 1
    client.socket.window = 0
    client.send(f"GET /trace/{ID}?format=events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    client.socket.window = float("inf")
    lab.service.run()
    assert kinds(client) == ["trace", ":"]
    fill(trace, 1)
    lab.service.run()
    assert kinds(client) == ["read", "frameReceived"]


def test_a_reader_that_reads_slowly_gets_everything(lab: Lab) -> None:
    fill(lab.open(), LAB_TRACE_EVENTS)
    client = lab.service.connect()
    client.socket.window = 0
    client.send(f"GET /trace/{ID} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        client.socket.window = 20_000
        lab.wait(1)
        data += client.received()
    assert len(json.loads(whole(data)[2])["events"]) == 2 * LAB_TRACE_EVENTS


def test_a_drain_does_not_wait_for_a_stream(lab: Lab) -> None:
    lab.open()
    client = lab.stream()
    drained: list[object] = []
    lab.service.echo.stopService().addCallback(drained.append)
    lab.wait(2)
    assert client.socket.fin
    client.finish()
    assert client.socket.closed
    lab.wait(1)
    assert drained
    assert not lab.service.timers()


def test_only_so_many_read_a_trace_at_a_time(lab: Lab) -> None:
    trace = lab.open()
    clients = [lab.stream() for _ in range(LAB_TRACE_READERS)]
    status, headers, _ = lab.ask()
    assert status == 503
    assert headers.getRawHeaders("Access-Control-Allow-Origin") == ["*"]
    trace.lost("us")
    lab.service.run()
    assert all(events(client)[1] for client in clients)
    assert lab.ask()[0] == 200


def test_a_trace_that_is_forgotten_is_not_written_any_more() -> None:
    """A reader that takes its time would have it stay in memory."""
    lab = Lab(isSliced=True)
    fill(trace := lab.open(), LAB_TRACE_EVENTS)
    trace.lost("us")
    client = lab.service.connect()
    client.socket.window = 0
    client.send(f"GET /trace/{ID} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert trace.readers
    lab.service.reactor.rightNow += LAB_TRACE_LIFETIME
    assert lab.traces.get(ID) is None
    lab.service.run()
    assert client.socket.closed
    assert not trace.readers


@pytest.mark.parametrize("format", ["json", "text", "har", "events"])
def test_an_answer_is_written_in_slices(format: str) -> None:
    lab = Lab(isSliced=True)
    fill(trace := lab.open(), 50)
    trace.lost("us")
    client, other = lab.service.connect(), lab.service.connect()
    target = f"/trace/{ID}?format={format}"
    client.socket.arriving += f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for _ in range(10):
        lab.service.turn()
    other.socket.arriving += b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(10):
        lab.service.turn()
    assert other.received().startswith(b"HTTP/1.1 200 ")
    assert trace.readers
    lab.service.run()
    assert not trace.readers
    assert whole(client.received())[0] == 200


def test_a_reader_that_goes_while_it_waits_for_its_turn_gets_none() -> None:
    lab = Lab(isSliced=True)
    fill(trace := lab.open(), 50)
    client = lab.service.connect()
    client.socket.arriving += f"GET /trace/{ID} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for _ in range(10):
        lab.service.turn()
    assert trace.readers
    client.transport.abortConnection()
    lab.service.run()
    assert not trace.readers


def test_a_trace_is_an_observer_that_knows_all_its_methods() -> None:
    own = {name for name, value in vars(Observer).items() if callable(value)}
    unused = {"messageReceived", "pingReceived", "pongReceived"}  # The frames tell of them.
    assert own - unused <= set(vars(Trace))
