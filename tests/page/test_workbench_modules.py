"""Modules of the workbench, one by one, in a real browser: history, pairs, links, grid, files."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from support.browser import blank

from echotwist.testing import ServiceProcess


@pytest.fixture(scope="module")
def page(browser: Browser, service: ServiceProcess) -> Iterator[Page]:
    """Of the same origin, and without a script of its own. What is tested here leaves nothing in
    it, so that one is enough for all. Where it is, the time is half an hour off."""
    with blank(browser, service.page, timezone_id="Asia/Kolkata") as page:
        yield page


def js(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """What a function's body returns, in which `m` is the module, and `a` the argument."""
    return page.evaluate(
        f"async ([a]) => {{ const m = await import('./workbench/{module}.js'); {body} }}",
        [argument],
    )


# Files.


ENTRIES = """
const started = 1_700_000_000_123.25;  // 2023-11-14T22:13:20.12325Z
const entry = (time, connection, from, type, data, more) =>
    ({ time: started + time, connection, from, type, data, size: data.length, ...more });
const url = "ws://host/lab?ping=a%20b&trace=SECRET-1_&delay=1s";
const entries = [
    entry(0, 1, "status", "connecting", `to ${url}`, { size: 0, url }),
    entry(1.0625, 1, "status", "open", "after 1.1 ms", { size: 0 }),
    entry(2, 1, "sent", "text", "hi ?trace=mine", { roundTrip: 2.5 }),
    entry(3, 2, "status", "connecting", "to ws://host/echo", { size: 0, url: "ws://host/echo" }),
    entry(4, 1, "server", "request", "GET /lab?trace=SECRET-1_ HTTP/1.1", { serverTime: 7 }),
    entry(4.5, 1, "received", "binary", Uint8Array.of(0, 255), { roundTrip: 2.5 }),
    entry(9, 2, "status", "close", "1006", { size: 0 }),
];
const history = {
    urls: new Map([[1, url], [2, "ws://host/echo"]]),
    opened: new Set([1]),
};
"""


def test_the_json_has_all_of_an_entry_but_no_id_of_a_trace(
    page: Page, service: ServiceProcess
) -> None:
    made = json.loads(
        js(page, "export", ENTRIES + "return [...m.asJson(entries, history)].join('')")
    )
    assert made["page"] == f"{service.page}blank"
    assert made["userAgent"] == page.evaluate("navigator.userAgent")
    url = "ws://host/lab?ping=a%20b&trace=…&delay=1s"
    assert made["urls"] == {"1": url, "2": "ws://host/echo"}
    wanted: list[tuple[str, int, str, str, int, dict[str, Any]]] = [
        ("123250", 1, "status", "connecting", 0, {"data": f"to {url}"}),
        ("124312", 1, "status", "open", 0, {"data": "after 1.1 ms"}),
        # What somebody has sent is theirs.
        ("125250", 1, "sent", "text", 14, {"roundTrip": 2.5, "data": "hi ?trace=mine"}),
        ("126250", 2, "status", "connecting", 0, {"data": "to ws://host/echo"}),
        (
            *("127250", 1, "server", "request", 33),
            {"serverTime": 7, "data": "GET /lab?trace=… HTTP/1.1"},
        ),
        ("127750", 1, "received", "binary", 2, {"roundTrip": 2.5, "base64": "AP8="}),
        ("132250", 2, "status", "close", 0, {"data": "1006"}),
    ]
    assert made["entries"] == [
        {
            "time": f"2023-11-14T22:13:20.{micros}Z",
            "connection": connection,
            "from": whose,
            "type": type_,
            "size": size,
            **more,
        }
        for micros, connection, whose, type_, size, more in wanted
    ]


