"""/lab: what each step does on the wire, and that nothing a script may say goes without an end."""

import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deflate import inflated
from support.memory import Client, Service
from support.secure import Peer, certified
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from echotwist.lab import connection
from echotwist.lab.frames import bomb
from echotwist.lab.observer import Observer
from echotwist.lab.steps import STEPS, BadStep, Phase
from echotwist.lab.steps import parse as parseScript
from echotwist.limits import (
    LAB_FLOOD,
    LAB_HOLD,
    LAB_LIFETIME,
    LAB_STEP,
    LAB_STEPS,
    LAB_VISIT,
    LAB_VISITS,
)
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    binary,
    close,
    frame,
    parse,
    text,
)
from echotwist.testing.raw import request

DEFLATE: Any = {"Sec_WebSocket_Extensions": "permessage-deflate"}


def connected(query: str, *options: str, service: Service | None = None, **how: Any) -> Client:
    """A client that has asked for this script."""
    service = service or Service("--log-rate=0", *options, isFast=False)
    client = service.connect()
    client.send(request(f"/lab?{query}", **how))
    return client


def lab(query: str, *options: str, service: Service | None = None, **how: Any) -> Client:
    return connected(query, *options, service=service, **how).opened()


def isGone(client: Client) -> bool:
    """Whether nothing of it is left."""
    service = client.service
    return bool(
        client.socket.closed
        and not service.connections.open
        and not service.timers()
        and not service.context.budget.buffered
    )


def leaves(client: Client) -> bool:
    """Whether nothing is left after the client has closed TCP."""
    client.finish()
    return isGone(client)


# Steps.

SENT: list[tuple[str, bytes]] = [
    ("", b""),
    ("send=hello", b"\x81\x05hello"),
    ("send=a%26b%3D%25", b"\x81\x05a&b=%"),
    ("send=a+b", b"\x81\x03a+b"),
    ("send=", b"\x81\x00"),
    ("send", b"\x81\x00"),
    ("send-hex=00ff", b"\x82\x02\x00\xff"),
    ("fill=20", b"\x81\x140123456789abcdef0123"),
    ("as=binary&fill=5", b"\x82\x0501234"),
    ("as=text&send-hex=ff", b"\x81\x01\xff"),
    ("fragment=8&fill=20", b"\x01\x0801234567\x00\x0889abcdef\x80\x040123"),
    ("fragment=2&interleave&send=abcd", b"\x01\x02ab\x89\x00\x80\x02cd"),
    ("ping", b"\x89\x00"),
    ("ping=x", b"\x89\x01x"),
    ("frame=83026869", b"\x83\x02hi"),
    ("close", b"\x88\x00"),
    ("close=1006,never sent", b"\x88\x0c\x03\xeenever sent"),
    ("close=1000&close=1001,again", b"\x88\x02\x03\xe8\x88\x07\x03\xe9again"),
    ("close&close", b"\x88\0\x88\0"),
    ("close=0", b"\x88\x02\x00\x00"),
    ("close=1000&send=late", b"\x88\x02\x03\xe8\x81\x04late"),
    ("chop=1&send=hi", b"\x81\x02hi"),
    ("coalesce&send=hi", b"\x81\x02hi"),
    ("coalesce", b""),
    ("split=3&send=hi", b"\x81\x02hi"),
    ("compress=always&send=hi", b"\x81\x02hi"),  # It is not agreed.
]


@pytest.mark.parametrize(("query", "sent"), SENT)
def test_what_a_step_sends(query: str, sent: bytes) -> None:
    client = lab(query.replace(" ", "%20"))
    assert client.received() == sent
    assert leaves(client)


@pytest.mark.parametrize(
    ("query", "asked", "answers"),
    [
        ("", text("a") + binary(b"b"), [Frame(TEXT, b"a"), Frame(BINARY, b"b")]),
        ("as=binary", text("a"), [Frame(BINARY, b"a")]),
        ("fragment=1", text("ab"), [Frame(TEXT, b"a", fin=False), Frame(CONTINUATION, b"b")]),
        (
            "echo=2&send=2",
            text("a") * 3,
            [Frame(TEXT, b"a")] * 2 + [Frame(TEXT, b"2"), Frame(TEXT, b"a")],
        ),
        ("ignore=2&send=2", text("a") * 3, [Frame(TEXT, b"2"), Frame(TEXT, b"a")]),
        ("", frame(PING, b"x"), [Frame(PONG, b"x")]),
        ("pong=no", frame(PING, b"x") + text("a"), [Frame(TEXT, b"a")]),
        ("", close(1001, "bye"), [Frame(CLOSE, b"\x03\xe9bye")]),
        ("reply-close=open", close(1001), [Frame(CLOSE, b"\x03\xe9")]),
        ("reply-close=open", close(), [Frame(CLOSE, b"")]),
        ("reply-close=no", close(1001) + text("late") + close(1001), []),
        ("hang", text("a") + frame(PING) + close(1000), []),
        ("", frame(3), [Frame(CLOSE, b"\x03\xeareserved opcode 3")]),
    ],
)
def test_what_a_client_is_answered(query: str, asked: bytes, answers: list[Frame]) -> None:
    client = lab(query)
    client.send(asked)
    found = client.frames()
    if asked == frame(3):
        (end,) = found
        assert (end.opcode, end.payload[:2]) == (CLOSE, b"\x03\xea")
    else:
        assert found == answers
    assert leaves(client)


