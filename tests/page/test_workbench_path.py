"""The workbench's tool "Path", in a real browser: what a page finds out of its own path."""

import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, WebSocket, expect
from support.browser import Faults, blank, click
from support.process import served
from support.proxy import pumpBoth, readHead

from echotwist.testing import ServiceProcess

LONG = 120_000
"""Milliseconds that a probe may take on a machine that does much else."""

CLEAN = "Nothing was found that breaks a WebSocket on this path, as far as a page sees."


def opened(visit: Callable[..., Page], url: str, seconds: int = 5) -> Page:
    page = visit(f"{url}workbench.html#tab=path")
    page.route("**/lab/verdict", judgedWithoutDelays)
    expect(page.get_by_role("status").first).to_have_text("Connected")
    page.get_by_label("Watch idle connections").fill(str(seconds))
    return page


def judgedWithoutDelays(route: Route) -> None:
    """A busy machine holds messages back, as some proxies do; no test of a page looks for that."""
    measured: Any = route.request.post_data_json
    for way in ("toClient", "toServer"):
        if trickle := measured.get("flow", {}).get(way):
            trickle["received"] = trickle["sent"]
    route.continue_(post_data=json.dumps(measured))


def says(page: Page, text: str) -> None:
    expect(page.locator("#path [role=status]")).to_have_text(text, timeout=LONG)


def result(page: Page, area: str, what: str) -> Locator:
    """The cell of the table of what was measured."""
    body = page.locator("#path tbody").filter(has=page.locator(f'th:text-is("{area}")'))
    return body.locator(f'tr:has(th:text-is("{what}")) td')


def found(page: Page, rule: str) -> Locator:
    """The only finding, which is of this rule: its words may change."""
    expect(page.locator("#path [role=status]")).to_have_text(
        re.compile("found|finding"), timeout=LONG
    )
    findings = page.locator("#path article")
    rules = findings.evaluate_all("all => all.map((one) => one.dataset.rule)")
    assert rules == [rule], findings.all_inner_texts()
    return findings


