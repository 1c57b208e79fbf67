"""The workbench's lab: the form for a script, and the cases, in a real browser."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser import Faults
from support.process import served

from echotwist.lab.cases import CASES
from echotwist.lab.steps import STEPS, parse
from echotwist.testing import ServiceProcess

TAKES = "The server takes this script."

PATIENCE = 30_000
"""Milliseconds, for cases that the browser and the server run."""


@pytest.fixture
def lab(visit: Callable[..., Page], service: ServiceProcess) -> Locator:
    """The tool, of a page that is connected to /echo."""
    return opened(visit(f"{service.page}workbench.html"))


def opened(page: Page) -> Locator:
    lab = page.locator("#lab")
    expect(lab.get_by_role("button", name="Run all")).to_be_visible(timeout=PATIENCE)
    return lab


def script(lab: Locator) -> Locator:
    """The page's field, which says what it connects to."""
    return lab.page.locator("#script")


def steps(lab: Locator) -> Locator:
    return lab.locator("ol > li")


def add(lab: Locator, name: str) -> None:
    lab.get_by_role("combobox", name="Step", exact=True).select_option(name)
    lab.get_by_role("button", name="Add", exact=True).click()


def says(lab: Locator, text: str | re.Pattern[str]) -> None:
    expect(lab.get_by_role("status").filter(has_text=text)).to_be_visible(timeout=PATIENCE)


def settle(lab: Locator, faults: Faults) -> None:
    """Scripts were checked that are wrong, of which the browser says that the answer was 400."""
    script(lab).fill("hang")
    says(lab, TAKES)
    faults.clear()


# The form makes a script.


def test_every_step_can_be_added_and_is_a_right_one_at_once(lab: Locator, faults: Faults) -> None:
    names = [name for name in STEPS if name not in ("case", "trace")]
    options = lab.get_by_role("combobox", name="Step", exact=True).locator("option")
    assert options.all_text_contents() == [STEPS[name].syntax for name in names]
    for name in names:
        add(lab, name)
    expect(steps(lab)).to_have_count(len(names))
    made = [parse(part.encode()) for part in script(lab).input_value().split("&")]
    assert sorted(step.name for each in made for step in each.opening + each.body) == sorted(names)
    settle(lab, faults)


def test_steps_before_the_101_come_first_by_themselves(lab: Locator) -> None:
    for name in ("send", "delay", "hold", "close", "coalesce"):
        add(lab, name)
    expect(script(lab)).to_have_value(
        "hold=2s&coalesce&send=hello&delay=500ms&close=1006,never%20sent"
    )
    says(lab, TAKES)
    expect(lab.get_by_role("button", name="Move down: step 2, coalesce")).to_be_disabled()
    expect(lab.get_by_role("button", name="Move up: step 3, send")).to_be_disabled()


VALUES = {
    "a&b+c#d%e f": "a%26b%2Bc%23d%25e%20f",
    "a,b:c;d=e": "a,b:c;d=e",
    "Grüße 👋 \ufffd": "Gr%C3%BC%C3%9Fe%20%F0%9F%91%8B%20%EF%BF%BD",
    "%41": "%2541",
    "": "",
}


def test_a_value_is_percent_encoded(lab: Locator) -> None:
    add(lab, "send")
    for value, encoded in VALUES.items():
        steps(lab).locator("input").fill(value)
        expect(script(lab)).to_have_value(f"send={encoded}")
        assert parse(f"send={encoded}".encode()).body[0].value == value.encode()


def test_a_value_that_may_be_left_out_is_left_out_with_its_sign(lab: Locator) -> None:
    add(lab, "close")
    steps(lab).locator("input").fill("")
    expect(script(lab)).to_have_value("close")


def test_steps_are_moved_and_removed_by_the_keyboard(lab: Locator) -> None:
    for name in ("send", "wait", "hang"):
        add(lab, name)
    lab.get_by_role("button", name="Move up: step 3, hang").focus()
    lab.page.keyboard.press("Enter")
    lab.page.keyboard.press("Enter")
    expect(script(lab)).to_have_value("hang&send=hello&wait=2s")
    # It cannot go further up, and the focus is not lost.
    expect(lab.get_by_role("button", name="Move down: step 1, hang")).to_be_focused()
    lab.get_by_role("button", name="Remove step 1, hang").focus()
    for _ in range(3):
        lab.page.keyboard.press("Enter")
    expect(script(lab)).to_have_value("")
    expect(lab.get_by_role("combobox", name="Step", exact=True)).to_be_focused()


def test_a_step_that_is_added_has_the_focus_to_be_typed_over(lab: Locator) -> None:
    add(lab, "send")
    lab.page.keyboard.type("mine")
    expect(script(lab)).to_have_value("send=mine")