@pytest.mark.parametrize(
    ("query", "asked", "answers"),
    [
        ("hold=2s&send=a", b"", {1.9: b"", 0.2: b"101"}),
        ("wait=2s&send=b", text("a"), {1.9: b"", 0.2: b"\x81\x01b\x81\x01a"}),
        ("stall=2s", text("a"), {1.9: b"", 0.2: b"\x81\x01a"}),
        ("ignore=2s&send=b", text("a"), {1.9: b"", 0.2: b"\x81\x01b"}),
        ("echo=2s&send=b&ignore=1", b"", {1.9: b"", 0.2: b"\x81\x01b"}),
        ("delay=2s", text("a"), {1.9: b"", 0.2: b"\x81\x01a"}),
        ("jitter=1s", text("a"), {1.1: b"\x81\x01a"}),
        ("pong=2s", frame(PING, b"a") + frame(PING, b"b"), {1.9: b"", 0.2: b"\x8a\x01a\x8a\x01b"}),
        ("push=1s", text("a"), {0.9: b"\x81\x01a", 0.2: b"\x81\x06push 1", 1: b"\x81\x06push 2"}),
        ("push=9s&push=1s", b"", {0.9: b"", 0.2: b"\x81\x06push 1", 1: b"\x81\x06push 2"}),
        ("rate=10&send=12345678", b"", {1.0: b"\x81\x0812345678"}),
        ("keepalive=5s", b"", {4.9: b"", 0.2: b"\x89\x00"}),
        ("keepalive=no", b"", {100: b""}),
        ("", b"", {31: b"\x89\x00"}),
        ("reply-close=2s", close(1001), {1.9: b"", 0.2: b"\x88\x02\x03\xe9"}),
        ("reply-close=chatter", close(1001), {0.15: b"\x81\x07chatter" * 2}),
        ("hang", text("a"), {100: b""}),
    ],
)
def test_what_comes_later(query: str, asked: bytes, answers: dict[float, bytes]) -> None:
    client = connected(query)
    sent = b""
    client.send(asked)
    for seconds, answer in answers.items():
        client.service.advance(seconds)
        sent += client.received()
        head, _, rest = sent.partition(b"\r\n\r\n")
        assert (rest if answer != b"101" else head[9:12]) == answer
        sent = head + b"\r\n\r\n" if head else b""
    assert leaves(client)


def test_a_flood_ends() -> None:
    client = lab("flood=8900&send=end")
    found = client.received()
    client.service.advance(1)
    found += client.received()
    assert len(found) == (16 << 20) + 5
    assert found.endswith(b"\x89\x00\x81\x03end")
    slow = lab("rate=1k&flood=8900&rate=1G&send=end", service=client.service)
    client.service.advance(LAB_FLOOD)
    assert not slow.received().endswith(b"end")
    slow.service.advance(60)
    assert slow.received().endswith(b"\x89\x00\x81\x03end")


@pytest.mark.parametrize(
    ("query", "end"),
    [("drop=fin", "fin"), ("drop=rst", "reset"), ("coalesce&drop=fin", "fin")],
)
def test_a_drop_has_no_close_frame(query: str, end: str) -> None:
    client = lab(query)
    assert client.received() == b""
    assert getattr(client.socket, end)
    assert leaves(client)


# Before the 101.


def head(client: Client) -> list[bytes]:
    return client.received().partition(b"\r\n\r\n")[0].split(b"\r\n")


@pytest.mark.parametrize(
    ("query", "there", "missing"),
    [
        ("accept=none", [], [b"Sec-WebSocket-Accept"]),
        ("omit=upgrade", [b"Connection: Upgrade"], [b"Upgrade:"]),
        ("omit=connection", [b"Upgrade: websocket"], [b"Connection"]),
        ("subprotocol=b", [b"Sec-WebSocket-Protocol: b"], [b"Sec-WebSocket-Protocol: a"]),
        ("subprotocol=none", [], [b"Sec-WebSocket-Protocol"]),
        ("extension=x", [b"Sec-WebSocket-Extensions: x"], [b"Sec-WebSocket-Extensions: p"]),
        ("header=A:%20b&header=C:d", [b"A: b", b"C:d"], []),
        ("headers=2,3", [b"X-Lab-0: xxx", b"X-Lab-1: xxx"], []),
        ("cookies=1", [b"Set-Cookie: lab-0=x; Path=/lab; Max-Age=1"], []),
        ("status-line=HTTP/1.0%20101%20x", [b"HTTP/1.0 101 x"], []),
    ],
)
def test_headers_of_the_101(query: str, there: list[bytes], missing: list[bytes]) -> None:
    client = connected(query, Sec_WebSocket_Protocol="a", **DEFLATE)
    lines = head(client)
    assert set(there) <= set(lines)
    assert not [line for line in lines for name in missing if line.startswith(name)]


def test_an_accept_that_is_wrong_or_there_twice() -> None:
    right = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    found = [line for line in head(connected("accept=wrong")) if line.startswith(right[:21])]
    assert len(found) == 1
    assert found[0] != right
    assert head(connected("accept=twice")).count(right) == 2


@pytest.mark.parametrize(("offered", "said"), [("a, b", b"a"), (None, b"lab")])
def test_a_subprotocol_twice(offered: str | None, said: bytes) -> None:
    lines = head(connected("subprotocol=twice", Sec_WebSocket_Protocol=offered))
    assert lines.count(b"Sec-WebSocket-Protocol: " + said) == 2


def test_lines_that_end_with_lf_alone() -> None:
    found = connected("newline=lf").received()
    assert b"\r" not in found
    assert found.endswith(b"\n\n")


@pytest.mark.parametrize("status", [301, 404, 503])
def test_a_status(status: int) -> None:
    client = connected(f"status={status}&header=Retry-After:5")
    assert head(client)[:2] == [b"HTTP/1.1 %d Asked For" % status, b"Retry-After:5"]
    assert client.socket.fin
    assert leaves(client)


def test_garbage_is_left_open_for_a_while() -> None:
    client = connected("garbage")
    assert client.received() == b"FOO BAR BAZ\r\n\r\n"
    client.send(bytes(100_000))
    client.service.advance(LAB_HOLD - 1)
    assert not client.socket.closed
    client.service.advance(2)
    assert isGone(client)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_101_that_is_cut(how: str) -> None:
    client = connected(f"cut={how}")
    found = client.received()
    assert found.startswith(b"HTTP/1.1 101 ")
    assert b"\r\n\r\n" not in found
    assert client.socket.reset == (how == "rst")
    assert leaves(client)


