"""Which connections were cut, and what that tells: silence or age, whose data counts, do pings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from echotwist.paths import known
from echotwist.paths.finding import Finding
from echotwist.paths.hops import Hop
from echotwist.paths.measured import Row

_AT_ONCE = 3.0
"""Seconds of age below which an end has nothing to do with a timeout that somebody would choose."""

_INSTANT = 1.0
"""Seconds within which ends are one event: a timer of a proxy ticks each second."""

_WORDS = {
    "silent": "silent",
    "serverPings": "pings from the server",
    "clientPings": "pings from the client",
    "serverData": "data from the server",
    "clientData": "data from the client",
    "both": "data both ways",
}

_KEEPS = {
    known.SERVER: "only what the server sends keeps it open",
    known.CLIENT: "only what the client sends keeps it open",
    known.EITHER: "data from either side keeps it open",
    known.BOTH: "data from one side alone does not keep it open",
    "": "what keeps it open could be told in part",
}


class Cut(NamedTuple):
    """A connection that did not live to the end of the probe."""

    row: Row
    age: float | None
    """When it was cut; None if nobody was told."""


def judge(rows: Sequence[Row], hops: Sequence[Hop]) -> Iterator[Finding]:
    cuts = {row["row"]: Cut(row, _age(row)) for row in rows if _isCut(row)}
    if not cuts:
        return
    evidence = [told(row) for row in rows]
    yield from _byServer(cuts, evidence)
    yield from _halfOpen(cuts)
    seen = {name: cut for name, cut in cuts.items() if cut.age is not None and not _own(cut.row)}
    if not seen:
        return
    ages = [cut.age for cut in seen.values() if cut.age is not None]
    if len(seen) == len(rows) > 1 and max(ages) - min(ages) <= _tolerance(max(ages)):
        yield from _byAge(list(seen.values()), ages, evidence, hops)
    elif len(seen) == len(rows) > 1 and _spread(_instants(seen.values())) <= _INSTANT:
        yield _atOneInstant(evidence)
    elif "silent" in seen and "both" not in cuts:
        yield _byIdle(rows, seen, evidence, hops)
    else:
        yield Finding(
            "cut",
            "problem",
            f"{len(seen)} of {len(rows)} connections were cut, by no pattern that is known",
            evidence,
            cures=["probe again, and longer: what is left to chance shows then"],
        )


def _isCut(row: Row) -> bool:
    return row["ended"] is not None or row["alive"] is False


def _own(row: Row) -> bool:
    """Whether the server has ended it by itself."""
    server = row["server"]
    return server is not None and server["by"] == "server"


def _age(row: Row) -> float | None:
    """The age at which somebody was told of the end."""
    if row["ended"] is not None and row["alive"] is None:
        return row["ended"]
    server = row["server"]
    return None if server is None else float(server["age"])


def _tolerance(seconds: float) -> float:
    """Seconds by which two equal timeouts may differ: ticks of timers, and 3 %."""
    return max(1.5, seconds * 0.03)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _instants(cuts: Any) -> list[float]:
    return [cut.row["opened"] + (cut.age or 0.0) for cut in cuts]


def told(row: Row) -> str:
    """What became of one connection, in words."""
    name = _WORDS.get(row["row"], row["row"])
    if not _isCut(row):
        return f"{name}: open after {_seconds(row['watched'])}"
    client, server = row["client"], row["server"]
    if row["ended"] is not None and client is not None:
        words = f"{name}: the client saw {_end(client)} after {_seconds(row['ended'])}"
        if row["alive"] is False:
            words += ", when it sent something again"
    else:
        words = f"{name}: no answer after {_seconds(row['watched'])}, and the client saw no end"
    if server is not None:
        ending = "ended it itself by" if server["by"] == "server" else "saw"
        return f"{words}; the server {ending} {_end(server)} after {_seconds(server['age'])}"
    return f"{words}; the server saw no end" if row["isServerKnown"] else words


def _end(end: Mapping[str, Any]) -> str:
    code = end.get("code")
    return {
        "fin": "a FIN",
        "eof": "a FIN without close_notify",
        "closeNotify": "a close_notify",
        "rst": "a reset",
        "close": "a close frame" if code is None else f"a close frame with {code}",
        "drop": "a drop",
    }.get(str(end["how"]), str(end["how"]))


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _byServer(cuts: Mapping[str, Cut], evidence: list[str]) -> Iterator[Finding]:
    if any(_own(cut.row) for cut in cuts.values()):
        yield Finding(
            "ended-by-server",
            "problem",
            "the server itself has ended a connection",
            evidence,
            cures=["look into the server's log: it drops clients whose answers to pings are lost"],
        )


def _halfOpen(cuts: Mapping[str, Cut]) -> Iterator[Finding]:
    dead = [cut.row for cut in cuts.values() if cut.row["alive"] is False]
    unaware = [row for row in dead if row["server"] is not None]
    if unaware:
        yield Finding(
            "half-open",
            "problem",
            "the server saw the end, and the client did not: for it the connection is still open",
            [told(row) for row in unaware],
            ["a proxy, NAT or firewall that closes one side, and forgets the other"],
            ["have the client send pings, or messages, and give up when no answer comes"],
        )
    silent = [row for row in dead if row["server"] is None]
    if silent:
        least = min(row["watched"] for row in silent)
        yield Finding(
            "forgotten",
            "problem",
            f"a connection is dead after {_seconds(least)} or less, and nobody was told",
            [told(row) for row in silent],
            ["a NAT or a firewall that forgets what is silent (an Azure load balancer: 4 min)"],
            ["send pings more often than that, from either side"],
        )
    unseen = [
        cut.row
        for cut in cuts.values()
        if cut.row["alive"] is None and cut.row["isServerKnown"] and cut.row["server"] is None
    ]
    if unseen:
        yield Finding(
            "half-open-server",
            "problem",
            "the client saw the end, and the server did not: it keeps a connection that is dead",
            [told(row) for row in unseen],
            ["a proxy that closes one side, and forgets the other"],
            ["have the server send pings, and drop who does not answer"],
        )


def _byAge(
    cuts: Sequence[Cut], ages: Sequence[float], evidence: list[str], hops: Sequence[Hop]
) -> Iterator[Finding]:
    age = sum(ages) / len(ages)
    if age < _AT_ONCE:
        yield Finding(
            "dead-at-once",
            "problem",
            f"each connection is cut {_seconds(age)} after its 101, whatever is sent",
            evidence,
            ["a firewall or a proxy that takes the 101 for the end of an answer"],
            ["look at what filters HTTP between: it must pass on what follows a 101"],
        )
        return
    if _spread(_instants(cuts)) <= _INSTANT and _spread(ages) > 0.2:
        title = f"all connections were cut after {_seconds(age)}, at one instant or at one age"
        cures = ["probe again: an age is the same then, and a reload is not"]
        yield Finding(
            "age-limit", "problem", title, evidence, _timeouts(known.AGE, age, hops), cures
        )
        return
    yield Finding(
        "age-limit",
        "problem",
        f"each connection is cut at an age of {_seconds(age)}, whatever is sent",
        evidence,
        _timeouts(known.AGE, age, hops),
        [*_cures(known.AGE, age, hops), "have the client reconnect: pings do not help"],
    )


def _atOneInstant(evidence: list[str]) -> Finding:
    return Finding(
        "cut-at-once",
        "problem",
        "all connections, though of different age, were cut at one instant",
        evidence,
        ["a reload or a deploy, of a proxy (Caddy closes upgraded connections) or the server"],
        ["have clients reconnect, and have the proxy drain"],
    )


def _byIdle(
    rows: Sequence[Row], cuts: Mapping[str, Cut], evidence: list[str], hops: Sequence[Hop]
) -> Finding:
    names = {row["row"] for row in rows}
    silence = cuts["silent"].age or 0.0
    if {"serverData", "clientData"} <= names:
        kept = {
            (False, False): known.EITHER,
            (False, True): known.SERVER,
            (True, False): known.CLIENT,
            (True, True): known.BOTH,
        }["serverData" in cuts, "clientData" in cuts]
    else:
        kept = ""
    pings = [name for name in ("serverPings", "clientPings") if name in names]
    counts = [name not in cuts for name in pings]
    words = f"cut after {_seconds(silence)} of silence: {_KEEPS[kept]}"
    if counts:
        words += ", and pings count" if all(counts) else ", and pings do not count"
    often = f"more often than each {_seconds(silence)}"
    if all(counts) and counts:
        cure = f"or send pings {often}"
    else:
        cure = f"or send messages {often}: pings do not help"
    return Finding(
        "idle-timeout",
        "problem",
        words,
        evidence,
        _timeouts(kept, silence, hops),
        [*_cures(kept, silence, hops), cure],
    )


def _fitting(
    kept: str, seconds: float, hops: Sequence[Hop]
) -> list[tuple[known.Timeout, bool, str | None]]:
    """Those that do the same; whether by default after that time; and the header that speaks for
    them. The likeliest first."""
    shown = {hop.product: hop.evidence for hop in hops}
    found = []
    for timeout in known.TIMEOUTS:
        if (kept and timeout.kept != kept) or (not kept and timeout.kept == known.AGE):
            continue
        isDefault = any(abs(each - seconds) <= _tolerance(each) for each in timeout.seconds)
        evidence = shown.get(timeout.product)
        if isDefault or evidence is not None or not timeout.seconds:
            found.append((timeout, isDefault, evidence))
    found.sort(key=lambda each: (each[2] is None, not each[1]))
    return found


def _timeouts(kept: str, seconds: float, hops: Sequence[Hop]) -> list[str]:
    words = []
    for timeout, isDefault, evidence in _fitting(kept, seconds, hops):
        said = f"{timeout.product}: {timeout.setting}"
        if not isDefault:
            said += f", if it is set to {_seconds(seconds)}"
        if evidence is not None:
            said += f" [it is on the way: {evidence}]"
        words.append(f"{said} ({timeout.source})")
    return words


def _cures(kept: str, seconds: float, hops: Sequence[Hop]) -> list[str]:
    """Of those that a header speaks for; else of the first few."""
    fitting = _fitting(kept, seconds, hops)
    shown = [timeout for timeout, _, evidence in fitting if evidence is not None]
    return [timeout.cure for timeout in shown or [timeout for timeout, _, _ in fitting][:3]]
