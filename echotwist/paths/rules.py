"""The verdicts: from what was measured to findings, the worst first.

Each rule is a function of what was measured, and speaks only of what it has seen. Pure functions:
the probe calls them, and the service for the page of a browser, which measures for itself.
"""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from echotwist.paths import cuts, known
from echotwist.paths.finding import LEVELS, Finding
from echotwist.paths.hops import Hop, hopsOf
from echotwist.paths.measured import (
    Changes,
    Check,
    Handshake,
    Measured,
    Offer,
    Refusal,
    Size,
    Tls,
    Trickle,
)

_UPGRADE_CURES = [
    "nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";` in the location',
    "Apache: `ProxyPass /echo http://backend/echo upgrade=websocket`",
    "Varnish: `return (pipe)` in vcl_recv, and pass Upgrade on in vcl_pipe",
]

_INSPECTORS = re.compile(
    r"kaspersky|eset\b|avast|\bavg\b|bitdefender|zscaler|netskope|forti(net|gate)|palo alto|sophos"
    r"|blue coat|cisco umbrella|mcafee|trend micro|check ?point|adguard|squid|mitmproxy|portswigger"
    r"|zap root|fiddler|charles proxy",
    re.IGNORECASE,
)
"""Words in the issuer of a certificate that somebody between has made."""


def judge(measured: Measured) -> list[Finding]:
    """All findings, the worst first."""
    hops = hopsOf(measured)
    handshake: Handshake = measured.get("handshake", {})
    found: list[Finding] = []
    found += _tls(handshake.get("tls"))
    if (refused := handshake.get("refused")) is not None:
        found.append(_refused(refused, hops))
    if (refused := handshake.get("labRefused")) is not None:
        found.append(_labRefused(refused))
    found += _headers(handshake)
    found += _offers(handshake)
    found += _limits(handshake)
    found += _http2(handshake)
    found += cuts.judge(measured.get("idle", []), hops)
    found += _sizes(measured.get("sizes", []), hops)
    found += _checks(measured.get("bytes", []))
    found += _flow(measured)
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


# The handshake.


def _tls(tls: Tls | None) -> Iterator[Finding]:
    if tls is None:
        return
    issuer = f"issued by {tls['issuer']}, for {tls['subject']}, until {tls['notAfter']}"
    isInspected = _INSPECTORS.search(tls["issuer"]) is not None
    if tls["distrust"] is not None:
        yield Finding(
            "tls-distrust",
            "problem",
            f"the certificate is not trusted: {tls['distrust']}",
            [issuer],
            ["an antivirus or a proxy that inspects TLS"] if isInspected else [],
            [
                "if the issuer is not the server's own: have what inspects TLS leave it alone",
                "if it is: give its certificate as --cacert, and mend the chain that is served",
            ],
        )
    elif isInspected:
        yield Finding(
            "tls-inspected",
            "limit",
            "the certificate is not the server's: somebody between inspects TLS",
            [issuer],
            ["an antivirus or a proxy that inspects TLS"],
            ["have it leave this host alone, if anything else here is wrong"],
        )


def _refused(refused: Refusal, hops: Sequence[Hop]) -> Finding:
    status, location = refused["status"], refused["location"]
    evidence = [refused["why"]]
    if refused["body"].strip():
        evidence.append(f"its body begins with {refused['body'].strip()[:120]!r}")
    evidence += [f"{hop.product} is on the way: {hop.evidence}" for hop in hops]
    if status == 101:
        return Finding(
            "answer-stripped",
            "problem",
            f"the server's 101 was changed on its way: {refused['why']}",
            evidence,
            ["a proxy that strips or rewrites hop-by-hop headers of answers"],
            ["have it pass Upgrade, Connection and Sec-WebSocket-Accept of a 101 on as they are"],
        )
    if status is not None and 300 <= status < 400 and location:
        return Finding(
            "redirect",
            "problem",
            f"the handshake is redirected to {location}, and WebSocket clients do not follow",
            evidence,
            ["a web server that sends http to https, or to another name, or adds a slash"],
            [f"connect to {_asWebSocket(location)}"],
        )
    arrived = refused["arrived"]
    if arrived is not None:
        stripped = _stripped(arrived, evidence)
        if stripped is not None:
            return stripped
    if status in (401, 403, 407):
        title = f"the handshake is refused with {status}: somebody wants credentials, or an Origin"
        cures = ["give them as --header 'Authorization: …' or --header 'Cookie: …'"]
        return Finding("refused", "problem", title, evidence, cures=cures)
    if status in (502, 503, 504):
        title = f"a proxy answers {status}: it did not get an answer from the server"
        cures = ["look whether the server runs, and whether the proxy knows where"]
        return Finding("unreachable", "problem", title, evidence, cures=cures)
    title = f"the handshake is refused: {refused['why']}"
    if arrived is not None:
        evidence.append("the same request does arrive in order at /lab/inspect")
    return Finding("refused", "problem", title, evidence, cures=_UPGRADE_CURES[:1] if hops else [])


