"""The workbench's snippets: what the panel shows is run, as it is."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from support.process import needs

from echotwist.testing import ServiceProcess

NASTY = (
    "-\"a\" 'b' \\n\\ $HOME `id` $(id) ${x} {x} 100%s %% "
    "\n\r\t\0\x07\x1b[1m\x7f é😀\u202e\u2028\ufeff "
)
"""What means something else somewhere, if it is not quoted."""

QUERY = "header=X-Lab:'$HOME'`id`{a,b}[1-3]\\%24!"
"""Of a URL, which the server answers with that header."""

NAMES = ["chat.v2", "other"]


@pytest.fixture
def page(visit: Callable[..., Page], service: ServiceProcess) -> Page:
    """The workbench; without the policy, so that a snippet may run in it."""
    return visit(f"{service.page}workbench.html#tab=snippets", bypass_csp=True)


def show(page: Page, language: str, url: str, subprotocols: list[str], message: str) -> str:
    """The snippet that a panel shows for this, of which the page's own form allows less."""
    page.evaluate(
        """async (sample) => {
            const { Snippets } = await import("./workbench/snippets.js");
            const panel = document.createElement("div");
            panel.id = "panel";
            document.body.replaceChildren(panel);
            new Snippets(panel).show(sample);
        }""",
        {"url": url, "subprotocols": subprotocols, "message": message},
    )
    return shown(page.locator("#panel"), language)


def shown(panel: Locator, language: str) -> str:
    panel.get_by_label("Language").select_option(language)
    code: str = panel.locator("pre code").evaluate("code => code.textContent")
    return code


def lab(service: ServiceProcess, trace: str, *steps: str) -> str:
    """A URL that is hard to quote, and leaves this trace."""
    url = service.url.removesuffix("/echo")
    return f"{url}/lab?{'&'.join([QUERY, *steps, f'trace={trace:_<24}'])}"


def agreed(service: ServiceProcess, trace: str) -> Any:
    """The subprotocol of the connection with this trace."""
    with urllib.request.urlopen(f"{service.page}trace/{trace:_<24}") as answer:
        return json.load(answer)["subprotocol"]


def run(folder: Path, *command: str) -> str:
    """What the command says. Its status is not looked at: curl has no good one for a 101."""
    done = subprocess.run(
        command,
        cwd=folder, capture_output=True, timeout=120, check=False,
        env={
            **os.environ,
            "PYTHONUTF8": "1",
            # Debian's packages of Go's modules, without the network.
            "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
            "GOCACHE": f"{folder}/go",
        },
    )  # fmt: skip
    sys.stderr.buffer.write(done.stderr)
    return done.stdout.decode()


def test_the_javascript_runs(page: Page, service: ServiceProcess) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    url = lab(service, "javascript")
    code = show(page, "JavaScript", url, NAMES, f"{NASTY}\ud800")
    with page.expect_console_message(lambda message: message.text.startswith("closed")):
        page.add_script_tag(content=code)
    assert said[0] == f"{NASTY}\ufffd"
    assert agreed(service, "javascript") == NAMES[0]


