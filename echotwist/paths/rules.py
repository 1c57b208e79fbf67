"""The verdicts: from what was measured to findings, the worst first.

Each rule is a function of what was measured, and speaks only of what it has seen. Pure functions:
the probe calls them, and the service for the page of a browser, which measures for itself.
"""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from echotwist.paths import cuts, known
from echotwist.paths.finding import LEVELS, Finding
from echotwist.paths.head import Head, pairsOf
from echotwist.paths.hops import Hop, hopsOf, shownBy
from echotwist.paths.measured import (
    Arrived,
    Changes,
    Check,
    Handshake,
    Measured,
    Offer,
    Refusal,
    Size,
    Tls,
    Trickle,
    Unreached,
)

_UPGRADE_CURES = {
    "nginx": "nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";` in the location',
    "Apache": "Apache: `ProxyPass /echo http://backend/echo upgrade=websocket`",
    "Varnish": "Varnish: `return (pipe)` in vcl_recv, and pass Upgrade on in vcl_pipe",
    "Envoy": "Envoy: `upgrade_configs: [{upgrade_type: websocket}]` in the connection manager",
}
"""By product, as `hops` has it."""

_INSPECTORS = re.compile(
    r"kaspersky|\beset\b|avast|\bavg\b|bitdefender|zscaler|netskope|forti(net|gate)|palo alto"
    r"|sophos|blue coat|cisco umbrella|mcafee|trend micro|check ?point|adguard|squid|mitmproxy"
    r"|portswigger|zap root|attack proxy|fiddler|charles proxy",
    re.IGNORECASE,
)
"""Words in the issuer of a certificate that somebody between has made."""

_MOST = 200
"""Characters of what others wrote that are said again."""


def judge(measured: Measured) -> list[Finding]:
    """All findings, the worst first."""
    hops = hopsOf(measured)
    handshake: Handshake = measured.get("handshake", {})
    found: list[Finding] = []
    found += _proxy(handshake.get("notReached"))
    found += _tls(handshake.get("tls"))
    if (refused := handshake.get("refused")) is not None:
        found.append(_refused(refused, handshake, hops))
    if (refused := handshake.get("labRefused")) is not None:
        found.append(_labRefused(refused))
    found += _headers(handshake)
    found += _offers(handshake)
    found += _limits(handshake, hops)
    found += _http2(handshake)
    found += cuts.judge(measured.get("idle", []), hops)
    if any(finding.rule == "dead-at-once" for finding in found):
        return sorted(found, key=_rank)  # Whatever is sent dies with it.
    found += _sizes(measured.get("sizes", []), hops)
    found += _checks(measured.get("bytes", []), isLab=_isLab(measured))
    found += _flow(measured)
    return sorted(found, key=_rank)


def _rank(finding: Finding) -> int:
    return LEVELS.index(finding.level)


def _isLab(measured: Measured) -> bool:
    """Whether the far end is right itself, and tells what it saw."""
    farEnd = measured.get("farEnd")
    return farEnd is not None and farEnd["isLab"]


# The handshake.


def _proxy(notReached: Unreached | None) -> Iterator[Finding]:
    """A proxy that was asked to CONNECT, and answered; nothing is judged of one that did not."""
    if notReached is None or notReached["stage"] != "proxy":
        return
    answer = re.search(r"HTTP/1\.\d (\d{3})", notReached["why"])
    if answer is None:
        return
    if answer[1] == "407":
        title, suspects = "the proxy wants credentials", []
        cures = ["give them as --proxy http://USER:PASSWORD@HOST:PORT, percent-encoded"]
    elif answer[1] in ("403", "405"):
        title = f"the proxy does not let CONNECT through to this port: {answer[1]}"
        suspects = ["Squid: `http_access deny CONNECT !SSL_ports`, which are 443 alone by default"]
        cures = ["serve WebSockets on port 443, or have the proxy allow this one"]
    else:
        title, suspects = f"the proxy answers CONNECT with {answer[1]}", []
        cures = ["look whether the proxy reaches the server, and knows its name"]
    yield Finding("proxy-refused", "problem", title, [notReached["why"]], suspects, cures)


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
                "if it is: renew what has expired, mend the chain that is served, or the name; "
                "give an authority of your own as --cacert",
            ],
        )
    elif isInspected:
        yield Finding(
            "tls-inspected",
            "limit",
            "the certificate is of a kind that is made on the way: somebody inspects TLS",
            [issuer],
            ["an antivirus or a proxy that inspects TLS"],
            ["have it leave this host alone, if anything else here is wrong"],
        )


