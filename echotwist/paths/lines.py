"""What was measured, a line each, for people."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from echotwist.paths.cuts import told
from echotwist.paths.hops import hopsOf
from echotwist.paths.measured import Changes, Flow, Handshake, Measured, Size

Line = tuple[str, str, str]
"""Area, what was measured, and what came of it."""


def linesOf(measured: Measured, incomplete: Mapping[str, str]) -> Iterator[Line]:
    """What was measured, a line each; and the areas that could not be finished, with the reason."""
    yield from _ofHandshake(measured.get("handshake", {}), measured)
    for row in measured.get("idle", []):
        yield "idle and age", *_split(told(row))
    for shape in ("whole", "fragments"):
        sizes = [each for each in measured.get("sizes", []) if each["shape"] == shape]
        if sizes:
            yield "sizes", shape, _ofSizes(sizes)
    for check in measured.get("bytes", []):
        good = "the far end" if check["check"] == "who answers pings" else "as sent"
        words = {True: good, False: check["why"], None: f"not seen: {check['why']}"}
        yield "bytes", check["check"], words[check["passed"]]
    yield from _ofFlow(measured.get("flow", {}), measured.get("farEnd", {}).get("isLab", True))
    for area, why in incomplete.items():
        yield "not finished", area, why


def _split(words: str) -> tuple[str, str]:
    name, _, rest = words.partition(": ")
    return name, rest


def _ofHandshake(handshake: Handshake, measured: Measured) -> Iterator[Line]:
    area = "handshake"
    if handshake.get("addresses"):
        yield area, "addresses", ", ".join(handshake["addresses"])
    if "address" in handshake:
        yield area, "connected to", handshake["address"]
    if took := handshake.get("took"):
        stages = [f"{stage} {_ms(seconds)}" for stage, seconds in took.items()]
        yield area, "took", ", ".join(stages)
    if (tls := handshake.get("tls")) is not None:
        alpn = tls["alpn"] or "no ALPN"
        yield area, "TLS", f"{tls['version']}, {tls['cipher']}, {alpn}"
        yield area, "certificate", f"{tls['subject']}, by {tls['issuer']}, until {tls['notAfter']}"
    if "response" in handshake:
        yield area, "answer", handshake["response"]["line"]
    far = measured.get("farEnd")
    if far is not None:
        yield (
            area,
            "far end",
            "echotwist, with its lab" if far["isLab"] else f"no lab: {far['why']}",
        )
    hops = hopsOf(measured)
    if hops:
        yield area, "on the way", "; ".join(f"{hop.product} ({hop.evidence})" for hop in hops)
    for key, what in (("toServer", "the request arrives"), ("toClient", "the answer arrives")):
        changes = _any(handshake, key)
        if changes is not None:
            yield area, what, _ofChanges(changes)
    for key in ("extensions", "subprotocols"):
        offer = _any(handshake, key)
        if offer is not None:
            ways = (("arrived", "arrived"), ("answered", "answered"), ("received", "came back"))
            words = ", ".join(f"{verb} {offer[name] or 'nothing'}" for name, verb in ways)
            yield area, key, words
    for limit in handshake.get("limits", []):
        words = "passes" if limit["passed"] else limit["answer"]
        yield area, f"{limit['what']}, {limit['size']:,} bytes", words
    if (http2 := handshake.get("http2")) is not None:
        yield area, "HTTP/2", http2["why"] or "a WebSocket by RFC 8441"


def _ofChanges(changes: Changes) -> str:
    words: list[str] = []
    if changes["line"] is not None:
        words.append(f"as {changes['line']['arrived']!r}")
    for verb in ("added", "removed"):
        names = [f"{name}: {value}" for name, value in _any(changes, verb)]
        if names:
            words.append(f"{verb} {'; '.join(names)}")
    words += [
        f"{each['name']} rewritten from {each['sent']!r} to {each['arrived']!r}"
        for each in changes["rewritten"]
    ]
    if changes["isReordered"]:
        words.append("in another order")
    return ", ".join(words) or "as it was sent"


def _ofSizes(sizes: Sequence[Size]) -> str:
    failed = [each for each in sizes if not each["passed"]]
    if not failed:
        return f"pass, {len(sizes)} sizes up to {sizes[-1]['size']:,} bytes"
    return ", ".join(f"{each['size']:,} bytes: {each['why']}" for each in failed)


def _ofFlow(flow: Flow, isLab: bool) -> Iterator[Line]:
    area = "speed"
    for key, what in (
        ("toClient", f"trickle {'from the server' if isLab else 'there and back'}"),
        ("toServer", "trickle to the server"),
    ):
        trickle: Any = flow.get(key)
        if trickle is not None and trickle["received"]:
            gaps = trickle["received"]
            yield (
                area,
                what,
                (f"each {_ms(trickle['interval'])}; gaps of {_ms(min(gaps))} to {_ms(max(gaps))}"),
            )
    trips: list[tuple[str, Sequence[float | None]]] = [
        ("TCP", [flow.get("tcpRoundTrip")]),
        ("a ping", flow.get("pingRoundTrips", [])),
        ("a message", flow.get("messageRoundTrips", [])),
        ("a message, beside the bulk", flow.get("loadedRoundTrips", [])),
    ]
    for what, times in trips:
        found = [each for each in times if each is not None]
        if found:
            most = f", at most {_ms(max(found))}" if len(found) > 1 else ""
            yield area, f"round trip, {what}", f"{_ms(median(found))}{most}"
    if (burst := flow.get("burst")) is not None:
        order = "in order" if burst["inOrder"] else "not in order"
        yield area, "burst", f"{burst['count']} messages in {_ms(burst['seconds'])}, {order}"
    ways = (("down", "from the server"), ("up", "to the server"), ("echo", "there and back"))
    for key, what in ways:
        rate = _any(flow, key)
        if rate is not None:
            yield area, f"rate {what}", f"{rate / 1e6:.1f} MB/s"


def _any(facts: Any, key: str) -> Any:
    """What a TypedDict has by a name that is not written out; None if nothing."""
    return facts.get(key)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
