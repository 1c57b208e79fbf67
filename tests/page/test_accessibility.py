"""Both pages, looked at by axe-core in each of their states."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.browser import Faults, click
from support.process import needs, served

from echotwist.testing import ServiceProcess


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    needs("npm", "npm")
    folder = tmp_path_factory.mktemp("axe")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--silent", "--no-fund", "axe-core@4.14.1"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return Path(folder, "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(params=["light", "dark"])
def look(request: pytest.FixtureRequest, axe: str) -> Callable[..., None]:
    """Have axe-core look at a page, of which it must find no fault."""

    def look(page: Page, state: str) -> None:
        page.emulate_media(color_scheme=request.param)
        if not page.evaluate("'axe' in window"):
            page.evaluate(axe)
        found = page.evaluate("axe.run(document).then(r => r.violations)")
        told = [
            (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]])
            for each in found
        ]
        assert told == [], state

    return look


def test_axe_finds_faults(page_of: Callable[[str], Page], look: Callable[..., None]) -> None:
    """Or the tests below would find nothing, whatever there is."""
    page = page_of("")
    page.evaluate("document.querySelector('label').remove()")
    with pytest.raises(AssertionError, match="label"):
        look(page, "without a label")


@pytest.fixture
def page_of(visit: Callable[..., Page], service: ServiceProcess) -> Callable[[str], Page]:
    def page_of(path: str) -> Page:
        page = visit(service.page + path)
        expect(page.get_by_role("status").first).to_have_text("Connected")
        return page

    return page_of


def test_the_simple_page(visit: Callable[..., Page], look: Callable[..., None]) -> None:
    with served() as service:
        page = visit(service.page)
        expect(page.get_by_role("status")).to_have_text("Connected")
        look(page, "connected")
        page.fill("#input", "hello")
        click(page, "Send")
        expect(page.locator("#output")).to_contain_text("Server: hello")
        look(page, "with an echo")
        service.stop(patience=30)
        expect(page.get_by_role("button", name="Reconnect")).to_be_visible()
        look(page, "disconnected")


def test_the_tools_of_the_workbench(
    page_of: Callable[[str], Page], look: Callable[..., None], faults: Faults
) -> None:
    page = page_of("workbench.html#script=ping&trace&tab=server")
    page.fill("#input", "hello")
    page.press("#input", "Enter")
    expect(page.locator("#connections li")).to_contain_text("1 sent, 1 received")
    expect(page.locator("#server")).to_contain_text("Response, as it was sent")
    look(page, "what the server saw")
    page.get_by_role("tab", name="Latency").click()
    expect(page.locator("#latency svg")).to_have_count(2)
    look(page, "latency")
    page.get_by_role("tab", name="Snippets").click()
    look(page, "snippets")
    page.get_by_role("tab", name="Lab").click()
    expect(page.get_by_role("button", name="Run all 127")).to_be_visible()
    page.fill("#script", "delay=2h&nonsense")
    expect(page.locator("#lab .steps .bad").first).to_contain_text("takes at most")
    look(page, "the lab, with a mistake")
    faults.clear()  # Which the browser reports as the answer 400.


def test_the_path_in_the_workbench(
    visit: Callable[..., Page], look: Callable[..., None], service: ServiceProcess
) -> None:
    page = visit(f"{service.page}workbench.html#tab=path")
    expect(page.get_by_role("status").first).to_have_text("Connected")
    look(page, "as it is at first")
    finding = {
        "rule": "idle-timeout",
        "level": "problem",
        "title": "cut after 60.0 s of silence",
        "evidence": ["silent: cut"],
        "consistentWith": ["nginx"],
        "cures": ["send pings"],
    }
    levels = [{**finding, "level": level} for level in ("problem", "limit", "note")]
    found = {"findings": levels, "lines": [["idle and age", "silent", "cut after 60.0 s"]]}
    page.route("**/lab/verdict", lambda route: route.fulfill(json=found))
    click(page, "Probe this path")
    expect(page.locator("#path .left")).to_contain_text("idle: ")
    look(page, "while it runs")
    click(page, "Stop, and judge what is known")
    expect(page.locator("#path article")).to_have_count(3)
    look(page, "with findings")


def test_the_workbench(page_of: Callable[[str], Page], look: Callable[..., None]) -> None:
    page = page_of("workbench.html")
    look(page, "as it is at first")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    page.fill("#close-code", "7")
    page.locator("#connections button").first.click()
    expect(page.locator("#close-hint")).not_to_be_empty()
    page.fill("#input", '{"a": 1}')
    page.press("#input", "Enter")
    page.select_option("#format", "hex")
    page.fill("#input", "00")
    page.press("#input", "Enter")
    page.fill("#input", "0")
    expect(page.locator("#connections li")).to_contain_text("2 sent, 2 received")
    click(page, "Pause")
    look(page, "all open, with what is wrong")
    page.focus("#grid")
    for key in ("End", "ArrowUp", "Home"):
        page.keyboard.press(key)
        look(page, f"with an entry chosen by {key}")
    page.fill("#filter-text", "nothing has this")
    expect(page.locator("#grid .rows [role=row]")).to_have_count(0)
    look(page, "with an empty timeline")
    page.get_by_role("button", name="Close", exact=True).click()
    page.fill("#close-code", "")
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_role("button", name="Connect again")).to_be_visible()
    look(page, "disconnected")