def copied(page: Page, button: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    click(page, button)
    expect(page.locator(f'#path button[data-label="{button}"]')).to_have_text("Copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_path_that_does_nothing(visit: Callable[..., Page], service: ServiceProcess) -> None:
    page = opened(visit, service.page)
    click(page, "Probe this path")
    stop = page.get_by_role("button", name="Stop, and judge what is known")
    expect(stop).to_be_focused()
    expect(page.locator("#path .left")).to_contain_text("left")
    says(page, CLEAN)
    expect(stop).to_be_hidden()
    expect(page.get_by_role("button", name="Probe this path")).to_be_focused()
    expect(page.locator("#path article")).to_have_count(0)
    for area, what, words in [
        ("handshake", "far end", "echotwist, with its lab"),
        ("handshake", "the request arrives", "as it was sent"),
        ("handshake", "extensions", "came back permessage-deflate"),
        ("handshake", "subprotocols", "answered echotwist-probe-2, came back echotwist-probe-2"),
        ("handshake", "query, 8,000 bytes", "passes"),
        ("idle and age", "silent", "open after "),
        ("idle and age", "data from the client", "open after "),
        ("sizes", "whole", "pass, 15 sizes up to 16,777,216 bytes"),
        ("bytes", "a compressed message", "as sent"),
        ("bytes", "the client's close", "as sent"),
        ("bytes", "who answers pings", "not seen"),
        ("speed", "burst", "in order"),
        ("speed", "rate to the server", "MB/s"),
    ]:
        expect(result(page, area, what)).to_contain_text(words)
    expect(page.locator("#path").get_by_text("not finished")).to_have_count(0)

    markdown = copied(page, "Copy report")
    assert markdown.startswith("# ws://127.0.0.1:")
    assert "| bytes | text | as sent |" in markdown.split("\n")
    report = json.loads(copied(page, "Copy JSON"))
    assert report["findings"] == []
    assert report["incomplete"] == {}
    rows = {row["row"]: row for row in report["measured"]["idle"]}
    assert list(rows) == ["silent", "serverPings", "serverData", "clientData", "both"]
    assert all(row["alive"] for row in rows.values())
    assert len(report["measured"]["flow"]["toServer"]["received"]) == 24
    with page.expect_download() as download:
        click(page, "Save JSON")
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == report
    assert copied(page, "Copy command") == (
        f"echotwist probe {service.page.replace('http', 'ws')}echo"
    )


def test_a_probe_may_be_stopped(visit: Callable[..., Page], service: ServiceProcess) -> None:
    """What is known is judged, and is well below what the service takes."""
    page = opened(visit, service.page, 600)
    with page.expect_request("**/lab/verdict", timeout=LONG) as asked:
        click(page, "Probe this path")
        expect(page.locator("#path .left")).to_contain_text("idle: 5 connections", timeout=LONG)
        expect(page.locator("#path .left")).not_to_contain_text("flow", timeout=LONG)
        page.evaluate("""() => {
            Object.defineProperty(document, "hidden", { value: true, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
        page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1000))")
        click(page, "Stop, and judge what is known")
    assert 2_000 < len(asked.value.post_data or "") < 20_000
    says(page, "Nothing was found, and not all could be run.")
    expect(result(page, "not finished", "idle")).to_have_text("stopped")
    expect(result(page, "idle and age", "silent")).to_contain_text("open after")
    expect(page.get_by_role("button", name="Probe this path")).to_be_focused()
    expect(page.locator("#path")).to_contain_text(
        re.compile(r"the page hidden for [1-9]\d* s of it")
    )


def test_a_probe_is_stopped_while_it_asks_for_a_trace(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    """Idle connections end at once, and before what is asked has come: no error of the page."""
    page = opened(visit, service.page, 600)
    lying: list[WebSocket] = []
    held: list[Route] = []
    page.on("websocket", lambda ws: lying.append(ws) if "keepalive=no" in ws.url else None)
    page.route("**/trace/*", lambda route: held.append(route) if lying else route.continue_())
    with page.expect_request(
        lambda request: "/trace/" in request.url and lying != [], timeout=LONG
    ):
        click(page, "Probe this path")
    click(page, "Stop, and judge what is known")
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 100))")
    assert held
    lying.clear()
    for route in held:
        route.continue_()
    says(page, "Nothing was found, and not all could be run.")


def test_idle_connections_end_while_others_are_opened(
    browser: Browser, service: ServiceProcess
) -> None:
    """Who is told of the end of the first only later is told by the promise, and by it alone."""
    with blank(browser, service.page) as page:
        told = page.evaluate("""async () => {
            const { measureIdle } = await import("./workbench/pathidle.js");
            const unhandled = [];
            addEventListener("unhandledrejection", ({ reason }) => unhandled.push(reason.message));
            const first = { opened: 0, heard: 0, send() {}, message: async () => {
                throw new Error("stopped");
            }};
            const opening = [first, new Promise((resolve, reject) =>
                setTimeout(() => reject(new Error("late")), 100))];
            const near = { open: async () => opening.shift(), sleeper: { sleep: async () => {} } };
            const far = { script: () => ["", ""] };
            const why = await measureIdle(near, far, 600, [], () => {}).catch((e) => e.message);
            return [why, unhandled];
        }""")
    assert told == ["late", []]


# Proxies that do what some do.


class Proxy(socketserver.ThreadingTCPServer):
    """To this port; `change` gets the head of each request, and returns what is to become of it,
    and after how many seconds of silence of the server the connection is cut."""

    daemon_threads = True

    def __init__(self, port: int, change: Callable[[bytes], tuple[bytes, float | None]]) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.port, self.change = port, change


class Relay(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        head, silence = self.server.change(readHead(self.request))
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            upstream.settimeout(silence)
            upstream.sendall(head)
            pumpBoth(self.request, upstream)


@pytest.fixture
def proxied(service: ServiceProcess) -> Iterator[Callable[..., str]]:
    """The URL of the pages behind a proxy."""
    with contextlib.ExitStack() as proxies:

        def proxied(change: Callable[[bytes], Any]) -> str:
            port = urlsplit(service.page).port
            assert port is not None
            proxy = proxies.enter_context(Proxy(port, change))
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            proxies.callback(proxy.shutdown)
            return f"http://127.0.0.1:{proxy.server_address[1]}/"

        yield proxied


def test_a_proxy_that_cuts_what_is_silent(
    visit: Callable[..., Page], proxied: Callable[..., str]
) -> None:
    """It cuts the two connections on which the server never says anything, and none that a busy
    machine only holds up for seconds. Their timeouts are far apart, so that the silent one is cut
    first even if the proxy is late."""
    lying: list[bytes] = []

    def change(head: bytes) -> tuple[bytes, float | None]:
        if b"keepalive=no" not in head:
            return head, None
        if b"ignore=" in head:
            return head, 9.0
        lying.append(head)
        return head, 4.5 if len(lying) == 1 else None

    page = opened(visit, proxied(change), 25)
    click(page, "Probe this path")
    finding = found(page, "idle-timeout")
    says(page, "1 finding.")
    expect(finding.get_by_role("heading")).to_have_text(
        re.compile(
            r"^problem: cut after [4-7]\.\d s of silence, and after (9|1\d)\.\d s without data "
            r"from the server: only what the server sends keeps it open, and pings count$"
        )
    )
    expect(finding).to_contain_text(
        re.compile(r"silent: the client saw an end without a close fra")
    )
    expect(finding).to_contain_text(re.compile(r"the server saw .+ after [4-7]\.\d s"))
    expect(finding).to_contain_text(re.compile(r"Cure.*send pings more often than"))
    expect(result(page, "idle and age", "data both ways")).to_contain_text("open after")
    report = copied(page, "Copy report")
    assert re.search(r"^## problem: cut after [4-7]\.\d s of silence", report, re.MULTILINE)


def test_a_proxy_that_strips_the_offer_of_extensions(
    visit: Callable[..., Page], proxied: Callable[..., str]
) -> None:
    def change(head: bytes) -> tuple[bytes, float | None]:
        head = re.sub(rb"Sec-WebSocket-Extensions: .*\r\n", b"", head)
        return head.replace(b"\r\nConnection:", b"\r\nVia: 1.1 varnish\r\nConnection:"), None

    page = opened(visit, proxied(change))
    click(page, "Probe this path")
    finding = found(page, "extensions-stripped")
    says(page, "1 finding.")
    expect(finding).to_contain_text("arrived: nothing")
    expect(result(page, "handshake", "the request arrives")).to_contain_text(
        "added Via: 1.1 varnish, removed Sec-WebSocket-Extensions: permessage-deflate"
    )
    expect(result(page, "handshake", "on the way")).to_contain_text("Varnish (Via: 1.1 varnish")
    expect(result(page, "bytes", "a compressed message")).to_have_text(
        "not seen: compression is not agreed on"
    )


@pytest.mark.parametrize(
    ("pattern", "replacement", "rule", "why"),
    [
        (
            rb"Upgrade: websocket\r\n",
            b"",
            "refused",
            "the server has had no request to upgrade",
        ),
        (
            rb"(Sec-WebSocket-Key: ).*\r",
            rb"\1MDEyMzQ1Njc4OWFiY2RlZg==\r",
            "answer-stripped",
            "the server has answered 101, and this browser did not take what came of it",
        ),
    ],
)
def test_a_path_without_websockets(
    visit: Callable[..., Page],
    proxied: Callable[..., str],
    faults: Faults,
    pattern: bytes,
    replacement: bytes,
    rule: str,
    why: str,
) -> None:
    page = visit(
        proxied(lambda head: (re.sub(pattern, replacement, head), None)) + "workbench.html#tab=path"
    )
    click(page, "Probe this path")
    finding = found(page, rule)
    says(page, "1 finding.")
    expect(finding).to_contain_text(why)
    expect(result(page, "not finished", "idle")).to_have_text("there is no WebSocket to the lab")
    faults.clear()  # The browser reports each handshake, and the trace that is not there.


def test_a_limit_of_the_server_itself(visit: Callable[..., Page]) -> None:
    with served("--max-message=100k") as service:
        page = opened(visit, service.page)
        click(page, "Probe this path")
        expect(page.locator("#path .left")).to_contain_text("flow: ", timeout=LONG)
        click(page, "Stop, and judge what is known")
        says(page, "Nothing was found, and not all could be run.")
        expect(found(page, "server-limit")).to_contain_text(
            "131,071 bytes, whole: a close frame with 1009"
        )


def test_without_a_lab(visit: Callable[..., Page], faults: Faults) -> None:
    with served("--no-lab") as service:
        page = opened(visit, service.page)
        click(page, "Probe this path")
        says(
            page,
            "This service has no lab (--no-lab), which is where traces are made: without it "
            "nothing can be told of the path from a page.",
        )
        expect(page.get_by_role("button", name="Probe this path")).to_be_enabled()
        expect(page.locator("#path")).to_contain_text("echotwist probe ws://127.0.0.1:")
    faults.clear()  # The 404.


def test_a_verdict_that_is_refused_is_told(
    visit: Callable[..., Page], service: ServiceProcess, faults: Faults
) -> None:
    page = opened(visit, service.page, 600)
    refusal = '{"error": {"at": "idle", "problem": "is no list"}}'
    page.route("**/lab/verdict", lambda route: route.fulfill(status=400, body=refusal))
    click(page, "Probe this path")
    expect(page.locator("#path .left")).to_contain_text("idle: ", timeout=LONG)
    click(page, "Stop, and judge what is known")
    says(
        page,
        "The service gave no verdict (400, idle: is no list); what was measured can be copied.",
    )
    faults.clear()


def test_a_time_that_is_too_short_is_not_taken(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    page = opened(visit, service.page, 4)
    click(page, "Probe this path")
    field = page.get_by_label("Watch idle connections")
    assert not field.evaluate("field => field.checkValidity()")
    expect(page.locator("#path [role=status]")).to_be_empty()
