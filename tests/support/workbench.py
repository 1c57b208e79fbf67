"""The workbench in a browser: what most of its tests do with it."""

from playwright.sync_api import Locator, Page, expect


def connected(page: Page) -> Page:
    expect(page.get_by_role("status").first).to_have_text("Connected")
    return page


def connect_another(page: Page) -> None:
    """Beside the one that is open."""
    page.locator("#connect").click()
    expect(page.get_by_role("status").first).to_have_text("2 connections are open")


def send(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


def rows(page: Page) -> Locator:
    return page.locator("#grid .rows [role=row]")


def counts(page: Page, text: str) -> None:
    """Wait until the newest connection has sent and received so much."""
    expect(page.locator("#connections li").first).to_contain_text(text)