def test_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    segments: list[bytes] = []
    service = Service("--log-rate=0", isFast=False)

    def sizes(query: str) -> list[int]:
        segments.clear()
        client = service.connect()
        real = client.socket.send

        def recorded(data: Any) -> int:
            segments.append(bytes(data))
            return int(real(data))

        monkeypatch.setattr(client.socket, "send", recorded)
        client.send(request(f"/lab?{query}"))
        return [len(segment) for segment in segments]

    assert sizes("split=100&send=hello") == [100, 54, 7]
    assert sizes("chop=3&send=hello") == [154, 3, 3, 1]
    assert sizes("coalesce&send=hello") == [161]
    assert sizes("coalesce&chop=60&send=hello") == [60, 60, 41]


# Compression.


def test_messages_are_compressed_as_the_script_says() -> None:
    def flags(query: str, asked: bytes = b"") -> list[int]:
        client = lab(query, **DEFLATE)
        client.send(asked)
        return [each.rsv for each in client.frames()]

    deflated = frame(TEXT, b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4)
    assert flags("send=a", text("a") + deflated) == [0, 0, 4]
    assert flags("compress=always&send=a", text("a") + deflated) == [4, 4, 4]
    assert flags("compress=never&send=a", text("a") + deflated) == [0, 0, 0]


@pytest.mark.parametrize("words", ["", ";%20client_no_context_takeover"])
def test_a_client_may_believe_what_the_script_says_is_agreed(words: str) -> None:
    client = lab(f"extension=permessage-deflate{words}", **DEFLATE)
    window = zlib.compressobj(wbits=-15)
    for _ in range(2):
        payload = window.compress(b"again and again") + window.flush(zlib.Z_SYNC_FLUSH)
        client.send(frame(TEXT, payload[:-4], rsv=4))
        if words:
            window = zlib.compressobj(wbits=-15)
    assert [inflated(each.payload) for each in client.frames()] == [b"again and again"] * 2


def test_a_client_that_compresses_though_nothing_is_agreed_breaks_a_rule() -> None:
    client = lab("extension=x", **DEFLATE)
    client.send(frame(TEXT, b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4))
    (end,) = client.frames()
    assert end.payload[:2] == b"\x03\xea"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_compressed_messages_inflate_to_what_they_are(size: int) -> None:
    query = f"fill={size}" if size else "send="
    (found,) = lab(f"compress=always&{query}", **DEFLATE).frames()
    assert inflated(found.payload) == (b"0123456789abcdef" * size)[:size]


def test_a_bomb() -> None:
    (found,) = lab("compress=bomb&send=a", **DEFLATE).frames()
    assert found == Frame(TEXT, bomb(), rsv=4)
    assert len(bomb()) < 70_000
    assert inflated(bomb()) == b" " * (64 << 20)


# Scripts that are wrong.


def explained(query: str) -> Any:
    client = connected(query)
    answer, _, body = client.received().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Access-Control-Allow-Origin: *" in answer
    assert client.service.connections.open == set()
    return json.loads(body)


@pytest.mark.parametrize(
    ("query", "step", "problem"),
    [
        ("sned=hello", "sned", "is no step"),
        ("send=%ff", "send", "takes UTF-8; send-hex and frame take any bytes"),
        ("send-hex=0", "send-hex", "takes bytes in hexadecimal, such as 8102686a"),
        ("frame=", "frame", "takes at least one byte in hexadecimal, such as 8900"),
        ("fill=17M", "fill", "takes at most 16,777,216 bytes"),
        ("wait=11m", "wait", "takes at most 600s"),
        ("wait", "wait", "takes a time such as 500ms, 10s, 2m or 1h"),
        ("echo=0", "echo", "takes a whole number from 1 to 1,000,000"),
        ("echo=x", "echo", "takes a number of messages, or a time such as 500ms"),
        ("status=200", "status", "takes an HTTP status from 300 to 599"),
        ("accept=maybe", "accept", "takes wrong or none or twice"),
        ("garbage=yes", "garbage", "takes no value"),
        ("header=x", "header", "takes Name:Value"),
        ("headers=100000,1k", "headers", "takes at most 4,194,304 bytes together"),
        ("close=x", "close", "takes CODE or CODE,REASON, with a code from 0 to 65535"),
        ("close=65536", "close", "takes CODE or CODE,REASON, with a code from 0 to 65535"),
        ("close=1000," + "x" * 124, "close", "takes a reason of at most 123 bytes"),
        ("ping=" + "x" * 126, "ping", "takes at most 125 bytes"),
        ("pong=maybe", "pong", "takes no or a time such as 2s"),
        ("case=none", "case", "takes the ID of a case; GET /lab/cases lists them"),
        ("trace=short", "trace", "takes 22 to 64 characters of base64url, chosen at random"),
        ("send=a&hold=1s", "hold", "is done before the 101, so it comes before the steps"),
        ("hold=1s&hold=1s", "hold", "may be given once"),
        ("trace=" + "x" * 22 + "&trace=" + "y" * 22, "trace", "may be given once"),
        ("status=503&garbage", "garbage", "does not go with status"),
        ("status=503&cookies=3", "cookies", "does not go with status"),
        ("split=1&coalesce", "split", "does not go with coalesce"),
        ("push=1ms", "push", "takes at least 10ms"),
        ("keepalive=1ms", "keepalive", "takes no or a time such as 2s"),
        ("&".join(["send=a"] * 201), "", "a script has at most 200 steps"),
        ("%00%1b=1", "\\x00\\x1b", "is no step"),
    ],
)
def test_a_script_that_is_wrong_is_explained(query: str, step: str, problem: str) -> None:
    error = explained(query)["error"]
    assert error["step"] == step
    assert error["problem"].startswith(problem[:50])


def test_an_error_says_what_was_meant_and_what_there_is() -> None:
    found = explained("sned=hello")
    assert found["error"]["meant"] == "send"
    assert found["steps"] == [kind.syntax for kind in STEPS.values()]
    assert explained("zzzzzz")["error"]["meant"] is None
    found = explained("close=x")
    assert found["error"]["takes"] == "close[=CODE[,REASON]]"


@pytest.mark.parametrize("value", ["Set-Cookie:a=b", "ALT-SVC%20:x"])
def test_no_header_that_a_browser_would_keep(value: str) -> None:
    """A page of any origin may open a WebSocket, and the browser obeys the answer."""
    assert "keep something" in explained(f"header={value}")["error"]["problem"]