def test_the_har_has_each_connection_with_its_messages(page: Page) -> None:
    made = json.loads(
        js(page, "export", ENTRIES + "return [...m.asHar(entries, history)].join('')")
    )
    assert made["log"]["version"] == "1.2"
    first, second = made["log"]["entries"]
    assert first["startedDateTime"] == "2023-11-14T22:13:20.123250Z"
    assert first["time"] == first["timings"]["receive"] == 4.5
    assert first["request"]["url"] == "ws://host/lab?ping=a%20b&trace=…&delay=1s"
    assert first["request"]["queryString"] == [
        {"name": "ping", "value": "a b"},
        {"name": "trace", "value": "…"},
        {"name": "delay", "value": "1s"},
    ]
    assert (first["response"]["status"], first["response"]["statusText"]) == (
        *(101, "Switching Protocols"),
    )
    # Neither the statuses nor what the server saw; the times are in seconds.
    assert first["_webSocketMessages"] == [
        {"type": "send", "time": 1_700_000_000.12525, "opcode": 1, "data": "hi ?trace=mine"},
        {"type": "receive", "time": 1_700_000_000.12775, "opcode": 2, "data": "AP8="},
    ]
    assert second["request"]["queryString"] == []
    assert second["time"] == 6
    assert (second["response"]["status"], second["response"]["statusText"]) == (0, "")
    assert second["_webSocketMessages"] == []


def test_a_connection_of_which_only_the_server_tells_is_not_in_the_har(page: Page) -> None:
    some = "[...m.asHar(entries.filter(each => each.from === 'server'), history)]"
    made = js(page, "export", f"{ENTRIES} return {some}.join('')")
    assert json.loads(made)["log"]["entries"] == []
    assert json.loads(js(page, "export", "return [...m.asJson([], {urls: []})].join('')")) == {
        "page": page.url,
        "userAgent": page.evaluate("navigator.userAgent"),
        "urls": {},
        "entries": [],
    }


def test_the_clock_is_that_of_the_reader(page: Page) -> None:
    times = [1_700_000_000_123.25, 1_700_000_000_000, 1_700_000_039_999.9375, -1]
    assert js(page, "time", "return a.map(m.clockOf)", times) == [
        *("03:43:20.1232", "03:43:20.0000", "03:43:59.9999", "05:29:59.9990"),
    ]


# The history.


HISTORY = """
const history = new m.History();
const add = (time, data = "", connection = 1, type = "text") =>
    history.add({ time, connection, from: "sent", type, data, size: data.length });
const times = () => history.entries.map(({ time }) => time);
const mega = "x".repeat(1 << 20);  // One string, however many have it; two bytes a character.
"""


def test_the_oldest_are_forgotten_when_all_are_too_large(page: Page) -> None:
    kept, first, forgotten, version = js(
        page,
        "history",
        HISTORY
        + """
        for (let i = 0; i < 70; i += 1) add(i, mega);
        return [history.entries.length, times()[0], history.forgotten, history.version];""",
    )
    assert kept + forgotten == 70
    assert first == forgotten
    assert 126 << 20 <= kept * (2 << 20) <= 128 << 20
    assert version > 0


def test_a_message_that_is_too_large_by_itself_is_kept(page: Page) -> None:
    assert js(
        page,
        "history",
        HISTORY
        + """
        for (let i = 0; i < 5; i += 1) add(i, mega);
        add(5, { length: m.BYTES + 1 });
        const one = [times(), history.forgotten];
        add(6);
        return [one, times(), history.forgotten];""",
    ) == [[[5], 5], [6], 6]


def test_of_too_many_entries_a_tenth_is_forgotten_and_their_bytes(page: Page) -> None:
    assert js(page, "history", HISTORY + """
        for (let i = 0; i < 30; i += 1) add(i, mega);
        for (let i = 30; i < m.ENTRIES; i += 1) add(i);
        const before = [history.entries.length, history.forgotten];
        add(m.ENTRIES);
        const after = [history.entries.length, history.forgotten, times()[0]];
        // For which there is room only as the first thirty are gone.
        for (let i = 1; i <= 40; i += 1) add(m.ENTRIES + i, mega);
        return [before, after, history.entries.length];""") == [
        *([100_000, 0], [90_001, 10_000, 10_000], 90_041),
    ]  # fmt: skip


def test_what_was_cleared_takes_no_room(page: Page) -> None:
    assert js(
        page,
        "history",
        HISTORY
        + """
        for (let i = 0; i < 60; i += 1) add(i, mega);
        const { version } = history;
        history.clear();
        const cleared = [times(), history.forgotten, history.version > version];
        for (let i = 0; i < 60; i += 1) add(i, mega);
        return [cleared, history.entries.length];""",
    ) == [[[], 60, True], 60]


