"""The workbench's tool for latency, in a real browser."""

import math
import random
import re
from collections.abc import Callable, Sequence

import pytest
from playwright.sync_api import Locator, Page, expect

from echotwist.testing import ServiceProcess

EMPTY = "No echo yet: send a message and its round trip appears here."

SOON = 30_000


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    return visit(f"{service.page}workbench.html#tab=latency")


@pytest.fixture
def panel(page: Page) -> Locator:
    """A panel of the tool alone, which the tests give its round trips."""
    page.evaluate("""async () => {
        const { Latency } = await import("./workbench/latency.js");
        const panel = document.createElement("div");
        panel.id = "latency";
        document.body.replaceChildren(panel);
        window.latency = new Latency(panel);
    }""")
    return page.locator("#latency")


def add(panel: Locator, roundTrips: Sequence[float], connection: int = 1) -> None:
    """All at the same time, in milliseconds since 1970."""
    panel.page.evaluate(
        "([values, connection]) => {"
        " for (const value of values) latency.add(value, 1_700_000_000_000, connection); }",
        [list(roundTrips), connection],
    )


def showsFigures(panel: Locator, *figures: str) -> None:
    """Wait until the table has these."""
    cells = panel.get_by_role("table", name="Round trips in ms").get_by_role("cell")
    expect(cells).to_have_text(figures, timeout=SOON)


def bins(panel: Locator) -> dict[str, str]:
    """Of the table of the histogram."""
    panel.get_by_text("The histogram as a table").click()
    rows = panel.get_by_role("table", name="How many took how long").locator("tbody tr")
    expect(rows).not_to_have_count(0)
    cells: list[tuple[str, str]] = rows.evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return dict(cells)


# Of the page's own connections.


def test_an_echo_appears(page: Page) -> None:
    panel = page.get_by_role("tabpanel", name="Latency")
    expect(panel).to_contain_text(EMPTY)
    expect(panel.get_by_role("img")).to_have_count(0)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    page.get_by_label("Message").fill("hello")
    page.get_by_label("Message").press("Enter")
    expect(panel.get_by_role("cell").first).to_have_text("1", timeout=SOON)
    expect(panel.get_by_text(EMPTY)).to_be_hidden()
    expect(panel.get_by_role("img")).to_have_count(2)
    expect(panel.get_by_label("Connection")).to_contain_text("1")


# Figures.


def test_percentiles_are_by_the_nearest_rank(panel: Locator) -> None:
    add(panel, [0.1])
    showsFigures(panel, "1", *["0.1"] * 6)
    add(panel, [0.3])
    showsFigures(panel, "2", "0.1", "0.1", "0.3", "0.3", "0.3", "0.2")
    add(panel, [round(number / 10, 1) for number in range(3, 101)][::-1])
    showsFigures(panel, "100", "0.1", "5", "9", "9.9", "10", "5.05")


def test_the_figures_are_those_of_the_last_ten_thousand(panel: Locator) -> None:
    some = random.Random(5)
    values = [9e9] * 500 + [round(some.lognormvariate(0, 2), 3) for _ in range(10_000)]
    add(panel, values)
    last = sorted(values[500:])
    expect(panel.get_by_role("cell").first).to_have_text("10,000", timeout=SOON)
    expect(panel.get_by_role("cell").last).to_have_text(f"{sum(last) / 10_000:.2f}", timeout=SOON)
    cells = panel.get_by_role("table", name="Round trips in ms").get_by_role("cell")
    shown = [float(text.replace(",", "")) for text in cells.all_text_contents()]
    wanted = [10_000, last[0], *(last[math.ceil(p * 100) - 1] for p in (50, 90, 99)), last[-1]]
    assert shown[:-1] == pytest.approx(wanted, rel=0.01)
    histogram = panel.get_by_role("img", name=re.compile("^Histogram of 10,000 round trips: half"))
    expect(histogram).to_be_visible()
    expect(histogram.locator(".mark")).to_have_count(3)
    assert sum(int(count.replace(",", "")) for count in bins(panel).values()) == 10_000


def test_a_round_trip_on_an_edge_is_in_the_bin_that_begins_there(panel: Locator) -> None:
    # As times since 1970 have them, which are a little beside.
    add(panel, [0, 0.005, 0.0094, 0.1, 0.09985, 0.15, 0.1594, 0.25, 0.6294, 0.63, 1.59, 1.6])
    expect(panel.get_by_role("cell").first).to_have_text("12", timeout=SOON)
    found = {name: count for name, count in bins(panel).items() if count != "0"}
    assert found == {
        "under 0.01": "3",
        "0.1 to under 0.16": "4",
        "0.25 to under 0.4": "1",
        "0.4 to under 0.63": "1",
        "0.63 to under 1": "1",
        "1 to under 1.6": "1",
        "1.6 to under 2.5": "1",
    }


AXES: list[tuple[list[float], list[str]]] = [
    ([0], ["0", "1", "2"]),
    ([0, 0], ["0", "1", "2"]),
    ([5, 5, 5], ["0", "3", "6"]),
    ([0.3], ["0", "0.15", "0.3"]),
    ([0.005], ["0", "0.003", "0.006"]),
    ([0, 3e7], ["0", "15,000,000", "30,000,000"]),
]


