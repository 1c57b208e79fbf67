"""The workbench's tool "What the server saw", in a real browser."""

import contextlib
import json
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser import Faults, click
from support.process import served
from support.proxy import pump, pumpBoth, readHead

from echotwist.testing import ServiceProcess
from echotwist.testing.frames import PING, PONG, close, frame
from echotwist.testing.raw import RawClient

LONG = 30_000
"""Milliseconds that anything may take on a machine that does much else."""


@pytest.fixture
def trace(visit: Callable[..., Page], service: ServiceProcess) -> Callable[..., Page]:
    """Open the workbench, traced, with this script."""

    def trace(script: str, **options: object) -> Page:
        return visit(traced(service, script), **options)

    return trace


def traced(service: ServiceProcess, script: str) -> str:
    script = script.replace("&", "%26").replace("=", "%3D")
    return f"{service.page}workbench.html#script={script}&trace&tab=server"


def says(page: Page, text: str) -> None:
    """Wait until the panel says this of the trace that it shows."""
    expect(page.locator("#server [role=status]").last).to_have_text(text, timeout=LONG)


def odd(page: Page) -> Locator:
    return page.locator("#server ul.odd li")


def fact(page: Page, name: str) -> Locator:
    return page.locator(f"#server dt:text-is('{name}') + dd")


def notes(page: Page) -> list[str]:
    """What is said of the lines of the request."""
    expect(page.locator("#server .request")).to_be_visible(timeout=LONG)
    rows = page.locator("#server .request tr:has(.note)").all_inner_texts()
    return [re.sub(r"\s+", " ", row).strip() for row in rows]


def seen(page: Page, text: str) -> None:
    """Wait until the timeline has an entry of the server with this."""
    page.select_option("#filter-from", "server")
    page.fill("#filter-text", text)
    expect(page.locator("#grid .rows .data").first).to_contain_text(text, timeout=LONG)


# A connection of this page.


def test_a_usual_connection_has_nothing_odd(trace: Callable[..., Page]) -> None:
    page = trace("ping=hey&send=hello&close=1000,bye")
    says(page, "The connection has ended: nothing odd.")
    expect(odd(page)).to_have_count(0)
    expect(fact(page, "End")).to_contain_text("the server began the end, with a close frame")
    expect(fact(page, "Extensions")).to_contain_text("permessage-deflate")
    expect(page.locator("#server")).to_contain_text("this browser reports 1000")
    expect(page.locator("#server pre")).to_contain_text("HTTP/1.1 101 Switching Protocols")
    for words in [
        "GET /lab?ping=hey&send=hello&close=1000,bye&trace=",
        "ping, FIN, payload length 3: 'hey'",
        "ms before",
        "text, FIN, payload length 5: 'hello'",
        "close, FIN, payload length 5: 1000 'bye'",
        "TCP has ended in order; the server began the end, with a close frame",
    ]:
        seen(page, words)


def test_events_are_shown_while_the_connection_is_open(trace: Callable[..., Page]) -> None:
    page = trace("")
    says(page, "Live: nothing odd so far.")
    page.fill("#input", "now")
    page.press("#input", "Enter")
    seen(page, "'now'")
    expect(fact(page, "Frames")).to_have_text("1 received, 1 sent", timeout=LONG)
    expect(fact(page, "End")).to_have_text("open")