@pytest.mark.parametrize("newline", ["%0d%0a", "%0d", "%0a", "%0d%0a%0d%0a"])
@pytest.mark.parametrize("step", ["header=X:y", "subprotocol=a", "extension=a", "status-line=a"])
def test_no_line_that_is_smuggled(step: str, newline: str) -> None:
    """Each of these once took a line break, and so a Set-Cookie behind it."""
    problem = explained(f"{step}{newline}Set-Cookie:%20a=b")["error"]["problem"]
    assert problem.startswith(("takes one line", "takes one header"))


def test_the_log_has_nothing_of_a_script(log: Any) -> None:
    service = Service(isFast=False)
    connected("secret=1", service=service)
    assert log.lines() == ["127.0.0.1:40000 refused: 400 the script is malformed"]
    assert service.context.journal.totals.refused == {(400, "the script is malformed"): 1}


def test_without_an_upgrade_it_says_what_there_is() -> None:
    client = Service(isFast=False).connect()
    client.send(b"GET /lab HTTP/1.1\r\nHost: x\r\n\r\n")
    answer, _, body = client.received().partition(b"\r\n\r\n")
    assert b"200 OK" in answer
    assert [step["name"] for step in json.loads(body)["steps"]] == list(STEPS)
    client.send(b"HEAD /lab HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.received().endswith(b"\r\n\r\n")


def test_no_lab() -> None:
    client = Service("--no-lab", isFast=False).connect()
    client.send(request("/lab"))
    assert client.received().startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("name", STEPS)
def test_the_example_of_each_step_is_a_script(name: str) -> None:
    script = parseScript(STEPS[name].example.replace(" ", "%20").encode())
    names = {step.name for step in (*script.opening, *script.body)}
    assert name in names or STEPS[name].phase is Phase.SCRIPT


@given(st.binary(max_size=200))
def test_whatever_a_query_is_it_is_a_script_or_a_bad_step(query: bytes) -> None:
    try:
        step, problem = "", parseScript(query) and "none"
    except BadStep as e:
        step, problem = e.step, e.problem
    assert step.isprintable()
    assert problem


# The end, whatever comes.

TIMES = st.sampled_from(["10ms", "1s", "7s", "10m"])
SIZES = st.sampled_from(["1", "7", "1k", "100k"])
WORDS = st.sampled_from(["", "a", "hello", "%C3%A4", "x" * 120])
HEX = st.sampled_from(["8900", "83026869", "0105", "81fe", "827f0000000001000000", "ff"])
VALUES: dict[str, st.SearchStrategy[str | None]] = {
    "status": st.sampled_from(["301", "503"]),
    "accept": st.sampled_from(["wrong", "none", "twice"]),
    "omit": st.sampled_from(["upgrade", "connection"]),
    "subprotocol": st.sampled_from(["b", "none", "twice"]),
    "extension": st.sampled_from(["", "permessage-deflate;%20server_max_window_bits=16"]),
    "header": st.just("X:%20y"),
    "headers": st.sampled_from(["3", "200,10"]),
    "cookies": st.just("3"),
    "status-line": st.just("HTTP/1.0%20101"),
    "newline": st.just("lf"),
    "cut": st.sampled_from(["fin", "rst"]),
    "accepts": st.just("1"),
    "close": st.sampled_from([None, "1000", "1006,bye"]),
    "drop": st.sampled_from(["fin", "rst"]),
    "as": st.sampled_from(["text", "binary"]),
    "compress": st.sampled_from(["always", "never", "bomb"]),
    "pong": TIMES | st.just("no"),
    "keepalive": TIMES | st.just("no"),
    "reply-close": TIMES | st.sampled_from(["no", "chatter", "open"]),
    "echo": TIMES | st.sampled_from(["1", "3"]),
    "ignore": TIMES | st.sampled_from(["1", "3"]),
    "split": SIZES,
    "fill": SIZES,
    "rate": st.sampled_from(["100", "10k"]),
    "fragment": st.sampled_from(["100", "1k"]),  # Each frame may take a turn of the service.
    "chop": st.sampled_from(["1k", "64k"]),
    "hold": st.sampled_from(["10ms", "1s"]),
    "send-hex": HEX,
    "frame": HEX,
    "flood": st.just("01" * 7000),
    **dict.fromkeys(["send", "ping"], WORDS),
    **dict.fromkeys(["stall", "wait", "delay", "jitter", "push"], TIMES),
    **dict.fromkeys(["garbage", "coalesce", "hang", "interleave"], st.none()),
}


def test_every_step_is_tried() -> None:
    assert {*VALUES, "violate", "case", "trace"} == set(STEPS)


def steps(*phases: Phase) -> st.SearchStrategy[list[str]]:
    names = [name for name in VALUES if STEPS[name].phase in phases]
    one = st.sampled_from(names).flatmap(
        lambda name: VALUES[name].map(lambda value: name if value is None else f"{name}={value}")
    )
    return st.lists(one, max_size=5)


DOINGS = st.lists(
    st.sampled_from(
        [
            text("hello"), binary(bytes(70_000)), text("a") * 100, frame(PING, b"p") * 500,
            frame(TEXT, b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4), frame(TEXT, b"a", fin=False),
            close(1000), close(), frame(3), b"\x81", text("x")[:3], b"wait", b"stop", b"read",
        ]
    ),
    max_size=6,
)  # fmt: skip
"""What a client does: it sends this, waits, stops to read, or reads again."""


@given(
    steps(Phase.OPENING),
    steps(Phase.ACTION, Phase.SETTING),
    DOINGS,
    st.booleans(),
    st.sampled_from(["leaves", "drains", "stays"]),
)
def test_whatever_is_asked_for_it_ends(
    opening: list[str], body: list[str], doings: list[bytes], isSliced: bool, how: str
) -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=isSliced)
    client = connected("&".join(opening + body), service=service, **DEFLATE)
    for doing in doings:
        match doing:
            case b"wait":
                service.advance(1.5)
            case b"stop":
                client.socket.window = 0
            case b"read":
                client.socket.window = float("inf")
                service.run()
            case _:
                client.send(doing)
        client.received()
        waiting: Any = service.connections.open
        for each in waiting:
            assert each.buffered() < 64_000 + 16_000 + 100 * 70_000
    if how == "leaves":
        client.socket.window = float("inf")
        client.finish()
        # It sees no FIN while it does not read: while it stalls, keeps too much for its steps, or
        # owes more than its rate lets out.
        isSlow = any(step.startswith("rate=") for step in body)
        service.advance(LAB_STEP * len(body) + 6 + (1_000_000 / 100 if isSlow else 0))
    elif how == "drains":
        service.tree.stopService()
        service.advance(11)
    else:
        service.advance(LAB_LIFETIME)
    assert isGone(client)


