"""Both pages in Firefox: what is most likely to differ from Chromium."""

from collections.abc import Iterator

import pytest
from support.firefox import Firefox, firefox

from echotwist.testing import ServiceProcess


@pytest.fixture(scope="module")
def browser() -> Iterator[Firefox]:
    with firefox() as browser:
        yield browser


@pytest.fixture(autouse=True)
def faultless(browser: Firefox) -> Iterator[None]:
    """The console must have reported no error."""
    browser.errors.clear()
    yield
    assert browser.errors == []


def test_a_message_is_echoed(browser: Firefox, service: ServiceProcess) -> None:
    browser.open(service.page)
    browser.until("output.textContent === 'Status: Connected\\n'")
    browser.evaluate("input.value = 'hello\\n  there'; send.click()")
    browser.until("output.textContent === 'Status: Connected\\nServer: hello\\n  there\\n'")
    assert browser.evaluate("input.value") == ""
    assert browser.evaluate("document.title") == "Connected – WebSocket echo"


def test_the_workbench_shows_both_ends(browser: Firefox, service: ServiceProcess) -> None:
    browser.open(f"{service.page}workbench.html#script=ping%3Dhey&trace&tab=server")
    browser.until("connections.textContent.includes('Open')")
    browser.evaluate("input.value = 'hello'; send.click()")
    browser.until("connections.textContent.includes('1 sent, 1 received')")
    browser.until("grid.textContent.includes('text received')")
    browser.until("grid.textContent.includes('answers the ping of')")
    # Firefox sends other headers than Chromium; none of them is taken for a proxy's.
    browser.until("server.textContent.includes('Nothing shows that it was changed on the way.')")
    assert "nothing odd" in browser.evaluate("server.textContent")
    kinds = "[...document.querySelectorAll('#grid .rows .from')].map(cell => cell.textContent)"
    assert "↑ sent" in browser.evaluate(f"{kinds}.join()")


def test_the_tools_of_the_workbench_work(browser: Firefox, service: ServiceProcess) -> None:
    browser.open(f"{service.page}workbench.html#tab=latency")
    browser.until("connections.textContent.includes('Open')")
    browser.evaluate("times.value = 100; input.value = 'hello'; send.click()")
    browser.until("connections.textContent.includes('100 sent, 100 received')")
    browser.until("/count\\s*100/.test(latency.textContent)")
    assert browser.evaluate("latency.querySelectorAll('svg').length") == 2
    browser.evaluate("document.getElementById('tab-lab').click()")
    browser.until("lab.textContent.includes('127')")
    browser.evaluate("script.value = 'delay=2h'; script.dispatchEvent(new Event('input'))")
    browser.until("lab.textContent.includes('takes at most')")
    browser.errors.clear()  # It reports the answer 400 to the question whether that is a script.
    browser.evaluate("document.getElementById('tab-snippets').click()")
    assert "new WebSocket" in browser.evaluate("snippets.textContent")


def test_a_path_that_does_nothing_has_no_findings(
    browser: Firefox, service: ServiceProcess
) -> None:
    """It sends other headers, and tells less of extensions."""
    browser.open(f"{service.page}workbench.html#tab=path")
    browser.evaluate("path.querySelector('input').value = 5; path.querySelector('button').click()")
    browser.until("path.querySelector('[role=status]').textContent.startsWith('Nothing')")
    assert browser.evaluate("path.querySelectorAll('article').length") == 0
    assert "not finished" not in browser.evaluate("path.textContent")
    assert (
        browser.evaluate("""[...path.querySelectorAll("tr")].find(
        row => row.cells[0].textContent === "the request arrives").cells[1].textContent
    """)
        == "as it was sent"
    )
