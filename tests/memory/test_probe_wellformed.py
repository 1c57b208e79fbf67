"""Whatever a far end says of a trace or of a request, it raises nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echotwist.probe.farend import eventsOf, requestOf, responseOf
from echotwist.probe.wellformed import inspectedOf, parsed, traceOf

HEADERS = [{"name": "Host", "value": "a"}, {"name": "Cookie", "value": None, "redacted": 3}]

GOOD: dict[str, Any] = {
    "ended": {"time": 5, "by": "client", "how": "fin", "tcp": "fin"},
    "events": [
        {"type": "requested", "line": "GET / HTTP/1.1", "headers": HEADERS},
        {"type": "opened", "time": 1, "head": "HTTP/1.1 101 …\r\n\r\n"},
        {"type": "frameReceived", "time": 2, "opcode": 1, "length": 5, "fin": True, "mask": None},
        {"type": "frameSent", "time": 3, "opcode": 1},
        {"type": "wrote", "size": 7},
    ],
}


def test_a_trace_is_kept_as_far_as_it_is_read() -> None:
    trace = traceOf(json.dumps(GOOD).encode())
    assert trace is not None
    assert trace["ended"] == GOOD["ended"]
    request, response = requestOf(trace), responseOf(trace)
    assert request is not None
    assert request.headers == [("Host", "a"), ("Cookie", "3 bytes, not shown")]
    assert response is not None
    assert response.status == 101
    assert len(eventsOf(trace, "frameReceived")) == 1
    assert eventsOf(trace, "wrote") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"events": 1}', b"[" * 200_000])
def test_what_is_no_trace_is_none(body: bytes) -> None:
    assert traceOf(body) is None
    assert inspectedOf(body) is None


@pytest.mark.parametrize(
    "event",
    [
        1,
        {},
        {"type": []},
        {"type": "requested", "line": 1, "headers": []},
        {"type": "frameReceived", "time": True, "opcode": 1, "length": 1, "fin": True, "mask": ""},
        {"type": "frameSent", "time": 1, "opcode": "1"},
        {"type": "frameSent", "time": 10**400, "opcode": 1},
        {"type": "frameSent", "time": float("inf"), "opcode": 1},
        {"type": "frameSent", "time": float("nan"), "opcode": 1},
    ],
)
def test_an_event_of_another_shape_is_left_out(event: Any) -> None:
    trace = traceOf(json.dumps({"events": [event, GOOD["events"][1]], "ended": 7}).encode())
    assert trace is not None
    assert trace["events"] == [GOOD["events"][1]]
    assert trace["ended"] is None


def test_headers_of_another_shape_are_left_out_and_long_ones_cut() -> None:
    headers = [1, {"name": 1}, {"name": "a", "value": "b" * 10_000, "redacted": "c"}]
    event = {"type": "requested", "line": "", "headers": headers}
    request = requestOf(traceOf(json.dumps({"events": [event]}).encode()))
    assert request is not None
    assert [(name, len(value)) for name, value in request.headers] == [("a", 4096)]
    seen = {"version": "HTTP/1.1", "headers": [["a", "b"], ["a"], [1, 2], 3]}
    inspected = inspectedOf(json.dumps(seen).encode())
    assert inspected == {"version": "HTTP/1.1", "headers": [["a", "b"]]}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "line", "headers", "name", "value", "head", "time", "events"]),
            inner | st.sampled_from(["requested", "opened", "frameReceived"]),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(events=st.lists(VALUES, max_size=5), ended=VALUES)
def test_any_json_is_taken(events: list[Any], ended: Any) -> None:
    trace = traceOf(json.dumps({"events": events, "ended": ended}).encode())
    assert trace is not None
    requestOf(trace)
    responseOf(trace)
    inspectedOf(json.dumps({"version": "", "headers": events}).encode())
    assert parsed(b"1") == 1
