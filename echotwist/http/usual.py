"""The usual request to upgrade, read in one go.

Nearly every client sends its handshake in one segment, with nothing unusual in it. Twisted parses
that a line at a time, into a request with headers, for which it asks the resource tree: a third of
what a handshake cost. So such a request is recognised here. Whatever is unusual about it, or wrong,
is left to Twisted, to the tree and to `upgrade`, which would make the same of what is recognised:
the tests hold both ways together.

It is not compiled, because it takes only 5 µs of a handshake's 90; 9 µs for what Chromium sends
(measured).
"""

import re
from typing import NamedTuple

from echotwist.limits import MAX_HEADERS, MAX_REQUEST_LINE

_REQUEST = re.compile(rb"GET /([A-Za-z0-9._~-]*)(?:\?[\x21-\x7e]*)? HTTP/1\.1\r\n")
"""A request for a URL of one segment, without escapes."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""RFC 9110, 5.6.2, in lower case."""

_UPGRADE = {"upgrade", "keep-alive, upgrade"}
"""What clients say in Connection, in lower case."""

_READ = {
    *("host", "upgrade", "connection", "origin"),
    *("sec-websocket-version", "sec-websocket-key"),
    *("sec-websocket-protocol", "sec-websocket-extensions"),
}
"""Headers that matter to a handshake."""

_UNUSUAL = {"content-length", "transfer-encoding", "expect", "forwarded", "x-forwarded-for"}
"""Headers that matter to Twisted, or to `forwarded`."""


class UsualRequest(NamedTuple):
    """A request to upgrade."""

    headers: dict[str, str]
    """Those that matter, by their names in lower case."""

    early: bytes
    """What the client sent behind it."""


def segmentOf(data: bytes) -> bytes | None:
    """The only segment of the path, if `data` begins with a request that may be a usual one."""
    match = _REQUEST.match(data)
    return None if match is None else match[1]


def parse(data: bytes) -> UsualRequest | None:
    """The request that `data` begins with, if it is whole and usual. It has gone through
    `segmentOf`."""
    end = data.find(b"\r\n\r\n")
    # Twisted counts the request line by itself.
    if not 0 < end <= MAX_REQUEST_LINE:
        return None
    try:
        lines = data[:end].decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        return None
    if len(lines) > MAX_HEADERS:
        return None
    del lines[0]
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if name in _READ:
            if name in headers:
                return None
            headers[name] = value.strip(" ")
        elif name in _UNUSUAL or _TOKEN.fullmatch(name) is None:
            return None
        if not (colon and value.isprintable()):  # In ASCII: no control byte, nor a tab.
            return None
    if (
        headers.get("upgrade", "").lower() != "websocket"
        or headers.get("connection", "").lower() not in _UPGRADE
        or headers.get("sec-websocket-version") != "13"
    ):
        return None
    return UsualRequest(headers, data[end + 4 :])