def _refused(refused: Refusal, handshake: Handshake, hops: Sequence[Hop]) -> Finding:
    status, location = refused["status"], refused["location"]
    evidence = [refused["why"]]
    if refused["body"].strip():
        evidence.append(f"its body begins with {refused['body'].strip()[:120]!r}")
    evidence += [f"{hop.product} is on the way: {hop.evidence}" for hop in hops]
    if status == 101:
        return Finding(
            "answer-stripped",
            "problem",
            f"the 101 does not arrive as it must be: {refused['why']}",
            evidence,
            [
                "a proxy that strips or rewrites headers of answers, or has kept an earlier answer",
                "a server that answers wrong itself",
            ],
            ["have it pass Upgrade, Connection and Sec-WebSocket-Accept of a 101 on as they are"],
        )
    if status is not None and 300 <= status < 400 and location:
        shown = location[:_MOST]
        return Finding(
            "redirect",
            "problem",
            f"the handshake is redirected to {shown}, and WebSocket clients do not follow",
            evidence,
            [
                "a web server that sends http to https, or to another name, or adds a slash",
                "a gate that wants a login first",
            ],
            [
                f"connect to {_asWebSocket(shown)}, or have this path not redirected",
                "or, if that is a login, give what it sets as --header 'Cookie: …'",
            ],
        )
    if status == 407:
        title = "the handshake is refused with 407: a proxy wants credentials"
        cures = ["give the proxy as --proxy http://USER:PASSWORD@HOST:PORT"]
        return Finding("refused", "problem", title, evidence, cures=cures)
    if status == 403 and shownBy("Envoy", hops) and _isEnvoys(refused, handshake):
        title = "an Envoy refuses the handshake with 403: so it does on a route without upgrades"
        return Finding("refused", "problem", title, evidence, cures=_upgradeCures(hops))
    if status in (401, 403):
        title = f"the handshake is refused with {status}: somebody wants credentials, or an Origin"
        cures = [
            "give them as --header 'Authorization: …' or --header 'Cookie: …'",
            "or have the server allow the Origin: the probe sends that of the URL",
        ]
        return Finding("refused", "problem", title, evidence, cures=cures)
    if "certificate required" in refused["why"]:
        title = "the server wants a certificate of its client, and the probe has none"
        cures = ["probe where none is wanted, or have the server not want one of the probe"]
        return Finding("refused", "problem", title, evidence, cures=cures)
    if _WANTS_TLS.search(refused["body"]) and "tls" in handshake:
        title = "a hop speaks plain HTTP to a port that speaks TLS"
        return Finding("wants-tls", "problem", title, evidence, cures=_TLS_CURES)
    if _WANTS_TLS.search(refused["body"]):
        title = "this port speaks TLS: the handshake came without"
        return Finding("wants-tls", "problem", title, evidence, cures=["connect to wss://"])
    arrived = refused["arrived"]
    if status in _GATEWAY:
        title = f"{status} is answered: the server is not ready, or a proxy gets no answer from it"
        cures = ["look whether the server runs, is full or drains, and what the proxy's log says"]
        if arrived is not None:
            evidence.append("the server does answer at /lab/inspect")
            cures = ["look where the proxy sends this path: it does reach the server by another"]
        return Finding("unreachable", "problem", title, evidence, cures=cures)
    if arrived is not None:
        stripped = _stripped(arrived, evidence, hops)
        if stripped is not None:
            return stripped
        evidence.append("the same request does arrive in order at /lab/inspect")
        cures = ["have this path treated as /lab is, by each proxy and by the server"]
        if status == 404:
            cures = ["look at the path of the URL: the answer may say which one it is"]
    elif status in _NOT_UPGRADED or (status is None and hops):
        cures = _upgradeCures(hops)
    else:
        cures = ["look at the path, and whether there is a WebSocket server behind it"]
    suspects = []
    if status is None and arrived is None:
        suspects.append("a proxy that takes no upgrades, such as Node's http-proxy without `ws`")
    title = f"the handshake is refused: {refused['why']}"
    return Finding("refused", "problem", title, evidence, suspects, cures)


_WANTS_TLS = re.compile(r"HTTPS port|speaks TLS|SSL-enabled server port", re.IGNORECASE)
"""What nginx, we and Apache answer to plain HTTP there."""