def test_a_step_with_words_offers_them(lab: Locator) -> None:
    add(lab, "reply-close")
    words = steps(lab).locator("datalist option")
    assert [word.get_attribute("value") for word in words.all()] == ["no", "chatter", "open"]


def test_the_form_connects_to_the_url_that_it_shows(lab: Locator, service: ServiceProcess) -> None:
    add(lab, "send")
    url = service.url.replace("/echo", "/lab?send=hello")
    expect(lab.locator("code", has_text="ws://")).to_have_text(url)
    with lab.page.expect_websocket() as connecting:
        lab.get_by_role("button", name="Connect").click()
    assert connecting.value.url == url


def test_the_url_is_copied(visit: Callable[..., Page], service: ServiceProcess) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    lab = opened(visit(f"{service.page}workbench.html", permissions=allowed))
    add(lab, "hang")
    lab.get_by_role("button", name="Copy URL").click()
    expect(lab.get_by_role("button", name="Copied")).to_be_visible()
    copied = lab.page.evaluate("navigator.clipboard.readText()")
    assert copied == service.url.replace("/echo", "/lab?hang")


# It shows a script.

TYPED = [
    "send=a+b&hold=2s&send=a&hold=3s",
    "sned=a&x&=&=y&y=",
    "hold=2h&ping=&ping&hang=1",
    "send=%ff&frame=%0a&header=X:%0d%0a%20y&send=a%00b",
    "%73end=a&send=%zz&send=%e4%bd%a0&send=你 好&send=a=b",
    "trace=Zm9yIHlvdXIgZXllcyBvbmx5&case=F01",
    "send=<img src=x onerror=\"document.title='ran'\">&<b>=<i>",
]


def test_what_was_typed_is_neither_lost_nor_reordered(lab: Locator, faults: Faults) -> None:
    for typed in TYPED:
        script(lab).fill(typed)
        expect(steps(lab)).to_have_count(len(typed.split("&")))
        add(lab, "send")
        expect(script(lab)).to_have_value(f"{typed}&send=hello")
        expect(lab.locator("img, i")).to_have_count(0)
    settle(lab, faults)


def test_what_is_no_text_is_shown_and_changed_percent_encoded(lab: Locator, faults: Faults) -> None:
    script(lab).fill("header=X:%0d%0a%20y&send-hex=00&send=%ff")
    first, _, last = steps(lab).locator("input").all()
    expect(first).to_have_value("X:%0d%0a%20y")
    first.fill("X:%0d%0a%20z&")
    last.fill("%fe")
    expect(script(lab)).to_have_value("header=X:%0d%0a%20z%26&send-hex=00&send=%fe")
    settle(lab, faults)


def test_a_hostile_number_of_steps_is_kept_and_not_drawn(lab: Locator, faults: Faults) -> None:
    typed = "&".join(["send=a"] * 1000)
    script(lab).fill(typed)
    expect(lab.get_by_text("… and 800 more, which are not shown")).to_be_visible()
    expect(steps(lab)).to_have_count(201)
    lab.get_by_role("button", name="Remove step 1, send").click()
    expect(script(lab)).to_have_value(typed.removeprefix("send=a&"))
    says(lab, "a script has at most 200 steps")
    settle(lab, faults)


def test_a_script_that_is_typed_while_another_tool_is_shown_is_there(lab: Locator) -> None:
    lab.page.get_by_role("tab", name="Latency").click()
    script(lab).fill("hang")
    lab.page.get_by_role("tab", name="Lab").click()
    expect(steps(lab)).to_have_count(1)
    says(lab, TAKES)


def test_of_a_trace_it_says_that_the_page_chooses_its_id(lab: Locator) -> None:
    script(lab).fill("hang&trace=Zm9yIHlvdXIgZXllcyBvbmx5")
    hint = "The page chooses the ID itself; tick “Trace what the server sees”."
    expect(steps(lab).nth(1)).to_contain_text(hint)
    expect(lab.get_by_text(hint)).to_have_count(1)


# The server checks it.


def test_a_mistake_is_shown_at_its_step_until_it_is_mended(lab: Locator, faults: Faults) -> None:
    script(lab).fill("hold=2h&send=a")
    wrong, right = steps(lab).locator("input").all()
    expect(wrong).to_have_attribute("aria-invalid", "true")
    expect(wrong).to_have_accessible_description(re.compile(r"^hold takes .*hold=TIME.*hold=2s"))
    expect(right).to_have_attribute("aria-invalid", "false")
    says(lab, "The server refuses this script: hold takes")
    wrong.fill("2s")
    says(lab, TAKES)
    expect(wrong).to_have_attribute("aria-invalid", "false")
    faults.clear()