def _stripped(arrived: dict[str, object], evidence: list[str]) -> Finding | None:
    """What the server says it saw of a request that should have been one to upgrade."""
    headers: list[list[str]] = arrived.get("headers", [])  # type: ignore[assignment]
    found = {name.lower(): value for name, value in headers}
    version = str(arrived.get("version", ""))
    seen = [f"the server saw {version}"]
    seen += [f"{name}: {found[name]}" for name in ("connection", "upgrade") if name in found]
    hasUpgrade = "websocket" in found.get("upgrade", "").lower()
    hasConnection = "upgrade" in found.get("connection", "").lower()
    if hasUpgrade and hasConnection and version == "HTTP/1.1":
        return None
    missing = [
        *(["Upgrade"] if not hasUpgrade else []),
        *(["Connection: Upgrade"] if not hasConnection else []),
    ]
    if missing:
        title = f"{' and '.join(missing)} did not arrive at the server: a hop has kept them"
        if version != "HTTP/1.1":
            title += f", and speaks {version} to it"
    else:
        title = f"a hop speaks {version} to the server, and an upgrade needs HTTP/1.1"
    return Finding(
        "upgrade-stripped",
        "problem",
        title,
        [*evidence, ", ".join(seen)],
        ["a reverse proxy that was not told of WebSockets, such as nginx with proxy_pass alone"],
        list(_UPGRADE_CURES),
    )


def _asWebSocket(location: str) -> str:
    for scheme, other in (("https://", "wss://"), ("http://", "ws://")):
        if location.startswith(scheme):
            return other + location.removeprefix(scheme)
    return location


def _labRefused(refused: Refusal) -> Finding:
    return Finding(
        "lab-refused",
        "note",
        "the URL can be reached by a WebSocket, and /lab beside it cannot: only one side was seen",
        [refused["why"]],
        ["a proxy that was told of WebSockets for one path only"],
        ["have it treat /lab as it does the URL, to learn more"],
    )


def _headers(handshake: Handshake) -> Iterator[Finding]:
    there: Changes | None = handshake.get("toServer")
    back: Changes | None = handshake.get("toClient")
    if there is not None:
        rewritten = {each["name"].lower(): each for each in there["rewritten"]}
        removed = {name.lower() for name, _ in there["removed"]}
        if "origin" in rewritten or "origin" in removed:
            became = rewritten.get("origin")
            yield Finding(
                "origin-changed",
                "limit",
                "the Origin does not arrive as it was sent: a server that checks it is misled",
                [f"it arrived as {became['arrived']!r}" if became else "it did not arrive"],
            )
        if "sec-websocket-key" in rewritten:
            yield Finding(
                "terminated",
                "note",
                "a hop ends the WebSocket, and speaks one of its own to the server",
                ["another Sec-WebSocket-Key arrived"],
                cures=[
                    "whatever it does not pass on, frames or codes, is among the other findings"
                ],
            )
        if there["line"] is not None and there["line"]["arrived"].endswith("HTTP/1.0"):
            yield Finding(
                "http-1.0",
                "note",
                "a hop speaks HTTP/1.0 to the server, which other servers do not upgrade",
                [there["line"]["arrived"]],
                cures=["nginx: `proxy_http_version 1.1;`"],
            )
    if back is not None and back["removed"]:
        names = ", ".join(name for name, _ in back["removed"])
        yield Finding(
            "answer-shortened",
            "note",
            f"headers of the 101 did not arrive: {names}",
            [f"{name}: {value}" for name, value in back["removed"]],
        )