def test_what_is_late_is_put_where_it_belongs(page: Page) -> None:
    assert js(page, "history", HISTORY + """
        for (const time of [2, 4, 6, 6]) add(time);
        const before = history.version;
        for (const time of [5, 1, 4]) add(time, "late");
        return [before, history.version > 0,
            history.entries.map(({ time, data }) => time + data)];""") == [
        *(0, True, ["1late", "2", "4", "4late", "5late", "6", "6"]),
    ]  # fmt: skip


def test_entries_get_new_times_and_places(page: Page) -> None:
    assert js(
        page,
        "history",
        HISTORY
        + """
        for (const time of [1, 2, 3, 4]) add(time, `${time}`, time % 2 ? 1 : -1);
        const { version } = history;
        history.retime(({ connection }) => connection < 0, ({ time }) => time - 2.5);
        return [times(), history.entries.map(({ data }) => data), history.version > version];
    """,
    ) == [[-0.5, 1, 1.5, 3], ["2", "1", "4", "3"], True]


def test_those_who_listen_are_told_once_of_many(page: Page) -> None:
    assert js(
        page,
        "history",
        HISTORY
        + """
        let told = 0;
        const first = new Promise((resolve) => history.listeners.add(() => resolve(told += 1)));
        for (let i = 0; i < 100; i += 1) add(i, "", i, i ? "text" : "open");
        const before = told;
        await first;
        return [before, told, [...history.types], [...history.opened]];
    """,
    ) == [0, 1, ["open", "text"], [0]]


# What has not come back.


UNANSWERED = """
const waiting = new m.Unanswered();
const entry = (data, size = data.length) =>
    ({ type: typeof data === "string" ? "text" : "binary", data, size });
const add = (data, size) => { const made = entry(data, size); waiting.add(made); return made; };
const take = (data, size) => waiting.take(entry(data, size));
"""


@pytest.mark.parametrize("size", [2, 128, 129, 1000])
def test_an_echo_is_that_of_its_message_and_not_of_an_older_one_that_is_ignored(
    page: Page, size: int
) -> None:
    assert js(page, "unanswered", UNANSWERED + """
        const one = new Uint8Array(a), two = new Uint8Array(a), other = new Uint8Array(a);
        two[a >> 1] = 1;
        other[a >> 1] = 2;
        const texts = ["1", "2", "3"].map((c) => "x".repeat(a >> 1) + c + "y".repeat(a >> 1));
        const sent = [one, two, texts[0], texts[1]].map((data) => add(data));
        return [take(two.slice()) === sent[1], take(other), take(texts[1]) === sent[3],
            take(texts[2]), take(two.slice()), waiting.count, take(one) === sent[0]];
    """, size) == [True, None, True, None, None, 2, True]  # fmt: skip


def test_of_two_that_are_the_same_the_older_is_answered(page: Page) -> None:
    assert js(
        page,
        "unanswered",
        UNANSWERED
        + """
        const sent = [add("same"), add("same")];
        add(Uint8Array.of(97, 98));
        return [take("same") === sent[0], take("same") === sent[1], take("same"), take("97,98"),
            waiting.count];""",
    ) == [True, True, None, None, 1]


def test_no_more_than_some_bytes_wait(page: Page) -> None:
    # The sizes are said, not made.
    assert js(
        page,
        "unanswered",
        UNANSWERED
        + """
        for (let i = 0; i < 17; i += 1) add(`${i}`, 1 << 20);
        const few = [take("0"), take("1") !== undefined, waiting.count, waiting.isAll];
        add("huge", 1 << 30);
        return [few, take("16"), take("huge") !== undefined, waiting.count];
    """,
    ) == [[None, True, 15, False], None, True, 0]


def test_no_more_than_some_messages_wait(page: Page) -> None:
    assert js(
        page,
        "unanswered",
        UNANSWERED
        + """
        for (let i = 0; i <= 100_000; i += 1) add(`${i}`);
        return [waiting.count, waiting.isAll, take("0"), take("1") !== undefined,
            take("100000") !== undefined, waiting.count];""",
    ) == [100_000, False, None, True, True, 99_998]