_TLS_CURES = [
    "nginx: `proxy_pass https://…;`",
    "HAProxy: `ssl verify required ca-file …` in the `server` line",
    "Apache: `SSLProxyEngine on`, and `https://…` in ProxyPass",
]


def _isEnvoys(refused: Refusal, handshake: Handshake) -> bool:
    """Whether Envoy answers by itself, as it does to an upgrade that it was not told of: without a
    body. What comes from behind it has the time that it took."""
    response = handshake.get("response")
    names = [name.lower() for name, _ in response["headers"]] if response is not None else []
    return "x-envoy-upstream-service-time" not in names and not refused["body"].strip()


_GATEWAY = (502, 503, 504, *range(520, 528))
"""What proxies answer for a server that does not; from 520 on, Cloudflare's."""

_NOT_UPGRADED = (200, 400, 426)
"""What servers answer to a request to upgrade that has lost its headers."""


def _upgradeCures(hops: Sequence[Hop]) -> list[str]:
    """Of those that show themselves; else all."""
    shown = [cure for product, cure in _UPGRADE_CURES.items() if shownBy(product, hops)]
    return shown or list(_UPGRADE_CURES.values())


def _stripped(arrived: Arrived, evidence: list[str], hops: Sequence[Hop]) -> Finding | None:
    """What the server says it saw of a request that should have been one to upgrade."""
    request = Head("", pairsOf(arrived["headers"]))
    version = (arrived["version"] or "HTTP/1.1")[:_MOST]
    seen = [f"the server saw {version}"]
    for name in ("connection", "upgrade"):
        if (value := request.get(name)) is not None:
            seen.append(f"{name}: {value[:_MOST]}")
    missing = [
        *(["Upgrade"] if not request.has("upgrade", "websocket") else []),
        *(["Connection: Upgrade"] if not request.has("connection", "upgrade") else []),
    ]
    if missing:
        title = f"{' and '.join(missing)} did not arrive at the server: a hop does not pass on"
        title += " what belongs to an upgrade"
        if version != "HTTP/1.1":
            title += f", and speaks {version} to it"
    elif version != "HTTP/1.1":
        title = f"a hop speaks {version} to the server, and an upgrade needs HTTP/1.1"
    else:
        return None
    return Finding(
        "upgrade-stripped",
        "problem",
        title,
        [*evidence, ", ".join(seen)],
        ["a reverse proxy that was not told of WebSockets, such as nginx with proxy_pass alone"],
        _upgradeCures(hops),
    )


def _asWebSocket(location: str) -> str:
    for scheme, other in (("https://", "wss://"), ("http://", "ws://")):
        if location.lower().startswith(scheme):
            return other + location[len(scheme) :]
    return location


def _labRefused(refused: Refusal) -> Finding:
    return Finding(
        "lab-refused",
        "note",
        "the URL can be reached by a WebSocket, and /lab beside it cannot: only one side was seen",
        [f"at /lab {refused['why']}, where it should be a 101"],
        ["a proxy that was told of WebSockets for one path only"],
        ["have it treat /lab as it does the URL, to learn more"],
    )


def _headers(handshake: Handshake) -> Iterator[Finding]:
    there: Changes | None = handshake.get("toServer")
    back: Changes | None = handshake.get("toClient")
    if there is not None:
        rewritten = {each["name"].lower(): each for each in there["rewritten"]}
        removed = {name.lower() for name, _ in pairsOf(there["removed"])}
        if "origin" in rewritten or "origin" in removed:
            became = rewritten.get("origin")
            yield Finding(
                "origin-changed",
                "limit",
                "the Origin does not arrive as it was sent: a server that checks it is misled",
                [f"it arrived as {became['arrived'][:_MOST]!r}" if became else "it did not arrive"],
                ["a proxy that was told to set or to drop it"],
                ["have it pass Origin on, or have the server allow what arrives"],
            )
        if _isTerminated(there):
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
                [there["line"]["arrived"][:_MOST]],
                cures=["nginx: `proxy_http_version 1.1;`"],
            )
    if back is not None and (lost := pairsOf(back["removed"])):
        yield Finding(
            "answer-shortened",
            "note",
            f"headers of the 101 did not arrive: {', '.join(name for name, _ in lost)}"[:_MOST],
            [f"{name}: {value[:_MOST]}" for name, value in lost],
        )


