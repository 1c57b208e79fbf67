"""Weigh both pages, flood them, and take their pictures; writes docs/workbench.md's figures.

A flood is what somebody does in the console of the browser: messages without a pause. Meanwhile
keys are pressed. How long one takes until the page has painted what came of it, the browser itself
says (Event Timing, W3C), in steps of 8 ms.
"""

import argparse
import datetime
import os
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright
from support.browser import CHROMIUM
from support.process import needs

from echotwist.testing import ServiceProcess

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"

VIEWPORT: ViewportSize = {"width": 1280, "height": 1000}
PHONE: ViewportSize = {"width": 360, "height": 740}

PATIENCE = 120_000

OBSERVE = """() => {
    window.inputs = [];
    new PerformanceObserver(list => {
        for (const each of list.getEntries()) {
            if (each.name === "keydown") inputs.push([each.startTime, each.duration]);
        }
    }).observe({type: "event", durationThreshold: 16});
    window.tasks = [];
    new PerformanceObserver(list => {
        for (const each of list.getEntries()) tasks.push(each.duration);
    }).observe({type: "longtask"});
}"""


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page, connected."""
    context = browser.new_context(**{"viewport": VIEWPORT, **options})
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("status").first).to_have_text("Connected", timeout=PATIENCE)
    yield page
    context.close()


def weight(browser: Browser, url: str) -> tuple[int, int]:
    """How many files the page has, and their bytes with the heads of the responses."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(url, wait_until="networkidle")
    context.close()
    return len(sizes), round(sum(sizes))


def firstScreen(browser: Browser, url: str) -> float:
    """Milliseconds from the navigation until it says that it is connected, by a browser that was
    never there: the median of ten."""
    took: list[float] = []
    for _ in range(10):
        context = browser.new_context(viewport=VIEWPORT)
        page = context.new_page()
        page.goto(url, wait_until="commit")
        script = """() => new Promise(resolve => {
            const look = () =>
                document.querySelector("[role=status]")?.textContent === "Connected"
                    ? resolve(performance.now()) : setTimeout(look, 1);
            look();
        })"""
        took.append(page.evaluate(script))
        context.close()
    return statistics.median(took)


def flood(
    page: Page, count: int, begin: str, isDone: str
) -> tuple[float, float, list[float], float]:
    """Seconds until all has come back and is shown, and until the browser has drawn its first
    frame; the milliseconds that each key took that was pressed after that and took 16 or more; and
    the longest task of the page."""
    page.evaluate(OBSERVE)
    page.locator("body").press("Shift")
    session = page.context.new_cdp_session(page)
    # In the page: questions from outside wait until its messages are worked off.
    page.evaluate(f"""() => {{
        window.took = undefined;
        window.began = performance.now();
        const look = () => ({isDone}) ? (took = performance.now() - began)
                                     : requestAnimationFrame(look);
        const draw = () => {{ window.first = performance.now() - began; look(); }};
        setTimeout(() => {{ {begin}; requestAnimationFrame(draw); }});
    }}""")
    key = {"key": "Shift", "code": "ShiftLeft", "windowsVirtualKeyCode": 16}
    until, asked = time.monotonic() + PATIENCE / 1000, time.monotonic()
    took = None
    pressed = 0
    while took is None and time.monotonic() < until:
        session.send("Input.dispatchKeyEvent", {"type": "keyDown", **key})
        session.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})
        pressed += 1
        time.sleep(0.1)
        if time.monotonic() > asked + 1:
            took, asked = page.evaluate("took"), time.monotonic()
    assert took is not None, f"{count} have not come back"
    page.wait_for_timeout(500)
    began, first = page.evaluate("began"), page.evaluate("first")
    inputs = [took for at, took in page.evaluate("inputs") if at >= began + first]
    print(f"{count}: {pressed} keys, of which were slow: {inputs}", flush=True)
    return took / 1000, first / 1000, inputs, max(page.evaluate("tasks"), default=0)


def alone(browser: Browser, service: ServiceProcess, count: int) -> list[str]:
    """What the browser does by itself: a page that is empty, and ignores what comes."""
    with opened(browser, service.page) as page:
        page.goto(f"{service.page}healthz")
        took, first = page.evaluate(f"""() => new Promise(resolve => {{
            const socket = new WebSocket({service.url!r});
            let received = 0, began, first;
            socket.onmessage = () => {{
                if (++received === {count}) resolve([performance.now() - began, first]);
            }};
            socket.onopen = () => {{
                began = performance.now();
                {console(count)};
                requestAnimationFrame(() => first = performance.now() - began);
            }};
        }})""")
    return row("an empty page, for comparison", count, took / 1000, first / 1000, None, None)


