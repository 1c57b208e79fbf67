"""A browser, a service, and pages of it that must report nothing."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.browser import CHROMIUM, Faults
from support.process import needs, served

from echotwist.testing import ServiceProcess

# Milliseconds. What is waited for takes a few, unless the machine is busy.
expect.set_options(timeout=30_000)


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
            context.set_default_timeout(30_000)
            page = context.new_page()
            faults.watch(page)
            page.goto(url)
            return page

        yield visit