def _isTerminated(there: Changes) -> bool:
    return any(each["name"].lower() == "sec-websocket-key" for each in there["rewritten"])


def _offers(handshake: Handshake) -> Iterator[Finding]:
    """Only of what both ends saw."""
    there, back = handshake.get("toServer"), handshake.get("toClient")
    if there is None or back is None:
        return
    for key, what, header in (
        ("extensions", "compression", "Sec-WebSocket-Extensions"),
        ("subprotocols", "a subprotocol", "Sec-WebSocket-Protocol"),
    ):
        offer: Offer | None = handshake.get(key)  # type: ignore[assignment]
        if offer is None:
            continue
        if key == "extensions" and _isTerminated(there):
            continue  # There are two connections, and each has extensions of its own.
        evidence = [
            f"offered {offer['offered']}",
            f"arrived: {offer['arrived'] or 'nothing'}",
            f"answered: {offer['answered'] or 'nothing'}",
            f"came back: {offer['received'] or 'nothing'}",
        ]
        if _dense(offer["answered"]) != _dense(offer["received"]):
            yield Finding(
                f"{key}-answer-changed",
                "problem",
                f"what the server agreed to is not what the client hears: {what} is misunderstood",
                evidence,
                ["a proxy that strips extensions or subprotocols of answers alone"],
                [f"have it pass {header} on, both ways"],
            )
        elif offer["arrived"] is None:
            yield Finding(
                f"{key}-stripped",
                "limit",
                f"the offer of {what} does not arrive at the server",
                evidence,
                [
                    "a proxy that inspects messages (ZAP strips extensions by default)"
                    if key == "extensions"
                    else "a proxy that passes on only the headers that it knows",
                    f'a line that empties it, such as nginx\'s `proxy_set_header {header} "";`',
                ],
                [f"have it pass {header} on"],
            )


def _dense(value: str | None) -> str:
    """Without spaces, which mean nothing in these headers."""
    return re.sub(r"\s", "", value or "")


_HEADS = (
    ("nginx", 16_000, "large_client_header_buffers", "8 KB a line", " 4 32k;"),
    ("Apache", 16_000, "LimitRequestFieldSize, LimitRequestLine", "8,190 bytes", ""),
    ("HAProxy", 16_000, "tune.bufsize", "16 KB for all headers", ""),
    ("Varnish", 16_000, "http_req_hdr_len", "8 KB a header", "=32k"),
    ("Tomcat", 8_000, "maxHttpHeaderSize", "8 KB for all headers", ""),
)
"""Products; the least of the sizes that are tried which they do not take by default; the setting,
its default, and another value."""


def _limits(handshake: Handshake, hops: Sequence[Hop]) -> Iterator[Finding]:
    for what in ("cookie", "query"):
        tried = [each for each in handshake.get("limits", []) if each["what"] == what]
        most = max((each["size"] for each in tried if each["passed"]), default=0)
        sizes = [each for each in tried if each["size"] > most]
        if not sizes:
            continue
        least = min(sizes, key=lambda each: each["size"])
        isSmall = what == "cookie" and least["size"] <= 4_000
        suspects, cures = [], []
        for product, size, setting, default, value in _HEADS:
            if size <= least["size"] < 2 * size:
                suspects.append(f"{product}: {setting}, {default} by default")
            elif shownBy(product, hops):
                suspects.append(f"{product}: {setting}, if it is set to less than {default}")
            if shownBy(product, hops):
                cures.append(f"{product}: raise `{setting}{value}`")
        yield Finding(
            f"large-{what}",
            "problem" if isSmall else "note",
            f"a handshake with a {what} of {least['size']:,} bytes is refused",
            [f"{each['size']:,} bytes: {each['answer']}" for each in sizes],
            _shownFirst(suspects, hops),
            cures or ["keep it below, or raise the limit of the hop that answers"],
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
            [str(http2["why"])[:_MOST]],
            cures=["browsers use HTTP/1.1 for WebSockets then: it must be offered beside h2"],
        )


# Messages.


def _sizes(sizes: Sequence[Size], hops: Sequence[Hop]) -> Iterator[Finding]:
    failed = [each for each in sizes if not each["passed"]]
    if refused := [each for each in failed if each["refusedByServer"]]:
        least = min(each["size"] for each in refused)
        yield Finding(
            "server-limit",
            "note",
            f"the server itself takes no message of {_size(least)}",
            _tried(refused),
            cures=["raise the server's own limit, or send less at a time"],
        )
    others = [each for each in sizes if not each["refusedByServer"]]
    if len(failed) > len(refused):
        yield _sizeLimit(others, hops)