@pytest.mark.parametrize(
    "query",
    ["", "hold=9s", "garbage", "hang", "wait=9s", "stall=9s", "echo=9", "delay=9s&send=x",
     "rate=1&fill=1k", "close", "reply-close=no", "push=1s", "pong=9s", "drop=fin", "status=404"],
)  # fmt: skip
@pytest.mark.parametrize("asked", [b"", text("a"), close(1000)])
def test_a_drain_ends_every_script(query: str, asked: bytes) -> None:
    client = connected(query)
    client.send(asked)
    client.service.tree.stopService()
    client.service.advance(5.1)
    assert client.socket.closed
    client.service.advance(10)
    assert isGone(client)


def test_a_drain_says_1001_where_it_can() -> None:
    client = lab("wait=9s&send=never")
    client.service.tree.stopService()
    client.service.advance(0.1)
    assert client.frames() == [Frame(CLOSE, b"\x03\xe9server going away")]
    client.send(close(1001))
    assert leaves(client)


@pytest.mark.parametrize("query", ["hang", "garbage", "reply-close=no", "reply-close=chatter"])
def test_what_answers_nothing_ends(query: str) -> None:
    client = connected(query)
    client.send(close(1000))
    client.service.advance(max(LAB_STEP, LAB_HOLD) + 1)
    assert isGone(client)


def test_a_lifetime_ends() -> None:
    client = lab("keepalive=no")
    client.service.advance(LAB_LIFETIME - 1)
    assert not client.socket.closed
    client.service.advance(2)
    assert isGone(client)


def test_a_client_that_breaks_a_rule_in_the_midst_of_a_frame_is_dropped() -> None:
    """No close frame fits inside a frame."""
    client = lab("rate=10&fill=1k")
    client.service.advance(1)
    begun = client.received()
    client.send(frame(3))
    assert client.socket.fin
    assert client.received() == b""
    assert len(begun) < 30
    assert leaves(client)


def test_a_client_that_breaks_a_rule_is_told_at_once() -> None:
    client = lab("delay=9s")
    client.send(text("a") + frame(3))
    (end,) = client.frames()
    assert (end.opcode, end.payload[:2]) == (CLOSE, b"\x03\xea")
    assert leaves(client)


def test_one_that_hangs_does_not_say_what_a_client_breaks() -> None:
    client = lab("hang")
    client.send(frame(3) + text("a"))
    client.send(text("b"))
    assert client.received() == b""
    assert leaves(client)


def test_echoes_go_out_before_a_close_is_answered() -> None:
    client = lab("delay=1s")
    client.send(text("a") + close(1000) + text("late"))
    assert client.received() == b""
    client.service.advance(1)
    assert client.frames() == [Frame(TEXT, b"a"), Frame(CLOSE, b"\x03\xe8")]
    assert leaves(client)


def test_a_close_that_is_not_allowed_is_refused() -> None:
    client = lab("reply-close=1s")
    client.send(close(999))
    client.service.advance(1)
    (end,) = client.frames()
    assert end.payload[:2] == b"\x03\xea"
    assert leaves(client)


@pytest.mark.parametrize("query", ["reply-close=open&close=1000", "reply-close=open"])
def test_tcp_is_left_open(query: str) -> None:
    client = lab(query)
    client.send(close(1000))
    assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]
    client.service.advance(60)
    assert not client.socket.fin
    assert leaves(client)


def test_one_that_closes_and_does_not_read_is_dropped() -> None:
    client = connected("fill=16M")
    client.socket.window = 0
    client.send(close(1000))
    client.service.advance(60)
    assert isGone(client)


@pytest.mark.parametrize(
    "query",
    ["stall=2m", "wait=2m", "delay=2m", "rate=10&fill=2k", "reply-close=2m", "reply-close=open"],
)
def test_what_a_script_holds_back_is_no_fault_of_the_clients(query: str) -> None:
    """It was once dropped for a ping that it could not see, or whose answer nobody read."""
    client = lab(query)
    client.send(close(1000) if "close" in query else text("x" * 1000) * 200)
    client.service.advance(115)
    assert not client.socket.closed
    assert leaves(client) or not client.reading


def test_no_ping_follows_the_clients_close() -> None:
    client = lab("reply-close=2m")
    client.send(close(1000))
    client.service.advance(110)
    assert client.received() == b""


@pytest.mark.parametrize("query", ["stall=9s", "wait=9m"])
def test_a_client_that_was_not_read_may_answer_1001(query: str) -> None:
    client = lab(query)
    client.send(text("x" * 1000) * 200)
    client.service.tree.stopService()
    client.service.advance(1)
    assert client.frames()[-1].payload[:2] == b"\x03\xe9"
    client.send(close(1001))
    assert client.socket.fin
    assert leaves(client)


def test_a_client_that_was_not_read_may_answer_the_scripts_close() -> None:
    client = lab("wait=1s&close=1000")
    client.send(text("x" * 1000) * 200)
    client.service.advance(1)
    assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]
    client.send(close(1000))
    assert client.socket.fin
    assert leaves(client)


@pytest.mark.parametrize("query", ["wait=9s", "echo=1", "ignore=1", "stall=9s", "hang", "drop=fin"])
def test_what_is_corked_goes_out_before_a_pause(query: str) -> None:
    client = connected(f"coalesce&{query}")
    assert client.received().endswith(b"\r\n\r\n")
    client.service.tree.stopService()
    client.service.advance(1)
    assert not client.received().startswith(b"HTTP")


