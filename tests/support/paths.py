"""What a probe has measured, for tests of what is made of it: a clean path, of which each test
changes one thing."""

from typing import Any

from echotwist.paths.finding import Finding
from echotwist.paths.measured import (
    Arrived,
    Changes,
    Check,
    Handshake,
    Http2,
    Measured,
    Refusal,
    Row,
    Size,
    Trickle,
)
from echotwist.paths.rules import judge

FIN: dict[str, Any] = {"how": "fin", "code": None, "reason": ""}
RST: dict[str, Any] = {"how": "rst", "code": None, "reason": ""}

LAB = ("silent", "serverPings", "serverData", "clientData", "both")
ONE_SIDED = ("silent", "clientPings", "both")

APART = 2.0
"""Seconds between the openings of two rows."""


def clean(**changed: Any) -> Measured:
    """Of a path on which nothing is found."""
    measured: dict[str, Any] = {
        "farEnd": {"isLab": True, "why": "", "server": "echotwist"},
        "handshake": handshake(),
        "bytes": [check("text"), check("who answers pings"), check("the client's close")],
        "sizes": [size(125), size(16_384), size(125, "fragments"), size(16_384, "fragments")],
        "flow": {
            "toClient": trickle([0.2] * 24),
            "toServer": trickle([0.2] * 24),
            "tcpRoundTrip": 0.01,
            "pingRoundTrips": [0.01] * 20,
            "messageRoundTrips": [0.011] * 20,
            "burst": {"count": 500, "seconds": 0.1, "inOrder": True},
            "down": 1e7,
            "up": 1e7,
            "loadedRoundTrips": [0.02],
        },
        "idle": rows(LAB),
    }
    return {**measured, **changed}  # type: ignore[typeddict-item]


def withHandshake(**changed: Any) -> Measured:
    return clean(handshake={**handshake(), **changed})


def withFlow(**changed: Any) -> Measured:
    return clean(flow={**clean()["flow"], **changed})


def withoutLab(measured: Measured) -> Measured:
    return {**measured, "farEnd": {"isLab": False, "why": "it is none", "server": None}}


def handshake() -> Handshake:
    return {
        "addresses": ["192.0.2.1"],
        "address": "192.0.2.1:443",
        "took": {"dns": 0.001, "tcp": 0.01, "tls": 0.02, "upgrade": 0.01},
        "tls": {
            "version": "TLSv1.3",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "alpn": None,
            "subject": "CN=canary.example",
            "issuer": "CN=R11,O=Let's Encrypt,C=US",
            "notAfter": "2027-01-01T00:00:00+00:00",
            "distrust": None,
        },
        "response": {"line": "HTTP/1.1 101 Switching Protocols", "headers": []},
        "toServer": changes(),
        "toClient": changes(),
        "extensions": {
            "offered": "permessage-deflate",
            "arrived": "permessage-deflate",
            "answered": "permessage-deflate",
            "received": "permessage-deflate",
        },
        "subprotocols": {"offered": "a, b", "arrived": "a, b", "answered": "b", "received": "b"},
        "limits": [limit("cookie", 4_000), limit("cookie", 8_000), limit("query", 8_000)],
        "http2": http2(""),
    }


def http2(why: str) -> Http2:
    """`why` there is no WebSocket by RFC 8441; empty if there is."""
    return {
        "alpn": "h2",
        "connectProtocol": not why,
        "status": None if why else 200,
        "echoed": not why,
        "why": why,
    }


def changes(**changed: Any) -> Changes:
    nothing: Changes = {
        "line": None,
        "added": [],
        "removed": [],
        "rewritten": [],
        "isReordered": False,
    }
    return {**nothing, **changed}  # type: ignore[typeddict-item]


def limit(what: str, size: int, answer: str = "") -> Any:
    return {
        "what": what,
        "size": size,
        "answer": answer or "HTTP/1.1 101 Switching Protocols",
        "passed": not answer,
    }


def refusal(status: int | None, **changed: Any) -> Refusal:
    why = "no answer in 15 s" if status is None else f"the answer is 'HTTP/1.1 {status} …'"
    plain = {"why": why, "status": status, "location": None, "body": "", "arrived": None}
    return {**plain, **changed}  # type: ignore[typeddict-item]


def arrived(version: str = "HTTP/1.1", *headers: tuple[str, str]) -> Arrived:
    """As `/lab/inspect` answers."""
    return {"version": version, "headers": [list(each) for each in headers]}


def check(name: str, why: str = "", passed: bool | None = None) -> Check:
    return {"check": name, "passed": not why if passed is None else passed, "why": why}


def size(size: int, shape: str = "whole", why: str = "", **changed: Any) -> Size:
    result = {
        "size": size,
        "shape": shape,
        "passed": not why,
        "why": why,
        "code": None,
        "arrived": False if why else None,
        "refusedByServer": False,
    }
    return {**result, **changed}  # type: ignore[typeddict-item]


def ladder(shape: str, most: int, *, why: str = "a reset", **changed: Any) -> list[Size]:
    """Sizes of one shape, of which those above `most` do not pass."""
    sizes = (125, 16_384, 32_768, 32_769, 65_535, 65_536, 131_072, 131_073, 1_048_576, 1_048_577)
    return [size(each, shape, *((why,) if each > most else ()), **changed) for each in sizes]


def trickle(received: list[float], sent: list[float] | None = None) -> Trickle:
    return {"interval": 0.2, "sent": [0.2] * 24 if sent is None else sent, "received": received}


def row(name: str, *, opened: float = 0.0, watched: float = 150.0, **changed: Any) -> Row:
    """One that is open at the end."""
    plain: Row = {
        "row": name,
        "opened": opened,
        "watched": watched,
        "ended": None,
        "client": None,
        "server": None,
        "isServerKnown": False,
        "alive": True,
        "fromServer": 0.0,
        "fromClient": 0.0,
    }
    return {**plain, **changed}  # type: ignore[typeddict-item]


def cut(name: str, age: float, *, isLab: bool = True, **changed: Any) -> Row:
    """One whose end both have seen, as far as the server can be asked."""
    facts: dict[str, Any] = {
        "watched": age,
        "ended": age,
        "client": FIN,
        "server": {"age": age, "by": "client", "how": "fin", "tcp": "fin"} if isLab else None,
        "isServerKnown": isLab,
        "alive": None,
        "fromServer": age if name in ("silent", "clientData") else 0.0,
        "fromClient": age if name in ("silent", "serverData", "serverPings") else 0.0,
    }
    return row(name, **{**facts, **changed})


def dead(name: str, watched: float = 160.0, **changed: Any) -> Row:
    """One that does not answer in the end; the client was told nothing, and the server neither."""
    return row(name, watched=watched, **{"alive": False, "isServerKnown": True, **changed})


def rows(names: tuple[str, ...], *special: Row, seconds: float = 150.0) -> list[Row]:
    """Side by side, opened one after the other; `special` are those that do not live."""
    by = {each["row"]: each for each in special}
    made = []
    for number, name in enumerate(names):
        opened = APART * number
        found = by.get(name, row(name, watched=seconds - opened))
        made.append({**found, "opened": opened})
    return made  # type: ignore[return-value]


def only(measured: Measured) -> Finding:
    """The one finding."""
    found = judge(measured)
    assert len(found) == 1, found
    return found[0]


def ids(measured: Measured) -> list[str]:
    return [finding.rule for finding in judge(measured)]