def test_what_was_meant_is_offered(lab: Locator, faults: Faults) -> None:
    script(lab).fill("sned=a%20b&hang")
    expect(steps(lab).first).to_contain_text("Unknown: the server has no such step.")
    lab.get_by_role("button", name="Use send").click()
    expect(script(lab)).to_have_value("send=a%20b&hang")
    says(lab, TAKES)
    faults.clear()


def test_a_script_of_which_the_order_is_wrong_can_be_mended(lab: Locator, faults: Faults) -> None:
    script(lab).fill("send=a&hold=2s")
    says(lab, "hold is done before the 101")
    lab.get_by_role("button", name="Move up: step 2, hold").click()
    expect(script(lab)).to_have_value("hold=2s&send=a")
    says(lab, TAKES)
    faults.clear()


# The cases.


def filtered(lab: Locator, text: str) -> Locator:
    """The cases that the filter shows."""
    lab.get_by_label("Filter by any word").fill(text)
    return lab.locator("ul > li").filter(visible=True)


def test_all_cases_are_listed(lab: Locator) -> None:
    cases = lab.locator("ul > li")
    expect(cases).to_have_count(len(CASES))
    for case, shown in zip(CASES.values(), cases.all_text_contents(), strict=True):
        assert shown.startswith(f"{case.id}The server {case.title}. {case.source}")
        assert case.script in shown


FILTERS = {
    "f12": ["F12"],
    "F01, h01": ["F01", "H01"],
    "continuation NOTHING": ["F17"],
    "jest-websocket-mock resets": ["X05"],
    "nothing of the kind": [],
}


def test_the_filter_shows_cases_by_their_words(lab: Locator) -> None:
    run = lab.get_by_role("button", name=re.compile("^Run (this one|these|all)"))
    for text, ids in FILTERS.items():
        expect(filtered(lab, text).locator("b")).to_have_text(ids)
        expect(run).to_be_enabled(enabled=bool(ids))
    filtered(lab, "")
    expect(run).to_have_text(f"Run all {len(CASES)}")


def test_a_case_is_used_as_the_script(lab: Locator) -> None:
    script(lab).fill("hang")
    filtered(lab, "F12").get_by_role("button", name="Use F12").click()
    expect(script(lab)).to_have_value("case=F12")
    expect(steps(lab).locator("input")).to_have_value("F12")
    expect(lab.get_by_role("button", name="Connect")).to_be_focused()
    says(lab, TAKES)


