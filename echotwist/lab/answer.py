"""What the lab's answers over HTTP have in common: pages of every origin may read them, nobody
stores them, and what is wrong with a request is said in JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from echotwist.http.answer import Exact, Refused
from echotwist.http.channel import Request
from echotwist.http.site import ALLOW

_REASON = "a parameter of the lab is wrong"
"""In the log; the answer says more, in the client's words."""

_MOST = 20
"""Parameters that are told apart; what is behind them makes the last one wrong."""

_PREFLIGHT = {
    "Allow": ALLOW,
    "Access-Control-Allow-Methods": ALLOW,
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "600",
}


class Open(Exact):
    """A resource that pages of every origin may read. That is without credentials: a browser gives
    nothing to a page that asks with a cookie and is answered with `*`."""

    def render(self, request: Request) -> bytes | int:
        setOpen(request)
        rendered: bytes | int = super().render(request)
        return rendered

    def render_OPTIONS(self, request: Request) -> bytes:
        return answerPreflight(request)


def setOpen(request: Request) -> None:
    request.setHeader("Access-Control-Allow-Origin", "*")
    request.setHeader("Cache-Control", "no-store")


def answerPreflight(request: Request) -> bytes:
    """The response to a preflight, by which a browser asks whether a page may ask: any may."""
    setOpen(request)
    for name, value in _PREFLIGHT.items():
        request.setHeader(name, value)
    return b""


def answerText(request: Request, contentType: str, text: str) -> bytes:
    body = text.encode()
    request.setHeader("Content-Type", contentType)
    request.setHeader("Content-Length", str(len(body)))
    return b"" if request.method == b"HEAD" else body


def answerJson(request: Request, status: int, what: Any) -> bytes:
    """`what` as JSON in ASCII, whatever a client put into it."""
    request.setResponseCode(status)
    setOpen(request)
    return answerText(request, "application/json", json.dumps(what, indent=1) + "\n")


def dateTime(seconds: float) -> str:
    """In UTC, to the microsecond; `seconds` are since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def refuse(request: Request, reason: str, error: Any) -> bytes:
    """The response 400 with `error`, which may have words of the client. The log has a line with
    the `reason`, and /metrics a count."""
    site: Any = request.site
    site.refusal(request, Refused(400, reason))
    return answerJson(request, 400, error)


class BadParameter(ValueError):
    """A parameter that does not exist, is missing, or is wrong. `name` is bounded."""

    def __init__(self, name: str, problem: str, takes: str) -> None:
        super().__init__(problem)
        self.name = name
        self.problem = problem
        self.takes = takes

    def explained(self) -> dict[str, Any]:
        error = {"parameter": self.name, "problem": self.problem, "takes": self.takes}
        return {"error": error}


@dataclass(frozen=True)
class Parameter:
    """A parameter in the query of a URL."""

    takes: str
    """In words: `a time from 100ms to 600s`."""

    parse: Callable[[str], Any]
    """Raises ValueError."""

    default: Any = None
    """Its value if it is not given."""


def argumentsOf(request: Request) -> dict[str, list[bytes]]:
    """What the query of a URL gives, by its name: printable and bounded.

    Twisted's own `args` begin anew at a semicolon, as forms once did, and there are some in the
    names of clients; and they leave out what has no `=`.
    """
    found: dict[str, list[bytes]] = {}
    for part in request.uri.partition(b"?")[2].split(b"&", _MOST):
        name, _, value = part.replace(b"+", b" ").partition(b"=")
        if part:
            shown = unquote_to_bytes(name).decode("ascii", "backslashreplace")[:40]
            found.setdefault(shown, []).append(unquote_to_bytes(value))
    return found


def parametersOf(request: Request, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values of all that are `known`, by their names. Raises BadParameter."""
    values = {name: parameter.default for name, parameter in known.items()}
    for name, texts in argumentsOf(request).items():
        if name not in known:
            raise BadParameter(name, "is no parameter here", ", ".join(known) or "nothing")
        parameter = known[name]
        if len(texts) > 1:
            raise BadParameter(name, "came twice", parameter.takes)
        try:
            values[name] = parameter.parse(texts[0].decode())
        except ValueError:  # Also what is no UTF-8.
            raise BadParameter(name, "is malformed, or out of range", parameter.takes) from None
    return values


def refuseParameter(request: Request, bad: BadParameter) -> bytes:
    """The response to a request with a bad parameter."""
    return refuse(request, _REASON, bad.explained())