def test_after_the_end_nothing_waits(page: Page) -> None:
    assert js(
        page,
        "unanswered",
        UNANSWERED
        + """
        for (let i = 0; i < 20; i += 1) add(`${i}`, 1 << 20);
        waiting.clear();
        const cleared = [waiting.count, take("19")];
        for (let i = 0; i < 16; i += 1) add(`${i}`, 1 << 20);
        return [cleared, waiting.isAll, take("0") !== undefined, waiting.count];""",
    ) == [[0, None], True, True, 15]


def test_a_text_is_as_long_as_it_is_in_utf8(page: Page) -> None:
    texts = r"""["", "a", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "😀",
        "\ud83d", "\ude00", "\ud83da", "\ude00\ud83d", "\ud83d\ud83d\ude00", "a😀é世"]"""
    lengths = js(page, "connection", f"return {texts}.map(m.utf8Length)")
    assert lengths == [0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 3, 3, 4, 6, 7, 10]
    by_the_browser = f"return {texts}.map((text) => new TextEncoder().encode(text).length)"
    assert lengths == js(page, "connection", by_the_browser)


# Links.


def test_a_script_is_a_url_of_the_service(page: Page, service: ServiceProcess) -> None:
    base = service.page.replace("http", "ws", 1)
    urls = {
        ("", None): "echo",
        ("", "ID"): "lab?trace=ID",
        ("ping&delay=1s", None): "lab?ping&delay=1s",
        ("ping", "ID"): "lab?ping&trace=ID",
        ("send=#&ping=#", None): "lab?send=%23&ping=%23",
        ("trace=theirs&ping&trace", None): "lab?ping",
        ("trace=theirs", "ID"): "lab?trace=ID",
        ("%74race=theirs&%54race", None): "lab?%54race",
        ("send=trace=1&retrace", None): "lab?send=trace=1&retrace",
        ("%zz=1", None): "lab?%zz=1",
        # The server takes neither for a trace; a parser of URLs would delete the tab.
        ("tra\tce=theirs&send=a\tb\n", None): "lab?tra%09ce=theirs&send=a%09b%0A",
        ("//elsewhere/?a", None): "lab?//elsewhere/?a",
    }
    made = js(page, "link", "return a.map(([s, id]) => m.urlOf(s, id ?? undefined))", list(urls))
    assert made == [base + path for path in urls.values()]


def test_a_url_is_below_the_pages_folder_whatever_is_behind_its_hash(page: Page) -> None:
    page.evaluate("history.replaceState(null, '', '#a/b?c')")
    assert js(page, "link", "return m.urlOf('ping')").endswith("/lab?ping")
    page.evaluate("history.replaceState(null, '', 'blank')")


LINKS: dict[str, dict[str, Any]] = {
    "": {},
    "#script=ping%26delay%3D1s": {"script": "ping&delay=1s"},
    "#script=ping%26trace%3Dtheirs": {"script": "ping"},
    "#script=%2574race%3Dtheirs%26ping": {"script": "ping"},
    "#subprotocol=chat&subprotocol=superchat": {"subprotocols": ["chat", "superchat"]},
    "#trace": {"isTraced": True},
    "#trace=theirs": {"isTraced": True},
    "#message=a%20b+c%0A": {"text": "a b c\n"},
    "#message=not%20this&hex=00ff": {"text": "00ff", "format": "hex"},
    "#base64=AP8%3D&tab=latency": {"text": "AP8=", "format": "base64", "tab": "latency"},
}


def test_a_link_says_what_is_wanted(page: Page) -> None:
    read = js(page, "link", "return a.map((hash) => m.parseLink(hash))", list(LINKS))
    for (hash_, given), link in zip(LINKS.items(), read, strict=True):
        draft = {"text": given.get("text", ""), "format": given.get("format", "text")}
        wanted = {"script": "", "subprotocols": [], "isTraced": False}
        wanted |= {name: given[name] for name in wanted if name in given}
        assert link == {"wanted": wanted, "draft": draft, "tab": given.get("tab", "")}, hash_