def test_cases_are_run_against_this_browser(
    lab: Locator, service: ServiceProcess, faults: Faults
) -> None:
    cases = filtered(lab, "F12, F25, F36, X09")
    lab.get_by_role("button", name="Run these 4").click()
    says(lab, "Done: 4 cases run.")
    expect(lab.get_by_role("progressbar")).to_have_attribute("value", "4")
    expect(cases).to_contain_text(["OK: ", "NON-STRICT: ", "OK: ", "FAILED: "])
    expect(cases.nth(1)).to_contain_text("this browser closed with 1002")
    expect(lab.get_by_text("2 OK, 1 NON-STRICT, 1 FAILED", exact=True)).to_be_visible()
    expect(lab.get_by_text("Frames: 3 cases; 2 OK, 1 NON-STRICT")).to_be_visible()
    expect(lab.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    expect(filtered(lab, "failed").locator("b").first).to_have_text("X09")
    # Connections that fail, as they must; of X09 twice, since a case that fails is run again alone.
    assert [re.findall("runCase.casetuple=(...)", fault) for fault in sorted(faults)] == [
        *(["F12"], ["F25"], ["X09"], ["X09"])
    ]
    faults.clear()
    href = lab.get_by_role("link", name="Report").get_attribute("href")
    answer = lab.page.request.get(f"{service.page}{href}&format=json")
    [(agent, verdicts)] = answer.json().items()
    assert re.fullmatch(r"\S.* \d+ [a-z0-9]{10}", agent)
    assert verdicts.keys() == {"F12", "F25", "F36", "X09"}


def test_while_cases_run_the_status_says_so(lab: Locator, faults: Faults) -> None:
    """And not, whenever one ends, what the filter lets through."""
    filtered(lab, "F36, F12")
    says(lab, "The filter lets 2 cases through.")
    lab.get_by_role("status").last.evaluate("""status => {
        window.said = [];
        const note = () => window.said.push(status.textContent);
        new MutationObserver(note).observe(status, { childList: true });
    }""")
    lab.get_by_role("button", name="Run these 2").click()
    says(lab, "Done: 2 cases run.")
    assert lab.page.evaluate("window.said") == ["Running 2 cases.", "Done: 2 cases run."]
    filtered(lab, "F36")
    says(lab, "The filter lets 1 case through.")
    filtered(lab, "")
    expect(lab.get_by_text("The filter lets")).to_have_count(0)
    faults.clear()


def test_a_case_is_run_again(lab: Locator, faults: Faults) -> None:
    """Even if it is the only one, of which there is no report meanwhile."""
    (case,) = filtered(lab, "F36").all()
    for _ in range(2):
        with lab.page.expect_websocket(lambda socket: "runCase" in socket.url):
            case.get_by_role("button", name="Run F36").click()
        says(lab, "Done: 1 case run.")
        expect(case).to_contain_text("OK: ")


def test_cases_that_run_can_be_stopped(lab: Locator, faults: Faults) -> None:
    (case,) = filtered(lab, "H23").all()
    case.get_by_role("button", name="Run H23").click()
    expect(case).to_contain_text("Running")
    expect(lab.get_by_text("0 of 1, H23")).to_be_visible()
    lab.get_by_role("button", name="Stop", exact=True).click()
    says(lab, "Stopped: 1 case run.")
    expect(case).to_contain_text("No verdict: it was stopped")
    faults.clear()


def test_cases_that_are_stopped_are_not_counted_with_the_next(lab: Locator, faults: Faults) -> None:
    lab.get_by_role("button", name=re.compile("^Run all")).click()
    expect(lab.get_by_text(re.compile(r"^\d+ of \d{3}\b"))).to_be_visible()
    most = lab.evaluate("""(lab) => {
        const buttons = [...lab.querySelectorAll("button")];
        for (const words of ["Stop", "Run F36"]) {
            buttons.find(({ textContent, ariaLabel }) =>
                textContent === words || ariaLabel === words).click();
        }
        return lab.querySelector("progress").max;
    }""")
    assert most < 100
    (case,) = filtered(lab, "F36").all()
    expect(case).to_contain_text("OK: ")
    says(lab, re.compile(r"^Done: \d+ cases? run\.$"))
    faults.clear()


def test_a_service_that_is_gone_has_no_verdict(visit: Callable[..., Page], faults: Faults) -> None:
    with served() as service:
        lab = opened(visit(f"{service.page}workbench.html"))
        (case,) = filtered(lab, "F36").all()
    case.get_by_role("button", name="Run F36").click()
    expect(case).to_contain_text("No verdict: the server is full or gone", timeout=PATIENCE)
    script(lab).fill("hang")
    says(lab, "Not checked: no answer.")
    faults.clear()


# The page.


def test_without_a_lab_it_says_so(visit: Callable[..., Page], faults: Faults) -> None:
    with served("--no-lab") as service:
        page = visit(f"{service.page}workbench.html")
        says(page.locator("#lab"), "This service has no lab (--no-lab).")
        page.locator("#script").fill("send=a")
        (fault,) = {fault for fault in faults if "/lab: 404" in fault}
        assert fault
        assert not any("TypeError" in fault for fault in faults)
        faults.clear()


def test_a_lab_that_cannot_be_read_is_asked_again(
    visit: Callable[..., Page], service: ServiceProcess, faults: Faults
) -> None:
    page = visit("about:blank")
    page.route("**/lab/cases", lambda route: route.fulfill(status=503), times=2)
    page.goto(f"{service.page}workbench.html")
    says(page.locator("#lab"), "The lab cannot be read: the answer was 503.")
    again = page.get_by_role("button", name="Try again")
    with page.expect_response("**/lab/cases"):
        again.click()
    # The focus is not lost with the button that had it.
    expect(again).to_be_focused()
    page.keyboard.press("Enter")
    lab = opened(page)
    expect(lab.get_by_role("combobox", name="Step", exact=True)).to_be_focused()
    faults.clear()


def test_a_phone_shows_the_lab_without_scrolling_sideways(
    visit: Callable[..., Page], service: ServiceProcess, faults: Faults
) -> None:
    address = f"{service.page}workbench.html#script={quote('send=' + 'a' * 300 + '&sned=b&hang')}"
    lab = opened(visit(address, viewport={"width": 320, "height": 568}))
    lab.get_by_role("button", name="Use send").wait_for()
    filtered(lab, "F16, C01, X30").first.wait_for()
    for summary in lab.locator("summary").filter(visible=True).all():
        summary.scroll_into_view_if_needed()
    widths: Any = lab.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1] == 320
    right = "elements => Math.max(...elements.map(e => e.getBoundingClientRect().right))"
    assert (
        lab.locator("button, input, select, code").filter(visible=True).evaluate_all(right) <= 320
    )
    faults.clear()