def console(count: int) -> str:
    """What somebody types there."""
    return f"for (let i = 0; i < {count}; i++) socket.send('message ' + i)"


def floods(browser: Browser, service: ServiceProcess) -> Iterator[list[str]]:
    for count in (5_000, 100_000):
        yield alone(browser, service, count)
        done = f"counts.textContent.includes('{count:,} received')"
        with opened(browser, service.page) as page:
            yield row(
                "the page, from the console", count, *flood(page, count, console(count), done)
            )
        with opened(browser, f"{service.page}workbench.html") as page:
            begin = f"times.value = {count}; input.value = 'message'; send.form.requestSubmit()"
            done = f"connections.textContent.includes('{count:,} received')"
            yield row("the workbench, by its composer", count, *flood(page, count, begin, done))


def row(
    what: str,
    count: int,
    took: float,
    first: float,
    inputs: list[float] | None,
    task: float | None,
) -> list[str]:
    slowest = "" if inputs is None else f"{max(inputs):.0f} ms" if inputs else "less than 16 ms"
    longest = "" if task is None else f"{task:.0f} ms" if task else "none"
    return [what, f"{count:,}", f"{took:.2f} s", f"{first:.2f} s", slowest, longest]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured(browser: Browser, service: ServiceProcess) -> str:
    urls = {"the page": service.page, "the workbench": f"{service.page}workbench.html"}
    weights = []
    for name, url in urls.items():
        files, size = weight(browser, url)
        weights.append([name, str(files), f"{size:,}", f"{firstScreen(browser, url):.0f} ms"])
    head = ["flood", "messages", "all are back, and shown", "first frame after sending began"]
    head += ["slowest key press from then on", "longest task over 50 ms"]
    today = datetime.date.today().isoformat()
    return (
        f"Measured on {today}, Chromium {browser.version}, {os.cpu_count()} cores, loopback.\n\n"
        + table(["", "files", "bytes, with headers", "navigation to connected, median"], weights)
        + "\n"
        + table(head, list(floods(browser, service)))
    )


def send(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


def pictures(browser: Browser, service: ServiceProcess) -> None:
    """As docs/ has them."""
    with opened(browser, service.page, viewport={"width": 760, "height": 420}) as page:
        send(page, "Hello, is anybody there?")
        send(page, "Grüße aus Köln")
        expect(page.locator("#output")).to_contain_text("Köln")
        page.screenshot(path=DOCS / "page.png")
    for scheme in ("light", "dark"):
        url = f"{service.page}workbench.html#script=ping%3Dare%2520you%2520there&trace&tab=server"
        with opened(browser, url, color_scheme=scheme) as page:
            send(page, '{"big": 12345678901234567890, "text": "Grüße"}')
            send(page, "hello")
            expect(page.locator("#grid")).to_contain_text("pong")
            page.select_option("#filter-type", "text")
            page.focus("#grid")
            page.keyboard.press("Home")
            page.get_by_role("button", name="JSON", exact=True).click()
            page.select_option("#filter-type", "")
            page.screenshot(path=DOCS / f"workbench-{scheme}.png", full_page=True)
    with opened(browser, f"{service.page}workbench.html#tab=latency", viewport=PHONE) as page:
        page.locator("summary", has_text="Repeat").click()
        page.fill("#times", "200")
        page.fill("#every", "5")
        send(page, "hello")
        expect(page.locator("#connections li")).to_contain_text("200 received")
        page.wait_for_timeout(500)
        page.locator("#tools").screenshot(path=DOCS / "workbench-latency.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", action="store_true", help="take the pictures alone")
    isPictures = parser.parse_args().pictures
    document = DOCS / "workbench.md"
    with sync_playwright() as playwright, ServiceProcess() as service:
        executable = needs("chromium", "chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        pictures(browser, service)
        if not isPictures:
            figures = f"{BEGIN}\n{measured(browser, service)}{END}"
            text = re.sub(f"{BEGIN}.*{END}", lambda _: figures, document.read_text(), flags=re.S)
            document.write_text(text)
        browser.close()


if __name__ == "__main__":
    main()