def _tried(sizes: Sequence[Size]) -> list[str]:
    return [f"{_size(each['size'])}, {each['shape']}: {each['why']}" for each in sizes]


def _sizeLimit(sizes: Sequence[Size], hops: Sequence[Hop]) -> Finding:
    failed = [each for each in sizes if not each["passed"]]
    evidence = _tried(failed)
    unseen = [cuts.BY_SERVER] if all(each["arrived"] is None for each in failed) else []
    if not any(each["passed"] for each in sizes):
        return Finding(
            "size",
            "problem",
            "no message comes back, of whatever size",
            evidence,
            ["a proxy that takes the handshake, and no frames", *unseen],
            ["look whether there is a server behind it that echoes"],
        )
    whole, pieces = _limit(sizes, "whole"), _limit(sizes, "fragments")
    limited = {"whole": whole, "fragments": pieces}
    if any(limited.get(each["shape"]) is None for each in failed):
        return Finding(
            "size",
            "problem",
            "some sizes do not pass, and larger ones do",
            evidence,
            ["a path that loses connections, whatever their size", *unseen],
            ["probe again: what is left to chance fails at other sizes then"],
        )
    title, cure = _bounds(sizes, whole, pieces)
    if all(each["arrived"] for each in failed):
        title += ", on its way back"
    suspects = _knownSizes(whole, pieces, hops)
    if all(each["why"].startswith("no echo in") for each in failed):
        # As the probe says that it has waited for long enough.
        suspects.append("a path that is too slow for as much: see its rates")
    return Finding("size-limit", "limit", title, evidence, [*suspects, *unseen], [cure])


def _bounds(sizes: Sequence[Size], whole: int | None, pieces: int | None) -> tuple[str, str]:
    """What does not pass, and the cure. Of `whole` and `pieces`, one is a limit."""
    raiseIt = "raise the limit of the hop, or of the server, that cuts it"
    if whole is None:
        assert pieces is not None
        title = f"a message above {_size(pieces)} in fragments does not pass"
        if _most(sizes, "whole") > pieces:
            return (
                f"{title}, and whole it does",
                f"have clients and server send it whole, or {raiseIt}",
            )
        return title, f"{raiseIt}, or send less at a time"
    if _most(sizes, "fragments") > whole:
        title = f"a frame above {_size(whole)} does not pass; the same message in fragments does"
        if pieces is not None:
            title += f", up to {_size(pieces)}"
        return title, f"have clients and server send larger messages in fragments, or {raiseIt}"
    title = f"a message above {_size(whole)} does not pass"
    if pieces == whole:
        title += ", neither whole nor in fragments"
    elif pieces is not None:
        title += f", and in fragments none above {_size(pieces)}"
    return title, f"{raiseIt}, or send less at a time"


def _most(sizes: Sequence[Size], shape: str) -> int:
    """The largest that passes."""
    passed = [each["size"] for each in sizes if each["shape"] == shape and each["passed"]]
    return max(passed, default=0)


def _limit(sizes: Sequence[Size], shape: str) -> int | None:
    """The largest that passes, if all above do not; else None."""
    failed = [each["size"] for each in sizes if each["shape"] == shape and not each["passed"]]
    most = _most(sizes, shape)
    return most if failed and min(failed) > most else None


def _knownSizes(whole: int | None, pieces: int | None, hops: Sequence[Hop]) -> list[str]:
    fitting = [
        f"{each.product} ({each.source})"
        for each in known.SIZES
        if (each.frame is not None and each.frame == whole)
        or (each.message is not None and each.message in (whole, pieces))
    ]
    return _shownFirst(fitting, hops)


def _shownFirst(suspects: Sequence[str], hops: Sequence[Hop]) -> list[str]:
    """Those of hops that show themselves before the others. (Cloudflare's Workers do by its.)"""
    shown = tuple(product for hop in hops for product in hop.products)
    return sorted(suspects, key=lambda suspect: not suspect.startswith(shown))


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
        "the client's close, or the answer to it, does not arrive as it was sent",
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


_BETWEEN = "a proxy that decodes frames, and makes them anew"