def test_a_link_that_is_made_is_read_as_it_was_meant(page: Page) -> None:
    wanted = {"script": "send=#&ping=a%26b", "subprotocols": ["chat", "b"], "isTraced": True}
    for draft in ({"text": "h&ä=#\n%", "format": "text"}, {"text": "0 a", "format": "hex"}):
        body = "return m.parseLink(new URL(m.linkTo(...a)).hash)"
        link = js(page, "link", body, [wanted, draft])
        assert (link["wanted"], link["draft"]) == (wanted, draft)
    body = "return m.linkTo({script: a, subprotocols: [], isTraced: false}, {text: ''})"
    assert js(page, "link", body, "trace=mine&%74race=mine&ping") == f"{page.url}#script=ping"
    assert js(page, "link", body, "") == f"{page.url}#"


def test_a_message_of_a_link_is_cut(page: Page) -> None:
    body = "return m.parseLink(`#message=${'x'.repeat(a)}y`).draft.text.length"
    assert [js(page, "link", body, length) for length in (99_998, 99_999, 2_000_000)] == [
        *(99_999, 100_000, 100_000),
    ]


# The grid.


GRID = """
document.body.replaceChildren();
const sheet = document.createElement("style");
sheet.textContent = ".rows { position: relative } .rows > div { position: absolute; top: 0 } "
    + "[role=row] { height: 28px } .head { position: sticky; top: 0 }";
const div = document.createElement("div");
div.id = "made";
div.style.cssText = "height: 308px; overflow: auto; overflow-anchor: none";
document.body.append(sheet, div);
const chosen = [];
const grid = new m.Grid(div, [{ name: "Its name", textOf: (row, i) => `${row.name} at ${i}` }],
    () => "", (row) => chosen.push(row?.name));
const rows = Array.from({ length: 1000 }, (_, name) => ({ name }));
const frames = async () => {
    for (let i = 0; i < 3; i += 1) await new Promise(requestAnimationFrame);
};
const scroll = async (top) => { div.scrollTop = top; await frames(); };
const seen = () => {
    const { top, bottom } = div.getBoundingClientRect();
    return [...div.querySelectorAll(".rows > div")].filter((row) => {
        const box = row.getBoundingClientRect();
        return box.top >= top + 27 && box.bottom <= bottom + 1;
    }).map((row) => Number(row.textContent.split(" ")[0])).sort((a, b) => a - b);
};
const press = async (key) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
    const isOurs = !div.dispatchEvent(event);
    await frames();
    return isOurs;
};
grid.show(rows);
await frames();
"""


def test_a_reader_at_the_end_follows_and_few_rows_are_made(page: Page) -> None:
    first, later, count, made = js(
        page,
        "grid",
        GRID
        + """
        const first = seen();
        for (let name = 1000; name < 1100; name += 1) rows.push({ name });
        grid.show(rows);
        await frames();
        return [first, seen(), div.getAttribute("aria-rowcount"),
            div.querySelectorAll(".rows > div").length];""",
    )
    assert first == [*range(990, 1000)]
    assert later == [*range(1090, 1100)]
    assert count == "1101"
    assert made < 40


def test_a_reader_in_the_middle_stays_there(page: Page) -> None:
    at_first, added, gone, top = js(
        page,
        "grid",
        GRID
        + """
        await scroll(500 * 28);
        const first = seen();
        rows.push({ name: 1000 });
        grid.show(rows);
        await frames();
        const added = seen();
        grid.show(rows.slice(100));
        await frames();
        return [first, added, seen(), div.scrollTop];""",
    )
    assert at_first == added == gone == [*range(500, 510)]
    assert top == 400 * 28


def test_a_reader_whose_row_is_gone_is_not_sent_to_the_end(page: Page) -> None:
    assert (
        js(
            page,
            "grid",
            GRID
            + """
        await scroll(50 * 28);
        grid.show(rows.slice(100));
        await frames();
        return seen().includes(999);""",
        )
        is False
    )


def test_who_comes_back_to_the_end_follows_again(page: Page) -> None:
    assert (
        js(
            page,
            "grid",
            GRID
            + """
        await scroll(500 * 28);
        await scroll(div.scrollHeight);
        rows.push({ name: 1000 });
        grid.show(rows);
        await frames();
        return seen().at(-1);""",
        )
        == 1000
    )


