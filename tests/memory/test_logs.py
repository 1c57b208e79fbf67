"""The forms of the log that are not twistd's own."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.memory import Service
from support.recorder import Recorder
from twisted.logger import (
    ILogObserver,
    LogLevel,
    formatEvent,
    formatEventAsClassicLogText,
    globalLogPublisher,
)
from twisted.logger import Logger as TwistedLogger
from twisted.python import log as legacy
from twisted.python.failure import Failure

from echotwist import logs
from echotwist.testing.frames import binary, close, text
from echotwist.testing.raw import request

HOSTILE = "a\n<0>forged\r\n\x1b[2J\x00\x7f\x85\u2028\u202e\x9b\t{0} {x}"


@pytest.fixture
def events() -> Any:
    """Everything that is logged, errors included."""
    recorder = Recorder()
    globalLogPublisher.addObserver(recorder)
    yield recorder.events
    globalLogPublisher.removeObserver(recorder)


@pytest.fixture
def wrong(log: Any) -> Any:
    """For tests that expect errors in the log."""
    yield
    log.events.clear()


def parsed(event: Any) -> dict[str, Any]:
    line = logs.jsonLine(event)
    assert re.fullmatch(r"[ -~]+\n", line)
    made: dict[str, Any] = json.loads(line)
    for value in made.values():
        assert isinstance(value, str | int | float | None)  # Flat.
    return made


def assertHarmless(lines: str, priority: int) -> None:
    first, *more = lines.split("\n")[:-1]
    assert first.startswith(f"<{priority}>")
    assert first[3] != "\t"
    for line in more:
        assert line.startswith(f"<{priority}>\t")
    assert lines.replace("\n", "").replace(">\t", "").isprintable()


def busy(rate: int = 100) -> None:
    """A service with every kind of line."""
    service = Service(f"--log-rate={rate}", "--max-connections=1", isFast=False)
    client = service.open()
    client.send(text("hi\x1b") + binary(b"\x00\xff") + close(4000, "bye\u2028"))
    client.finish()
    client = service.open()
    client.send(request(Host="a"))
    service.connect().send(request(Host="b"))
    service.connect().send(request(Sec_WebSocket_Key="\x1bkey\x85"))
    spare = [service.connect() for _ in range(60)]
    assert spare
    client.finish()
    service.advance(1)
    service.echo.stopService()
    service.advance(20)


def test_each_line_about_a_connection_has_its_number(events: list[Any]) -> None:
    busy()
    kinds = set()
    for event in events:
        made = parsed(event)
        assert ("#" in made["message"]) == ("number" in made)
        if "number" in made:
            assert made["message"].startswith(f"#{made['number']} {made['peer']} ")
            assert f"[echotwist#info] #{made['number']} " in logs.journaldLines(event)
        kinds.add(made.get("event"))
    assert {"connected", "message", "closed", "refused", "dropped"} <= kinds


def test_json_has_what_the_text_has(events: list[Any]) -> None:
    busy()
    by: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        made = parsed(event)
        assert made["level"] == "info"
        assert made["namespace"] == "echotwist"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", made["time"])
        assert made["message"] == formatEvent(event)
        by.setdefault(made.pop("event", ""), []).append(made)
    first, second = by["message"]
    assert (first["type"], first["size"], first["preview"]) == ("text", 3, r"'hi\x1b'")
    assert (second["type"], second["size"], second["preview"]) == ("binary", 2, "00 ff")
    assert (by["closed"][0]["code"], by["closed"][0]["reason"]) == (4000, r"'bye\u2028'")
    assert [refused["status"] for refused in by["refused"]] == [503, 400]
    assert "127.0.0.1:" in by["refused"][0]["peer"]


def test_the_summary_of_a_flood_has_its_numbers_as_fields(events: list[Any]) -> None:
    busy(rate=1)
    (summary,) = [made for event in events if (made := parsed(event)).get("event") == "summary"]
    assert (summary["messages"], summary["bytes"]) == (2, 5)
    assert (summary["connected"], summary["refused"]) == (1, 2)


def test_a_close_without_a_code_is_logged_without_one(events: list[Any]) -> None:
    client = Service(isFast=False).open()
    client.send(close())
    client.finish()
    made = parsed(events[-1])
    assert made["message"].endswith(" closed: no code ''")
    assert made["code"] is None


@pytest.mark.usefixtures("wrong")
def test_log_lines_of_others_are_escaped(events: list[Any]) -> None:
    log = TwistedLogger(namespace="autobahn")
    log.warn("got {what}", what=HOSTILE)
    legacy.msg(HOSTILE)
    log.info(HOSTILE.replace("{", "{{").replace("}", "}}"))
    assert len(events) == 3
    for event, priority in zip(events, (4, 6, 6), strict=True):
        made = parsed(event)
        assert HOSTILE in made["message"]
        lines = logs.journaldLines(event)
        assertHarmless(lines, priority)
        assert r"\r" in lines
        assert r"\x1b[2J\x00\x7f\x85\u2028\u202e\x9b\t{0} {x}" in lines
    assert made["level"] == "info"


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("isLegacy", [False, True])
def test_a_traceback_is_one_json_string_and_prefixed_lines_for_journald(
    events: list[Any], isLegacy: bool
) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        if isLegacy:
            legacy.err(Failure(), "why")
        else:
            TwistedLogger(namespace="x").failure("#{number} failed", number=7)
    (event,) = events
    made = parsed(event)
    assert made["level"] == "critical"
    # Twisted's legacy logger has it in the message.
    traceback = made["message"].removeprefix("why\n") if isLegacy else made["traceback"]
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert HOSTILE in traceback
    lines = logs.journaldLines(event)
    assertHarmless(lines, 2)
    assert lines.count("\n") > 4
    assert "<2>\t<0>forged" in lines


def test_an_event_cannot_overwrite_the_fields_of_a_json_line() -> None:
    event = {
        "log_time": 0, "log_level": LogLevel.info, "log_namespace": "x", "log_format": "m",
        "level": "l", "message": "m2", "time": 1, "namespace": "n", "traceback": "t", "other": b"b",
    }  # fmt: skip
    assert parsed(event) == {
        "time": "1970-01-01T00:00:00.000000+00:00",
        "level": "info",
        "namespace": "x",
        "message": "m",
        "traceback": "t",
        "other": "b",
    }


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


def test_an_event_that_cannot_be_formatted_is_a_line_nevertheless(events: list[Any]) -> None:
    TwistedLogger(namespace="x").info("{o}", o=Unprintable())
    assert "MESSAGE LOST" in parsed(events[0])["message"]
    assertHarmless(logs.journaldLines(events[0]), 6)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (LogLevel.debug, 7),
        (LogLevel.info, 6),
        (LogLevel.warn, 4),
        (LogLevel.error, 3),
        (LogLevel.critical, 2),
    ],
)
def test_log_levels_are_the_priorities_of_syslog(
    level: Any, priority: int, events: list[Any]
) -> None:
    TwistedLogger(namespace="x").emit(level, "m")
    assert logs.journaldLines(events[0]) == f"<{priority}>[x#{level.name}] m\n"


def test_without_a_log_level_the_priority_is_info() -> None:
    event = {"log_time": 0, "log_format": "m"}
    assert logs.journaldLines(event) == "<6>[-#-] m\n"
    assert parsed(event) == {
        "time": "1970-01-01T00:00:00.000000+00:00",
        "level": "info",
        "namespace": "-",
        "message": "m",
    }


@pytest.mark.parametrize("form", [logs.jsonLine, logs.journaldLines, formatEventAsClassicLogText])
def test_remarks_of_the_log_itself_have_its_format(form: Any) -> None:
    made: list[str] = []

    def make(remark: Any) -> Any:
        made.append(remark("{lost} lines", lost=7))

    logs.Log(form, make)
    event = {"log_namespace": "echotwist", "log_level": LogLevel.warn, "log_format": "{lost} lines"}
    line = form({**event, "log_time": 0, "lost": 7})
    hasTime = re.compile(r"(\d{4}-[^ \"]+|(?<=\"time\": \")[^\"]+)")
    assert hasTime.sub("", made[0]) == hasTime.sub("", line)
    assert "7 lines" in line


def test_an_empty_event_is_no_line() -> None:
    assert logs.journaldLines({"log_time": 0}) == ""


@pytest.mark.parametrize("make", [logs.json, logs.journald])
def test_loggers_write_to_the_standard_output(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as output:
        monkeypatch.setattr(sys, "__stdout__", output)
        observer: Any = make()
        assert ILogObserver.providedBy(observer)
        observer({"log_time": 0, "log_format": "é\n"})
        observer({"log_time": 0, "log_format": ""})
        observer.output.flush(20)  # type: ignore[attr-defined]
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1 + (make is logs.json)
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(SystemExit, match="no standard output"):
        make()