def test_what_is_corked_goes_out_before_the_end() -> None:
    client = connected("hold=1s&coalesce&delay=9s&send=late")
    client.send(frame(3))
    client.service.advance(1)
    (end,) = client.opened().frames()
    assert end.payload[:2] == b"\x03\xea"


@pytest.mark.parametrize(
    "query", ["drop=fin&wait=10m", "drop=fin&stall=10m", "drop=rst&send=late", "drop=fin&echo=1"]
)
def test_nothing_is_done_after_a_drop(query: str) -> None:
    client = lab(query)
    assert client.received() == b""
    assert leaves(client)


def test_a_drain_leaves_what_is_ending_to_end() -> None:
    client = lab("")
    client.socket.window = 10
    client.send(text("x" * 50_000) + close(1000))
    client.service.tree.stopService()
    client.service.advance(1)
    client.socket.window = float("inf")
    client.service.run()
    assert client.received().endswith(b"x\x88\x02\x03\xe8")


@pytest.mark.parametrize("query", ["delay=1s", "rate=100"])
def test_echoes_go_out_after_a_fin(query: str) -> None:
    client = lab(query)
    client.socket.arriving += text("hello")
    client.finish()
    client.service.advance(3)
    assert client.received() == b"\x81\x05hello"
    assert isGone(client)


def test_what_is_not_read_goes_out_after_a_fin() -> None:
    client = lab("keepalive=no&fill=1M&close")
    client.socket.window = 0
    client.service.run()
    client.finish()
    client.service.advance(3)
    client.socket.window = float("inf")
    client.service.run()
    (found,) = [each for each in client.frames() if each.opcode == TEXT]
    assert len(found.payload) == 1 << 20


def test_echoes_do_not_go_out_for_ever_after_a_fin() -> None:
    """A hundred thousand clients that had gone once kept their places for ten minutes."""
    client = lab("delay=10m")
    client.socket.arriving += text("hello")
    client.finish()
    client.service.advance(LAB_HOLD + 1)
    assert isGone(client)


@pytest.mark.parametrize("query", ["wait=1s&close=1000&wait=9s", "push=1s&close=1000&wait=4s"])
def test_no_message_follows_a_close_that_no_step_sends(query: str) -> None:
    client = lab(query)
    client.send(text("kept"))
    client.service.advance(4)
    assert client.frames() == [Frame(CLOSE, b"\x03\xe8")]


def test_nothing_is_pushed_to_one_that_is_behind() -> None:
    client = lab("push=1s&wait=9s")
    client.send(text("x" * 1000) * 100)
    client.service.advance(5)
    assert client.received() == b""


@pytest.mark.parametrize("step", ["push", "keepalive"])
def test_what_is_sent_by_itself_does_not_pile_up_behind_a_rate(step: str) -> None:
    client = lab(f"rate=100&{step}=10ms")
    client.send(frame(PING, b"x" * 99) * 50)
    client.service.advance(20)
    assert 64_000 < client.protocol.buffered() < 66_000


def test_one_that_has_said_fin_does_not_stay_for_pings() -> None:
    client = lab("rate=100&keepalive=10ms")
    client.send(frame(PING, b"p") * 500)
    client.finish()
    client.service.advance(LAB_HOLD + 20)
    assert isGone(client)


def test_one_that_has_said_fin_goes_with_a_drain() -> None:
    client = lab("rate=100")
    client.send(frame(PING, b"p") * 300)
    client.finish()
    client.service.advance(1)
    assert not client.socket.closed
    client.service.tree.stopService()
    client.service.run()
    assert isGone(client)


def test_what_comes_with_the_request_is_not_answered_after_a_drop() -> None:
    client = Service("--log-rate=0", isFast=False).connect()
    client.send(request("/lab?drop=rst") + text("a"))
    assert client.received().endswith(b"\r\n\r\n")
    assert isGone(client)


def test_a_pong_that_is_late_does_not_outlive_its_connection() -> None:
    client = lab("pong=9s")
    client.send(frame(PING) + frame(3))
    assert leaves(client)


def test_a_service_without_pings_sends_none() -> None:
    client = lab("", "--ping-interval=0")
    client.service.advance(100)
    assert client.received() == b""
    assert leaves(client)


def test_one_that_hangs_pushes_nothing() -> None:
    client = lab("push=1s&hang")
    client.service.advance(9)
    assert client.received() == b""


# One that hangs, and a client that breaks a rule.


def test_one_that_hangs_looks_at_nothing_more_of_a_client_that_breaks_a_rule() -> None:
    """218 bytes once kept a core busy until the connection ended."""
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = lab("hang", service=service, **DEFLATE)
    packer = zlib.compressobj(wbits=-15)
    corrupt = packer.compress(bytes(200_000)) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff\xff\xff"
    client.send(frame(BINARY, corrupt, rsv=4))  # It comes to rest.
    for _ in range(5):
        client.send(frame(3) * 100)
    assert client.received() == b""
    assert client.protocol.buffered() == 0
    assert leaves(client)


def test_one_that_hangs_ends_over_the_budget() -> None:
    service = Service("--max-message=1M", "--memory-budget=8M", "--log-rate=0", isFast=False)
    clients = [lab("hang", service=service) for _ in range(20)]
    for client in clients:
        client.send(frame(BINARY, bytes(1 << 20))[:1_000_000])
    assert service.context.budget.buffered < 8 << 20
    assert any(client.socket.closed for client in clients)


# Bounds.


@pytest.mark.parametrize(
    "query", ["headers=1,4M", "split=64&headers=1,4M", "rate=1G&fill=16M", "chop=16k&fill=16M"]
)
def test_what_is_made_for_a_client_that_does_not_read_is_little_and_counted(query: str) -> None:
    service = Service("--log-rate=0", isFast=False)
    client = service.connect()
    client.socket.window = 100
    client.send(request(f"/lab?{query}"))
    service.advance(1)
    buffered = client.protocol.buffered()
    assert 0 < buffered < 300_000
    assert service.context.budget.buffered == buffered