def test_keys_choose_a_row_and_show_it(page: Page) -> None:
    found = js(
        page,
        "grid",
        GRID
        + """
        const found = [];
        for (const key of ["ArrowUp", "Home", "ArrowUp", "ArrowDown", "PageDown", "PageDown",
                           "PageUp", "End", "PageDown", "PageUp"]) {
            const isOurs = await press(key);
            found.push([key, isOurs, chosen.at(-1), seen().includes(chosen.at(-1)),
                div.querySelector("[aria-selected=true]").id
                    === div.getAttribute("aria-activedescendant")]);
        }
        return found;""",
    )
    assert found == [
        [key, True, row, True, True]
        for key, row in (
            *(("ArrowUp", 999), ("Home", 0), ("ArrowUp", 0), ("ArrowDown", 1), ("PageDown", 10)),
            *(("PageDown", 19), ("PageUp", 10), ("End", 999), ("PageDown", 999), ("PageUp", 990)),
        )
    ]


def test_the_first_of_page_down_leads_into_the_first_page(page: Page) -> None:
    assert js(
        page,
        "grid",
        GRID
        + """
        await press("PageDown");
        return [chosen, seen().includes(chosen[0]), await press("x"), chosen.length,
            div.querySelector("[aria-selected=true]").getAttribute("aria-rowindex")];
    """,
    ) == [[8], True, False, 1, "10"]


def test_a_grid_without_rows_leaves_the_keys_alone(page: Page) -> None:
    assert js(
        page,
        "grid",
        GRID
        + """
        grid.show([]);
        return [await press("End"), chosen, div.querySelectorAll(".rows > div").length,
            div.getAttribute("aria-rowcount")];""",
    ) == [False, [], 0, "1"]


# What is odd.


class Told:
    """A connection of which `odd.js` is told, as by the service: a frame each millisecond."""

    def __init__(self) -> None:
        head = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
        self.events: list[dict[str, Any]] = [
            {"type": "requested"},
            {"type": "opened", "head": head},
        ]
        for number, event in enumerate(self.events):
            event |= {"number": number, "time": 0}
        self.number = 2
        self.time = 0

    def add(self, type_: str, opcode: int, payload: str = "", **more: Any) -> None:
        self.time += 1000
        data = payload.encode().hex()
        event = {"number": self.number, "time": self.time, "type": type_, "opcode": opcode}
        self.events.append({**event, "data": data, "length": len(payload), **more})
        self.number += 1

    def ping(self, payload: str) -> None:
        self.add("frameSent", 9, payload)

    def pong(self, payload: str) -> None:
        self.add("frameReceived", 10, payload)

    def closed(self, whose: str, code: int | None) -> None:
        self.add("frameReceived" if whose == "client" else "frameSent", 8, code=code)

    def found(self, page: Page, **more: Any) -> dict[str, Any]:
        """What is said of the events, what is found at the end, and how the ends compare."""
        ended = {"time": self.time + 1000, "by": "client", "how": "close"}
        found: dict[str, Any] = js(page, "odd", """
            const odd = new m.Odd();
            const said = a.events.map((event) => odd.hear(event)).filter(Boolean);
            const open = odd.open.length;
            const unanswered = odd.end(a.ended, a.verdict ?? null).length;
            const { found } = odd;
            return { said, open, unanswered, found, still: odd.open.length,
                compared: odd.compare(a.seen ?? undefined) };
        """, {"events": self.events, "ended": ended, **more})  # fmt: skip
        return found


def test_an_end_in_order_is_not_odd(page: Page) -> None:
    told = Told()
    told.ping("a")
    told.pong("a")
    told.closed("client", 1000)
    told.closed("server", 1000)
    assert told.found(page, seen={"code": 1000}, verdict={"behavior": "OK", "why": "right"}) == {
        "said": ["answers the ping of 1.0 ms before"],
        "open": 0,
        "unanswered": 0,
        "found": [],
        "still": 0,
        "compared": [],
    }


def test_a_code_that_a_browser_sees_otherwise_is_told(page: Page) -> None:
    told = Told()
    told.closed("server", 1008)
    compared = told.found(page, seen={"code": 1006})["compared"]
    assert compared == ["The server closed with 1008, and this browser reports 1006"]
    assert told.found(page, seen={"code": 1008})["compared"] == []
    assert told.found(page)["compared"] == []


