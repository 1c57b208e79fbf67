"""/lab/verdict: what the page of a browser has measured of its path, judged by the same rules as
what `echotwist probe` has.

    POST /lab/verdict, with `paths.measured.Measured` as JSON    {"findings": […], "lines": […]}

Nothing is kept. The rules trust their types, so all that comes is checked against those first.
"""

import json
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from echotwist.http.channel import Request
from echotwist.lab.answer import Open, answerJson, answerPreflight, refuse
from echotwist.limits import (
    LAB_MEASURED,
    LAB_MEASURED_HEADERS,
    LAB_MEASURED_LIST,
    LAB_MEASURED_TEXT,
)
from echotwist.paths.lines import linesOf
from echotwist.paths.measured import Measured
from echotwist.paths.rules import judge

_ALLOW = "GET, HEAD, OPTIONS, POST"

_REASON = "what was measured is malformed"
"""In the log; the answer says more, in the client's words."""

_MOST = 2**53
"""Of a number: what JavaScript counts to exactly. Larger ones would be as long as they like when
they are shown, or no float any more."""

_MOST_SHOWN = 40
"""Characters of a name that nobody knows."""


class VerdictResource(Open):
    """`/lab/verdict`."""

    mostBody = LAB_MEASURED

    def render_GET(self, request: Request) -> bytes:
        takes = f"POST what was measured, as JSON of at most {LAB_MEASURED:,} bytes"
        return answerJson(request, 200, {"usage": takes})

    def render_OPTIONS(self, request: Request) -> bytes:
        body = answerPreflight(request)
        for name in ("Allow", "Access-Control-Allow-Methods"):
            request.setHeader(name, _ALLOW)
        return body

    def render_POST(self, request: Request) -> bytes:
        try:
            measured = measuredOf(request)
        except Wrong as wrong:
            return refuse(request, _REASON, {"error": wrong.explained()})
        found = {
            "findings": [asdict(finding) for finding in judge(measured)],
            "lines": list(linesOf(measured, {})),
        }
        return answerJson(request, 200, found)


class Wrong(ValueError):
    """What is wrong with what came, in words of ours; `where` grows on its way up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where: list[str | int] = []

    def explained(self) -> dict[str, Any]:
        """For JSON: `at` is such as `idle[3].ended`, and empty for the whole."""
        at = ""
        for each in reversed(self.where):
            at += f"[{each}]" if isinstance(each, int) else f".{each}" if at else each
        return {"at": at, "problem": self.problem}


def measuredOf(request: Request) -> Measured:
    """What the body of a request has. Raises Wrong."""
    kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0]
    if kind.strip().lower() != b"application/json":
        raise Wrong("the Content-Type is not application/json")
    content: Any = request.content
    try:
        measured: Any = json.loads(content.read().decode(), parse_constant=_noConstant)
    except RecursionError:
        raise Wrong("it is nested too deeply") from None
    except Wrong:
        raise
    except ValueError:  # Also what is no UTF-8, and a number of thousands of digits.
        raise Wrong("it is no JSON") from None
    _CHECK(measured)
    found: Measured = measured
    return found


def _noConstant(name: str) -> None:
    raise Wrong(f"{name} is no JSON")


# The types of `measured`, as functions that raise Wrong.

_Check = Callable[[Any], object]


def _checkOf(kind: Any) -> _Check:
    if get_origin(kind) is NotRequired:
        return _checkOf(get_args(kind)[0])
    if isinstance(kind, types.UnionType):
        (some,) = (each for each in get_args(kind) if each is not types.NoneType)
        return _orNone(_checkOf(some))
    if is_typeddict(kind):
        return _object(kind)
    if kind == list[list[str]]:
        return _list(_pair, LAB_MEASURED_HEADERS)
    if get_origin(kind) is list:
        return _list(_checkOf(get_args(kind)[0]))
    if get_origin(kind) is dict:
        return _map(_checkOf(get_args(kind)[1]))
    return {str: _text, bool: _truth, int: _whole, float: _number}[kind]


def _orNone(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _object(kind: Any) -> _Check:
    hints = get_type_hints(kind, include_extras=True)
    checks = {name: _checkOf(hint) for name, hint in hints.items()}
    required: frozenset[str] = kind.__required_keys__

    def check(value: Any) -> None:
        for name, inner in _itemsOf(value):
            if name not in checks:
                raise Wrong(f"{name[:_MOST_SHOWN]!a} is not known here")
            _at(name, checks[name], inner)
        if missing := required - value.keys():
            raise Wrong(f"{min(missing)} is missing")

    return check


def _map(inner: _Check) -> _Check:
    def check(value: Any) -> None:
        for name, each in _itemsOf(value):
            _text(name)
            _at(ascii(name[:_MOST_SHOWN]), inner, each)

    return check


def _itemsOf(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise Wrong("is no object")
    if len(value) > LAB_MEASURED_LIST:
        raise Wrong(f"has more than {LAB_MEASURED_LIST} members")
    yield from value.items()


def _list(inner: _Check, most: int = LAB_MEASURED_LIST) -> _Check:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise Wrong("is no list")
        if len(value) > most:
            raise Wrong(f"has more than {most} elements")
        for number, each in enumerate(value):
            _at(number, inner, each)

    return check


def _pair(value: Any) -> None:
    _texts(value)
    if len(value) != 2:
        raise Wrong("is no pair of a name and a value")


def _at(where: str | int, check: _Check, value: Any) -> None:
    try:
        check(value)
    except Wrong as wrong:
        wrong.where.append(where)
        raise


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise Wrong("is no text")
    if len(value) > LAB_MEASURED_TEXT:
        raise Wrong(f"has more than {LAB_MEASURED_TEXT:,} characters")


def _truth(value: Any) -> None:
    if not isinstance(value, bool):
        raise Wrong("is neither true nor false")


def _whole(value: Any) -> None:
    if not isinstance(value, int):
        raise Wrong("is no whole number")
    _number(value)


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong("is no number")
    if not -_MOST <= value <= _MOST:
        raise Wrong("is out of range")


_texts = _list(_text)
_CHECK = _checkOf(Measured)
