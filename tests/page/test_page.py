"""The page, in a real browser, against `twistd` as a process."""

import re
import socket
import socketserver
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, Route, WebSocketRoute, expect
from support.browser import Faults, click
from support.process import served
from support.proxy import pumpBoth, readHead

from echotwist.testing import ServiceProcess

GONE = "Status: Disconnected (1001: server going away)"

HOSTILE = [
    "<img src=x onerror=\"document.title='ran'\">",
    "<script>document.title='ran'</script>",
    "</pre><svg onload=\"document.title='ran'\"></svg><pre>",
    "&amp; &lt;b&gt; &#x41; &nbsp;",
    "<!-- <b>",
    "javascript:document.title='ran'//",
    "${document.title='ran'} {{7*7}} %00 \\n \\u0041",
]


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    """The page, connected."""
    page = visit(service.page)
    shows(page, "Status: Connected")
    return page


def shows(page: Page, *lines: str) -> None:
    """Wait until the log has exactly these lines."""
    text = "".join(f"{line}\n" for line in lines)
    expect(page.locator("#output")).to_have_js_property("textContent", text)


def type_(page: Page, text: str) -> None:
    """Type into the element that has the focus."""
    page.keyboard.insert_text(text)
    page.keyboard.press("Enter")


def endsUpAtEnd(output: Locator) -> None:
    """Wait until the end of the log is seen."""
    output.page.wait_for_function(
        "o => o.scrollHeight - o.scrollTop - o.clientHeight < 2", arg=output.element_handle()
    )


# Sending and receiving.


@pytest.mark.parametrize("path", ["", "websockets.html", "websockets.html?a=b#c"])
def test_both_addresses_of_the_page_connect_and_say_so(
    visit: Callable[..., Page], service: ServiceProcess, path: str
) -> None:
    page = visit(service.page + path)
    shows(page, "Status: Connected")
    expect(page.locator("#url")).to_have_text(service.url)
    expect(page).to_have_title("Connected – WebSocket echo")
    expect(page.get_by_role("status")).to_have_text("Connected")


def test_a_click_on_send_sends_the_text_of_the_input(page: Page) -> None:
    page.fill("#input", "hello")
    click(page, "Send")
    shows(page, "Status: Connected", "Server: hello")


def test_what_was_sent_and_came_back_is_said(page: Page) -> None:
    page.fill("#input", "hello\nthere")
    click(page, "Send")
    said = re.compile(r"^1 sent, 1 received; “hello there” came back after \d+\.\d ms$")
    expect(page.locator("#counts")).to_have_text(said)


def test_a_long_text_is_laid_out_without_looking_for_its_direction(page: Page) -> None:
    page.keyboard.insert_text("\u05d0")
    expect(page.locator("#input")).to_have_attribute("dir", "auto")
    page.keyboard.insert_text("x" * 30_000)
    expect(page.locator("#input")).to_have_attribute("dir", "ltr")
    page.fill("#input", "\u05d0")
    expect(page.locator("#input")).to_have_attribute("dir", "auto")


def test_enter_sends_the_text_of_the_input(page: Page) -> None:
    page.fill("#input", "hello")
    page.press("#input", "Enter")
    shows(page, "Status: Connected", "Server: hello")


@pytest.mark.parametrize("send", ["click", "Enter"])
def test_after_sending_the_input_is_empty_and_has_the_focus(page: Page, send: str) -> None:
    page.fill("#input", "hello")
    if send == "click":
        click(page, "Send")
    else:
        page.press("#input", "Enter")
    expect(page.locator("#input")).to_have_value("")
    expect(page.locator("#input")).to_be_focused()


def test_echoes_are_appended_in_the_order_of_sending(page: Page) -> None:
    texts = [f"message {number}" for number in range(20)]
    for text in texts:
        type_(page, text)
    shows(page, "Status: Connected", *(f"Server: {text}" for text in texts))