def test_the_python_runs(page: Page, service: ServiceProcess, tmp_path: Path) -> None:
    code = show(page, "Python", lab(service, "python"), NAMES, f"{NASTY}\ud800")
    (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
    assert run(tmp_path, sys.executable, "-W", "error", "snippet.py") == f"{NASTY}\ufffd\n"
    assert agreed(service, "python") == NAMES[0]


@pytest.mark.slow(reason="compiles Go")
def test_the_go_runs(page: Page, service: ServiceProcess, tmp_path: Path) -> None:
    go = needs("go", "golang-go")
    code = show(page, "Go", lab(service, "go"), NAMES, f"{NASTY}\ud800")
    (tmp_path / "snippet.go").write_text(code, encoding="utf-8")
    assert run(tmp_path, go, "run", "snippet.go") == f"{NASTY}\ufffd\n"
    assert agreed(service, "go") == NAMES[0]
    assert run(tmp_path, str(Path(go).with_name("gofmt")), "-l", "snippet.go") == ""


def test_the_curl_runs(page: Page, service: ServiceProcess, tmp_path: Path) -> None:
    needs("curl", "curl")
    # Otherwise curl would wait until its time is over.
    code = show(page, "curl", lab(service, "curl", "drop=fin"), NAMES, NASTY)
    said = run(tmp_path, "sh", "-c", code)
    assert said.startswith("HTTP/1.1 101 ")
    assert "\r\nX-Lab:'$HOME'`id`{a,b}[1-3]\\$!\r\n" in said
    assert f"\r\nSec-WebSocket-Protocol: {NAMES[0]}\r\n" in said
    assert agreed(service, "curl") == NAMES[0]


def test_the_websocat_prints_the_message_and_quotes_the_url(
    page: Page, service: ServiceProcess, tmp_path: Path
) -> None:
    url = lab(service, "websocat")
    code = show(page, "websocat", url, NAMES, NASTY)
    # In its place: what it is given.
    (tmp_path / "websocat").write_text("#!/bin/sh\nprintf '<%s>' \"$@\"; cat\n")
    (tmp_path / "websocat").chmod(0o755)
    options = "<--one-message><--no-close><--no-line><--text><--protocol=chat.v2, other>"
    given = run(tmp_path, "sh", "-c", f'PATH="$PWD:$PATH"\n{code}')
    assert given == f"{options}<{url}>{NASTY}"


# The panel.


@pytest.fixture
def panel(page: Page) -> Locator:
    return page.get_by_role("tabpanel", name="Snippets")


def test_the_form_is_what_the_snippets_do(
    page: Page, panel: Locator, service: ServiceProcess
) -> None:
    code = panel.locator("code")
    expect(code).to_contain_text(f'new WebSocket("{service.url}");')
    expect(code).to_contain_text('socket.send("hello")')
    page.get_by_label("Script", exact=True).fill("delay=1ms")
    page.get_by_label("Subprotocols").fill("chat, other")
    page.get_by_label("Message").fill('"<b>"\n')
    lab = service.url.replace("/echo", "/lab?delay=1ms")
    expect(code).to_contain_text(f'new WebSocket("{lab}", ["chat", "other"]);')
    expect(code).to_contain_text('socket.send("\\"<b>\\"\\n")')
    page.get_by_label("Message").fill("")
    expect(code).to_contain_text('socket.send("hello")')


def test_the_language_is_kept_for_this_tab(page: Page, panel: Locator) -> None:
    panel.get_by_label("Language").select_option("Go")
    expect(panel.locator("code")).to_contain_text("package main")
    page.reload()
    page.get_by_role("tab", name="Snippets").click()
    expect(panel.get_by_label("Language")).to_have_value("Go")
    expect(panel.locator("code")).to_contain_text("package main")
    expect(panel).to_contain_text("go get github.com/gorilla/websocket")


def test_copy_copies_the_snippet_as_it_is(
    visit: Callable[..., Page], service: ServiceProcess
) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = visit(f"{service.page}workbench.html#tab=snippets", permissions=permissions)
    panel = page.get_by_role("tabpanel", name="Snippets")
    code = shown(panel, "Python")
    panel.get_by_role("button", name="Copy").click()
    expect(panel.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_a_long_message_is_cut_and_that_is_said(page: Page) -> None:
    code = show(page, "Python", "ws://localhost/echo", [], "x" * 9_999 + "😀" * 1000)
    assert f'send("{"x" * 9_999}")' in code
    expect(page.locator("#panel")).to_contain_text("It sends the first 9,999 characters.")


def test_a_ca_of_ones_own_is_for_tls_alone(page: Page) -> None:
    for language in ["Python", "Go", "curl", "websocat"]:
        assert "CA of your own" in show(page, language, "wss://localhost/echo", [], "x")
        assert "CA of your own" not in show(page, language, "ws://localhost/echo", [], "x")
    assert "'https://localhost/echo'" in show(page, "curl", "wss://localhost/echo", [], "x")
