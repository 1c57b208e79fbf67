"""Chromium, and what it reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]

REFUSED = "net::ERR_CONNECTION_REFUSED"
BROKEN_OFF = "net::ERR_ABORTED"
GIVEN_UP = "WebSocket is closed before the connection is established"


def isDraining(url: str, said: str) -> bool:
    return url.endswith("/readyz") and "503" in said


class Faults(list[str]):
    """What the browser reports: errors, failed requests, violations of the policy. That nothing
    listens is no fault of the page, which tries again by itself; nor is a request that is broken
    off by leaving the page, nor that a service drains, which it asks for; nor that a connection is
    given up while it is opened, as when a probe is stopped. (Once handshakes have failed, Chromium
    delays others, also those of later tests, by up to seconds.)"""

    def watch(self, page: Page) -> None:
        def console(message: ConsoleMessage) -> None:
            if message.type not in ("error", "warning"):
                return
            if REFUSED in message.text or GIVEN_UP in message.text:
                return
            if not isDraining(message.location["url"], message.text):
                self.append(message.text)

        def failed(request: Request) -> None:
            if request.failure not in (REFUSED, BROKEN_OFF):
                self.append(f"{request.url}: {request.failure}")

        def response(response: Response) -> None:
            if response.status >= 400 and not isDraining(response.url, str(response.status)):
                self.append(f"{response.url}: {response.status}")

        page.on("console", console)
        page.on("pageerror", lambda error: self.append(error.stack or str(error)))
        page.on("requestfailed", failed)
        page.on("response", response)


def click(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


@contextmanager
def blank(browser: Browser, origin: str, **options: Any) -> Iterator[Page]:
    """A page of this origin, without a script of its own, in which modules can be tried."""
    page = browser.new_page(**options)
    body = "<!doctype html><link rel=icon href=data:,>"
    page.route("**/blank", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{origin}blank")
    yield page
    page.close()