def _offers(handshake: Handshake) -> Iterator[Finding]:
    for key, what in (("extensions", "compression"), ("subprotocols", "a subprotocol")):
        offer: Offer | None = handshake.get(key)  # type: ignore[assignment]
        if offer is None or handshake.get("toServer") is None:
            continue
        evidence = [
            f"offered {offer['offered']}",
            f"arrived: {offer['arrived'] or 'nothing'}",
            f"answered: {offer['answered'] or 'nothing'}",
            f"came back: {offer['received'] or 'nothing'}",
        ]
        if offer["answered"] != offer["received"]:
            yield Finding(
                f"{key}-answer-changed",
                "problem",
                f"what the server agreed to is not what the client hears: {what} is misunderstood",
                evidence,
                ["a proxy that strips extensions or subprotocols of answers alone"],
                ["have it pass Sec-WebSocket-Extensions and Sec-WebSocket-Protocol on, both ways"],
            )
        elif offer["arrived"] is None:
            yield Finding(
                f"{key}-stripped",
                "limit",
                f"the offer of {what} does not arrive at the server",
                evidence,
                ["a proxy that inspects messages, such as ZAP, which strips extensions by default"],
                ["have it pass Sec-WebSocket-Extensions and Sec-WebSocket-Protocol on"],
            )


def _limits(handshake: Handshake) -> Iterator[Finding]:
    refused = [each for each in handshake.get("limits", []) if not each["passed"]]
    for what in ("cookie", "query"):
        sizes = [each for each in refused if each["what"] == what]
        if not sizes:
            continue
        least = min(sizes, key=lambda each: each["size"])
        isSmall = what == "cookie" and least["size"] <= 4_000
        yield Finding(
            f"large-{what}",
            "problem" if isSmall else "note",
            f"a handshake with a {what} of {least['size']:,} bytes is refused",
            [f"{each['size']:,} bytes: {each['answer']}" for each in sizes],
            ["nginx: large_client_header_buffers, 8 KB a line by default"],
            ["keep it below, or raise the limit of the hop that answers"],
        )


def _http2(handshake: Handshake) -> Iterator[Finding]:
    http2 = handshake.get("http2")
    if http2 is None:
        return
    if http2.get("why"):
        yield Finding(
            "http2-refused",
            "note",
            "no WebSocket over HTTP/2 (RFC 8441) on this path",
            [str(http2["why"])],
            cures=["browsers use HTTP/1.1 for WebSockets then: it must be offered beside h2"],
        )


# Messages.


def _sizes(sizes: Sequence[Size], hops: Sequence[Hop]) -> Iterator[Finding]:
    failed = [each for each in sizes if not each["passed"]]
    if not failed:
        return
    evidence = [f"{_size(each['size'])}, {each['shape']}: {each['why']}" for each in failed]
    if all(each["refusedByServer"] for each in failed):
        least = min(each["size"] for each in failed)
        yield Finding(
            "server-limit",
            "note",
            f"the server itself takes no message of {_size(least)}",
            evidence,
        )
        return
    whole = _limit(sizes, "whole")
    pieces = _limit(sizes, "fragments")
    if whole is None and pieces is None:
        yield Finding("size", "problem", "some sizes do not pass, and larger ones do", evidence)
        return
    if whole is not None and (pieces is None or pieces > whole):
        title = f"a frame above {_size(whole)} does not pass; the same message in fragments does"
        if pieces is not None:
            title += f", up to {_size(pieces)}"
        cures = ["have clients and server send larger messages in fragments, or raise the limit"]
    elif whole is not None:
        title = f"a message above {_size(whole)} does not pass, in fragments neither"
        cures = ["raise the limit of the hop that cuts it, or send less at a time"]
    else:
        assert pieces is not None
        title = f"a message above {_size(pieces)} in fragments does not pass, and whole it does"
        cures = ["have clients and server send it whole"]
    if all(each["arrived"] for each in failed):
        title += ", on its way back"
    yield Finding("size-limit", "limit", title, evidence, _knownSizes(whole, pieces), cures)