@pytest.mark.parametrize(
    "query", ["rate=1G&fill=16M", "headers=1,4M", "fragment=1&fill=1M", "coalesce&headers=100000"]
)
def test_a_turn_writes_little(query: str) -> None:
    """These once took ten to a hundred milliseconds of one turn."""
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = service.connect()
    client.socket.arriving += request(f"/lab?{query}")
    before = 0
    for _ in range(50):
        service.turn()
        sent = len(client.socket.sent)
        assert sent - before <= 2 * (64 << 10) + 200
        before = sent
    assert before


def test_a_client_is_read_again_when_what_waited_has_gone_out() -> None:
    """It was once not, unless something else came."""
    client = lab("keepalive=no&delay=1s")
    client.send(text("x" * 1000) * 200)
    client.service.advance(10)
    assert client.frames() == [Frame(TEXT, b"x" * 1000)] * 200


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("wait=10m", text("a") * 100),
        ("wait=10m", binary(bytes(50_000))),
        ("delay=10m", text("a") * 100),
        ("pong=10m", frame(PING) * 100),
        ("rate=1", text("a") * 100),
        ("hold=1m", text("a") * 100),
    ],
)
def test_what_waits_is_bounded(query: str, asked: bytes) -> None:
    client = connected(query)
    for _ in range(100):
        client.send(asked)
    open: Any = client.protocol
    assert not client.reading
    assert open.buffered() < 3 * connection.HELD
    assert leaves(client) or not client.reading


def test_it_is_read_again_when_there_is_room() -> None:
    client = lab("wait=1s")
    client.send(text("x" * 1000) * 200)
    assert not client.reading
    client.service.advance(1)
    assert client.frames() == [Frame(TEXT, b"x" * 1000)] * 200
    assert client.reading


def test_early_data_is_read_after_the_101() -> None:
    client = connected("hold=1s")
    client.send(text("x" * 1000) * 200)
    assert not client.reading
    client.service.advance(1)
    assert client.opened().frames() == [Frame(TEXT, b"x" * 1000)] * 200


def test_a_client_that_does_not_read_is_not_sent_more() -> None:
    client = connected("fill=16M")
    client.received()
    client.socket.window = 0
    client.service.run()
    open: Any = client.protocol
    assert open.buffered() < 300_000
    client.socket.window = float("inf")
    client.service.run()
    assert leaves(client)


def test_scripts_take_turns() -> None:
    """Also one that only sends, to a client that reads as fast as it can."""
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    busy = [service.connect() for _ in range(5)]
    for client in busy:
        client.socket.arriving += request("/lab?" + "&".join(["send=a"] * LAB_STEPS))
    echo = service.connect()
    echo.socket.arriving += request() + text("hello")
    turns = 0
    while not echo.socket.sent.endswith(b"\x81\x05hello"):
        service.turn()
        turns += 1
    assert turns < 40
    assert sum(bytes(client.socket.sent).count(b"\x81\x01a") for client in busy) < 5 * turns + 5
    service.run()
    assert all(bytes(c.socket.sent).count(b"\x81\x01a") == LAB_STEPS for c in busy)


def test_kept_messages_are_echoed_in_turns() -> None:
    service = Service("--log-rate=0", isFast=False, isSliced=True)
    client = lab("wait=1s", service=service)
    client.send(text("a") * 300)
    service.reactor.advance(1)
    service.turn()
    assert len(client.frames()) < 5
    client.socket.arriving += text("b")
    service.run()
    assert client.frames()[-1] == Frame(TEXT, b"b")


def test_what_waits_for_its_turn_is_told_to_observers_once() -> None:
    class Reads(Observer):
        size = 0

        def read(self, data: bytes) -> None:
            self.size += len(data)

    client = lab("", service=Service("--log-rate=0", isFast=False, isSliced=True))
    protocol: Any = client.protocol
    protocol.observers = [reads := Reads()]
    sent = text("a") * 300
    client.send(sent)
    assert len(client.frames()) == 300
    assert reads.size == len(sent)


def test_the_connections_of_the_lab_count(log: Any) -> None:
    service = Service("--max-connections=1", isFast=False)
    first = connected("hold=9s", service=service)
    client = service.connect()
    client.send(request("/lab"))
    assert client.received().startswith(b"HTTP/1.1 503 ")
    assert leaves(first) or service.connections.open == set()


def test_frames_of_the_lab_are_logged(log: Any) -> None:
    client = lab("send=a", service=Service("--log-frames", isFast=False))
    client.send(close(1000))
    assert client.frames() == [Frame(TEXT, b"a"), Frame(CLOSE, b"\x03\xe8")]
    assert [line.partition(":40000 ")[2] for line in log.lines()] == [
        "connected",
        "sent: text, FIN, payload length 1",
        "received: close, FIN, masked, payload length 2",
        "sent: close, FIN, payload length 2",
    ]


def test_a_refused_frame_is_seen_beside_the_log_of_frames(log: Any) -> None:
    """Both once had an attribute of the same name."""
    service = Service("--log-frames", isFast=False)
    client = service.connect()
    client.send(request("/lab?trace=Zm9yIHlvdXIgZXllcyBvbmx5"))
    client.send(frame(3))
    reader = service.connect()
    reader.send(b"GET /trace/Zm9yIHlvdXIgZXllcyBvbmx5 HTTP/1.0\r\n\r\n")
    events = json.loads(reader.received().partition(b"\r\n\r\n")[2])["events"]
    assert [e["opcode"] for e in events if e["type"] == "frameReceived"] == [3]


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("status=503", "refused: 503 as its script at /lab says"),
        ("garbage", "dropped: its script at /lab had no 101"),
        ("cut=fin", "dropped: its script at /lab had no 101"),
        ("hold=9s", "dropped: its script at /lab had no 101"),
    ],
)
def test_what_was_never_open_is_not_counted_as_accepted(query: str, line: str, log: Any) -> None:
    client = connected(query, service=Service(isFast=False))
    client.finish()
    client.service.advance(2)
    assert isGone(client)
    totals = client.service.context.journal.totals
    assert (totals.accepted, totals.closed) == (0, {})
    assert log.lines() == [f"127.0.0.1:40000 {line}"]


def test_a_script_that_errs_costs_its_connection(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.LabConnection, "sendParts", None)
    client = lab("send=a")
    assert isGone(client)
    assert log.errors()[0].startswith("while a script ran")
    log.events.clear()


