"""The page, in a real browser, against `twistd` as a process."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Response,
    expect,
    sync_playwright,
)
from support.process import needs, served

from echotwist.testing import ServiceProcess

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]

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


# The module's, not the session's: while Playwright's loop is there, no other test in this thread
# could run an asyncio loop of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = needs("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """A service for the tests that do not stop it."""
    with served() as service:
        yield service


class Faults(list[str]):
    """What the browser reports: errors, failed requests, violations of the policy."""

    def watch(self, page: Page) -> None:
        def console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.append(message.text)

        def response(response: Response) -> None:
            if response.status >= 400:
                self.append(f"{response.url}: {response.status}")

        page.on("console", console)
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("requestfailed", lambda request: self.append(f"{request.url}: {request.failure}"))
        page.on("response", response)


@pytest.fixture
def faults() -> Iterator[Faults]:
    """The browser must have reported nothing, unless the test clears it."""
    faults = Faults()
    yield faults
    assert faults == []


@pytest.fixture
def visit(browser: Browser, faults: Faults) -> Iterator[Callable[..., Page]]:
    """Open a page in a browser of its own, with the given options of `new_context`."""
    with contextlib.ExitStack() as contexts:

        def visit(url: str, **options: Any) -> Page:
            context = browser.new_context(**options)
            contexts.callback(context.close)
            context.set_default_timeout(10_000)
            page = context.new_page()
            faults.watch(page)
            page.goto(url)
            return page

        yield visit


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    """The page, connected."""
    page = visit(service.page)
    shows(page, "Status: Connected")
    return page


def shows(page: Page, *lines: str) -> None:
    """Wait until the log has exactly these lines."""
    text = "".join(f"{line}\n" for line in lines)
    expect(page.locator("#output")).to_have_js_property("textContent", text, timeout=10_000)


def click(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


def type_(page: Page, text: str) -> None:
    """Type into the element that has the focus."""
    page.keyboard.insert_text(text)
    page.keyboard.press("Enter")


def isAtEnd(output: Locator) -> bool:
    end: bool = output.evaluate("o => o.scrollHeight - o.scrollTop - o.clientHeight < 2")
    return end


# Sending and receiving.


@pytest.mark.parametrize("path", ["", "websockets.html", "websockets.html?a=b#c"])
def test_both_addresses_of_the_page_connect_and_say_so(
    visit: Callable[..., Page], service: ServiceProcess, path: str
) -> None:
    page = visit(service.page + path)
    shows(page, "Status: Connected")
    expect(page.locator("#url")).to_have_text(service.url)
    expect(page).to_have_title("WebSocket echo")


def test_a_click_on_send_sends_the_text_of_the_input(page: Page) -> None:
    page.fill("#input", "hello")
    click(page, "Send")
    shows(page, "Status: Connected", "Server: hello")


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
    expect(page.locator("#output *")).to_have_count(0)
    expect(page.locator("body > *")).to_have_count(1)
    expect(page).to_have_title("WebSocket echo")


def test_a_bidirectional_override_stays_on_its_line(page: Page) -> None:
    texts = ["\u202eevil", "\u2067evil", "\u05d0\u05d1", "\u202d\u202e\u200f"]
    for text in texts:
        type_(page, text)
        type_(page, "next")
    shows(page, "Status: Connected", *(f"Server: {t}" for text in texts for t in (text, "next")))
    lines = page.locator("#output").evaluate("""output => {
        const range = document.createRange();
        return [...output.childNodes].map(line => [...line.data.trimEnd()].map((_, i) => {
            range.setStart(line, i);
            range.setEnd(line, i + 1);
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


def test_a_binary_message_is_shown_by_its_length(page: Page) -> None:
    page.evaluate("socket.send(new Uint8Array(3))")
    shows(page, "Status: Connected", "Server: 3 bytes")


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
    assert isAtEnd(output)


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
    assert isAtEnd(output)


# Disconnected.


def test_a_disconnect_is_shown_with_its_close_code_and_reason(visit: Callable[..., Page]) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop()
        shows(page, "Status: Connected", GONE)


def test_while_disconnected_nothing_is_sent_and_what_is_typed_is_kept(
    visit: Callable[..., Page],
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop()
        expect(page.get_by_role("button")).to_have_text(["Reconnect"])
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
    visit: Callable[..., Page], faults: Faults
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        service.stop()
        click(page, "Reconnect")
        refused = "Status: Disconnected (1006)"
        shows(page, "Status: Connected", GONE, refused)
        assert [fault for fault in faults if "ERR_CONNECTION_REFUSED" not in fault] == []
        faults.clear()
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
        service.stop()
        shows(page, "Status: Connected", GONE)
        if focused == "input":
            page.keyboard.press("Tab")
        expect(page.locator("#reconnect")).to_be_focused()
        service.restart()
        page.keyboard.press("Enter")
        shows(page, "Status: Connected", GONE, "Status: Connected")
        expect(page.locator("#input")).to_be_focused()
        type_(page, "again")
        shows(page, "Status: Connected", GONE, "Status: Connected", "Server: again")


def test_a_disconnect_and_a_reconnect_leave_the_reader_in_the_log(
    visit: Callable[..., Page],
) -> None:
    with served() as service:
        page = visit(service.page)
        shows(page, "Status: Connected")
        page.focus("#output")
        service.stop()
        shows(page, "Status: Connected", GONE)
        expect(page.locator("#output")).to_be_focused()
        service.restart()
        page.evaluate("connect()")
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
        service.stop()
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
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := self.request.recv(1)):
                return
            head += byte
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
            back = threading.Thread(target=self.pump, args=(upstream, self.request))
            back.start()
            self.pump(self.request, upstream)
            back.join()

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("path", ["", "websockets.html"])
def test_behind_a_proxys_path_prefix_the_page_stays_below_it(
    visit: Callable[..., Page], path: str
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
            service.stop()
            shows(page, "Status: Connected", "Server: hello", GONE)
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
    texts = {"h1", "p", "url", "label", "input", "send", "reconnect", "log", "output"}
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
