"""What the far end says, as far as it is what a lab would say: whoever answers may say anything."""

import json
from collections.abc import Mapping
from typing import Any

from echotwist.paths.measured import Arrived

_MOST = 4096
"""Characters of a value that are kept."""

_HEADERS = 1000

_LARGEST = 1 << 53
"""Of numbers that are kept; so none is infinite, or no number (IEEE 754)."""

_EVENTS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "requested": {"line": (str,), "headers": (list,)},
    "opened": {"time": (int, float), "head": (str,)},
    "frameSent": {"time": (int, float), "opcode": (int,)},
    "frameReceived": {
        "time": (int, float),
        "opcode": (int,),
        "length": (int,),
        "fin": (bool,),
        "mask": (str, type(None)),
    },
    "refused": {},
}
"""The events of a trace that the probe reads, and what they must have; others are left out."""

_ENDED: Mapping[str, tuple[type, ...]] = {
    "time": (int, float),
    "by": (str,),
    "how": (str,),
    "tcp": (str,),
}


def parsed(body: bytes) -> Any:
    """JSON; None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def traceOf(body: bytes) -> dict[str, Any] | None:
    """A trace (docs/trace.schema.json), with `events` and `ended`; None if it is none."""
    found = parsed(body)
    if not isinstance(found, dict) or not isinstance(found.get("events"), list):
        return None
    ended = found.get("ended")
    events = [each for each in found["events"] if _isEvent(each)]
    for event in events:
        if event["type"] == "requested":
            event["headers"] = _headers(event["headers"])
    return {"events": events, "ended": ended if _has(ended, _ENDED) else None}


def inspectedOf(body: bytes) -> Arrived | None:
    """A request as `/lab/inspect` shows it; None if it is none."""
    found = parsed(body)
    if not _has(found, {"version": (str,), "headers": (list,)}):
        return None
    pairs = [
        [name[:_MOST], value[:_MOST]]
        for each in found["headers"][:_HEADERS]
        if isinstance(each, list) and len(each) == 2
        for name, value in [each]
        if isinstance(name, str) and isinstance(value, str)
    ]
    return {"version": found["version"][:_MOST], "headers": pairs}


def _isEvent(event: Any) -> bool:
    kind = event.get("type") if isinstance(event, dict) else None
    return isinstance(kind, str) and kind in _EVENTS and _has(event, _EVENTS[kind])


def _headers(headers: list[Any]) -> list[dict[str, Any]]:
    """`name`, and `value` or, if the lab does not show that, `redacted`, its size."""
    found = []
    for each in headers[:_HEADERS]:
        if not _has(each, {"name": (str,), "value": (str, type(None))}):
            continue
        value, size = each["value"], each.get("redacted")
        found.append(
            {
                "name": each["name"][:_MOST],
                "value": None if value is None else value[:_MOST],
                "redacted": size if isinstance(size, int) and 0 <= size < 1 << 32 else 0,
            }
        )
    return found


def _has(found: Any, fields: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether it is an object with these. (To Python, a bool is an int.)"""
    return isinstance(found, dict) and all(
        name in found
        and isinstance(found[name], kinds)
        and (bool in kinds or not isinstance(found[name], bool))
        and (not isinstance(found[name], int | float) or abs(found[name]) <= _LARGEST)
        for name, kinds in fields.items()
    )
