"""Which headers of a request the lab shows.

A client knows its own request, but a page in a browser does not: the browser adds cookies that no
script may read, and a proxy adds tokens and the name of the user. A page of any host may open a
WebSocket, which is sent with all of these and asks for no CORS, and could read them at
`/lab/inspect` or `/trace/ID`. So a value is shown only if its header is listed here: a list of
secrets would miss what the next proxy adds.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SHOWN = re.compile(
    # What the client and each hop say of the connection and of the answer that they want.
    rb"host|connection|keep-alive|upgrade|te|user-agent|origin|accept(-[a-z-]+)?"
    rb"|cache-control|pragma|sec-websocket-[a-z-]+|sec-fetch-[a-z-]+"
    # Whom the request came from, and by which way.
    rb"|via|forwarded|x-forwarded-(for|proto|host|port)|x-real-ip|true-client-ip|cf-connecting-ip"
    rb"|cdn-loop|cf-ray|x-amzn-trace-id|x-cloud-trace-context|x-azure-ref|x-varnish"
    rb"|x-request-id|x-correlation-id|traceparent",
    re.IGNORECASE,
)


class Header(NamedTuple):
    """A header of a request, as it may be shown."""

    name: bytes
    value: bytes | None
    """None if it is not shown."""

    size: int
    """Bytes of the value."""


def headersOf(lines: Iterable[bytes]) -> Iterator[Header]:
    """The headers in these lines, none of which is folded: `Channel` unfolds them."""
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        yield Header(name, value if _SHOWN.fullmatch(name) else None, len(value))
