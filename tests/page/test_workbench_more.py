"""What is seldom done with the workbench, in a real browser."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect
from support.browser import click
from support.workbench import connect_another, connected, counts, rows, send

from echotwist.testing import ServiceProcess


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    """The workbench, connected."""
    return connected(visit(service.page + "workbench.html"))


def exported(page: Page, button: str) -> Any:
    with page.expect_download() as download:
        click(page, button)
    return json.loads(download.value.path().read_text(encoding="utf-8"))


def send_files(page: Page, sizes: list[int]) -> None:
    """Send binary messages of these sizes, each of one byte, its number."""
    files = [
        FilePayload(name=f"{number}", mimeType="application/octet-stream", buffer=data)
        for number, data in ((number, bytes([number]) * size) for number, size in enumerate(sizes))
    ]
    page.set_input_files("#files", files)


# Connections.


def test_the_one_that_is_open_stays_listed_among_many_that_are_closed(page: Page) -> None:
    page.fill("#script", "close=1000")
    page.evaluate("""async () => {
        for (let i = 0; i < 51; i += 1) {
            document.getElementById("connect").click();
            const row = document.getElementById("connections").firstElementChild;
            while (row.dataset.state !== "Closed") await new Promise((go) => setTimeout(go, 2));
        }
    }""")
    items = page.locator("#connections li")
    expect(items).to_have_count(50)
    expect(items.nth(0).locator("b")).to_have_text("#52")
    expect(items.nth(48).locator("b")).to_have_text("#4")
    expect(items.nth(49).locator("b")).to_have_text("#1")
    send(page, "still there")
    expect(items.nth(49)).to_contain_text("1 sent, 1 received")
    items.nth(49).get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()


def test_a_target_that_is_closed_is_not_replaced_by_another(page: Page) -> None:
    connect_another(page)
    page.select_option("#target", "#1")
    items = page.locator("#connections li")
    items.nth(1).get_by_role("button", name="Close").click()
    connected(page)
    target, button = page.locator("#target"), page.get_by_role("button", name="Send", exact=True)
    expect(target.locator("option:checked")).to_have_text("#1, closed")
    expect(button).to_be_disabled()
    send(page, "for the first")
    page.select_option("#target", "")
    expect(button).to_be_enabled()
    send(page, "for whoever is there")
    expect(items.nth(0)).to_contain_text("1 sent, 1 received")
    expect(items.nth(1)).to_contain_text("0 sent, 0 received")
    expect(target.locator("option")).to_have_text(["the newest that is open", "#2"])


def test_all_stay_chosen_while_there_is_one(page: Page) -> None:
    connect_another(page)
    page.select_option("#target", "all")
    items = page.locator("#connections li")
    items.nth(1).get_by_role("button", name="Close").click()
    connected(page)
    connect_another(page)
    send(page, "for all")
    expect(items.nth(0)).to_contain_text("1 sent, 1 received")
    expect(items.nth(1)).to_contain_text("1 sent, 1 received")


@pytest.mark.parametrize("code", ["4", "35", "400", "999", "5000", "30000"])
def test_a_code_that_no_browser_sends_is_refused_and_unfolded(page: Page, code: str) -> None:
    page.get_by_text("Closing", exact=True).click()
    page.fill("#close-code", code)
    page.get_by_text("Closing", exact=True).click()
    expect(page.locator("#close-code")).to_be_hidden()
    click(page, "Close")
    expect(page.locator("#close-hint")).to_be_visible()
    expect(page.locator("#close-hint")).to_contain_text("A browser sends 1000, and 3000 to 4999.")
    expect(page.locator("#connections li").first).to_contain_text("Open")


def test_a_connection_that_is_given_up_is_not_blamed_on_others(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit(service.page + "workbench.html#script=hold=30s")
    row = page.locator("#connections li").first
    expect(row).to_contain_text("Connecting")
    click(page, "Close")
    expect(row).to_contain_text("1006: this page has given it up before it was open.")


def test_a_close_that_nobody_answers_is_not_blamed_on_others(visit: Callable[..., Page]) -> None:
    with ServiceProcess() as service:
        page = visit(service.page + "workbench.html#script=reply-close=no")
        connected(page)
        click(page, "Close")
        row = page.locator("#connections li").first
        expect(row).to_contain_text("Closing")
        service.kill()  # A browser would wait for a minute.
        expect(row).to_contain_text("1006: this page has closed it, and no answer to that came.")


def test_the_end_of_a_page_that_is_left_is_not_blamed_on_others(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = connected(visit(service.page + "workbench.html#script=echo=1%26drop=fin"))
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    send(page, "the end")
    row = page.locator("#connections li").first
    expect(row).to_contain_text("1006: this page was left.")


def test_a_reason_does_not_turn_the_line_around(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit(service.page + "workbench.html#script=close=4000,%25E2%2580%25AE.eno")
    row = page.locator("#connections li").first
    expect(row).to_contain_text(r'Cleanly, 4000 "\u{202e}.eno"')
    page.select_option("#filter-type", "close")
    expect(rows(page).locator(".data")).to_contain_text(r'4000, "\u{202e}.eno"')


# Links, and a reload.


def test_a_har_of_before_a_reload_has_what_was_open(page: Page) -> None:
    """Though the entry that says so had no room."""
    page.get_by_text("Repeat").click()
    page.fill("#times", "300")
    send(page, "x" * 5000)
    counts(page, "300 sent, 300 received")
    page.reload()
    connected(page)
    first, *_ = exported(page, "Export HAR")["log"]["entries"]
    assert first["response"]["status"] == 101
    assert 100 < len(first["_webSocketMessages"]) < 600


def test_the_filter_that_is_shown_is_the_one_that_filters(page: Page) -> None:
    """A browser puts the fields of a page to which one comes back as they were."""
    page.select_option("#filter-from", "sent")
    page.get_by_role("link", name="Back to the simple page").click()
    expect(page).to_have_title("Connected – WebSocket echo")
    page.go_back()
    connected(page)
    expect(page.locator("#filter-from")).to_have_value("")
    expect(page.locator("#counts")).to_have_text(re.compile(r"^\d+ entries$"))


def test_another_link_in_the_same_tab_wins_over_what_was_kept(
    page: Page, service: ServiceProcess
) -> None:
    page.fill("#input", "mine")
    page.fill("#script", "delay=1ms")
    page.check("#traced")
    page.get_by_role("tab", name="Latency").click()
    page.goto("about:blank")
    page.goto(f"{service.page}workbench.html#script=as%3Dbinary&message=theirs&tab=snippets")
    connected(page)
    expect(page.locator("#input")).to_have_value("theirs")
    expect(page.locator("#script")).to_have_value("as=binary")
    expect(page.locator("#traced")).not_to_be_checked()
    expect(page.get_by_role("tab", name="Snippets")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#connections code")).to_have_text(re.compile(r"/lab\?as=binary$"))
    # The same one again is a reload: nobody has asked for another.
    page.fill("#input", "mine again")
    page.goto("about:blank")
    page.goto(f"{service.page}workbench.html#script=as%3Dbinary&message=theirs&tab=snippets")
    expect(page.locator("#input")).to_have_value("mine again")


def test_another_hash_connects_anew(page: Page) -> None:
    page.evaluate("location.hash = '#script=as%3Dbinary&subprotocol=chat&message=new&tab=latency'")
    items = page.locator("#connections li")
    expect(items).to_have_count(2)
    expect(items.nth(0).locator("code")).to_have_text(re.compile(r"/lab\?as=binary$"))
    expect(items.nth(0)).to_contain_text("Subprotocol: chat")
    expect(items.nth(1)).to_contain_text("Open")
    expect(page.locator("#input")).to_have_value("new")
    expect(page.get_by_role("tab", name="Latency")).to_have_attribute("aria-selected", "true")
    counts(page, "0 sent, 0 received")


def test_a_reload_keeps_the_newest_of_what_has_no_room(page: Page) -> None:
    send_files(page, [100_000] * 15)
    counts(page, "15 sent, 15 received")
    page.fill("#input", "a draft")
    page.reload()
    connected(page)
    expect(page.locator("#input")).to_have_value("a draft")
    page.select_option("#filter-type", "binary")
    expect(page.locator("#counts")).to_contain_text(" of ")
    found = rows(page).evaluate_all(
        "rows => rows.map(r => ['.from', '.data'].map("
        "c => r.querySelector(c).textContent.slice(0, 2)).join(''))"
    )
    # Of base64, 133,336 characters each; there is room for a million.
    assert len(found) == 7
    assert found[-1] == "↓ 0e"
    assert {row[2:] for row in found} <= {f"{number:02x}" for number in range(8, 15)}
    send(page, "next")
    counts(page, "1 sent, 1 received")


def test_when_there_is_no_room_the_form_is_kept_and_no_old_timeline_comes_back(
    page: Page,
) -> None:
    send(page, "before")
    counts(page, "1 sent, 1 received")
    page.reload()
    connected(page)
    expect(page.locator("#counts")).to_have_text("6 entries")
    page.evaluate("""() => {
        const room = "x".repeat(20_000);
        sessionStorage.setItem("room", room);
        for (let length = 1 << 22, i = 0; length > 0; length >>= 1, i += 1) {
            try { sessionStorage.setItem(`other ${i}`, "x".repeat(length)); } catch { /* Full. */ }
        }
        sessionStorage.removeItem("room");
    }""")
    send_files(page, [300_000])
    counts(page, "1 sent, 1 received")
    page.fill("#input", "a draft")
    page.reload()
    connected(page)
    expect(page.locator("#input")).to_have_value("a draft")
    expect(page.locator("#counts")).to_have_text("2 entries")


NO_STORAGE = {
    "full": """Storage.prototype.setItem = () => {
        throw new DOMException("full", "QuotaExceededError");
    };""",
    "forbidden": """Object.defineProperty(window, "sessionStorage", { get() {
        throw new DOMException("forbidden", "SecurityError");
    } });""",
    "broken": """Storage.prototype.getItem = () => "{";""",
}


@pytest.mark.parametrize("why", list(NO_STORAGE))
def test_without_a_storage_the_page_works_and_begins_anew(
    visit: Callable[..., Page], service: ServiceProcess, why: str
) -> None:
    page = visit("about:blank")
    page.context.add_init_script(NO_STORAGE[why])
    page.goto(service.page + "workbench.html")
    for _ in range(2):
        connected(page)
        expect(page.locator("#counts")).to_have_text("2 entries")
        send(page, "hello")
        counts(page, "1 sent, 1 received")
        page.reload()


# Keys.


def test_enter_does_not_send_while_a_word_is_composed(page: Page) -> None:
    page.fill("#input", "にほ")
    enter = {"key": "Enter", "bubbles": True, "cancelable": True}
    page.dispatch_event("#input", "keydown", {**enter, "isComposing": True})
    expect(page.locator("#input")).to_have_value("にほ")
    page.dispatch_event("#input", "keydown", enter)
    counts(page, "1 sent, 1 received")


def test_tabs_are_walked_with_the_keyboard(page: Page) -> None:
    names = ["Lab", "What the server saw", "Latency", "Snippets", "Path"]
    panels = ["lab", "server", "latency", "snippets", "path"]
    page.focus("#tab-lab")
    page.evaluate("""() => document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", { key: "ArrowRight", altKey: true, bubbles: true }))""")
    for key, wanted in (
        *(("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 4), ("ArrowRight", 0)),
        *(("ArrowLeft", 4), ("Home", 0), ("ArrowUp", 0)),
    ):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=names[wanted])
        expect(tab).to_be_focused()
        expect(page.get_by_role("tab", selected=True)).to_have_text(names[wanted])
        shown = page.get_by_role("tabpanel")
        expect(shown).to_have_count(1)
        expect(shown).to_have_id(panels[wanted])
        assert page.locator("#tabs [tabindex='0']").all_inner_texts() == [names[wanted]]


def test_a_number_that_is_wrong_is_unfolded(page: Page) -> None:
    repeat = page.locator("#compose-form details")
    page.get_by_text("Repeat").click()
    page.fill("#times", "0")
    page.get_by_text("Repeat").click()
    expect(page.locator("#times")).to_be_hidden()
    page.fill("#input", "never")
    click(page, "Send")
    expect(repeat).to_have_attribute("open", "")
    expect(page.locator("#times")).to_be_visible()
    page.fill("#times", "1")
    send(page, "once")
    counts(page, "1 sent, 1 received")


def test_what_is_not_sent_yet_comes_back_behind_what_was(page: Page) -> None:
    send(page, "old")
    page.fill("#input", "a draft")
    field = page.locator("#input")
    for key, text in (("ArrowUp", "old"), ("ArrowUp", "old"), ("ArrowDown", "a draft")):
        page.press("#input", f"Alt+{key}")
        expect(field).to_have_value(text)
    page.press("#input", "Alt+ArrowDown")
    expect(field).to_have_value("a draft")
    page.select_option("#recent", "old")
    expect(field).to_have_value("old")
    page.press("#input", "Alt+ArrowDown")
    expect(field).to_have_value("a draft")


@pytest.mark.parametrize(
    ("text", "isSent"), [("", True), ("image.png", True), ("a\tb\n1\t2", False)]
)
def test_of_what_has_a_picture_of_it_the_text_is_pasted(
    page: Page, text: str, isSent: bool
) -> None:
    """As an office has it; but a file has its name beside it, on some systems."""
    isLeft = page.evaluate(
        """(text) => {
            const clipboardData = new DataTransfer();
            if (text) clipboardData.setData("text/plain", text);
            clipboardData.items.add(new File([new Uint8Array(10)], "image.png"));
            const options = { bubbles: true, cancelable: true, clipboardData };
            const event = new ClipboardEvent("paste", options);
            return document.getElementById("input").dispatchEvent(event);
        }""",
        text,
    )
    assert isLeft is not isSent
    if isSent:
        counts(page, "1 sent, 1 received")
    send(page, "after it")
    counts(page, "2 sent" if isSent else "1 sent")


def test_who_is_at_stop_goes_on_at_the_message(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "2")
    page.fill("#every", "3000")
    send(page, "again")
    page.get_by_role("button", name="Stop", exact=True).focus()
    counts(page, "2 sent, 2 received")
    expect(page.locator("#input")).to_be_focused()


# The timeline.


def test_an_export_leaves_the_focus_to_who_went_on(page: Page) -> None:
    with page.expect_download():
        page.evaluate("""() => {
            let time = 0;  // Each part is a turn of its own.
            performance.now = () => (time += 20);
            document.getElementById("export-json").click();
            document.getElementById("input").focus();
        }""")
    expect(page.locator("#input")).to_be_focused()


def test_a_copy_has_no_id_of_a_trace(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.check("#traced")
    connect_another(page)
    send(page, "hello ?trace=mine")
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    text = page.evaluate("navigator.clipboard.readText()")
    assert "/lab?trace=…" in text
    assert set(re.findall(r"trace=([\w-]+)", text)) == {"mine"}


def test_what_is_chosen_shows_in_forced_colors(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    page.locator("#pause").click()
    outlines = page.evaluate("""() => ["#tab-lab", "#tab-server", "#pause", "#clear"].map(
        (which) => getComputedStyle(document.querySelector(which)).outlineStyle)""")
    assert outlines == ["solid", "none", "solid", "none"]


def test_a_print_has_no_empty_pages(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "1000")
    send(page, "printed")
    counts(page, "1,000 sent, 1,000 received")
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf())
    assert 1 <= len(pages) < 5


def test_what_is_not_known_to_be_answered_is_not_counted(page: Page) -> None:
    page.fill("#script", "echo=2&ignore=2&close=1000")
    connect_another(page)
    row = page.locator("#connections li").first
    send_files(page, [9 << 20, 9 << 20])
    expect(row).to_contain_text("2 sent, 2 received")
    send_files(page, [9 << 20, 9 << 20])
    expect(row).to_contain_text("Cleanly, 1000")
    page.select_option("#filter-type", "close")
    expect(rows(page).locator(".data")).to_contain_text("; at least 1 not answered")


def test_half_a_character_has_a_round_trip(page: Page) -> None:
    page.evaluate(r"document.getElementById('input').value = 'a\ud83d'")
    page.press("#input", "Enter")
    counts(page, "1 sent, 1 received")
    page.select_option("#filter-type", "text")
    expect(rows(page).locator(".data")).to_have_text(["a\ufffd", "a\ufffd"])
    expect(rows(page).locator(".round-trip")).to_have_text([re.compile(r"\d ms$")] * 2)
    expect(rows(page).locator(".size")).to_have_text(["4", "4"])


def test_what_is_filtered_out_is_not_exported(page: Page) -> None:
    send(page, "apple")
    send(page, "banana")
    counts(page, "2 sent, 2 received")
    page.fill("#filter-text", "apple")
    expect(page.locator("#counts")).to_have_text("2 of 6 entries")
    told = [(each["from"], each["data"]) for each in exported(page, "Export JSON")["entries"]]
    assert sorted(told) == [("received", "apple"), ("sent", "apple")]
    (entry,) = exported(page, "Export HAR")["log"]["entries"]
    messages = [(each["type"], each["data"]) for each in entry["_webSocketMessages"]]
    assert sorted(messages) == [("receive", "apple"), ("send", "apple")]
    assert entry["response"]["status"] == 101, "whose open is filtered out"


def test_bytes_are_found_as_bytes(page: Page) -> None:
    page.select_option("#format", "hex")
    for data in ("a1 2b", "00 12", "ff"):
        send(page, data)
    counts(page, "3 sent, 3 received")
    page.select_option("#filter-from", "sent")
    for text, found in (
        *(("12", ["00 12"]), ("A1 2B", ["a1 2b"]), ("a12b", ["a1 2b"]), ("0x12", ["00 12"])),
        *(("1", []), ("12 00", []), ("2b00", []), ("zz", []), ("", ["a1 2b", "00 12", "ff"])),
    ):
        page.fill("#filter-text", text)
        expect(rows(page).locator(".data")).to_have_text(found)


def test_clear_empties_a_timeline_that_is_paused(page: Page) -> None:
    send(page, "one")
    counts(page, "1 sent, 1 received")
    expect(rows(page)).to_have_count(4)
    click(page, "Pause")
    click(page, "Clear")
    expect(rows(page)).to_have_count(0)
    send(page, "two")
    counts(page, "2 sent, 2 received")
    expect(page.locator("#counts")).to_contain_text("paused")
    expect(rows(page)).to_have_count(0)
    click(page, "Pause")
    expect(rows(page).locator(".data")).to_have_text(["two", "two"])


def test_a_filter_of_a_timeline_that_is_paused_covers_all(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "10000")
    send(page, "x" * 1000 + "y")
    counts(page, "10,000 sent, 10,000 received")
    expect(page.locator("#counts")).to_have_text("20,002 entries")
    click(page, "Pause")
    page.fill("#filter-text", "XY")
    expect(page.locator("#counts")).to_have_text("20,000 of 20,002 entries, paused")
    page.select_option("#filter-from", "received")
    expect(page.locator("#counts")).to_have_text("10,000 of 20,002 entries, paused")
    page.fill("#filter-text", "")
    page.select_option("#filter-from", "status")
    expect(page.locator("#counts")).to_have_text("2 of 20,002 entries, paused")


def test_what_comes_while_the_timeline_is_filtered_is_not_missed(page: Page) -> None:
    page.get_by_text("Repeat").click()
    page.fill("#times", "1000")
    send(page, "message")
    counts(page, "1,000 sent, 1,000 received")
    expect(page.locator("#counts")).to_have_text("2,002 entries")
    page.fill("#times", "1")
    # A turn ends after a hundred entries: twenty frames for all of them.
    page.evaluate("""() => {
        input.value = "a message, and the last";
        send.click();
        const now = performance.now.bind(performance);
        let leaps = 0;
        performance.now = () => now() + 11 * (leaps += 1);
        const filter = document.getElementById("filter-text");
        filter.value = "message";
        filter.dispatchEvent(new Event("input"));
    }""")
    # All but one: permessage-deflate is in the words of the open connection.
    expect(page.locator("#counts")).to_have_text("2,003 of 2,004 entries")
    expect(rows(page).last).to_contain_text("and the last")
