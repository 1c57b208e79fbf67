"""What a probe has measured, as plain data: the types of it. docs/probe.schema.json says the same.

All durations are in seconds. `None` is what could not be seen.
"""

from typing import NotRequired, TypedDict


class Change(TypedDict):
    """A header with other values than those that were sent, or the first line."""

    name: str
    sent: str
    arrived: str


class Changes(TypedDict):
    """What became of a head on its way. Names that differ in nothing but case count as the same."""

    line: Change | None
    added: list[list[str]]
    """Name and value."""

    removed: list[list[str]]
    rewritten: list[Change]
    isReordered: bool


class Tls(TypedDict):
    version: str
    cipher: str
    alpn: str | None
    subject: str
    issuer: str
    notAfter: str
    """The certificate's, in ISO 8601, UTC."""

    distrust: str | None
    """Why the certificate is not trusted; None if it is, or if nobody asked."""


class Offer(TypedDict):
    """What became of a list of offers, on its way there, and of the answer on its way back."""

    offered: str
    arrived: str | None
    """None without a lab, or if nothing arrived."""

    answered: str | None
    received: str | None


class Limit(TypedDict):
    """A handshake with something large in it."""

    what: str
    """`cookie` or `query`."""

    size: int
    """Bytes."""

    answer: str
    """The first line of the answer, or what came instead."""

    passed: bool


class Arrived(TypedDict):
    """A request as the server saw it."""

    version: str
    """`HTTP/1.1`."""

    headers: list[list[str]]
    """Names and values."""


class Refusal(TypedDict):
    """Why there is no WebSocket."""

    why: str
    status: int | None
    location: str | None
    body: str
    """How the answer begins."""

    arrived: Arrived | None
    """A request with the same headers, from `/lab/inspect`."""


class Http2(TypedDict):
    """A WebSocket by RFC 8441; None is what it has not come to."""

    alpn: str | None
    """What was negotiated, of h2 alone."""

    connectProtocol: bool | None
    """Whether the server offers it, by its SETTINGS."""

    status: int | None
    """Of the answer to the extended CONNECT."""

    echoed: bool
    """Whether a message came back."""

    why: str
    """What it failed by; empty if it worked."""


class Unreached(TypedDict):
    """Why nothing could be asked."""

    stage: str
    """`dns`, `tcp`, `proxy` or `tls`."""

    why: str


class Response(TypedDict):
    line: str
    headers: list[list[str]]
    """Names and values."""


class Handshake(TypedDict, total=False):
    addresses: list[str]
    """What the name resolves to."""

    address: str
    """What was connected to: a host's, or the proxy's."""

    took: dict[str, float]
    """Seconds of `dns`, `tcp`, `proxy`, `tls`, `upgrade`, in that order."""

    notReached: Unreached | None
    tls: Tls | None
    response: Response
    refused: Refusal | None
    labRefused: Refusal | None
    """Why the lab could not be reached by a WebSocket, if the URL could."""

    toServer: Changes | None
    toClient: Changes | None
    extensions: Offer
    subprotocols: Offer
    limits: list[Limit]
    http2: Http2


class ClientEnd(TypedDict):
    """The end of a connection as the client saw it."""

    how: str
    """`close`, a close frame; `fin`; `closeNotify`; `eof`, over TLS an end without one; `rst`;
    `broken`, an alert of TLS, or what is no WebSocket. A browser tells but a close frame from the
    rest, in words."""

    code: int | None
    reason: str


class ServerEnd(TypedDict):
    """The end of a connection as the server saw it."""

    age: float
    """The connection's."""

    by: str
    """`client` or `server`."""

    how: str
    """As docs/trace.schema.json has it, as `by` and `tcp`."""

    tcp: str | None


class Row(TypedDict):
    """One of the connections that lie there, or talk, for as long as they may."""

    row: str
    """`silent`, `serverPings`, `serverData`, `clientData`, `both`; without a lab `silent`,
    `clientPings`, `both`."""

    opened: float
    """Since the probe began."""

    watched: float
    """For how long it was looked at."""

    ended: float | None
    """Its age when the client saw the end; None if it did not."""

    client: ClientEnd | None
    server: ServerEnd | None
    """None if it saw no end, or cannot be asked."""

    isServerKnown: bool
    alive: bool | None
    """Whether a ping was answered in the end, or else a close; None if the client had seen the end
    before."""

    fromServer: float
    """Seconds since the last bytes from there, at the end."""

    fromClient: float


class Size(TypedDict):
    size: int
    shape: str
    """`whole`, or `fragments`."""

    passed: bool
    why: str
    """What happened instead of an echo; empty if it was one."""

    code: int | None
    """Of the close frame that came instead."""

    arrived: bool | None
    """Whether it came to the server."""

    refusedByServer: bool


class Check(TypedDict):
    """Something that must arrive as it was sent."""

    check: str
    passed: bool | None
    """None if it could not be tried, or not be seen."""

    why: str


class Trickle(TypedDict):
    """Messages at equal intervals, seen from both ends: the gaps between them."""

    interval: float
    sent: list[float]
    """As they left; without a lab, as they were due."""

    received: list[float]


class Burst(TypedDict):
    """Messages sent at once, each of which must come back in its turn."""

    count: int
    seconds: float
    inOrder: bool


class Flow(TypedDict, total=False):
    toClient: Trickle
    toServer: Trickle
    tcpRoundTrip: float | None
    pingRoundTrips: list[float]
    messageRoundTrips: list[float]
    burst: Burst
    down: float
    """Bytes a second."""

    up: float
    echo: float
    """There and back together, without a lab."""

    loadedRoundTrips: list[float]
    """Of messages on one connection while another one carries the bulk."""


class FarEnd(TypedDict):
    isLab: bool
    why: str
    """Why there is no lab; empty if there is one."""

    server: str | None
    """As the plain answer names it, which may be a proxy."""


class Measured(TypedDict):
    farEnd: NotRequired[FarEnd]
    handshake: NotRequired[Handshake]
    idle: NotRequired[list[Row]]
    sizes: NotRequired[list[Size]]
    bytes: NotRequired[list[Check]]
    flow: NotRequired[Flow]
