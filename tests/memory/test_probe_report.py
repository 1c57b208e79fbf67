"""A report as JSON, as text and as Markdown."""

import json
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest
from support.path import FrameHop, HeadHop, Hop, Path
from support.schema import Schema

from echotwist.paths import measured
from echotwist.paths.finding import Finding
from echotwist.probe.report import Report
from echotwist.probe.show import asMarkdown, asText
from echotwist.testing.frames import Frame

SCHEMA = Schema("probe.schema.json")


class Cuts(Hop):
    """Cuts each WebSocket at an age of 20 s."""

    def began(self) -> None:
        self.reactor.callLater(20.0, self.cut)


class Refuses(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"Upgrade: websocket\r\n", b"")


class Limits(FrameHop):
    def frameUp(self, found: Frame) -> None:
        if len(found.payload) > 1000:
            self.cut("rst")
        else:
            super().frameUp(found)


def refused() -> Report:
    path = Path()
    path.refuses = True
    return path.probe(5)


REPORTS: dict[str, Callable[[], Report]] = {
    "clean": lambda: Path().probe(30),
    "cut": lambda: Path(Cuts).probe(30),
    "refused": lambda: Path(Refuses).probe(30),
    "limited": lambda: Path(Limits).probe(30),
    "no lab": lambda: Path(Hop, "--no-lab").probe(30),
    "interrupted": lambda: Path().probe(30, until=3),
    "not reached": refused,
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_as_the_schema_says(name: str) -> None:
    report = REPORTS[name]()
    document = json.loads(report.asJson())
    assert SCHEMA.isValid(document)
    assert Report.fromJson(report.asJson()) == report
    document["measured"]["other"] = 1
    assert not SCHEMA.isValid(document)


def asSchema(kind: Any) -> dict[str, Any]:
    """What JSON of this type conforms to."""
    if typing.is_typeddict(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, types.UnionType):
        some = asSchema(next(each for each in typing.get_args(kind) if each is not types.NoneType))
        if set(some) == {"type"}:
            return {"type": [some["type"], "null"]}
        return {"oneOf": [some, {"type": "null"}]}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": asSchema(typing.get_args(kind)[0])}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": asSchema(typing.get_args(kind)[1])}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}


def test_the_schema_has_what_the_types_have() -> None:
    dicts = {name: each for name, each in vars(measured).items() if typing.is_typeddict(each)}
    defined = SCHEMA.document["$defs"]
    assert set(defined) == {*dicts, "Finding"}
    for name, each in dicts.items():
        described = defined[name]["properties"]
        bare = {
            field: {key: value for key, value in schema.items() if key != "description"}
            for field, schema in described.items()
        }
        hints = typing.get_type_hints(each)
        assert bare == {field: asSchema(kind) for field, kind in hints.items()}, name
        assert set(defined[name].get("required", ())) == set(each.__required_keys__), name
        assert defined[name]["additionalProperties"] is False


@pytest.mark.parametrize("name", REPORTS)
def test_each_report_can_be_read(name: str) -> None:
    report = REPORTS[name]()
    for text in (asText(report), asMarkdown(report)):
        assert report.url in text
    assert str(report) == asText(report)
    for text in (asText(report), asMarkdown(report)):
        for finding in report.findings:
            assert finding.title[:40] in text
    assert all(len(line) <= 80 for line in asText(report, width=80).splitlines())


HOSTILE = "\x1b]0;owned\x07 | `code` <img src=x> [a](b) \u202eevil\nnext"


def hostile() -> Report:
    report = Report("ws://example/", "2026-01-01T00:00:00+00:00", "1")
    report.findings = [Finding("rule", "problem", HOSTILE, [HOSTILE], [HOSTILE], [HOSTILE])]
    report.measured = {
        "farEnd": {"isLab": False, "why": HOSTILE, "server": HOSTILE},
        "handshake": {
            "took": {},
            "response": {"line": HOSTILE, "headers": [["Server", "nginx" + HOSTILE]]},
        },
    }
    return report


@pytest.mark.parametrize("isColored", [False, True])
def test_what_others_wrote_moves_no_terminal(isColored: bool) -> None:
    text = asText(hostile(), isColored=isColored)
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert ("\x1b[31m" in text) is isColored


def test_what_others_wrote_is_no_markup() -> None:
    text = asMarkdown(hostile())
    assert "<img" not in text.replace("\\<", "")
    assert "\u202e" not in text
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") == 4, line


def test_what_keeps_it_from_being_run_is_no_markup_either() -> None:
    report = Report("ws://example/", "2026-01-01T00:00:00+00:00", "1")
    report.measured = {"handshake": {"notReached": {"stage": "tls", "why": HOSTILE}}}
    assert "<img" not in asMarkdown(report).replace("\\<", "")


def test_what_is_no_report_is_refused() -> None:
    broken: Any
    for broken in ("", "[]", "{}", '{"status": 0, "findings": [{}]}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Report.fromJson(broken)
