"""Which connections were cut, and what that tells: silence or age, whose data counts, do pings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from echotwist.paths import known
from echotwist.paths.finding import Finding
from echotwist.paths.hops import Hop, shownBy
from echotwist.paths.measured import ClientEnd, Row, ServerEnd

_AT_ONCE = 3.0
"""Seconds of age below which an end has nothing to do with a timeout that somebody would choose."""

_HARMLESS = 90.0
"""Seconds of silence that pings of every library prevent: they come each 20 to 60 s."""

_INSTANT = 1.0
"""Seconds within which ends are one event: a timer of a proxy ticks each second."""

BY_SERVER = "the server itself, which could not be asked"

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
    "": "whose data keeps it open could not be told",
}

_KEPT: Mapping[tuple[bool | None, bool | None], str] = {
    (True, True): known.EITHER,
    (True, False): known.SERVER,
    (False, True): known.CLIENT,
    (False, False): known.BOTH,
}
"""By whether data from the server keeps it, and data from the client."""

_WHO = {
    known.SERVER: "the server",
    known.CLIENT: "the client",
    known.EITHER: "either side",
    known.BOTH: "both sides",
    "": "both sides",
}


class Cut(NamedTuple):
    """A connection that did not live to the end of the probe, and somebody was told."""

    row: Row
    age: float
    """When that was."""


def judge(rows: Sequence[Row], hops: Sequence[Hop]) -> Iterator[Finding]:
    cuts = {row["row"]: row for row in rows if _isCut(row)}
    if not cuts:
        return
    evidence = [told(row) for row in rows]
    forgotten = _forgottenOf(cuts)
    if forgotten:
        yield _forgotten(forgotten, isTalking="both" in cuts)
    others = [row for row in cuts.values() if row not in forgotten]
    yield from _byServer(others, evidence)
    yield from _halfOpen(others)
    seen = {
        name: Cut(row, age)
        for name, row in cuts.items()
        if not _own(row) and (age := _age(row)) is not None
    }
    if seen:
        yield _pattern(rows, cuts, seen, evidence, hops)


def _pattern(
    rows: Sequence[Row],
    cuts: Mapping[str, Row],
    seen: Mapping[str, Cut],
    evidence: list[str],
    hops: Sequence[Hop],
) -> Finding:
    """What cuts them: of `cuts`, `seen` are those of whose end somebody was told."""
    ages = [cut.age for cut in seen.values()]
    instants = [cut.row["opened"] + cut.age for cut in seen.values()]
    outlived = _outlived(rows, cuts, min(ages))
    isOneAge = _spread(ages) <= _tolerance(max(ages))
    isOneInstant = _spread(instants) <= _INSTANT
    if isOneInstant and _spread(ages) > _INSTANT:
        return _atOneInstant(len(seen), len(rows), evidence)
    if isOneAge and len(seen) > 1 and "both" in seen and len(seen) == len(cuts) and not outlived:
        return _byAge(seen, isOneInstant, evidence, hops)
    if outlived and "both" not in cuts and _isIdle(seen):
        return _byIdle(rows, cuts, seen, evidence, hops)
    if isOneAge and "both" not in cuts and not outlived:
        return _tooShort(seen, max(ages), evidence, hops)
    return Finding(
        "cut",
        "problem",
        f"{len(seen)} of {len(rows)} connections were cut, by no pattern that is known",
        evidence,
        cures=["probe again, and longer: what is left to chance shows then"],
    )


def _outlived(rows: Sequence[Row], cuts: Mapping[str, Row], age: float) -> set[str]:
    """Those that were open for longer. One that was opened late, or interrupted, tells nothing."""
    late = age + _tolerance(age)
    return {row["row"] for row in rows if row["row"] not in cuts and row["watched"] > late}


def _isIdle(seen: Mapping[str, Cut]) -> bool:
    """Whether silence may have cut them: pings that do not count, at once with what is silent;
    data of one side, then or later, since each direction may have a timeout of its own."""
    if "silent" not in seen:
        return False
    silence = seen["silent"].age
    for name, cut in seen.items():
        later = cut.age - silence
        isData = name in ("serverData", "clientData")
        if later < -_tolerance(silence) or (later > _tolerance(silence) and not isData):
            return False
    return True


def _isCut(row: Row) -> bool:
    return row["ended"] is not None or row["alive"] is False


def _own(row: Row) -> bool:
    """Whether the server has ended it by itself."""
    server = row["server"]
    return server is not None and server["by"] == "server"


def _age(row: Row) -> float | None:
    """The age at which somebody was told of the end; None if nobody was. The earlier of two: who
    is busy is told late."""
    ages = [] if row["server"] is None else [row["server"]["age"]]
    if row["ended"] is not None and row["alive"] is None:
        ages.append(row["ended"])
    return min(ages, default=None)


def _tolerance(seconds: float) -> float:
    """Seconds by which two equal timeouts may differ: ticks of timers, and 3 %."""
    return max(1.5, seconds * 0.03)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def told(row: Row) -> str:
    """What became of one connection, in words."""
    name = _WORDS.get(row["row"], row["row"])
    if not _isCut(row):
        return f"{name}: open after {_seconds(row['watched'])}"
    server = row["server"]
    if row["ended"] is not None:
        words = f"{name}: the client saw {_end(row['client'])} after {_seconds(row['ended'])}"
        if row["alive"] is False:
            words += ", when it sent something again"
    else:
        words = f"{name}: no answer after {_seconds(row['watched'])}, and the client saw no end"
    if server is not None:
        ending = "ended it itself by" if _own(row) else "saw"
        return f"{words}; the server {ending} {_end(server)} after {_seconds(server['age'])}"
    return f"{words}; the server saw no end" if row["isServerKnown"] else words


def _end(end: ClientEnd | ServerEnd | None) -> str:
    if end is None:
        return "an end"
    how, code = end["how"], end.get("code")
    return {
        "fin": "a FIN",
        "eof": "an end without close_notify",
        "closeNotify": "a close_notify",
        "rst": "a reset",
        "close": "a close frame" if code is None else f"a close frame with {code}",
        "drop": "a drop",
        "broken": "an error",
    }.get(how, how)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _byServer(cuts: Sequence[Row], evidence: list[str]) -> Iterator[Finding]:
    if any(_own(row) for row in cuts):
        yield Finding(
            "ended-by-server",
            "problem",
            "the server itself has ended a connection",
            evidence,
            [
                "a server that stops, or has a limit of its own",
                "a path that loses pongs: the server drops clients whose answers to pings are lost",
            ],
            ["look into the server's log: it has the reason"],
        )


def _forgottenOf(cuts: Mapping[str, Row]) -> list[Row]:
    """Those that are dead, and nobody was told. On such a path a server that pings gives up by
    itself: alone that is no sign of it."""
    dead = [row for row in cuts.values() if row["alive"] is False]
    if all(row["server"] is not None for row in dead):
        return []
    return [row for row in dead if row["server"] is None or _own(row)]


def _halfOpen(cuts: Sequence[Row]) -> Iterator[Finding]:
    unaware = [row for row in cuts if row["alive"] is False]
    if unaware:
        yield Finding(
            "half-open",
            "problem",
            "connections have ended for the server, and the client was not told: for it they are "
            "open until it sends something",
            [told(row) for row in unaware],
            ["a proxy, NAT or firewall that closes one side, and forgets the other"],
            ["have the client send pings, or messages, and give up when no answer comes"],
        )
    unseen = [
        row
        for row in cuts
        if row["alive"] is None and row["isServerKnown"] and row["server"] is None
    ]
    if unseen:
        yield Finding(
            "half-open-server",
            "problem",
            "the client saw the end, and the server did not: it keeps connections that are dead",
            [told(row) for row in unseen],
            ["a proxy, NAT or firewall that closes one side, and forgets the other"],
            ["have the server send pings, and drop who does not answer"],
        )


def _forgotten(rows: Sequence[Row], isTalking: bool) -> Finding:
    least = _seconds(min(row["watched"] for row in rows))
    who = "nobody was told" if all(row["isServerKnown"] for row in rows) else "no client was told"
    if isTalking:
        suspects = ["a network, a VPN or a host that went away", "a firewall that drops what comes"]
        cures = ["have both ends send pings, and give up when no answer comes"]
    else:
        suspects = [
            "a NAT or a firewall that forgets what is silent (Azure load balancer: 4 min; AWS NLB "
            "and NAT gateway: 350 s; many a router: 5 min or less)"
        ]
        cures = ["send pings much more often than that, and give up when no answer comes"]
    return Finding(
        "forgotten",
        "problem",
        f"connections are dead after {least} or less, and {who}",
        [told(row) for row in rows],
        suspects,
        cures,
    )


def _byAge(
    cuts: Mapping[str, Cut], isOneInstant: bool, evidence: list[str], hops: Sequence[Hop]
) -> Finding:
    age = sum(cut.age for cut in cuts.values()) / len(cuts)
    if age < _AT_ONCE:
        return Finding(
            "dead-at-once",
            "problem",
            f"each connection is cut {_seconds(age)} after its 101",
            evidence,
            ["a firewall or a proxy that takes the 101 for the end of an answer"],
            ["look at what filters HTTP between: it must pass on what follows a 101"],
        )
    if isOneInstant:
        title = f"all connections were cut after {_seconds(age)}, at one instant or at one age"
        cures = ["probe again, and longer: an age is the same then, and a reload is not"]
    else:
        title = f"each connection is cut at an age of {_seconds(age)}, whatever is sent"
        cures = [
            *_cures(cuts, (known.AGE,), [age], hops),
            "have clients reconnect: pings do not help",
        ]
    suspects = _suspects(cuts, (known.AGE,), [age], hops)
    return Finding("age-limit", "problem", title, evidence, suspects, cures)


def _suspects(
    cuts: Mapping[str, Cut], kinds: Sequence[str], ages: Sequence[float], hops: Sequence[Hop]
) -> list[str]:
    """(What the server has ended itself, as far as it can be asked, is not among these cuts.)"""
    suspects = _timeouts(kinds, ages, hops)
    rows = [cut.row for cut in cuts.values()]
    if all(row["client"] is not None and row["client"]["how"] == "close" for row in rows):
        who = "a hop that speaks WebSocket"
        if not _isAsked(cuts):
            who = f"the server itself, or {who}"
        return [f"{who}: it sends close frames", *suspects]
    return suspects if _isAsked(cuts) else [*suspects, BY_SERVER]


def _isAsked(cuts: Mapping[str, Cut]) -> bool:
    """Whether the server could say of each that it was not itself."""
    return all(cut.row["isServerKnown"] for cut in cuts.values())


def _atOneInstant(some: int, all: int, evidence: list[str]) -> Finding:
    which = "all connections" if some == all else f"{some} of {all} connections"
    return Finding(
        "cut-at-once",
        "problem",
        f"{which}, though of different age, were cut at one instant",
        evidence,
        ["a reload or a deploy, of a proxy (Caddy closes upgraded connections) or the server"],
        ["have clients reconnect, and have the proxy drain"],
    )


def _tooShort(
    seen: Mapping[str, Cut], age: float, evidence: list[str], hops: Sequence[Hop]
) -> Finding:
    """No connection that talks has been watched for long enough."""
    kinds = (known.SERVER, known.CLIENT, known.EITHER, known.BOTH, known.AGE)
    return Finding(
        "cut",
        "problem",
        f"cut after {_seconds(age)}: by silence or by age, the probe was too short to tell",
        evidence,
        _suspects(seen, kinds, [age], hops),
        [f"probe again, with --for {2 * age + 10:.0f}s or more"],
    )


def _byIdle(
    rows: Sequence[Row],
    cuts: Mapping[str, Row],
    seen: Mapping[str, Cut],
    evidence: list[str],
    hops: Sequence[Hop],
) -> Finding:
    silent = seen["silent"].row
    silence = seen["silent"].age
    late = silence + _tolerance(silence)
    outlived = _outlived(rows, cuts, silence)

    def isKept(name: str) -> bool | None:
        """None if it cannot be told."""
        if name in cuts:
            return None if _own(cuts[name]) else False
        return True if name in outlived else None

    data = isKept("serverData"), isKept("clientData")
    kept = _KEPT.get(data, "")
    gaps = [
        f"after {_seconds(seen[name].age)} without data from the {side}"
        for name, side in (("serverData", "client"), ("clientData", "server"))
        if name in seen
    ]
    ages = [silence, *(cut.age for cut in seen.values() if cut.age > late)]
    if silent["alive"] is None and silent["fromServer"] < silence - _tolerance(silence):
        ago = _seconds(silent["fromServer"])
        words = f"cut after {_seconds(silence)}, though the server sent something {ago} before"
    elif len(ages) == 1:
        words = f"cut after {_seconds(silence)} of silence"
    elif kept == known.BOTH:
        words = f"cut {', and '.join(gaps)}"
    else:
        words = f"cut after {_seconds(silence)} of silence, and {', and '.join(gaps)}"
    words += f": {_KEEPS[kept]}"
    pings = [isKept("serverPings"), isKept("clientPings")]
    counting = [side for side, each in zip(("server", "client"), pings, strict=True) if each]
    often = f"more often than every {_seconds(silence)}"
    cure = f"have {_WHO[kept]} send messages {often}"
    if counting:
        words += ", and pings count" if False not in pings else f", and the {counting[0]}'s pings"
        cure = f"have the {counting[0]} send pings {often}"
    elif False in pings:
        words += ", and pings do not count"
        cure += ": pings do not help"
    kinds = (kept,) if kept else (known.SERVER, known.CLIENT, known.EITHER, known.BOTH)
    suspects = _suspects(seen, kinds, ages, hops)
    if len(ages) > 1 and kept != known.BOTH:
        suspects.insert(0, "two hops, each with a timeout of its own")
    cures = [*_cures(seen, kinds, ages, hops), cure]
    # Whoever pings does so each 20 to 60 s, and keeps it.
    isHarmless = bool(counting) and False not in pings and silence > _HARMLESS
    level = "note" if isHarmless else "problem"
    return Finding("idle-timeout", level, words, evidence, suspects, cures)


def _fitting(
    kinds: Sequence[str], ages: Sequence[float], hops: Sequence[Hop]
) -> list[tuple[known.Timeout, bool, str | None]]:
    """Those that do the same; whether by default after such a time; and the header that speaks for
    them. The likeliest first."""
    found = []
    for timeout in known.TIMEOUTS:
        if timeout.kept not in kinds:
            continue
        isDefault = any(
            abs(each - seconds) <= _tolerance(each) for each in timeout.seconds for seconds in ages
        )
        hop = shownBy(timeout.product, hops)
        evidence = hop.evidence if hop is not None else None
        isSet = evidence is not None and not timeout.isFixed
        if isDefault or isSet or not timeout.seconds:
            found.append((timeout, isDefault, evidence))
    found.sort(key=lambda each: (each[2] is None, not each[1]))
    return found


def _timeouts(kinds: Sequence[str], ages: Sequence[float], hops: Sequence[Hop]) -> list[str]:
    words = []
    set_ = "it is set" if len(ages) == 1 else "they are set"
    for timeout, isDefault, evidence in _fitting(kinds, ages, hops):
        said = f"{timeout.product}: {timeout.setting}"
        if not isDefault:
            said += f", if {set_} to {' and '.join(_seconds(age) for age in ages)}"
        if evidence is not None:
            said += f" [it is on the way: {evidence}]"
        words.append(f"{said} ({timeout.source})")
    return words


def _cures(
    cuts: Mapping[str, Cut], kinds: Sequence[str], ages: Sequence[float], hops: Sequence[Hop]
) -> list[str]:
    """Of those that a header speaks for; else of the first few. Each once."""
    fitting = _fitting(kinds, ages, hops)
    shown = [timeout for timeout, _, evidence in fitting if evidence is not None]
    chosen = shown or [timeout for timeout, _, _ in fitting][:5]
    byServer = [] if _isAsked(cuts) else ["or raise the server's own limit, if it has one"]
    return [*dict.fromkeys(timeout.cure for timeout in chosen), *byServer]
