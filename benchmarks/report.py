"""The page and the charts, from nothing but what was measured."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import targets
from results import Results
from rows import Row
from servers import UNMEASURED, Server
from targets import OURS

NAME = "performance.md"

FLOOR = "floor"

BUSY = 0.95
"""From this utilisation of the load on, it may have been what was slow."""


def write(results: Results, rows: Sequence[Row], servers: Sequence[Server], folder: Path) -> None:
    rows = [row for row in rows if row.name in results.measured]
    (folder / NAME).write_text(page(results, rows, servers))
    for name, colours in THEMES.items():
        (folder / f"performance-{name}.svg").write_text(chart(results, rows, servers, colours))


# The page.


def page(results: Results, rows: Sequence[Row], servers: Sequence[Server]) -> str:
    machine = results.machine
    parts = [
        "# Performance",
        "Written by `python benchmarks/run.py`, from what it measured; "
        "[benchmarks](../benchmarks/README.md) says how, and how to repeat it. "
        f"{machine['date']}, {machine['processor']}, {machine['system']}.",
        '<picture>\n<source media="(prefers-color-scheme: dark)" srcset="performance-dark.svg">\n'
        '<img alt="The figures of the tables below, as bars" src="performance-light.svg">\n'
        "</picture>",
        "## In short",
        summary(results, rows, servers),
        "The best other is the best of the servers below that are made to be used. The floor is "
        "not: it is a bare loop in C, without what a service must do. "
        "The µs are processor time of the server for each. Where there are any, the best is who "
        "takes the least, and a ratio says how many times as fast echotwist is by them; that holds "
        "also where the load is what is slow (†); elsewhere it compares the figures. "
        "A ratio is the median of the ratios of the rounds.",
        unmeasured(),
        "## Targets",
        "Of echotwist, and where it says *as fast as*, how many times, by processor time.",
        targets.table(
            results,
            {row.name: best.name for row in rows if (best := bestOf(results, row, servers))},
        ),
        "## What the columns say",
        columns(results),
    ]
    if results.notes:
        parts.append("\n".join(f"- {text}" for text in results.notes))
    for row in rows:
        parts += [f"## {row.title[0].upper()}{row.title[1:]}", table(results, row, servers)]
        if left := leftOut(row, servers):
            parts.append(left)
    if any(row.oneCore for row in rows):
        parts += ["## What a second core brings", cores(results, rows, servers)]
    unchecked = [server.title for server in servers if not server.checksText]
    if unchecked and any(row.text for row in rows):
        parts.append(
            "Text is to be checked for UTF-8 (RFC 6455, 8.1). Not checked here: it is left to "
            f"their users by, or is no duty of, {'; '.join(unchecked)}."
        )
    parts += ["## Versions and commands", commands(results, servers, rows)]
    if results.failures:
        parts += ["## What failed", *(f"- {failure}" for failure in results.failures)]
    return "\n\n".join(parts) + "\n"


def columns(results: Results) -> str:
    return (
        f"Every figure is the median of the rounds ({results.rounds}; slow rows have fewer), each "
        f"of {results.seconds:g} s, or twice that for a newcomer's wait, after "
        f"{results.warmup:g} s that do not count; in parentheses are "
        "the least and the most of the rounds. A round goes through all servers, one after the "
        "other, each started anew and pinned to one core; the load is pinned to another one and "
        "checks every byte of every echo. Megabytes are millions of bytes of payload, counted "
        "once.\n\n"
        "- **µs/msg** is the processor time of the server, user and system, divided by the "
        "messages: the steadiest figure, and the one to compare by where † says that the load was "
        f"busy for {BUSY:.0%} of the time or more, and so may have been what was slow.\n"
        "- **p50, p99** are latencies, from the `send` of a message to the `recv` of the last byte "
        "of its echo. The load sends the next message when an echo has come, so a slow server is "
        "sent less, and what was not sent has no latency.\n"
        "- **A newcomer's wait** is that of a client that connects, upgrades, has one echo, and "
        "closes, from the first packet to the last; then the next one comes. The others run on a "
        "thread that has the load's core only when the newcomer does not want it. One that still "
        "waits when the time is up is waited for, 5 s at most, and then given up: its wait was "
        "longer. Where few came, p99 is the longest wait. **attack MB/s** is what the others got "
        "back.\n"
        "- **busy** is the share of its core that the server used, **load** that of the load. "
        f"Before the rounds, others used {max(results.others):.0%} of the cores at most."
    )


def summary(results: Results, rows: Sequence[Row], servers: Sequence[Server]) -> str:
    lines = [
        "| load | echotwist | best other | echotwist to it | the floor | echotwist to it |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.oneCore:  # Few servers have such a figure; they have a table of their own.
            continue
        best = bestOf(results, row, servers)
        lines.append(
            " | ".join(
                [
                    f"| {row.title}",
                    cell(results, row, OURS),
                    f"{cell(results, row, best.name)}, {best.title}" if best else "",
                    speed(results, row, best.name) if best else "",
                    cell(results, row, FLOOR),
                    f"{speed(results, row, FLOOR)} |",
                ]
            )
        )
    return "\n".join(lines)


def bestOf(results: Results, row: Row, servers: Sequence[Server]) -> Server | None:
    """The best server of the row that is not echotwist."""
    others = [
        server
        for server in ranking(results, row, servers)
        if not server.name.startswith(OURS) and server.name != FLOOR
    ]
    costs = {server.name: results.median(row.name, server.name, "server_us") for server in others}
    # Of those that cost the same, or nothing that is known, the first stays the best.
    return min(others, key=lambda server: costs[server.name] or 0.0, default=None)


def cell(results: Results, row: Row, server: str) -> str:
    median = results.median(row.name, server, row.figure)
    if median is None:
        return ""
    cost = results.median(row.name, server, "server_us")
    told = f"{number(median)} {row.unit}{mark(results, row, server)}"
    return told if cost is None else f"{told} · {number(cost)} µs"


def ratio(results: Results, row: Row, server: str, to: str) -> str:
    found = results.ratio(row.name, server, to, row.figure)
    return "" if found is None else f"{found:.2f}×"


def speed(results: Results, row: Row, to: str) -> str:
    """Of echotwist, by processor time if there is one."""
    cost = results.ratio(row.name, OURS, to, "server_us")
    return f"{1 / cost:.2f}×" if cost else ratio(results, row, OURS, to)


def mark(results: Results, row: Row, server: str) -> str:
    busy = results.median(row.name, server, "load_utilisation")
    return " †" if busy is not None and busy >= BUSY else ""


def table(results: Results, row: Row, servers: Sequence[Server]) -> str:
    isMany = row.figure not in ("handshakes_per_s", "p99_ms")
    extras = {
        "server_us": "µs/msg" if isMany else "µs/handshake",
        "p50_us": "p50 µs",
        "p99_us": "p99 µs",
        "p50_ms": "p50 ms",
        "heavy_mb_per_s": "streamed MB/s",
        "hostile_mb_per_s": "attack MB/s",
        "hostile_reconnects": "attackers closed",
        "echo_size": "bytes of an echo",
        "before": "MB before",
        "server_utilisation": "busy",
        "load_utilisation": "load",
        "tls": "TLS",
    }
    if row.figure == "p99_ms":
        extras |= {"count": "newcomers", "unanswered": "given up"}
    ranked = ranking(results, row, servers)
    shown = {
        key: title
        for key, title in extras.items()
        if key != row.figure and any(results.values(row.name, s.name, key) for s in ranked)
    }
    head = ["server", row.unit, "to echotwist", *shown.values()]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for server in ranked:
        title = f"**{server.title}**" if server.name == OURS else server.title
        spread = spreadOf(results, row, server.name)
        cells = [
            title + mark(results, row, server.name),
            spread,
            ratio(results, row, server.name, OURS),
        ]
        for key in shown:
            if key == "tls":
                cells.append(results.values(row.name, server.name, key)[0])  # type: ignore[arg-type]
                continue
            median = results.median(row.name, server.name, key)
            if median is None:
                cells.append("")
            elif key.endswith("utilisation"):
                cells.append(f"{median:.0%}")
            elif key in ("count", "unanswered", "hostile_reconnects"):
                cells.append(f"{median:,.0f}")
            elif key == "before":
                cells.append(f"{median / 1e6:.0f}")
            else:
                cells.append(number(median))
        lines.append(f"| {' | '.join(cells)} |")
    failed = [
        server.title
        for server in servers
        if server not in ranked and server.name in results.measured[row.name]
    ]
    lines += [f"| {title} | failed |{' |' * (len(head) - 2)}" for title in failed]
    return "\n".join(lines)


def unmeasured() -> str:
    lines = [f"- {name}: {why}." for name, why in UNMEASURED.items()]
    return "\n".join(["So it says nothing of those that were not measured:", "", *lines])


def leftOut(row: Row, servers: Sequence[Server]) -> str:
    """Who does not do what the row needs."""
    lines = []
    for need in sorted(row.needed):
        titles = [s.title for s in servers if need in s.lacks and s.name != FLOOR]
        if titles:
            lines.append(f"Left out, for want of {need}: {'; '.join(titles)}.")
    return " ".join(lines)


def cores(results: Results, rows: Sequence[Row], servers: Sequence[Server]) -> str:
    """The rows on all cores beside the same on one. The load shares them."""
    lines = [
        "| load | server | on one core | on all | to one core | busy | load |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    titles = {row.name: row.title for row in rows}
    for row in rows:
        for server in ranking(results, row, servers) if row.oneCore else []:
            before = results.median(row.oneCore, server.name, row.figure)
            after = results.median(row.name, server.name, row.figure)
            to = results.between((row.name, server.name), (row.oneCore, server.name), row.figure)
            if before is None or after is None or to is None:
                continue
            busy = results.median(row.name, server.name, "server_utilisation")
            load = results.median(row.name, server.name, "load_utilisation")
            lines.append(
                f"| {titles.get(row.oneCore, row.oneCore)} | {server.title} "
                f"| {number(before)} {row.unit} | {number(after)} {row.unit} | {to:.2f}× "
                f"| {busy or 0:.0%} | {load or 0:.0%} |"
            )
    told = (
        "The load has no core of its own there: what it uses, of two cores, is not the server's. "
        "Servers that use one core in one process are left out; they scale by more processes, as "
        "all of these do."
    )
    return "\n".join([told, "", *lines])


def spreadOf(results: Results, row: Row, server: str) -> str:
    values = results.values(row.name, server, row.figure)
    median = results.median(row.name, server, row.figure)
    assert median is not None
    if len(values) == 1:
        return number(median)
    return f"{number(median)} ({number(min(values))} to {number(max(values))})"


def ranking(results: Results, row: Row, servers: Sequence[Server]) -> list[Server]:
    """The servers that have a figure, the best first."""
    medians = {server.name: results.median(row.name, server.name, row.figure) for server in servers}
    return sorted(
        (server for server in servers if medians[server.name] is not None),
        key=lambda server: medians[server.name] or 0.0,
        reverse=row.better == "higher",
    )


def number(value: float) -> str:
    """Three digits that count, or all of those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def commands(results: Results, servers: Sequence[Server], rows: Sequence[Row]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in results.machine.items()]
    lines += [f"| {server.title} | {results.versions[server.name]} |" for server in servers]
    lines += ["", "The servers, here on port 8080; where the row asks for it, with their option "
              "for compression, or TLS with a certificate of P-256:", "", "```sh"]  # fmt: skip
    lines += [results.commands[server.name] for server in servers]
    lines += ["```", "", "The load (`--path=/echo` and the server's `--pid` are to be added):", ""]
    lines += ["```sh", *(results.loads[row.name] for row in rows), "```"]
    return "\n".join(lines)


