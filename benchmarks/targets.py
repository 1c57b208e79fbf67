"""What echotwist is to reach, and whether it did."""

from collections.abc import Mapping
from dataclasses import dataclass

from results import Results

OURS = "echotwist"
BEST = "the best other"


@dataclass(frozen=True)
class Target:
    """`figure` of `what` (row, server) to that of `to`, or by itself in bytes if `to` is None: at
    least `least`, or at most `most`."""

    title: str
    what: tuple[str, str]
    to: tuple[str, str] | None
    figure: str = "server_us"
    least: float | None = None
    most: float | None = None


def speed(row: str, to: str, least: float) -> Target:
    """So many times as fast as `to`, by the processor time of the servers: that is comparable also
    where the load is what is slow."""
    return Target(f"{row}: as fast as {to}", (row, OURS), (row, to), least=least)


def cost(title: str, what: tuple[str, str], to: tuple[str, str], most: float) -> Target:
    return Target(title, what, to, most=most)


TARGETS = [
    *(cost(f"{row}: cost to the floor's", (row, OURS), (row, "floor"), 1.10)
      for row in ("small", "many")),
    *(speed(row, "gorilla", 1.3) for row in ("small", "many")),
    cost("text: cost to that of binary", ("text", OURS), ("small", OURS), 1.15),
    cost("blocks-ascii: cost to that of binary", ("blocks-ascii", OURS), ("blocks", OURS), 1.15),
    cost("blocks-text3: cost to that of binary", ("blocks-text3", OURS), ("blocks", OURS), 2),
    speed("pipelined", BEST, 20),
    speed("blocks", BEST, 1.3),
    speed("large", BEST, 2),
    cost("small: cost with the log to that without", ("small", "echotwist-log"), ("small", OURS),
         1.05),
    *(speed("handshakes", peer, 1) for peer in ("websockets", "aiohttp")),
    *(speed("deflate", peer, 1) for peer in ("websockets", "ws")),
    speed("tls", "websockets", 1.5),
    Target("idle: bytes of a connection", ("idle", OURS), None, "bytes_per_connection", most=5000),
    Target("mixed: p99 to that of the best other", ("mixed", OURS), ("mixed", BEST), "p99_us",
           most=2),
]  # fmt: skip

WHY = {
    "large": "the bytes are what is slow: the floor, which does nothing but move them, is no "
    "further ahead of the best other than the machine varies. With reads of 64 KiB to 1 MiB "
    "instead of 256 KiB, echotwist was no faster. Not to read the rest of a long message while "
    "its echo waits would save a copy, a tenth at most, and shut out clients that send before "
    "they read.",
    "handshakes": "accepting, twisted.web, Autobahn and the close are a thousand calls of Python "
    "functions for each connection, none of which takes long: the headers a sixth, vetting them a "
    "twelfth, Autobahn's lines for a log that is off a little less. By that profile, a parser of "
    "requests beside Twisted's would gain a quarter, and be a second judge of what is a request.",
    "tls": "what is left are the calls from Twisted to OpenSSL, through two layers of Python; the "
    "echo itself is compiled here, too.",
}
"""What stands between a row and what was to be reached, as far as it was found."""


def table(results: Results, best: Mapping[str, str]) -> str:
    """`best` tells the best other server of each row that has one."""
    missed = {}
    lines = ["| target | at least | at most | measured | reached |", "|---|---:|---:|---:|---|"]
    for target in TARGETS:
        found = measured(results, target, best)
        if found is None:
            continue
        if target.least is not None:
            found = 1 / found  # Of costs: how many times as fast.
            isReached = found >= target.least
        else:
            assert target.most is not None
            isReached = found <= target.most
        row = target.what[0]
        if not isReached and row in WHY:
            missed[row] = f"- **{row}**: {WHY[row]}"
        lines.append(
            f"| {target.title} | {shown(target.least)} | {shown(target.most)} | {shown(found)} "
            f"| {'yes' if isReached else '**no**'} |"
        )
    return "\n".join([*lines, "", *missed.values()])


def measured(results: Results, target: Target, best: Mapping[str, str]) -> float | None:
    if target.to is None:
        return results.median(*target.what, target.figure)
    row, server = target.to
    found = best.get(row) if server == BEST else server
    return results.between(target.what, (row, found), target.figure) if found else None


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
