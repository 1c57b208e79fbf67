"""An answer in plain text: /healthz, an error, or why a request is not upgraded."""

from collections.abc import Mapping

from twisted.web.resource import Resource
from twisted.web.server import Request

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    426: b"Upgrade Required",
    503: b"Service Unavailable",
}


class Exact(Resource):
    """A resource below which there is what was put there, and NOTHING else."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return NOTHING


class Answer(Exact):
    """The same short text for every request.

    Twisted's own error pages quote the client's request, and its log quotes it too when
    they answer a HEAD.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._status = status
        self._body = f"{text}\n".encode()
        self._headers = headers or {}

    def render(self, request: Request) -> bytes:
        request.setResponseCode(self._status, _REASONS[self._status])
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("Content-Length", str(len(self._body)))
        for name, value in self._headers.items():
            # Added: Connection may be there already, to say close.
            request.responseHeaders.addRawHeader(name, value)
        return b"" if request.method == b"HEAD" else self._body


NOTHING = Answer(404, "there is nothing here; try / or /echo")
"""What every other URL gets."""
