"""Chromium. Each case has a browser context of its own, as a new window has.

In one context a connection would wait until that before it is open, and after some that failed, for
seconds.
"""

import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from clients.drivers.harness import LIMIT, Given, runTasks
from playwright.async_api import async_playwright

SCRIPT = Path(__file__).with_name("whatwg.js")

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


async def main() -> None:
    origin = f"http://{urlsplit(Given().url).netloc}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=OPTIONS
        )

        async def evaluate(function: str, *arguments: object) -> str:
            async with await browser.new_context() as context:
                page = await context.new_page()
                # A page of the same origin that connects to nothing by itself.
                await page.goto(f"{origin}/healthz")
                await page.add_script_tag(path=SCRIPT)
                call = f"given => {function}(WebSocket, ...given)"
                return str(await page.evaluate(call, list(arguments)))

        async def ask(url: str) -> str:
            return await evaluate("ask", url)

        async def echo(url: str) -> str:
            return await evaluate("echo", url, LIMIT * 1000)

        await runTasks(ask, echo)
        await browser.close()


asyncio.run(main())