@pytest.mark.parametrize(
    "query", ["send=hi&fill=200k", "chop=7&fill=1k", "split=20&fill=1k", "drop=rst", "drop=fin"]
)
def test_scripts_run_over_tls(query: str, tmp_path: Path) -> None:
    service = Service("--log-rate=0", isFast=False)
    peer = Peer(certified(tmp_path), service=service)
    peer.send(request(f"/lab?{query}"))
    answer, _, rest = peer.received().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    if "drop" not in query:
        assert parse(rest)[-1].payload.endswith(b"f0123456789abcdef")
        peer.send(text("x"))
        assert peer.frames() == [Frame(TEXT, b"x")]
    assert peer.client.socket.reset == (query == "drop=rst")
    peer.finish()
    service.advance(6)
    assert isGone(peer.client)


# Who comes again.


def statusOf(service: Service, target: str, host: str = "192.0.2.1", **headers: str) -> bytes:
    client = service.connect(IPv4Address("TCP", host, 1000 + len(service.clients)))
    client.send(request(target, **headers))
    status = client.received()[9:12]
    client.finish()
    service.run()
    return status


def test_a_client_is_let_in_so_many_times() -> None:
    service = Service("--log-rate=0", isFast=False)
    come = partial(statusOf, service)
    assert [come("/lab?accepts=2") for _ in range(4)] == [b"101", b"101", b"503", b"503"]
    assert come("/lab?accepts=2&send=a") == b"101"
    assert come("/lab?accepts=2", "192.0.2.2") == b"101"
    service.advance(LAB_VISIT - 1)
    assert come("/lab?accepts=2") == b"503"
    service.advance(LAB_VISIT - 1)
    assert come("/lab?accepts=2") == b"503"
    service.advance(LAB_VISIT)
    assert come("/lab?accepts=2") == b"101"


def test_a_client_that_comes_again_through_a_proxy() -> None:
    service = Service("--log-rate=0", "--trusted-proxy=192.0.2.1", isFast=False)
    come = partial(statusOf, service, "/lab?accepts=1")
    assert come(X_Forwarded_For="198.51.100.1") == b"101"
    assert come(X_Forwarded_For="198.51.100.2") == b"101"
    assert come(X_Forwarded_For="198.51.100.1") == b"503"


def test_only_so_many_visitors_are_counted() -> None:
    service = Service("--log-rate=0", isFast=False)
    for n in range(LAB_VISITS):
        assert statusOf(service, f"/lab?accepts=1&send={n}") == b"101"
    service.clients.clear()
    assert statusOf(service, "/lab?accepts=1&send=0") == b"503"
    assert statusOf(service, "/lab?accepts=1&send=new") == b"101"
    assert statusOf(service, "/lab?accepts=1&send=0") == b"503"
    assert statusOf(service, "/lab?accepts=1&send=1") == b"101"


# Those who have left, and are not read.


@pytest.mark.parametrize("query", ["keepalive=no&stall=10m&wait=10m", "wait=10m", "pong=10m"])
def test_who_has_left_does_not_keep_its_place(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport that is not read sees no FIN: five such were once in the way of /echo all day."""
    client = lab(query)
    client.send(binary(bytes(30_000)) * 3 + frame(PING) * 400)
    assert not client.reading
    client.service.advance(30)
    assert not client.socket.closed
    monkeypatch.setattr(connection, "isHalfClosed", lambda transport: True)
    client.service.advance(connection.LOOK + LAB_HOLD)
    assert client.socket.closed


def test_a_look_that_ends_the_connection_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for a close_notify is to read it."""
    client = lab("keepalive=no&stall=10m")

    def ends(transport: Any) -> bool:
        client.transport.connectionLost(Failure(ConnectionDone()))
        return False

    monkeypatch.setattr(connection, "isHalfClosed", ends)
    client.service.advance(connection.LOOK)
    assert client.socket.closed
    assert not client.service.timers()


def test_who_does_not_read_the_101_is_dropped() -> None:
    service = Service("--close-timeout=5s", "--log-rate=0", isFast=False)
    client = service.connect()
    client.socket.window = 100
    client.send(request("/lab?headers=4,1M"))
    service.advance(3)
    client.socket.window += 200_000
    service.advance(3)
    assert not client.socket.closed
    service.advance(7)
    assert client.socket.closed


def test_who_reads_the_101_slowly_is_served() -> None:
    service = Service("--close-timeout=5s", "--ping-interval=0", "--log-rate=0", isFast=False)
    client = service.connect()
    client.socket.window = 100
    client.send(request("/lab?headers=1,1M"))
    for _ in range(20):
        service.advance(4)
        client.socket.window += 100_000
    service.run()
    client.opened()
    client.send(text("x"))
    assert client.frames() == [Frame(TEXT, b"x")]


def test_no_delay_holds_back_the_101() -> None:
    client = lab("coalesce&delay=10m&send=x")
    assert client.frames() == [Frame(TEXT, b"x")]


@pytest.mark.parametrize("then", ["hang", "close=1000"])
def test_no_pong_follows_the_end(then: str) -> None:
    client = lab(f"pong=2s&wait=1s&{then}")
    client.send(frame(PING, b"p") * 2)
    client.service.advance(4)
    assert PONG not in {each.opcode for each in client.frames()}


def test_who_waits_for_many_pongs_is_not_dropped_for_ours() -> None:
    client = lab("pong=1m", "--ping-interval=1s", "--ping-timeout=1s")
    client.send(frame(PING) * 400)
    client.service.advance(50)
    assert not client.socket.closed


def test_after_a_bomb_messages_inflate_to_what_they_are() -> None:
    words = "hello hello hello world"
    query = f"compress=always&send={words}&compress=bomb&send=x&compress=always&send={words}"
    client = lab(query.replace(" ", "%20"), "--context-takeover", **DEFLATE)
    client.service.advance(1)
    inflate = zlib.decompressobj(-15)
    found = [
        inflate.decompress(each.payload + b"\0\0\xff\xff")
        for each in client.frames()
        if each.opcode == TEXT
    ]
    assert (found[0], found[-1]) == (words.encode(), words.encode())
