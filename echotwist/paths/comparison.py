"""A head as it was sent, beside the same as it arrived."""

from echotwist.paths.head import Head, sizeOfHidden
from echotwist.paths.measured import Change, Changes


def compare(sent: Head, arrived: Head) -> Changes:
    """What became of it. A header that is there several times is compared as the list that it is
    (RFC 9110, 5.3), and names regardless of case."""
    before, after = _lists(sent), _lists(arrived)
    names = [name for name in before if name in after]
    return {
        "line": _change("", sent.line, arrived.line),
        "added": [list(each) for each in arrived.headers if each[0].lower() not in before],
        "removed": [list(each) for each in sent.headers if each[0].lower() not in after],
        "rewritten": [
            change
            for name in names
            if (change := _change(before[name][0], before[name][1], after[name][1])) is not None
        ],
        "isReordered": names != [name for name in after if name in before],
    }


def _lists(head: Head) -> dict[str, tuple[str, str]]:
    """The name as it is spelled, and the values as one, by the name in lower case."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in head.headers:
        spelled, before = found.get(name.lower(), (name, None))
        found[name.lower()] = (spelled, value if before is None else f"{before}, {value}")
    return found


def _change(name: str, sent: str, arrived: str) -> Change | None:
    """None if it is as it was; of a value that the lab keeps to itself, the size is compared."""
    isSame = sent == arrived or sizeOfHidden(arrived) == len(sent)
    return None if isSame else Change(name=name, sent=sent, arrived=arrived)