def test_a_trace_can_be_had_in_other_formats(trace: Callable[..., Page]) -> None:
    page = trace("close")
    says(page, "The connection has ended: nothing odd.")
    for name, has in [("As text", "text/plain"), ("As JSON", "application/json")]:
        link = page.get_by_role("link", name=name)
        answer = page.request.get(page.evaluate("link => link.href", link.element_handle()))
        assert has in answer.headers["content-type"]
        assert "101 Switching Protocols" in answer.text()
    href = page.get_by_role("link", name="As HAR").evaluate("link => link.href")
    assert page.request.get(href).json()["log"]["version"] == "1.2"


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        (
            "drop=fin",
            "The end had no close frame: the server began the end, with FIN; the client sees 1006",
        ),
        ("violate=F03", "The client closed with 1002: something broke the protocol"),
        ("status=503", "The response was no 101: there was no WebSocket"),
        ("case=F01", "The verdict is FAILED: closed without a code before anything was wrong"),
    ],
)
def test_what_is_odd_is_said(
    trace: Callable[..., Page], faults: Faults, script: str, finding: str
) -> None:
    page = trace(script)
    if script.startswith("case"):
        says(page, "Live: nothing odd so far.")
        page.locator("#connections").get_by_role("button", name="Close").click()
    says(page, "The connection has ended: 1 odd thing.")
    expect(odd(page)).to_have_text([finding])
    faults.clear()  # The browser says what it does not like.


def test_what_the_server_did_not_look_at_may_be_the_answer(trace: Callable[..., Page]) -> None:
    """After its FIN the server reads, and takes nothing for a frame."""
    page = trace("ping&drop=fin")
    says(page, "The connection has ended: 1 odd thing.")
    expect(odd(page)).to_contain_text("The end had no close frame")


def test_a_refused_script_has_no_trace(trace: Callable[..., Page], faults: Faults) -> None:
    page = trace("nosuch")
    says(
        page,
        "The service has no trace of it: it has not had the request, has refused its script, or"
        " has forgotten it.",
    )
    assert all("400" in fault or "404" in fault for fault in faults)
    faults.clear()


def test_without_a_lab_that_is_said(visit: Callable[..., Page], faults: Faults) -> None:
    with served("--no-lab") as service:
        page = visit(traced(service, "ping"))
        says(page, "This service has no lab (--no-lab), which is where traces are made.")
        click(page, "Watch another client")
        expect(page.locator("#server [role=status]").first).to_contain_text("--no-lab")
        assert all("404" in fault for fault in faults)
        faults.clear()


