"""The workbench: its connections, composer and timeline, in a real browser."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.browser import click
from support.process import served
from support.workbench import connect_another, connected, counts, rows, send

from echotwist.testing import ServiceProcess


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    """The workbench, connected."""
    return connected(visit(service.page + "workbench.html"))


def shows(page: Page, *lines: str) -> None:
    """Wait until the timeline has exactly these rows: from, type and data, with a space between."""
    pattern = [re.compile(rf".*{re.escape(line)}$", re.DOTALL) for line in lines]
    cells = "rows => rows.map(r => ['.from', '.type', '.data'].map(c => r.querySelector(c)"
    cells += ".textContent).join(' '))"
    expect(rows(page)).to_have_count(len(lines))
    found = rows(page).evaluate_all(cells)
    assert [bool(p.match(text)) for p, text in zip(pattern, found, strict=True)] == [
        True for _ in lines
    ], found


def only_messages(page: Page) -> None:
    """Let the timeline show what was received alone."""
    page.select_option("#filter-from", "received")


# The first page leads here, and back.


def test_the_simple_page_leads_to_the_workbench_and_back(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit(service.page)
    page.get_by_role("link", name="Workbench").click()
    connected(page)
    expect(page).to_have_title("Connected – WebSocket workbench")
    page.get_by_role("link", name="Back to the simple page").click()
    expect(page).to_have_title("Connected – WebSocket echo")


# The timeline.


def test_a_message_and_its_echo_are_a_pair(page: Page) -> None:
    send(page, "hello")
    counts(page, "1 sent, 1 received")
    shows(
        page,
        f"• status connecting to {page.locator('#url').inner_text()}",
        "client_no_context_takeover",
        "↑ sent text hello",
        "↓ received text hello",
    )
    trips = page.locator("#grid .rows .round-trip").all_inner_texts()
    assert trips[:2] == ["", ""]
    assert trips[2] == trips[3]
    assert float(trips[2].removesuffix(" ms")) >= 0
    times = page.locator("#grid .rows .time").all_inner_texts()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{4}", time) for time in times)
    assert page.locator("#grid .rows .size").all_inner_texts() == ["", "", "5", "5"]
    assert re.fullmatch(r"\+\d+\.\d ms", page.locator("#grid .rows .gap").nth(3).inner_text())


def test_a_text_is_never_markup_nor_a_row(page: Page) -> None:
    send(page, "<img src=x onerror=alert()>\n• status close 1000")
    only_messages(page)
    expect(rows(page)).to_have_count(1)
    expect(rows(page).locator(".data")).to_have_text(
        "<img src=x onerror=alert()> • status close 1000"
    )
    rows(page).click()
    expect(page.locator("#detail pre")).to_have_text(
        "<img src=x onerror=alert()>\n• status close 1000"
    )
    expect(page.locator("#detail img, #grid img")).to_have_count(0)


def test_an_entry_is_shown_as_text_json_and_bytes(page: Page) -> None:
    text = '{"big":12345678901234567890,"a":1.0,"a":"\\u00e4"}'
    send(page, text)
    only_messages(page)
    rows(page).click()
    detail = page.locator("#detail pre")
    expect(detail).to_have_text(text)
    click(page, "JSON")
    # Not by JSON.parse, which would change the number and drop a member.
    assert detail.inner_text().split() == [
        *("{", '"big":', "12345678901234567890,", '"a":', "1.0,", '"a":', '"\\u00e4"', "}"),
    ]
    click(page, "Hex")
    expect(detail).to_contain_text("00000000  7b 22 62 69 67 22 3a 31  32 33")
    with page.expect_download() as download:
        click(page, "Save")
    assert download.value.path().read_text() == text


def test_a_binary_message_is_shown_as_bytes_and_as_utf8(page: Page) -> None:
    page.select_option("#format", "hex")
    send(page, "c3 a4 00 ff")
    only_messages(page)
    expect(rows(page).locator(".data")).to_have_text("c3 a4 00 ff")
    expect(rows(page).locator(".type")).to_have_text("binary")
    rows(page).click()
    expect(page.locator("#detail pre")).to_have_text(re.compile("00000000  c3 a4 00 ff .*"))
    click(page, "UTF-8")
    expect(page.locator("#detail pre")).to_contain_text("No UTF-8, from byte 3 on")
    with page.expect_download() as download:
        click(page, "Save")
    assert download.value.path().read_bytes() == b"\xc3\xa4\x00\xff"


def test_the_timeline_is_filtered_by_direction_type_connection_and_text(page: Page) -> None:
    for text in ("apple", "Banana", "cherry"):
        send(page, text)
    page.select_option("#format", "base64")
    send(page, "AAEC")
    counts(page, "4 sent, 4 received")
    page.select_option("#filter-from", "sent")
    shows(
        page, *(f"↑ sent text {t}" for t in ("apple", "Banana", "cherry")), "↑ sent binary 00 01 02"
    )
    page.select_option("#filter-type", "binary")
    shows(page, "↑ sent binary 00 01 02")
    page.select_option("#filter-type", "")
    page.fill("#filter-text", "BANA")
    shows(page, "↑ sent text Banana")
    page.fill("#filter-text", "0102")
    shows(page, "↑ sent binary 00 01 02")
    expect(page.locator("#counts")).to_have_text("1 of 10 entries")
    page.fill("#filter-text", "")
    page.locator("#connect").click()
    expect(page.locator("#connections li")).to_have_count(2)
    page.select_option("#filter-from", "status")
    page.select_option("#filter-connection", "#2")
    expect(rows(page)).to_have_count(2)
    expect(rows(page).locator(".on")).to_have_text(["#2", "#2"])


def test_pause_holds_the_timeline_and_loses_nothing(page: Page) -> None:
    only_messages(page)
    send(page, "one")
    shows(page, "↓ received text one")
    click(page, "Pause")
    send(page, "two")
    counts(page, "2 sent, 2 received")
    expect(page.locator("#counts")).to_contain_text("of 6 entries, paused")
    shows(page, "↓ received text one")
    click(page, "Pause")
    shows(page, "↓ received text one", "↓ received text two")


def test_clear_forgets_what_was(page: Page) -> None:
    send(page, "one")
    counts(page, "1 sent, 1 received")
    click(page, "Clear")
    shows(page)
    send(page, "two")
    shows(page, "↑ sent text two", "↓ received text two")
    expect(page.locator("#counts")).to_have_text("2 entries; 4 before are forgotten")


def test_copy_takes_what_is_shown(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, 'a "b"\nc')
    only_messages(page)
    expect(rows(page)).to_have_count(1)
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    (line,) = page.evaluate("navigator.clipboard.readText()").split("\n")
    _, number, from_, type_, size, trip, text = line.split("\t")
    assert (number, from_, type_, size, json.loads(text)) == (
        "1",
        "received",
        "text",
        "7",
        'a "b"\nc',
    )
    assert float(trip) >= 0


def test_it_is_exported_as_json(page: Page) -> None:
    send(page, "hällo")
    page.select_option("#format", "hex")
    send(page, "00ff")
    counts(page, "2 sent, 2 received")
    with page.expect_download() as download:
        click(page, "Export JSON")
    exported = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert exported["urls"] == {"1": page.locator("#url").inner_text()}
    told = [
        (each["from"], each["type"], each.get("data"), each.get("base64"), each["size"])
        for each in exported["entries"][2:]
    ]
    assert sorted(told) == sorted(
        [
            *((whose, "text", "hällo", None, 6) for whose in ("sent", "received")),
            *((whose, "binary", None, "AP8=", 2) for whose in ("sent", "received")),
        ]
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", exported["entries"][0]["time"])


def test_it_is_exported_as_har(page: Page) -> None:
    send(page, "hello")
    page.select_option("#format", "hex")
    send(page, "00ff")
    counts(page, "2 sent, 2 received")
    with page.expect_download() as download:
        click(page, "Export HAR")
    log = json.loads(download.value.path().read_text())["log"]
    assert log["version"] == "1.2"
    (entry,) = log["entries"]
    assert entry["request"]["url"] == page.locator("#url").inner_text()
    assert entry["_resourceType"] == "websocket"
    messages = [(m["type"], m["opcode"], m["data"]) for m in entry["_webSocketMessages"]]
    assert sorted(messages) == sorted(
        (whose, *what) for whose in ("send", "receive") for what in ((1, "hello"), (2, "AP8="))
    )


@pytest.mark.slow(reason="a hundred thousand entries in Chromium")
def test_a_hundred_thousand_entries_are_scrolled_and_filtered(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "50000")
    send(page, "message")
    expect(page.locator("#connections li")).to_contain_text(
        "50,000 sent, 50,000 received", timeout=90_000
    )
    # Two more than there is room for; a tenth is forgotten at once.
    expect(page.locator("#counts")).to_have_text("90,002 entries; 10,000 before are forgotten")
    assert rows(page).count() < 60
    grid = page.locator("#grid")
    assert grid.evaluate("g => g.scrollHeight - g.scrollTop - g.clientHeight < 2"), "it follows"
    grid.evaluate("g => g.scrollTop = 0")
    expect(grid).to_have_attribute("aria-rowcount", "90003")
    expect(page.locator("#grid [aria-rowindex='2']")).to_have_count(1)
    page.select_option("#filter-from", "sent")
    expect(page.locator("#counts")).to_contain_text("of 90,002 entries")
    page.fill("#filter-text", "nothing has this")
    expect(rows(page)).to_have_count(0)


def test_the_grid_is_walked_with_the_keyboard(page: Page) -> None:
    for number in range(30):
        send(page, f"message {number}")
    counts(page, "30 sent, 30 received")
    only_messages(page)
    expect(page.locator("#counts")).to_contain_text("30 of")
    page.focus("#grid")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#grid [aria-selected=true]")
    expect(chosen.locator(".data")).to_have_text("message 1")
    expect(page.locator("#grid")).to_have_attribute(
        "aria-activedescendant", chosen.get_attribute("id") or ""
    )
    expect(page.locator("#detail pre")).to_have_text("message 1")
    page.keyboard.press("End")
    expect(chosen.locator(".data")).to_have_text("message 29")
    box, frame = chosen.bounding_box(), page.locator("#grid").bounding_box()
    assert box is not None
    assert frame is not None
    assert frame["y"] < box["y"]
    assert box["y"] + box["height"] <= frame["y"] + frame["height"]


# The composer.


def test_lines_are_sent_as_they_are_and_json_is_checked(page: Page) -> None:
    text = '{\n  "a": 1,\n\t"b": 2\n}'
    page.fill("#input", text)
    expect(page.locator("#check")).to_have_text("21 bytes, JSON")
    page.press("#input", "Enter")
    page.fill("#input", '{\n  "a": 1,\n}')
    expect(page.locator("#check")).to_contain_text("no JSON: ")
    expect(page.locator("#check")).to_contain_text("line 3")
    only_messages(page)
    rows(page).click()
    expect(page.locator("#detail pre")).to_have_js_property("textContent", text)


@pytest.mark.parametrize(
    ("format_", "text", "problem"),
    [("hex", "0g", "'g'"), ("hex", "123", "odd"), ("base64", "!!!!", "'!'")],
)
def test_what_is_no_message_is_not_sent(page: Page, format_: str, text: str, problem: str) -> None:
    page.select_option("#format", format_)
    send(page, text)
    expect(page.locator("#check")).to_contain_text(problem)
    expect(page.locator("#input")).to_have_value(text)
    page.select_option("#format", "text")
    send(page, "next")
    counts(page, "1 sent, 1 received")


def test_what_was_sent_is_brought_back(page: Page) -> None:
    send(page, "one")
    page.select_option("#format", "hex")
    send(page, "00 01")
    field = page.locator("#input")
    page.press("#input", "Alt+ArrowUp")
    page.press("#input", "Alt+ArrowUp")
    expect(field).to_have_value("one")
    expect(page.locator("#format")).to_have_value("text")
    page.press("#input", "Alt+ArrowDown")
    expect(field).to_have_value("00 01")
    expect(page.locator("#format")).to_have_value("hex")
    page.select_option("#recent", "one")
    expect(field).to_have_value("one")
    expect(field).to_be_focused()


def test_a_message_is_repeated_at_intervals_until_it_is_stopped(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "3")
    page.fill("#every", "20")
    send(page, "again")
    counts(page, "3 sent, 3 received")
    expect(page.locator("#check")).to_have_text("3 sent")
    page.fill("#times", "1000000")
    page.fill("#every", "50")
    send(page, "more")
    expect(page.locator("#check")).to_contain_text("of 1,000,000 sent")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    click(page, "Stop")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    expect(page.locator("#check")).to_have_text(re.compile(r"^\d+ of 1,000,000 sent: stopped$"))


def test_a_burst_is_sent_and_comes_back(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "2000")
    send(page, "burst")
    counts(page, "2,000 sent, 2,000 received")


def test_files_are_chosen_dropped_and_pasted(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    page.set_input_files("#files", tmp_path / "a.bin")
    counts(page, "1 sent, 1 received")
    expect(page.locator("#check")).to_have_text("a.bin sent, 256 bytes")
    script = """([type, target]) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array([1, 2, 3])], `${type}.bin`));
        const options = {bubbles: true, cancelable: true, dataTransfer,
                         clipboardData: dataTransfer};
        const event = type === "drop" ? new DragEvent(type, options)
                                      : new ClipboardEvent(type, options);
        return document.querySelector(target).dispatchEvent(event);
    }"""
    assert page.evaluate(script, ["drop", "#composer"]) is False
    counts(page, "2 sent, 2 received")
    assert page.evaluate(script, ["paste", "#input"]) is False
    counts(page, "3 sent, 3 received")
    only_messages(page)
    expect(rows(page).locator(".size")).to_have_text(["256", "3", "3"])


@pytest.mark.parametrize("deed", ["double click", "Enter held"])
def test_one_deed_sends_one_message(page: Page, deed: str) -> None:
    page.fill("#input", "once")
    if deed == "double click":
        page.locator("#send").dblclick()
    else:
        page.focus("#input")
        page.keyboard.down("Enter")
        page.keyboard.down("Enter")
        page.keyboard.up("Enter")
    send(page, "next")
    counts(page, "2 sent, 2 received")


# Connections.


def test_several_connections_are_side_by_side(page: Page) -> None:
    page.fill("#script", "as=binary")
    connect_another(page)
    page.select_option("#target", "all")
    send(page, "both")
    items = page.locator("#connections li")
    expect(items.nth(0)).to_contain_text("1 sent, 1 received")
    expect(items.nth(1)).to_contain_text("1 sent, 1 received")
    page.select_option("#target", "#1")
    send(page, "first")
    expect(items.nth(1)).to_contain_text("2 sent, 2 received")
    expect(items.nth(0)).to_contain_text("1 sent, 1 received")
    only_messages(page)
    told = rows(page).evaluate_all(
        "rows => rows.map(r => ['.on', '.type'].map(c => r.querySelector(c).textContent).join(' '))"
    )
    assert sorted(told) == ["#1 text", "#1 text", "#2 binary"]


def test_a_connection_is_closed_with_a_code_and_a_reason(page: Page) -> None:
    page.get_by_text("Closing", exact=True).click()
    page.fill("#close-code", "1002")
    click(page, "Close")
    expect(page.locator("#close-hint")).to_contain_text("A browser sends 1000, and 3000 to 4999")
    page.fill("#close-code", "")
    page.fill("#close-reason", "alone")
    click(page, "Close")
    expect(page.locator("#close-hint")).to_have_text("A reason needs a code.")
    page.fill("#close-code", "4001")
    page.fill("#close-reason", "ä" * 62)
    click(page, "Close")
    expect(page.locator("#close-hint")).to_contain_text("at most 123 bytes; this one has 124")
    page.fill("#close-reason", "bye")
    click(page, "Close")
    expect(page.get_by_role("status").first).to_have_text(
        "Disconnected: the application knows what this means"
    )
    row = page.locator("#connections li").first
    expect(row).to_contain_text('Cleanly, 4001 "bye": the application knows what this means.')
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    click(page, "Connect again")
    connected(page)
    expect(page.locator("#connections li")).to_have_count(2)


def test_the_registry_of_codes_is_there(page: Page) -> None:
    page.get_by_text("Closing", exact=True).click()
    codes = page.locator("#codes th").all_inner_texts()
    assert codes[0] == "1000"
    assert {"1006", "1009", "1015", "3000 to 3999", "4000 to 4999"} <= set(codes)


def test_an_end_without_a_close_frame_is_explained(visit: Callable[..., Page]) -> None:
    with served() as service:
        page = visit(service.page + "workbench.html#script=drop%3Dfin")
        row = page.locator("#connections li").first
        expect(row).to_contain_text("Not cleanly, 1006: the connection was lost")
        expect(row).to_contain_text("something between may have cut it")


def test_what_was_not_answered_is_counted(page: Page) -> None:
    page.fill("#script", "ignore=2&close=1011,enough")
    page.locator("#connect").click()
    row = page.locator("#connections li").first
    expect(row).to_contain_text("Open")
    send(page, "one")
    send(page, "two")
    expect(row).to_contain_text('Cleanly, 1011 "enough"')
    page.select_option("#filter-type", "close")
    expect(rows(page).locator(".data")).to_contain_text("2 not answered")


def test_a_subprotocol_is_agreed_and_compression_is_shown(page: Page) -> None:
    page.fill("#subprotocols", "chat, superchat")
    page.locator("#connect").click()
    row = page.locator("#connections li").first
    expect(row).to_contain_text("Subprotocol: chat. Extensions: permessage-deflate")
    page.fill("#script", "extension=none")
    page.fill("#subprotocols", "")
    page.locator("#connect").click()
    expect(row).to_contain_text("Subprotocol: none. Extensions: none.")
    page.fill("#subprotocols", "no token, no token")
    page.locator("#connect").click()
    expect(page.get_by_role("status").first).to_contain_text("Not connected: ")


# Deep links, and a reload.


def test_a_link_opens_a_script_with_a_subprotocol_and_a_message(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    link = "#script=as%3Dbinary%26delay%3D1ms%26send%3D%23&subprotocol=chat&trace"
    link += "&message=h%C3%A4%0Allo&tab=latency"
    page = connected(visit(f"{service.page}workbench.html{link}"))
    expect(page.locator("#script")).to_have_value("as=binary&delay=1ms&send=#")
    expect(page.locator("#input")).to_have_value("hä\nllo")
    expect(page.locator("#traced")).to_be_checked()
    expect(page.get_by_role("tab", name="Latency")).to_have_attribute("aria-selected", "true")
    row = page.locator("#connections li").first
    expect(row.locator("code")).to_have_text(
        re.compile(r"/lab\?as=binary&delay=1ms&send=%23&trace=[\w-]{22}$")
    )
    expect(row).to_contain_text("0 sent")
    expect(row).to_contain_text("Subprotocol: chat")


def test_the_link_to_what_is_shown_is_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill("#script", "ping=a b&delay=1s")
    page.fill("#subprotocols", "chat")
    page.check("#traced")
    page.select_option("#format", "hex")
    page.fill("#input", "00 ff")
    click(page, "Copy link")
    expect(page.locator("#copy-link")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#input")).to_have_value("00 ff")
    expect(page.locator("#script")).to_have_value("ping=a b&delay=1s")
    expect(page.locator("#subprotocols")).to_have_value("chat")
    expect(page.locator("#format")).to_have_value("hex")
    expect(page.locator("#traced")).to_be_checked()


def test_a_reload_keeps_the_timeline_and_the_composer(page: Page) -> None:
    send(page, "before")
    page.select_option("#format", "hex")
    send(page, "00 ff")
    counts(page, "2 sent, 2 received")
    page.fill("#input", "0a 0b")
    page.fill("#script", "delay=1ms")
    page.get_by_role("tab", name="Snippets").click()
    page.reload()
    connected(page)
    expect(page.locator("#input")).to_have_value("0a 0b")
    expect(page.locator("#format")).to_have_value("hex")
    expect(page.locator("#script")).to_have_value("delay=1ms")
    expect(page.get_by_role("tab", name="Snippets")).to_have_attribute("aria-selected", "true")
    only_messages(page)
    shows(page, "↓ received text before", "↓ received binary 00 ff")
    expect(page.locator("#connections li")).to_contain_text("#2")
    page.press("#input", "Alt+ArrowUp")
    page.press("#input", "Alt+ArrowUp")
    expect(page.locator("#input")).to_have_value("before")


def test_another_tab_begins_empty(page: Page, service: ServiceProcess) -> None:
    send(page, "mine")
    counts(page, "1 sent, 1 received")
    page.reload()
    other = page.context.new_page()
    other.goto(service.page + "workbench.html")
    connected(other)
    expect(other.locator("#counts")).to_have_text("2 entries")