def test_few_and_equal_and_extreme_values_are_drawn(panel: Locator) -> None:
    line = panel.get_by_role("img").first
    for values, axis in AXES:
        panel.get_by_role("button", name="Clear").click()
        add(panel, values)
        expect(line.locator(".rule + text")).to_have_text(axis, timeout=SOON)
        expect(line.locator(".dot")).to_have_count(len(values), timeout=SOON)
        drawn = panel.locator(".charts").evaluate("charts => charts.innerHTML")
        assert not re.search("NaN|Infinity|undefined", drawn)
        outside = panel.evaluate("""panel => [...panel.querySelectorAll("svg")].flatMap(svg => {
            const whole = svg.getBoundingClientRect();
            return [...svg.children].map(child => child.getBoundingClientRect()).filter(
                part => part.left < whole.left - 1 || part.right > whole.right + 1
                    || part.top < whole.top - 1 || part.bottom > whole.bottom + 1);
        }).length""")
        assert outside == 0


# The controls.


def test_one_connection_can_be_chosen(panel: Locator) -> None:
    add(panel, [1, 2, 3], 7)
    add(panel, [40, 50], 12)
    showsFigures(panel, "5", "1", "3", "50", "50", "50", "19.2")
    choice = panel.get_by_label("Connection")
    expect(choice.locator("option")).to_have_text(["all", "7", "12"])
    choice.select_option("12")
    showsFigures(panel, "2", "40", "40", "50", "50", "50", "45")
    add(panel, [4], 7)
    add(panel, [60], 12)
    showsFigures(panel, "3", "40", "50", "60", "60", "60", "50")
    choice.select_option("all")
    showsFigures(panel, "7", "1", "4", "60", "60", "60", "22.9")


def test_of_many_connections_the_last_can_be_chosen(panel: Locator) -> None:
    add(panel, [1], 1)
    panel.get_by_label("Connection").select_option("1")
    panel.evaluate("() => { for (let i = 2; i < 200; i += 1) latency.add(1, 0, i); }")
    options = panel.get_by_label("Connection").locator("option")
    texts = options.all_text_contents()
    assert texts[:2] == ["all", "1"]
    assert texts[-1] == "199"
    assert len(texts) < 110


def test_cleared_it_begins_anew(panel: Locator) -> None:
    add(panel, [1, 2])
    expect(panel.get_by_role("cell").first).to_have_text("2", timeout=SOON)
    panel.get_by_role("button", name="Clear").click()
    expect(panel.get_by_text(EMPTY)).to_be_visible()
    expect(panel.get_by_role("table")).to_have_count(0)
    add(panel, [3])
    showsFigures(panel, "1", *["3"] * 6)


def test_what_is_chosen_is_copied_as_csv(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = visit(f"{service.page}workbench.html#tab=latency", permissions=permissions)
    page.evaluate("""async () => {
        const { Latency } = await import("./workbench/latency.js");
        document.body.replaceChildren(document.createElement("div"));
        const latency = new Latency(document.body.firstChild);
        latency.add(0.1, 1_700_000_000_000.25, 1);
        latency.add(1234.5, 1_700_000_001_000, 2);
    }""")
    page.get_by_role("button", name="Copy as CSV").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    rows = ["2023-11-14T22:13:20.000Z,1,0.1", "2023-11-14T22:13:21.000Z,2,1234.5"]
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines() == ["time,connection,round_trip_ms", *rows]


# How often, and how large, it is drawn.


def test_it_is_drawn_at_most_four_times_a_second(panel: Locator) -> None:
    draws, seconds = panel.evaluate("""panel => new Promise(resolve => {
        let draws = 0;
        new MutationObserver(() => draws += 1).observe(panel.querySelector("svg"),
            { childList: true });
        const start = performance.now();
        const timer = setInterval(() => {
            for (let i = 0; i < 100; i += 1) latency.add(Math.random(), Date.now(), 1);
            const seconds = (performance.now() - start) / 1000;
            if (seconds < 1 || draws < 2) return;
            clearInterval(timer);
            resolve([draws, seconds]);
        }, 5);
    })""")
    assert 2 <= draws <= 4 * seconds + 1


def test_a_hidden_panel_is_drawn_when_it_is_shown(panel: Locator) -> None:
    add(panel, [1])
    expect(panel.get_by_role("cell").first).to_have_text("1", timeout=SOON)
    panel.evaluate("panel => panel.hidden = true")
    panel.evaluate("""panel => new Promise(resolve => {
        window.draws = 0;
        new MutationObserver(() => window.draws += 1).observe(panel.querySelector("svg"),
            { childList: true });
        requestAnimationFrame(() => requestAnimationFrame(resolve));
    })""")
    add(panel, [1] * 99)
    # Longer than it waits between two drawings.
    panel.page.wait_for_timeout(600)
    assert panel.evaluate("() => window.draws") == 0
    panel.evaluate("panel => panel.hidden = false")
    expect(panel.get_by_role("cell").first).to_have_text("100", timeout=SOON)


def test_its_text_has_one_size_at_any_width(panel: Locator) -> None:
    add(panel, [0.1, 1, 10, 100, 1000] * 20)
    expect(panel.get_by_role("cell").first).to_have_text("100", timeout=SOON)
    for width in (1280, 320):
        panel.page.set_viewport_size({"width": width, "height": 700})
        for chart in panel.get_by_role("img").all():
            own = chart.evaluate("chart => Math.round(chart.getBoundingClientRect().width)")
            expect(chart).to_have_attribute("viewBox", f"0 0 {own} 160", timeout=SOON)
        scroll = panel.page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= width