def test_one_trace_is_read_live_and_that_is_the_one_that_is_shown(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    """A stream takes one of the few connections that a browser has to a host."""
    page = visit("about:blank")
    streams: list[str] = []
    page.on("request", lambda one: streams.append(one.url) if "=events" in one.url else None)
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda one: streams.remove(one.url) if one.url in streams else None)

    def live(index: int) -> None:
        says(page, "Live: nothing odd so far.")
        name = page.locator("#server option").nth(index).inner_text().split(", ")[1]
        for _ in range(LONG // 20):
            if len(streams) == 1 and f"/{name}?" in streams[0]:
                return
            page.wait_for_timeout(20)
        raise AssertionError((name, streams))

    page.goto(traced(service, ""))
    for number in range(1, 5):
        expect(page.locator("#connections li")).to_have_count(number)
        expect(page.locator("#connections li").first).to_contain_text("Open", timeout=LONG)
        live(number - 1)
        if number < 4:
            click(page, "Connect")
    select = page.locator("#server select")
    expect(select.locator("option")).to_have_text([re.compile(f"^#{n}, ") for n in range(1, 5)])
    select.select_option(index=0)
    live(0)
    # What is not shown is read when its connection has ended.
    page.locator("#connections li").first.get_by_role("button", name="Close").click()
    page.select_option("#filter-connection", "4")
    seen(page, "TCP has ended in order")
    select.select_option(index=3)
    says(page, "The connection has ended: nothing odd.")
    # When that which is shown has ended, the newest of the others has the stream.
    page.locator("#connections li").last.get_by_role("button", name="Close").click()
    select.select_option(index=0)
    says(page, "The connection has ended: nothing odd.")
    select.select_option(index=2)
    live(2)


def test_a_connection_that_is_gone_is_not_live(visit: Callable[..., Page], faults: Faults) -> None:
    with ServiceProcess() as service:
        page = visit(traced(service, ""))
        says(page, "Live: nothing odd so far.")
        service.kill()
        says(
            page,
            "The connection has ended, of which the service has not told yet: nothing odd so far.",
        )
        service.start()
        says(
            page,
            "The service has no trace of it: it has not had the request, has refused its script,"
            " or has forgotten it.",
        )
    faults.clear()


# The clock.


def test_nothing_is_merged_out_of_order(trace: Callable[..., Page]) -> None:
    """What was sent is seen later, and what is received was written before, message by message."""
    page = trace("")
    says(page, "Live: nothing odd so far.")
    for number in range(30):
        page.fill("#input", f"m{number}")
        page.press("#input", "Enter")
    expect(fact(page, "Frames")).to_have_text("30 received, 30 sent", timeout=LONG)
    page.locator("#connections").get_by_role("button", name="Close").click()
    says(page, "The connection has ended: nothing odd.")
    with page.expect_download() as download:
        click(page, "Export JSON")
    entries = json.loads(download.value.path().read_text())["entries"]
    orders: dict[str, list[tuple[str, str]]] = {}
    for entry in entries:
        if text := re.search(r"m\d+(?='?$)", entry["data"]):
            orders.setdefault(text[0], []).append((entry["from"], entry["type"]))
    assert len(orders) == 30
    assert set(map(tuple, orders.values())) == {
        (
            ("sent", "text"),
            ("server", "text received"),
            ("server", "text sent"),
            ("received", "text"),
        )
    }
    assert re.search(r"± [\d.]+ ms", fact(page, "Clock").inner_text())


CLOCK = """async ({ahead, pairs, isSet, gap}) => {
    const { Clock } = await import("./workbench/clock.js");
    // The browser's time is that of the test; the server's is ahead of it.
    const base = Date.UTC(2026, 0, 1);
    const iso = new Date(base + ahead).toISOString().replace("Z", "000Z");
    const clock = new Clock(iso);
    let number = 0;
    const hear = (type, at, more = {}) =>
        clock.hear({ number: number++, type, time: at * 1000, ...more }, base + at + 500);
    const connection = { began: base + 1, opened: base + 9, sentTimes: [], receivedTimes: [] };
    hear("requested", 4);
    hear("opened", 5);
    if (gap) number += 10;
    for (let i = 1; i <= pairs; i++) {
        const at = 100 * i, set = isSet && i > 2 ? -50_000 : 0;
        connection.sentTimes.push(base + at);
        hear("frameReceived", at + 2 + set, { opcode: 1, fin: true });
        hear("frameSent", at + 3 + set, { opcode: 2, fin: true });
        connection.receivedTimes.push(base + at + 4);
    }
    clock.compare(connection);
    return [clock.offset - base, clock.uncertainty, clock.ahead];
}"""


def test_a_clock_that_is_wrong_by_minutes_does_not_matter(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = visit(service.page + "workbench.html")
    for ahead in [0, 180_000, -180_000]:
        for others, offset, uncertainty in [
            # From the handshake: between 1 - 4 and 9 - 5.
            ({"pairs": 0}, 0.5, 3.5),
            # From each message: between 100 - 102 and 104 - 103.
            ({"pairs": 5}, -0.5, 1.5),
            # Those behind a gap are no pairs.
            ({"pairs": 5, "gap": True}, 0.5, 3.5),
            # The clock was set meanwhile.
            ({"pairs": 5, "isSet": True}, -0.5, 1.5),
        ]:
            asked = {"ahead": ahead, "isSet": False, "gap": False, **others}
            expected = [offset, uncertainty, ahead - offset]
            assert page.evaluate(CLOCK, asked) == pytest.approx(expected, abs=0.01), asked


# The handshake.


class Hop(socketserver.ThreadingTCPServer):
    """A proxy that changes the handshake of a WebSocket, and passes on all else."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), HopHandler)
        self.upstream = upstream
        self.port = self.server_address[1]


class HopHandler(socketserver.BaseRequestHandler):
    server: Hop

    def handle(self) -> None:
        head = readHead(self.request)
        if not head.endswith(b"\r\n\r\n"):
            return
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        lines = [line for line in lines if not line.lower().startswith(b"host:")]
        if any(line.lower() == b"upgrade: websocket" for line in lines):
            dropped = b"sec-websocket-extensions:"
            lines = [line for line in lines if not line.lower().startswith(dropped)]
            lines = [b"Host: backend.internal", *lines, b"Via: 1.1 hop"]
        else:
            # A request a connection, so that only one head must be found.
            lines = [line for line in lines if not line.lower().startswith(b"connection:")]
            lines = [b"Host: backend.internal", *lines, b"Connection: close"]
        with socket.create_connection(("localhost", self.server.upstream)) as upstream:
            upstream.sendall(b"\r\n".join([first, *lines, b"", b""]))
            pumpBoth(self.request, upstream)


@pytest.fixture
def hop(service: ServiceProcess) -> Iterator[Hop]:
    """A Hop before the service."""
    with Hop(service.port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_of_a_direct_connection_no_line_has_a_note(trace: Callable[..., Page]) -> None:
    page = trace("close")
    assert notes(page) == []
    expect(page.locator("#server")).to_contain_text("Nothing shows that it was changed on the way.")
    names = page.locator("#server .request th").all_inner_texts()
    assert names[:2] == ["(first line)", "Host"]


def test_what_a_proxy_has_changed_is_named(
    visit: Callable[..., Page], service: ServiceProcess, hop: Hop
) -> None:
    url = traced(service, "close").replace(f":{service.port}/", f":{hop.port}/", 1)
    page = visit(url)
    assert notes(page) == [
        f"Host backend.internal ← rewritten on the way: this browser has sent 127.0.0.1:{hop.port}",
        "Via 1.1 hop ← added on the way: only proxies send it",
        "Sec-WebSocket-Extensions (missing) ← taken on the way: this browser sends it",
    ]
    expect(page.locator("#server")).to_contain_text("3 lines not as this browser has sent them:")
    expect(page.locator("#server .odd")).to_contain_text(
        "The request is not as this browser has sent it: Host, Via, Sec-WebSocket-Extensions"
    )


class TakingBack(socketserver.BaseRequestHandler):
    """Passes on a request, and the response without its extensions."""

    server: Hop

    def handle(self) -> None:
        with socket.create_connection(("localhost", self.server.upstream)) as upstream:
            back = threading.Thread(target=self.back, args=(upstream,))
            back.start()
            pump(self.request, upstream)
            back.join()

    def back(self, upstream: socket.socket) -> None:
        head = re.sub(rb"Sec-WebSocket-Extensions:.*\r\n", b"", readHead(upstream))
        self.request.sendall(head)
        pump(upstream, self.request)


def test_what_a_proxy_has_taken_from_the_response_is_named(
    visit: Callable[..., Page], service: ServiceProcess, hop: Hop
) -> None:
    hop.RequestHandlerClass = TakingBack
    page = visit(traced(service, "").replace(f":{service.port}/", f":{hop.port}/", 1))
    expect(page.locator("#server .odd")).to_contain_text(
        "The response was changed on the way: Sec-WebSocket-Extensions was permessage-deflate"
    )
    expect(page.locator("#server .odd li")).to_have_count(1)
    says(page, "Live: 1 odd thing so far.")


# Another client.


@pytest.fixture
def watching(visit: Callable[..., Page], service: ServiceProcess, faults: Faults) -> Iterator[Page]:
    """A page that watches for another client."""
    page = visit(f"{service.page}workbench.html#tab=server")
    click(page, "Watch another client")
    expect(page.locator("#server .waiting code")).to_be_visible(timeout=LONG)
    yield page
    page.close()  # It may be asking just now.
    # There is no trace until the client has come; and a script that is refused is a 400.
    assert all("404" in fault or "400" in fault for fault in faults)
    faults.clear()


@contextlib.contextmanager
def client(page: Page, **headers: str) -> Iterator[RawClient]:
    """A client of the URL that is shown."""
    url = urlsplit(page.locator("#server .waiting code").inner_text())
    with RawClient(f"{url.scheme}://{url.netloc}", upgrade=False) as client:
        client._target = f"{url.path}?{url.query}"
        client.upgrade(**headers)
        yield client


def test_a_ping_that_is_answered_is_nothing_odd(watching: Page) -> None:
    with client(watching) as other:
        ping = other.frame()
        assert (ping.opcode, ping.payload) == (PING, b"are you there")
        other.send(frame(PONG, ping.payload))
        expect(fact(watching, "Frames")).to_have_text("1 received, 1 sent", timeout=LONG)
        says(watching, "Live: nothing odd so far.")
        other.send(close(1000))
        other.end()
    says(watching, "The connection has ended: nothing odd.")
    expect(fact(watching, "Clock")).to_contain_text("times are by the server's clock")
    seen(watching, "answers the ping of")


def test_a_pong_with_another_payload_answers_no_ping(watching: Page) -> None:
    with client(watching) as other:
        other.frame()
        other.send(frame(PONG, b"<b>yes</b>"))
        says(watching, "Live: 1 odd thing so far.")
        # Not in the status, which would be read out for each ping, and again for each answer.
        expect(watching.locator("#server p:not([role])", has_text="1 ping")).to_have_text(
            "1 ping not answered yet."
        )
        other.send(close(1000))
        other.end()
    says(watching, "The connection has ended: 2 odd things.")
    expect(odd(watching)).to_have_text(
        [
            re.compile(
                r"The pong at [\d,.]+ ms, '<b>yes</b>', answers no ping: unsolicited"
                r" \(RFC 6455, 5\.5\.3\); the ping at [\d,.]+ ms has another payload:"
                r" 'are you there'"
            ),
            re.compile(
                r"The ping at [\d,.]+ ms, 'are you there', was not answered in the [\d,.]+ ms to"
                r" the end"
            ),
        ]
    )
    seen(watching, "; not answered")


def test_what_a_client_sends_is_never_markup(watching: Page) -> None:
    hostile = "<img src=x onerror=alert()>"
    with client(
        watching, User_Agent=hostile, X_Forwarded_For="192.0.2.1", Cookie="secret"
    ) as other:
        other.frame()
        other.send(frame(PING, mask=b"\0\0\0\0")[:1] + b"\x00")  # It is not masked.
        other.gone()
    says(watching, "The connection has ended: 3 odd things.")
    expect(odd(watching).first).to_contain_text("the server refused what the client sent: 1002")
    expect(watching.locator("#server img")).to_have_count(0)
    expect(watching.locator("#server .request")).to_contain_text(hostile)
    expect(watching.locator("#server .request")).to_contain_text("(not shown: 6 bytes)")
    # What it has sent, nobody knows here.
    assert notes(watching) == ["X-Forwarded-For 192.0.2.1 ← added on the way: only proxies send it"]


def test_a_stream_that_is_broken_off_is_not_live(
    visit: Callable[..., Page], faults: Faults
) -> None:
    with ServiceProcess() as service:
        page = visit(f"{service.page}workbench.html#tab=server")
        click(page, "Watch another client")
        expect(page.locator("#server .waiting code")).to_be_visible(timeout=LONG)
        with client(page):
            says(page, "Live: nothing odd so far.")
            service.kill()
            says(page, "The service does not answer, and is asked again: nothing odd so far.")
    faults.clear()


def test_the_script_for_another_client_can_be_changed(watching: Page) -> None:
    expect(watching.get_by_label("Its script")).to_be_focused()
    url = watching.locator("#server .waiting code")
    before = url.inner_text()
    assert re.fullmatch(r"ws://[\d.:]+/lab\?ping=are%20you%20there&trace=[\w-]{22}", before)
    watching.get_by_label("Its script").fill("send=hi&close")
    expect(url).to_have_text(before.replace("ping=are%20you%20there", "send=hi&close"))
    watching.get_by_label("Its script").fill("hold=2h")
    watching.keyboard.press("Tab")
    said = watching.locator("#server [role=status]").first
    expect(said).to_have_text("The server refuses this script: hold takes at most 60s")
    watching.get_by_label("Its script").fill(" ?send=hi ")
    watching.keyboard.press("Tab")
    expect(url).to_have_text(before.replace("ping=are%20you%20there", "send=hi"))
    expect(said).to_have_text("No client has come yet")
    click(watching, "Cancel")
    expect(url).to_be_hidden()
    expect(watching.get_by_role("button", name="Watch another client")).to_be_focused()


def test_a_trace_is_opened_by_its_id_once(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    name = secrets.token_urlsafe(24)
    with RawClient(f"ws://127.0.0.1:{service.port}", upgrade=False) as other:
        other._target = f"/lab?close=4000&trace={name}"
        other.upgrade()
        other.send(close(4000))
        other.end()
    page = visit(f"{service.page}workbench.html#tab=server")
    for given in [name, f"ws://host/lab?trace={name}", f"http://host/trace/{name}?format=text"]:
        page.get_by_label("Open the trace with this ID").fill(given)
        with page.expect_response(f"**/trace/{name}"):
            page.keyboard.press("Enter")
        says(page, "The connection has ended: nothing odd.")
    expect(page.locator("#server option")).to_have_text([f"watched 1, {name}"])
    # The history has its number also after a reload, but not always its URL.
    page.add_init_script("""
        const key = Object.keys(sessionStorage).find(name => name.endsWith(" timeline"));
        const kept = JSON.parse(sessionStorage[key]);
        kept.urls = kept.urls.filter(([number]) => number > 0);
        kept.entries = kept.entries.map(line => line.replace(/,"url":"[^"]*"/, ""));
        sessionStorage[key] = JSON.stringify(kept);
    """)
    page.reload()
    page.get_by_label("Open the trace with this ID").fill(name)
    page.keyboard.press("Enter")
    says(page, "The connection has ended: nothing odd.")
    expect(page.locator("#server option")).to_have_text([f"watched 2, {name}"])


def test_an_id_that_has_no_trace_is_said(
    visit: Callable[..., Page], service: ServiceProcess, faults: Faults
) -> None:
    page = visit(f"{service.page}workbench.html#tab=server")
    says(
        page,
        "Nothing is traced. Tick “Trace what the server sees” and connect, or watch another"
        " client.",
    )
    status = page.locator("#server [role=status]").first
    for given, said in [
        ("short", "An ID has 22 to 64 characters of base64url"),
        ("x" * 22, "There is no trace with this ID, or no more"),
    ]:
        page.get_by_label("Open the trace with this ID").fill(given)
        page.keyboard.press("Enter")
        expect(status).to_have_text(said, timeout=LONG)
    assert all("404" in fault for fault in faults)
    faults.clear()


# For everybody.


def test_traces_are_bounded(trace: Callable[..., Page]) -> None:
    page = trace("close")
    says(page, "The connection has ended: nothing odd.")
    for _ in range(22):
        click(page, "Connect")
    names = page.locator("#server option")
    expect(names).to_have_text([re.compile(f"^#{number}, ") for number in range(4, 24)])
    says(page, "The connection has ended: nothing odd.")


def test_a_phone_shows_it_without_scrolling_the_page(
    trace: Callable[..., Page], faults: Faults
) -> None:
    page = trace("drop=fin", viewport={"width": 320, "height": 568})
    says(page, "The connection has ended: 1 odd thing.")
    click(page, "Watch another client")
    expect(page.locator("#server .waiting")).to_be_visible()
    assert page.locator("html").evaluate("e => e.scrollWidth <= e.clientWidth")
    page.close()
    assert all("404" in fault for fault in faults)
    faults.clear()