_NO_ANSWER = re.compile(
    r"no answer in time|a FIN|TLS's close_notify|an end without TLS's close_notify|a reset|no end"
    r"|a close frame with .*|an error: .*",
    re.DOTALL,
)
"""As the probe says that a connection ended, or stood still, before anything could be seen."""

_UNANSWERED = {
    "who answers pings": "a ping is not answered",
    "frames and masks": "a message in fragments does not come back",
}


def _checks(checks: Sequence[Check], *, isLab: bool) -> Iterator[Finding]:
    byServer = [] if isLab else [cuts.BY_SERVER]
    for check in checks:
        if check["passed"] is not False:
            continue
        name, why = check["check"], [check["why"]]
        isUnanswered = name in _UNANSWERED and _NO_ANSWER.fullmatch(check["why"]) is not None
        if name == "the client's close" and not isLab:
            yield Finding(
                "close-to-server",
                "note",
                "the client's close is not answered by its own code",
                why,
                ["many a server, which answers 1000 to every code", "a proxy that closes itself"],
                ["do not rely on the code of the answer"],
            )
        elif name in _CHECKS and not isUnanswered:
            rule, level, title, suspect, cure = _CHECKS[name]
            cures = [cure] if cure else []
            yield Finding(rule, level, title, why, [suspect, *byServer], cures)
        else:
            title = _UNANSWERED[name] if isUnanswered else f"{name[:_MOST]}: not as it was sent"
            cures = ["have it leave WebSockets alone; go around it to see whether it is the one"]
            yield Finding("bytes", "problem", title, why, [_BETWEEN, *byServer], cures)


# Speed.


def _flow(measured: Measured) -> Iterator[Finding]:
    flow = measured.get("flow", {})
    for key, way in (("toClient", "from the server"), ("toServer", "to the server")):
        trickle: Trickle | None = flow.get(key)  # type: ignore[assignment]
        if trickle is not None and (evidence := _buffered(trickle, isToClient=key == "toClient")):
            yield Finding(
                "buffered",
                "problem",
                f"messages {way} come late, and in lumps: something holds them back",
                [f"one was sent every {trickle['interval'] * 1000:.0f} ms; {evidence}"],
                ["an antivirus or a proxy that buffers, or waits for the end of an answer"],
                ["turn its inspection, or its buffering, off for this host"],
            )
    burst = flow.get("burst")
    if burst is not None and not burst["inOrder"]:
        yield Finding(
            "burst",
            "problem",
            f"{burst['count']} messages at once do not come back each once, and in their order",
            [],
            ["a hop, or a server, that works on several messages at a time"],
            ["number messages, and sort them out where they arrive"],
        )
    pings, messages = flow.get("pingRoundTrips", []), flow.get("messageRoundTrips", [])
    if pings and messages and not _isLab(measured):
        ping, message = median(pings), median(messages)
        if message > 5 * ping and message - ping > 0.02:
            yield Finding(
                "pings-quick",
                "note",
                "pings are answered much sooner than messages: by somebody between, or by a server "
                "that takes its time for messages",
                [f"{ping * 1000:.1f} ms a ping, {message * 1000:.1f} ms a message (medians)"],
                cures=["have the client send messages that the server answers, as a heartbeat"],
            )


_HELD = 20
"""Messages that were sent evenly; if next to none of them has come by then, they are held back.
Those of a trickle take five seconds, and no path is as long."""


def _buffered(trickle: Trickle, isToClient: bool) -> str:
    """How messages that left evenly came in lumps; empty if they did not. A network that stalls,
    once or twice, leaves most gaps as they were."""
    sent, received, interval = trickle["sent"], trickle["received"], trickle["interval"]
    if len(sent) < 5 or _even(sent, interval) < len(sent) / 2:
        return ""
    if isToClient and len(sent) >= _HELD and len(received) < 2:
        return f"of {len(sent) + 1}, {len(received) + 1} or less had come by the end"
    lumps = sum(gap < interval / 4 for gap in received)
    if len(received) < 2 or lumps < len(received) / 2:
        return ""
    if _even(received, interval) >= len(received) / 4:
        return ""
    return (
        f"{lumps} of {len(received)} gaps were less than {interval * 250:.0f} ms as they came, and "
        f"the longest was {max(received) * 1000:.0f} ms"
    )


def _even(gaps: Sequence[float], interval: float) -> int:
    """How many are what they should be."""
    return sum(interval / 2 <= gap <= interval * 1.5 for gap in gaps)
