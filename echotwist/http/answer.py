"""Responses in plain text: /healthz, an error, or why a request is not upgraded."""

from collections.abc import Mapping

from twisted.web.resource import Resource
from twisted.web.server import Request

from echotwist import __version__

SERVER = f"echotwist/{__version__}"
"""The Server header of every response."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_TYPE = "text/plain; charset=utf-8"


class Refused(Exception):
    """A request is refused with this HTTP status, and a reason in our own words."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Exact(Resource):
    """A resource whose children are those that were put there. Every other is NOT_FOUND."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return NOT_FOUND


class Answer(Exact):
    """The same short text for every request; it may be empty.

    Twisted's own error pages quote the client's request; so does its log when they respond to a
    HEAD.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._status = status
        self._body = f"{text}\n".encode() if text else b""
        self._headers = headers or {}

    def render(self, request: Request) -> bytes:
        request.setResponseCode(self._status, _REASONS[self._status].encode())
        request.setHeader("Cache-Control", "no-store")
        if self._body:
            request.setHeader("Content-Type", _TYPE)
            request.setHeader("Content-Length", str(len(self._body)))
        for name, value in self._headers.items():
            # Added, not set: there may be a `Connection: close` already.
            request.responseHeaders.addRawHeader(name, value)
        return b"" if request.method == b"HEAD" else self._body


NOT_FOUND = Answer(404, "there is nothing here; try / or /echo")
"""The response for every other URL."""


def finalResponse(status: int, text: str, isHead: bool) -> bytes:
    """A whole response, for what Twisted has no request for. The connection ends with it."""
    body = f"{text}\n"
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nServer: {SERVER}\r\nConnection: close\r\n"
        f"Content-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n{'' if isHead else body}"
    ).encode("ascii")