def test_no_code_is_what_a_browser_reports_as_1005(page: Page) -> None:
    told = Told()
    told.closed("server", None)
    assert told.found(page, seen={"code": 1005})["compared"] == []
    compared = told.found(page, seen={"code": 1000})["compared"]
    assert compared == ["The server closed with no code, and this browser reports 1000"]


def test_a_client_that_has_closed_first_reports_its_own_code(page: Page) -> None:
    told = Told()
    told.closed("client", 4000)
    told.closed("server", 1000)
    assert told.found(page, seen={"code": 4000})["compared"] == []


def test_a_pong_to_an_old_ping_after_a_later_one_is_odd(page: Page) -> None:
    told = Told()
    told.ping("a")
    told.ping("b")
    told.pong("b")
    told.pong("a")
    told.pong("a")
    told.pong("c")
    told.closed("client", 1000)
    told.closed("server", 1000)
    found = told.found(page)
    assert found["said"] == [
        "answers the ping of 1.0 ms before",
        "answers an old ping, of 3.0 ms before",
        "answers the ping of 4.0 ms before once more",
        "answers no ping: unsolicited (RFC 6455, 5.5.3)",
    ]
    assert found["found"] == [
        "The pong at 4.0 ms answers an old ping, of 3.0 ms before: "
        "a later one was answered already",
        "The pong at 5.0 ms, 'a', answers the ping of 4.0 ms before once more",
        "The pong at 6.0 ms, 'c', answers no ping: unsolicited (RFC 6455, 5.5.3)",
    ]


def test_whoever_answers_the_latest_of_some_pings_has_answered_all(page: Page) -> None:
    told = Told()
    for payload in "abc":
        told.ping(payload)
    told.pong("b")
    told.closed("client", 1000)
    told.ping("d")
    told.closed("server", 1000)
    found = told.found(page)
    assert (found["open"], found["unanswered"], found["still"]) == (1, 1, 0)
    assert found["found"] == ["The ping at 3.0 ms, 'c', was not answered in the 5.0 ms to the end"]


def test_a_ping_before_a_gap_is_not_called_unanswered(page: Page) -> None:
    told = Told()
    told.ping("a")
    told.number += 5
    told.ping("b")
    told.pong("a")
    told.closed("client", 1000)
    told.closed("server", 1000)
    found = told.found(page)
    assert found["said"] == ["answers none of the pings that are known here"]
    assert found["unanswered"] == 1
    (finding,) = found["found"]
    assert finding.startswith("The ping at 2.0 ms, 'b', was not answered")


@pytest.mark.parametrize("first", ["client", "server"])
def test_codes_of_close_frames_that_differ_are_odd(page: Page, first: str) -> None:
    second = {"client": "server", "server": "client"}[first]
    told = Told()
    told.closed(first, 1000)
    told.closed(second, None)
    assert told.found(page)["found"] == [
        f"The {first} closed with 1000, and the {second} answered with no code; "
        "most echo the code (RFC 6455, 5.5.1)"
    ]


@pytest.mark.parametrize("behavior", ["FAILED", "NON-STRICT", "UNCLEAN"])
def test_a_verdict_against_the_client_is_told(page: Page, behavior: str) -> None:
    told = Told()
    told.closed("client", 1000)
    told.closed("server", 1000)
    found = told.found(page, verdict={"behavior": behavior, "why": "of this"})["found"]
    assert found == [f"The verdict is {behavior}: of this"]


def test_what_does_not_print_is_escaped(page: Page) -> None:
    assert js(page, "words", r"""return [
        m.printable("a\u202eb\n\0\u2028\u2029\ud83d\u00ad\u{e0001}"), m.printable("a b\u00a0é世😀"),
        m.wordsOf({ type: "refused", code: 1002, reason: "\u202eno" }),
        m.payloadWords({ opcode: 9, data: "e280ae", length: 3 })];""") == [
        r"a\u{202e}b\u{a}\u{0}\u{2028}\u{2029}\u{d83d}\u{ad}\u{e0001}",
        "a b\u00a0é世😀",
        r"the server refuses this with 1002: \u{202e}no",
        "e2 80 ae",
    ]  # fmt: skip