# The charts.

THEMES = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2328",
        "faint": "#59636e",
        "ours": "#0969da",
        "log": "#80b3f0",
        "others": "#afb8c1",
        "floor": "#e6eaef",
        "line": "#d1d9e0",
    },
    "dark": {
        "paper": "#0d1117",
        "ink": "#f0f6fc",
        "faint": "#9198a1",
        "ours": "#4493f8",
        "log": "#2b5c9c",
        "others": "#656c76",
        "floor": "#2a313c",
        "line": "#3d444d",
    },
}

PANEL = 490  # wide; two beside each other
NAMES = 165  # for the names of servers
BARS = 150  # the longest bar; the rest is for its figure
STEP = 22  # from a bar to the next
HEAD = 52


def chart(
    results: Results, rows: Sequence[Row], servers: Sequence[Server], colours: dict[str, str]
) -> str:
    panels = [(row, ranking(results, row, servers)) for row in rows if row.chart]
    parts: list[str] = []
    bottoms = [16, 16]
    for row, ranked in panels:
        column = 0 if bottoms[0] <= bottoms[1] else 1
        left, top = 16 + column * PANEL, bottoms[column]
        parts += panel(results, row, ranked, left, top, colours)
        bottoms[column] = top + HEAD + len(ranked) * STEP + 18
    width = 16 + 2 * PANEL if len(panels) > 1 else 16 + PANEL
    height = max(bottoms)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" font-size="13" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            "<title>WebSocket echo servers compared</title>",
            f'<rect width="{width}" height="{height}" rx="6" fill="{colours["paper"]}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def panel(
    results: Results,
    row: Row,
    ranked: Sequence[Server],
    left: int,
    top: int,
    colours: dict[str, str],
) -> list[str]:
    parts = []
    for i, words in enumerate(wrapped(row.title[0].upper() + row.title[1:], 64)):
        parts.append(text(left, top + 14 + i * 16, words, colours["ink"], weight=600))
    end = top + HEAD + len(ranked) * STEP
    parts.append(f'<path d="M{left + NAMES} {top + HEAD - 6}V{end}" stroke="{colours["line"]}"/>')
    most = max((max(results.values(row.name, s.name, row.figure)) for s in ranked), default=0) or 1
    scale = BARS / most
    for i, server in enumerate(ranked):
        y = top + HEAD + i * STEP
        values = results.values(row.name, server.name, row.figure)
        median = results.median(row.name, server.name, row.figure) or 0.0
        fill = {OURS: "ours", f"{OURS}-log": "log", FLOOR: "floor"}.get(server.name, "others")
        isOurs = server.name == OURS
        parts.append(
            text(left + NAMES - 8, y + 10, server.title, colours["ink" if isOurs else "faint"],
                 anchor="end", weight=600 if isOurs else 400)
        )  # fmt: skip
        start, length = left + NAMES, max(median * scale, 1)
        parts.append(
            f'<rect x="{start}" y="{y - 2}" width="{length:.1f}" height="16" rx="2" '
            f'fill="{colours[fill]}"/>'
        )
        if len(values) > 1:
            parts.append(
                f'<path d="M{start + min(values) * scale:.1f} {y + 6}'
                f'H{start + max(values) * scale:.1f}" '
                f'stroke="{colours["ink"]}" stroke-opacity="0.6"/>'
            )
        figure = f"{number(median)} {row.unit}"
        cost = results.median(row.name, server.name, "server_us")
        if cost is not None and row.unit == "msg/s":
            figure += f" · {number(cost)} µs"
        reach = max(length, max(values) * scale)
        parts.append(text(start + reach + 6, y + 10, figure, colours["ink" if isOurs else "faint"],
                          size=11))  # fmt: skip
    return parts


def wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def text(
    x: float,
    y: float,
    words: str,
    colour: str,
    anchor: str = "start",
    weight: int = 400,
    size: int = 13,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}" font-size="{size}">{escape(words)}</text>'
    )
