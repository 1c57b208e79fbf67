"""Whatever was measured, or a stranger says that he has measured: a verdict, and no error; and no
more than was seen."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.paths import LAB, ONE_SIDED, clean, cut, handshake, row, withoutLab

from echotwist.paths.finding import LEVELS, Finding
from echotwist.paths.rules import judge

words = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "a reset", "no answer in time", "no echo in 60 s", "x" * 10_000, "5 bytes, not shown"]
    ),
)
seconds = st.one_of(st.floats(0, 1e6), st.integers(0, 10_000), st.sampled_from([0.0, 30, 60, 60.5]))
maybe = st.one_of(st.none(), st.booleans())
headers = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ["Server", "nginx"],
                ["Via", "1.1 vegur"],
                ["CF-Ray", "x"],
                ["Origin", "x"],
                ["Upgrade", "websocket"],
            ]
        ),
        st.lists(words, min_size=2, max_size=2),
    ),
    max_size=4,
)
hows = st.sampled_from(["fin", "eof", "closeNotify", "rst", "close", "drop", "broken", "late", "?"])
clientEnds = st.fixed_dictionaries(
    {"how": hows, "code": st.one_of(st.none(), st.integers(0, 65_535)), "reason": words}
)
serverEnds = st.fixed_dictionaries(
    {
        "age": seconds,
        "by": st.sampled_from(["client", "server", ""]),
        "how": hows,
        "tcp": st.one_of(st.none(), hows),
    }
)
names = st.sampled_from([*LAB, "clientPings", "of a stranger", ""])
oddRows = st.lists(
    st.fixed_dictionaries(
        {
            "row": names,
            "opened": seconds,
            "watched": seconds,
            "ended": st.one_of(st.none(), seconds),
            "client": st.one_of(st.none(), clientEnds),
            "server": st.one_of(st.none(), serverEnds),
            "isServerKnown": st.booleans(),
            "alive": maybe,
            "fromServer": seconds,
            "fromClient": seconds,
        }
    ),
    max_size=7,
)
oddSizes = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([0, 125, 32_768, 65_535, 65_536, 1_048_576, 1 << 40]),
            "shape": st.sampled_from(["whole", "fragments", "?"]),
            "passed": st.booleans(),
            "why": words,
            "code": st.one_of(st.none(), st.integers(0, 65_535)),
            "arrived": maybe,
            "refusedByServer": st.booleans(),
        }
    ),
    max_size=8,
)
checks = st.lists(
    st.fixed_dictionaries(
        {
            "check": st.sampled_from(
                [
                    "text",
                    "who answers pings",
                    "frames and masks",
                    "the client's close",
                    "x" * 10_000,
                ]
            ),
            "passed": maybe,
            "why": words,
        }
    ),
    max_size=4,
)
gaps = st.lists(seconds, max_size=30)
trickles = st.fixed_dictionaries({"interval": seconds, "sent": gaps, "received": gaps})
flows = st.fixed_dictionaries(
    {},
    optional={
        "toClient": trickles,
        "toServer": trickles,
        "tcpRoundTrip": st.one_of(st.none(), seconds),
        "pingRoundTrips": gaps,
        "messageRoundTrips": gaps,
        "burst": st.fixed_dictionaries(
            {"count": st.integers(0, 1 << 40), "seconds": seconds, "inOrder": st.booleans()}
        ),
        "down": seconds,
        "up": seconds,
        "loadedRoundTrips": gaps,
    },
)
change = st.fixed_dictionaries(
    {"name": st.sampled_from(["Origin", "sec-websocket-key", ""]), "sent": words, "arrived": words}
)
manyChanges = st.fixed_dictionaries(
    {
        "line": st.one_of(st.none(), change),
        "added": headers,
        "removed": headers,
        "rewritten": st.lists(change, max_size=3),
        "isReordered": st.booleans(),
    }
)
refusals = st.fixed_dictionaries(
    {
        "why": words,
        "status": st.one_of(st.none(), st.sampled_from([101, 200, 301, 403, 404, 426, 502, 999])),
        "location": st.one_of(st.none(), words),
        "body": words,
        "arrived": st.one_of(
            st.none(), st.fixed_dictionaries({"headers": headers, "version": words})
        ),
    }
)
optionalWords = st.one_of(st.none(), words)
offers = st.fixed_dictionaries(
    {
        "offered": words,
        "arrived": optionalWords,
        "answered": optionalWords,
        "received": optionalWords,
    }
)
tls = st.fixed_dictionaries(
    {
        "version": words,
        "cipher": words,
        "alpn": optionalWords,
        "subject": words,
        "issuer": words,
        "notAfter": words,
        "distrust": optionalWords,
    }
)
limits = st.lists(
    st.fixed_dictionaries(
        {
            "what": st.sampled_from(["cookie", "query", ""]),
            "size": st.integers(0, 1 << 40),
            "answer": words,
            "passed": st.booleans(),
        }
    ),
    max_size=4,
)
handshakes = st.fixed_dictionaries(
    {},
    optional={
        "took": st.dictionaries(words, seconds, max_size=2),
        "tls": st.one_of(st.none(), tls),
        "response": st.fixed_dictionaries({"line": words, "headers": headers}),
        "refused": st.one_of(st.none(), refusals),
        "labRefused": st.one_of(st.none(), refusals),
        "toServer": st.one_of(st.none(), manyChanges),
        "toClient": st.one_of(st.none(), manyChanges),
        "extensions": offers,
        "subprotocols": offers,
        "limits": limits,
        "http2": st.fixed_dictionaries(
            {
                "alpn": optionalWords,
                "connectProtocol": maybe,
                "status": st.one_of(st.none(), st.integers(100, 999)),
                "echoed": st.booleans(),
                "why": words,
            }
        ),
    },
)
farEnds = st.fixed_dictionaries(
    {"isLab": st.booleans(), "why": words, "server": st.one_of(st.none(), words)}
)
anyMeasured = st.fixed_dictionaries(
    {},
    optional={
        "farEnd": farEnds,
        "handshake": handshakes,
        "idle": oddRows,
        "sizes": oddSizes,
        "bytes": checks,
        "flow": flows,
    },
)


def said(findings: list[Finding]) -> str:
    return "\n".join(
        text
        for each in findings
        for text in (each.title, *each.evidence, *each.consistentWith, *each.cures)
    )


@given(anyMeasured)
def test_whatever_was_measured_is_judged(measured: Any) -> None:
    found = judge(measured)
    assert [LEVELS.index(each.level) for each in found] == sorted(
        LEVELS.index(each.level) for each in found
    )
    assert all(each.rule and each.title for each in found)
    assert "None of" not in said(found)


@given(
    st.lists(st.floats(60, 7200), min_size=5, max_size=5),
    st.lists(st.floats(0.15, 0.25), min_size=24, max_size=24),
    st.lists(st.floats(0.001, 0.5), min_size=1, max_size=20),
    st.booleans(),
    st.sampled_from([LAB, ONE_SIDED, LAB[:2], ()]),
)
def test_a_clean_path_says_nothing_however_long_it_is(
    watched: list[float],
    gaps: list[float],
    trips: list[float],
    isLab: bool,
    which: tuple[str, ...],
) -> None:
    measured = clean(
        idle=[row(name, watched=each) for name, each in zip(which, watched, strict=False)]
    )
    measured["flow"]["toClient"]["received"] = gaps
    measured["flow"]["pingRoundTrips"] = measured["flow"]["messageRoundTrips"] = trips
    assert judge(measured if isLab else withoutLab(measured)) == []


_WHO_KEEPS = ("only what the", "from either side", "from one side alone")

rowsOfALab = st.lists(
    st.one_of(
        st.builds(cut, names, st.sampled_from([0.1, 30.0, 60.0, 60.5, 100.0])),
        st.builds(row, names, watched=st.sampled_from([1.0, 58.0, 61.0, 150.0])),
    ),
    max_size=6,
    unique_by=lambda each: each["row"],
)


@given(rowsOfALab)
def test_nobody_says_whose_data_counts_who_has_not_seen_both(found: list[Any]) -> None:
    title = said(judge(clean(idle=found, handshake=handshake())))
    # What lived on was watched for longer than the silent one; and a cut one tells by that.
    silence = [each["ended"] for each in found if each["row"] == "silent" and each["ended"]]
    telling = {
        each["row"] for each in found if each["ended"] or each["watched"] > max(silence or [0])
    }
    if any(words in title for words in _WHO_KEEPS):
        assert telling >= {"silent", "serverData", "clientData"}
    if "ping" in title and "pings do not help" not in title and "pings count" in title:
        assert telling & {"serverPings", "clientPings"}
    if "whatever is sent" in title:
        assert {"both"} <= {each["row"] for each in found if each["ended"]}
