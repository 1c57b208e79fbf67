"""Debian's Firefox, driven by what it speaks itself: WebDriver BiDi (W3C). Playwright drives only a
Firefox of its own."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import websockets.sync.client

from support.process import needs

PATIENCE = 60
"""Seconds for an answer: it takes a moment, unless the machine is busy."""


class Firefox:
    """One tab at a time."""

    def __init__(self, client: websockets.sync.client.ClientConnection) -> None:
        self.errors: list[str] = []
        """What the console has reported as one."""

        self._client = client
        self._count = 0
        self._ask("session.new", capabilities={})
        self._ask("session.subscribe", events=["log.entryAdded"])
        self._context = ""

    def open(self, url: str) -> None:
        """As somebody new: in a tab that knows nothing of what the others have stored. Returns when
        the page has loaded."""
        if self._context:
            self._ask("browsingContext.close", context=self._context)
        user = self._ask("browser.createUserContext")["userContext"]
        tab = self._ask("browsingContext.create", type="tab", userContext=user)
        self._context = tab["context"]
        self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited. Raises RuntimeError if it throws."""
        answer = self._ask(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] != "success":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for an expression to be true."""
        self.evaluate(f"""new Promise((resolve, reject) => {{
            const late = performance.now() + {PATIENCE * 1000 // 2};
            const look = () => {{
                if ({condition}) resolve();
                else if (performance.now() > late) reject(new Error(document.body.innerText));
                else setTimeout(look, 20);
            }};
            look();
        }})""")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        asked = {"id": self._count, "method": method, "params": params}
        self._client.send(json.dumps(asked))
        while True:
            heard = json.loads(self._client.recv(PATIENCE))
            if heard.get("id") == self._count:
                if heard["type"] == "error":
                    raise RuntimeError(heard["message"])
                result: dict[str, Any] = heard["result"]
                return result
            if heard.get("method") == "log.entryAdded" and heard["params"]["level"] == "error":
                self.errors.append(heard["params"]["text"])


@contextmanager
def firefox() -> Iterator[Firefox]:
    """Skips the test if it is not installed."""
    program = needs("firefox-esr", "firefox-esr")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-remote", "--profile", profile]
        with subprocess.Popen(
            [*command, "--remote-debugging-port=0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={"HOME": profile, "PATH": "/usr/bin:/bin", "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
        ) as process:
            try:
                assert process.stderr is not None
                url = f"{_listening(process.stderr)}/session"
                with websockets.sync.client.connect(url, max_size=None) as client:
                    yield Firefox(client)
            finally:
                process.kill()


def _listening(lines: IO[str]) -> str:
    said = []
    for line in lines:
        if found := re.search(r"BiDi listening on (ws://\S+)", line):
            return found[1]
        said.append(line)
    raise RuntimeError("".join(said))