def _limit(sizes: Sequence[Size], shape: str) -> int | None:
    """The largest that passes, if all above do not; else None."""
    passed = [each["size"] for each in sizes if each["shape"] == shape and each["passed"]]
    failed = [each["size"] for each in sizes if each["shape"] == shape and not each["passed"]]
    most = max(passed, default=0)
    return most if failed and min(failed) > most else None


def _knownSizes(whole: int | None, pieces: int | None) -> list[str]:
    return [
        f"{each.product} ({each.source})"
        for each in known.SIZES
        if (each.frame is not None and each.frame == whole)
        or (each.message is not None and each.message in (whole, pieces))
    ]


def _size(size: int) -> str:
    return f"{size:,} bytes"


_CHECKS = {
    "a compressed message": (
        "compression",
        "problem",
        "compression is agreed on, and a compressed message does not pass",
        "a proxy that reads frames, and passes on the negotiation that it does not understand",
        "have it strip Sec-WebSocket-Extensions, or understand permessage-deflate",
    ),
    "who answers pings": (
        "pings-between",
        "limit",
        "pings are answered by somebody between: they tell nothing of the server",
        "a proxy that ends the WebSocket, and speaks one of its own to the server",
        "have the client send messages that the server answers, as a heartbeat",
    ),
    "frames and masks": (
        "reframed",
        "note",
        "frames do not arrive as they were sent: a hop decodes them",
        "a proxy or a firewall that inspects messages",
        "",
    ),
    "the client's close": (
        "close-to-server",
        "problem",
        "the client's close does not arrive as it was sent",
        "a proxy that ends the WebSocket, and speaks one of its own to the server",
        "do not rely on close codes over this path",
    ),
    "the server's close": (
        "close-to-client",
        "problem",
        "the server's close does not arrive as it was sent",
        "a proxy that ends the WebSocket, and speaks one of its own to the server",
        "do not rely on close codes over this path",
    ),
}


def _checks(checks: Sequence[Check]) -> Iterator[Finding]:
    for check in checks:
        if check["passed"] is not False:
            continue
        if check["check"] in _CHECKS:
            rule, level, title, suspect, cure = _CHECKS[check["check"]]
            cures = [cure] if cure else []
            yield Finding(rule, level, title, [check["why"]], [suspect], cures)
        else:
            title = f"{check['check']}: not as it was sent"
            yield Finding("bytes", "problem", title, [check["why"]])


# Speed.


def _flow(measured: Measured) -> Iterator[Finding]:
    flow = measured.get("flow", {})
    for key, way in (("toClient", "from the server"), ("toServer", "to the server")):
        trickle: Trickle | None = flow.get(key)  # type: ignore[assignment]
        if trickle is not None and _isBuffered(trickle):
            yield Finding(
                "buffered",
                "problem",
                f"messages {way} come late, and in lumps: something holds them back",
                [
                    f"one was sent each {trickle['interval'] * 1000:.0f} ms; the longest gap was "
                    f"{max(trickle['sent']) * 1000:.0f} ms as they left, and "
                    f"{max(trickle['received']) * 1000:.0f} ms as they came"
                ],
                ["an antivirus or a proxy that buffers answers"],
                ["turn its buffering off for this host, such as nginx's proxy_buffering"],
            )
    burst = flow.get("burst")
    if burst is not None and not burst["inOrder"]:
        title = f"{burst['count']} messages at once do not come back in their order"
        yield Finding("burst", "problem", title)
    pings, messages = flow.get("pingRoundTrips", []), flow.get("messageRoundTrips", [])
    if pings and messages and not measured.get("farEnd", {}).get("isLab"):
        ping, message = median(pings), median(messages)
        if message > 5 * ping and message - ping > 0.02:
            yield Finding(
                "pings-quick",
                "note",
                "pings are answered much sooner than messages: maybe by somebody between",
                [f"{ping * 1000:.1f} ms a ping, {message * 1000:.1f} ms a message (medians)"],
            )


def _isBuffered(trickle: Trickle) -> bool:
    """Whether gaps have grown by the way, and others have vanished."""
    sent, received = trickle["sent"], trickle["received"]
    if len(sent) < 5 or len(received) < 2:
        return False
    interval = trickle["interval"]
    hasGrown = max(received) > max(2.5 * interval, max(sent) + 1.5 * interval)
    lumps = sum(gap < interval / 4 for gap in received)
    return hasGrown and lumps >= len(received) / 4