def test_the_page_sends_a_text_message_and_nothing_else(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    frames: list[str | bytes] = []
    page = visit("about:blank")
    page.on("websocket", lambda ws: ws.on("framesent", lambda frame: frames.append(frame)))
    page.goto(service.page)
    shows(page, "Status: Connected")
    type_(page, "x")
    shows(page, "Status: Connected", "Server: x")
    assert frames == ["x"]


def test_hostile_text_is_shown_as_text(visit: Callable[..., Page], service: ServiceProcess) -> None:
    # Without the policy: the page must be safe by itself.
    page = visit(service.page, bypass_csp=True)
    shows(page, "Status: Connected")
    for text in HOSTILE:
        type_(page, text)
    shows(page, "Status: Connected", *(f"Server: {text}" for text in HOSTILE))
    expect(page.locator("#output :not(div, b, span)")).to_have_count(0)
    expect(page.locator("#output span *")).to_have_count(0)
    expect(page.locator("body > *")).to_have_count(1)
    expect(page).to_have_title("Connected – WebSocket echo")


def test_a_bidirectional_override_stays_on_its_line(page: Page) -> None:
    texts = ["\u202eevil", "\u2067evil", "\u05d0\u05d1", "\u202d\u202e\u200f"]
    for text in texts:
        type_(page, text)
        type_(page, "next")
    shows(page, "Status: Connected", *(f"Server: {t}" for text in texts for t in (text, "next")))
    lines = page.locator("#output").evaluate("""output => {
        const range = document.createRange();
        const texts = [...output.querySelectorAll("span")].map(span => span.firstChild);
        return texts.map(text => [...text.data.trimEnd()].map((_, i) => {
            range.setStart(text, i);
            range.setEnd(text, i + 1);
            return range.getBoundingClientRect().left;
        }));
    }""")
    assert lines[1] != sorted(lines[1])
    assert lines[2::2] == [sorted(line) for line in lines[2::2]]


def test_an_empty_message_is_a_message(page: Page) -> None:
    click(page, "Send")
    shows(page, "Status: Connected", "Server: ")


def test_text_is_echoed_unchanged(page: Page) -> None:
    texts = [
        "Grüße, 世界",
        "👋🏽 👨‍👩‍👧 🇪🇺",
        "e\u0301 \u00e9",  # Not normalized.
        "\u2028 \ufeff \ufffd \x7f",
        "  two  spaces  ",
        "x" * 70_000,
    ]
    for text in texts:
        page.fill("#input", text)
        page.press("#input", "Enter")
    shows(page, "Status: Connected", *(f"Server: {text}" for text in texts))


def test_a_binary_message_is_shown_by_its_length_and_beginning(page: Page) -> None:
    page.evaluate("socket.send(new Uint8Array(3))")
    shows(page, "Status: Connected", "Server (binary): 3 bytes  00 00 00")
    page.evaluate("socket.send(new Uint8Array(1000).fill(255))")
    expect(page.locator("#output")).to_contain_text("1,000 bytes  ff ff")
    expect(page.locator("#output")).to_contain_text("ff …\n")


@pytest.mark.slow(reason="a thousand echoes in Chromium")
def test_the_log_keeps_the_last_thousand_lines(page: Page) -> None:
    page.evaluate("for (let i = 0; i < 1005; i++) { input.value = i; form.requestSubmit(); }")
    shows(page, *(f"Server: {number}" for number in range(5, 1005)))


# The log's place.


def fill(page: Page) -> Locator:
    """More lines than the log can show."""
    for number in range(40):
        type_(page, f"message {number}")
    output = page.locator("#output")
    expect(output).to_contain_text("Server: message 39")
    return output


def test_the_log_follows_what_is_appended(page: Page) -> None:
    output = fill(page)
    assert output.evaluate("o => o.scrollTop") > 0
    endsUpAtEnd(output)


def test_the_log_follows_a_message_of_many_lines(page: Page) -> None:
    output = fill(page)
    for _ in range(3):
        page.fill("#input", "\n".join(str(line) for line in range(40)))
        page.press("#input", "Enter")
    expect(page.locator("#counts")).to_contain_text("43 received")
    endsUpAtEnd(output)


def test_a_reader_further_up_in_the_log_is_not_scrolled_away(page: Page) -> None:
    output = fill(page)
    output.evaluate("o => o.scrollTop = 0")
    page.evaluate("socket.send('later')")
    expect(output).to_contain_text("Server: later")
    assert output.evaluate("o => o.scrollTop") == 0


def test_sending_scrolls_to_the_echo(page: Page) -> None:
    output = fill(page)
    output.evaluate("o => o.scrollTop = 0")
    type_(page, "later")
    expect(output).to_contain_text("Server: later")
    endsUpAtEnd(output)


# A message as it is.


def test_lines_are_sent_as_they_are(page: Page) -> None:
    text = '{\n  "a": 1,\n\t"b": "  "\n}\n'
    page.fill("#input", text)
    page.press("#input", "Enter")
    shows(page, "Status: Connected", f"Server: {text}")


def test_shift_and_enter_begin_a_line(page: Page) -> None:
    page.keyboard.insert_text("one")
    page.keyboard.press("Shift+Enter")
    type_(page, "two")
    shows(page, "Status: Connected", "Server: one\ntwo")


@pytest.mark.parametrize("deed", ["double click", "Enter held"])
def test_one_deed_sends_one_message(page: Page, deed: str) -> None:
    page.fill("#input", "once")
    if deed == "double click":
        page.get_by_role("button", name="Send").dblclick()
    else:
        page.keyboard.down("Enter")
        page.keyboard.down("Enter")
        page.keyboard.down("Enter")
        page.keyboard.up("Enter")
    type_(page, "next")
    shows(page, "Status: Connected", "Server: once", "Server: next")


def test_a_text_looks_like_nothing_else(page: Page) -> None:
    page.fill("#input", "a\nStatus: Disconnected (1006)\nServer (binary): 3 bytes")
    page.press("#input", "Enter")
    names = page.locator("#output b")
    expect(names).to_have_text(["Status: ", "Server: "])
    edge = names.nth(1).evaluate("name => name.getBoundingClientRect().right")
    text = page.locator("#output span").nth(1)
    assert text.evaluate("text => text.getBoundingClientRect().left") >= edge


@pytest.mark.slow(reason="sixteen megabytes")
def test_a_long_message_is_shown_shortened_and_saved_whole(page: Page) -> None:
    page.evaluate("socket.send('\\u00e4'.repeat(8 << 20))")
    button = page.get_by_role("button", name="Save all 8,388,608 characters")
    expect(button).to_be_visible()
    assert page.locator("#output").evaluate("o => o.textContent.length") < 101_000
    with page.expect_download() as download:
        button.click()
    assert download.value.path().read_text(encoding="utf-8") == "\u00e4" * (8 << 20)


def test_what_comes_long_does_not_fill_the_tab(page: Page) -> None:
    page.evaluate("for (let i = 0; i < 30; i++) socket.send(String(i).repeat(50_000))")
    expect(page.locator("#counts")).to_contain_text("30 received")
    output = page.locator("#output")
    expect(output).to_contain_text("2929")
    assert output.evaluate("o => o.textContent.length") < 1_100_000


@pytest.mark.slow(reason="twenty thousand echoes in Chromium")
def test_a_flood_is_shown_and_not_dropped(page: Page) -> None:
    page.evaluate("for (let i = 0; i < 20_000; i++) socket.send('message ' + i)")
    expect(page.locator("#counts")).to_contain_text("20,000 received", timeout=60_000)
    expect(page.locator("#output")).to_contain_text("Server: message 19999\n")
    expect(page.get_by_role("status")).to_have_text("Connected")


def test_all_in_the_log_is_all_of_the_log(page: Page) -> None:
    type_(page, "hello")
    shows(page, "Status: Connected", "Server: hello")
    page.focus("#output")
    page.keyboard.press("Control+a")
    selected = page.evaluate("getSelection().toString()")
    assert selected.split() == ["Status:", "Connected", "Server:", "hello"]


# Before it is connected, and when it is not any more.


def test_nothing_is_lost_before_the_script_has_come(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit("about:blank")
    scripts: list[Route] = []
    page.route("**/websockets.js", lambda route: scripts.append(route))
    page.goto(service.page, wait_until="commit")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    expect(page.get_by_role("status")).to_have_text("Connecting")
    page.fill("#input", "not lost")
    page.press("#input", "Enter")
    assert page.url == service.page
    scripts[0].continue_()
    shows(page, "Status: Connected")
    assert page.input_value("#input").startswith("not lost")


def test_an_attempt_that_takes_long_can_be_stopped(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit("about:blank")
    page.add_init_script(SILENT)
    page.goto(service.page)
    expect(page).to_have_title("Connecting – WebSocket echo")
    page.fill("#input", "kept")
    click(page, "Stop")
    expect(page.get_by_role("status")).to_have_text("Disconnected: it does not try again by itself")
    expect(page.get_by_role("button")).to_have_text(["Reconnect"])
    expect(page.locator("#input")).to_have_value("kept")


SILENT = """
    window.WebSocket = class {
        static CONNECTING = 0; static OPEN = 1;
        readyState = 0;
        close() {}
    };
"""
"""A WebSocket that never opens."""


def test_what_was_not_answered_is_said(visit: Callable[..., Page], service: ServiceProcess) -> None:
    page = visit("about:blank")

    def answer(ws: WebSocketRoute) -> None:
        def hear(message: str | bytes) -> None:
            if message == "first":
                ws.send(message)
            else:
                ws.close(code=1011, reason="gone")

        ws.on_message(hear)

    page.route_web_socket("**/echo", answer)
    page.goto(service.page)
    shows(page, "Status: Connected")
    type_(page, "first")
    type_(page, "second")
    expect(page.locator("#output")).to_contain_text(
        "Server: first\nStatus: Disconnected (1011: gone)\nNot answered: second\n"
    )
    expect(page.get_by_role("status")).to_have_text(
        "Disconnected: the server met an error; it tries again by itself"
    )


def test_an_end_without_a_close_is_explained(visit: Callable[..., Page], faults: Faults) -> None:
    with ServiceProcess() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        # It is there for no longer than until the next attempt fails.
        page.evaluate("""() => {
            const status = document.querySelector("[role=status]");
            window.said = new Set();
            const note = () => window.said.add(status.textContent);
            const all = { subtree: true, childList: true, characterData: true };
            new MutationObserver(note).observe(status, all);
        }""")
        service.kill()
        page.wait_for_function(
            "(text) => window.said.has(text)",
            arg="Disconnected: the connection was lost, and the server cannot be reached now;"
            " it tries again by itself",
        )
        click(page, "Stop")
        click(page, "Reconnect")
        expect(page.get_by_role("status")).to_have_text(
            "Disconnected: the server cannot be reached: it does not run, or nothing leads there;"
            " it tries again by itself"
        )
        assert all("readyz" in fault or "RESET" in fault for fault in faults)
        faults.clear()


def test_a_full_server_is_told_from_one_that_is_gone(
    visit: Callable[..., Page], faults: Faults
) -> None:
    with served("--max-connections=1") as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        other = visit(service.page)
        expect(other.get_by_role("status")).to_contain_text("it may be full")
        expect(other.get_by_role("button")).to_have_text(["Reconnect", "Stop"])
        click(other, "Stop")
        assert all("503" in fault for fault in faults)
        faults.clear()


def test_half_a_character_comes_back_as_it_was_sent(page: Page) -> None:
    page.evaluate(r"document.getElementById('input').value = 'a\ud83d'")
    page.press("#input", "Enter")
    expect(page.locator("#counts")).to_contain_text("1 sent, 1 received; “a\ufffd” came back")
    type_(page, "b")
    expect(page.locator("#counts")).to_contain_text("2 sent, 2 received; “b” came back")


# Waking up.


def test_a_page_that_wakes_up_connects_anew(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit("about:blank")
    page.clock.install()
    page.goto(service.page)
    page.clock.run_for(1000)
    shows(page, "Status: Connected")
    page.clock.run_for(300_000)  # It was not asleep.
    page.clock.fast_forward(300_000)
    page.clock.run_for(10_000)
    asleep = "Status: Disconnected (this device was asleep)"
    shows(page, "Status: Connected", asleep, "Status: Connected")
    type_(page, "awake")
    expect(page.locator("#counts")).to_contain_text("1 sent, 1 received")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ("new PageTransitionEvent('pageshow', {persisted: true})", "this page was left"),
        ("new Event('online')", "the network was away"),
    ],
)
def test_a_page_that_comes_back_connects_anew(page: Page, event: str, why: str) -> None:
    page.evaluate(f"dispatchEvent({event})")
    shows(page, "Status: Connected", f"Status: Disconnected ({why})", "Status: Connected")
    type_(page, "back")
    expect(page.locator("#output")).to_contain_text("Server: back")


def test_a_page_that_comes_back_says_that_it_connects(page: Page) -> None:
    """It did say Connected until that had failed, with nothing that could stop it."""
    page.evaluate(f"() => {{ {SILENT} }}")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.get_by_role("status")).to_have_text("Connecting")
    expect(page).to_have_title("Connecting – WebSocket echo")
    click(page, "Stop")
    expect(page.get_by_role("button")).to_have_text(["Reconnect"])


def test_one_that_was_stopped_stays_so(visit: Callable[..., Page]) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop(patience=30)
        click(page, "Stop")
        service.restart()
        page.evaluate("dispatchEvent(new Event('online'))")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        page.wait_for_function("() => fetch('healthz').then(answer => answer.ok)")
        shows(page, "Status: Connected", GONE)


# Disconnected.


def test_a_disconnect_is_shown_with_its_close_code_and_reason(visit: Callable[..., Page]) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        # Kept: the page tries again after a second, and then says that nobody is there.
        page.evaluate("""() => {
            window.said = [];
            const status = document.getElementById("status");
            new MutationObserver(() => said.push(status.textContent))
                .observe(status, {childList: true});
        }""")
        service.stop(patience=30)
        shows(page, "Status: Connected", GONE)
        said = page.evaluate("said")
        assert said[0] == "Disconnected: the server goes away; it tries again by itself"


def test_while_disconnected_nothing_is_sent_and_what_is_typed_is_kept(
    visit: Callable[..., Page],
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop(patience=30)
        expect(page.get_by_role("button")).to_have_text(["Reconnect", "Stop"])
        type_(page, "not lost")
        expect(page.locator("#input")).to_have_value("not lost")
        expect(page.locator("#input")).to_be_focused()
        shows(page, "Status: Connected", GONE)


def test_text_sent_while_the_connection_closes_is_kept(page: Page) -> None:
    page.evaluate("socket.close(); input.value = 'not lost'; form.requestSubmit()")
    shows(page, "Status: Connected", "Status: Disconnected (1005)")
    expect(page.locator("#input")).to_have_value("not lost")


@pytest.mark.slow(reason="starts the service twice")
def test_a_click_on_reconnect_connects_to_the_restarted_service(
    visit: Callable[..., Page],
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop(patience=30)
        click(page, "Reconnect")
        refused = "Status: Disconnected (1006)"
        shows(page, "Status: Connected", GONE, refused)
        click(page, "Stop")
        expect(page.get_by_role("button")).to_have_text(["Reconnect"])
        expect(page.get_by_role("status")).to_have_text(
            "Disconnected: it does not try again by itself"
        )
        service.restart()
        click(page, "Reconnect")
        shows(page, "Status: Connected", GONE, refused, "Status: Connected")
        expect(page.get_by_role("button")).to_have_text(["Send"])
        expect(page.locator("#input")).to_be_focused()
        type_(page, "again")
        shows(page, "Status: Connected", GONE, refused, "Status: Connected", "Server: again")


@pytest.mark.slow(reason="starts the service twice")
@pytest.mark.parametrize("focused", ["input", "send"])
def test_reconnect_works_by_keyboard_alone(visit: Callable[..., Page], focused: str) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        if focused == "send":
            page.keyboard.press("Tab")
        expect(page.locator(f"#{focused}")).to_be_focused()
        service.stop(patience=30)
        shows(page, "Status: Connected", GONE)
        if focused == "input":
            page.keyboard.press("Tab")
        expect(page.locator("#reconnect")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#stop")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#reconnect")).to_be_focused()
        service.restart()
        page.keyboard.press("Enter")
        shows(page, "Status: Connected", GONE, "Status: Connected")
        expect(page.locator("#input")).to_be_focused()
        type_(page, "again")
        shows(page, "Status: Connected", GONE, "Status: Connected", "Server: again")


def test_the_page_connects_again_by_itself_and_leaves_the_reader_in_the_log(
    visit: Callable[..., Page],
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        page.focus("#output")
        service.stop(patience=30)
        shows(page, "Status: Connected", GONE)
        expect(page.locator("#output")).to_be_focused()
        service.restart()
        shows(page, "Status: Connected", GONE, "Status: Connected")
        expect(page.locator("#output")).to_be_focused()


# The policy.


def test_the_content_security_policy_blocks_nothing_of_ours(page: Page, faults: Faults) -> None:
    type_(page, "hello")
    shows(page, "Status: Connected", "Server: hello")
    # Style and icon are there, not merely unblocked.
    assert page.evaluate("document.styleSheets[0].cssRules.length") > 5
    assert page.evaluate("fetch(document.querySelector('link[rel=icon]').href).then(r => r.ok)")
    assert faults == []


def test_a_console_error_of_the_browser_fails_a_test(page: Page, faults: Faults) -> None:
    """The fixture `faults` would otherwise pass every test if it watched nothing."""
    with page.expect_event("pageerror"):
        page.evaluate("""async () => {
            console.error("said");
            await fetch("missing");
            document.body.setAttribute("style", "color: red");
            await fetch("http://127.0.0.1:1/").catch(() => 0);
            setTimeout(() => { throw new Error("thrown"); });
        }""")
    told = "\n".join(faults)
    for what in ["said", "missing: 404", "Content Security Policy", "thrown", ":1/"]:
        assert what in told
    faults.clear()


@pytest.mark.parametrize(
    ("directive", "attempt"),
    [
        ("script-src-elem", "insert('<script>ran()</script>')"),
        ("script-src-attr", "insert('<img src=echotwist.svg onload=ran()>')"),
        ("script-src", "setTimeout('ran()')"),
        ("connect-src", "fetch(other, {mode: 'no-cors'}).then(ran, () => 0)"),
        ("connect-src", "new WebSocket(other.replace('http', 'ws') + 'echo').onopen = ran"),
        ("img-src", "Object.assign(new Image(), {src: other + 'echotwist.svg', onload: ran})"),
        ("base-uri", "insert('<base href=/elsewhere/>'), document.baseURI.endsWith('e/') && ran()"),
        ("form-action", "form.submit()"),
    ],
)
def test_the_content_security_policy_blocks_what_is_not_ours(
    page: Page, faults: Faults, service: ServiceProcess, directive: str, attempt: str
) -> None:
    script = """other => new Promise(resolve => {
        window.ran = () => resolve("ran");
        addEventListener("securitypolicyviolation", e => resolve(e.effectiveDirective), true);
        const insert = html =>
            document.body.append(document.createRange().createContextualFragment(html));
        ATTEMPT;
    })"""
    # The same service by another name is another origin.
    other = f"http://localhost:{service.port}/"
    outcome = page.evaluate(script.replace("ATTEMPT", attempt), other)
    assert outcome == directive
    faults.clear()


# Where the page is.


def test_over_tls_the_page_speaks_wss(visit: Callable[..., Page]) -> None:
    with served(tls=True) as service:
        page = visit(service.page, ignore_https_errors=True)
        shows(page, "Status: Connected")
        expect(page.locator("#url")).to_have_text(service.url)
        type_(page, "hello")
        shows(page, "Status: Connected", "Server: hello")
        service.stop(patience=30)
        shows(page, "Status: Connected", "Server: hello", GONE)


class Proxy(socketserver.ThreadingTCPServer):
    """A reverse proxy that serves what it finds at `upstream` below /some/prefix/ and nothing
    beside it."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.upstream = upstream
        self.asked: list[str] = []


class ProxyHandler(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        head = readHead(self.request)
        if not head.endswith(b"\r\n\r\n"):
            return
        self.server.asked.append(head.split()[1].decode())
        if not head.startswith(b"GET /some/prefix/"):
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        head = head.replace(b"GET /some/prefix/", b"GET /", 1)
        # A request a connection, so that only one head must be found.
        head = head.replace(b"Connection: keep-alive", b"Connection: close")
        try:
            upstream = socket.create_connection(("localhost", self.server.upstream))
        except ConnectionRefusedError:  # The test has stopped it; Chromium may still want the icon.
            self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        with upstream:
            upstream.sendall(head)
            pumpBoth(self.request, upstream)


@pytest.mark.parametrize("path", ["", "websockets.html"])
def test_behind_a_proxys_path_prefix_the_page_stays_below_it(
    visit: Callable[..., Page], faults: Faults, path: str
) -> None:
    with served() as service, Proxy(service.port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            port = proxy.server_address[1]
            page = visit(f"http://localhost:{port}/some/prefix/{path}")
            shows(page, "Status: Connected")
            expect(page.locator("#url")).to_have_text(f"ws://localhost:{port}/some/prefix/echo")
            type_(page, "hello")
            shows(page, "Status: Connected", "Server: hello")
            service.stop(patience=30)
            shows(page, "Status: Connected", "Server: hello", GONE)
            page.close()
            # The proxy has answered so to a page that has tried again meanwhile.
            assert [fault for fault in faults if "502" not in fault] == []
            faults.clear()
        finally:
            proxy.shutdown()
            thread.join()
        assert "/some/prefix/echo" in proxy.asked
        assert [url for url in proxy.asked if not url.startswith("/some/prefix/")] == []


# For everybody.


def test_everything_has_an_accessible_name_and_role(page: Page) -> None:
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("body")).to_match_aria_snapshot("""
        - main:
          - heading "WebSocket echo" [level=1]
          - link "Workbench":
            - /url: workbench.html
          - paragraph:
            - text: Every message comes back, from
            - code: /ws:.*/
            - text: .
          - text: Message
          - textbox "Message" [active]
          - button "Send"
          - heading "Log" [level=2]
          - log "Log": "Status: Connected"
    """)
    type_(page, "hello")
    # A log is a live region: what is appended is read.
    expect(page.get_by_role("log", name="Log")).to_contain_text("Server: hello")


def test_the_tab_order_is_complete_and_focus_is_visible(page: Page) -> None:
    expect(page.locator("#input")).to_be_focused()
    for name in ["#input", "#send", "#output"]:
        expect(page.locator(name)).to_be_focused()
        outline = page.locator(name).evaluate(
            "e => [getComputedStyle(e).outlineStyle, parseFloat(getComputedStyle(e).outlineWidth)]"
        )
        assert outline == ["solid", 3]
        page.keyboard.press("Tab")


CONTRASTS = """() => {
    const luminance = rgb => rgb.match(/[\\d.]+/g).slice(0, 3)
        .map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => {
        const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (light + 0.05) / (dark + 0.05);
    };
    const paper = element => {
        const color = getComputedStyle(element).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" ? paper(element.parentElement) : color;
    };
    const result = {};
    for (const element of document.querySelectorAll("body *:not(noscript)")) {
        const name = element.id || element.localName, style = getComputedStyle(element);
        const hasText = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (hasText || element === input) result[name] = contrast(style.color, paper(element));
        if (["input", "button", "pre"].includes(element.localName)) {
            const outside = paper(element.parentElement);
            result[name + " edge"] = Math.max(
                contrast(style.borderTopColor, outside), contrast(paper(element), outside));
        }
    }
    return result;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("isDisabled", [False, True])
def test_contrast_suffices_in_light_and_dark_mode(
    visit: Callable[..., Page], service: ServiceProcess, scheme: str, isDisabled: bool
) -> None:
    page = visit(service.page, color_scheme=scheme)
    shows(page, "Status: Connected")
    page.evaluate(
        "isDisabled => { reconnect.hidden = false; send.disabled = isDisabled }", isDisabled
    )
    contrasts = page.evaluate(CONTRASTS)
    texts = {"h1", "p", "url", "label", "input", "send", "reconnect", "log", "b", "span"}
    texts |= {"status", "counts", "hint"}
    assert texts <= contrasts.keys()
    # WCAG 2.2, 1.4.3 and 1.4.11.
    assert {
        name: contrast
        for name, contrast in contrasts.items()
        if contrast < (3 if name.endswith("edge") else 4.5)
    } == {}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    isDark = sum(map(int, re.findall(r"\d+", background))) < 3 * 128
    assert isDark == (scheme == "dark")


def test_a_phone_of_320_pixels_shows_everything_without_scrolling(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    size = {"width": 320, "height": 568}
    page = visit(service.page, viewport=size, is_mobile=True, has_touch=True)
    shows(page, "Status: Connected")
    type_(page, "x" * 500)
    expect(page.locator("#output")).to_contain_text("x" * 500)
    for shown, hidden in [("send", "reconnect"), ("reconnect", "send")]:
        page.evaluate(f"{shown}.hidden = false; {hidden}.hidden = true")
        for element in ["html", "#output"]:
            fits = "e => e.scrollWidth <= e.clientWidth"
            assert page.locator(element).evaluate(fits), element
        assert page.locator("html").evaluate("e => e.scrollHeight <= e.clientHeight")
        boxes = {}
        for name in ["input", shown, "log", "output"]:
            box = page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 320
            boxes[name] = box
        # One row, as high as a thumb; and the log takes the room that is left.
        assert boxes["input"]["y"] == boxes[shown]["y"]
        assert boxes["input"]["height"] >= 44
        assert boxes[shown]["height"] >= 44
        assert boxes["log"]["height"] < 30
        assert boxes["output"]["height"] > 250


def test_a_phone_on_its_side_with_its_keyboard_shows_the_input(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit(service.page, viewport={"width": 844, "height": 200})
    box = page.locator("#input").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 200


def test_in_a_tiny_window_everything_can_be_reached(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    """320 by 256 is what zoom by 400 % leaves of 1280 by 1024 (WCAG 2.2, 1.4.10)."""
    page = visit(service.page, viewport={"width": 320, "height": 256})
    shows(page, "Status: Connected")
    assert page.locator("html").evaluate("e => e.scrollWidth <= e.clientWidth")
    page.locator("#output").scroll_into_view_if_needed()
    box = page.locator("#output").bounding_box()
    assert box is not None
    assert box["height"] >= 100


def test_a_cookie_in_utf8_does_not_break_the_handshake(page: Page, service: ServiceProcess) -> None:
    """Cookies know no ports: what another service on this host sets, comes here too."""
    connected = """url => new Promise((resolve, reject) => {
        document.cookie = "n=Zoë";
        const socket = new WebSocket(url);
        socket.onopen = () => resolve(document.cookie);
        socket.onerror = () => reject(new Error("refused"));
    })"""
    assert page.evaluate(connected, service.url) == "n=Zoë"
