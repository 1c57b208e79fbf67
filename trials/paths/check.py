"""What each box and each hop does, by hand and by eye.

    PYTHONPATH=tests:trials python -m paths.check [--idle SECONDS] [NAME...]

Prints a table in Markdown: the answer to an upgrade, what the server sees of the request, and with
--idle how a silent connection ends, and what keeps it. Exits with 1 if a box that is right does not
echo.
"""

import argparse
import base64
import json
import secrets
import signal
import ssl
import sys
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from paths.boxes import BOXES, Box, Running, missing, running, version
from paths.hops import HOPS, Hop

from echotwist.testing import ServiceProcess
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    frame,
    text,
)
from echotwist.testing.raw import UPGRADE, RawClient, request


class Way(Protocol):
    """To the service, as boxes and hops have it."""

    @property
    def url(self) -> str: ...

    @property
    def proxy(self) -> str | None: ...

    @property
    def caFile(self) -> Path | None: ...


OPTIONS = ("--ping-interval=0",)
"""No ping of the service keeps a connection."""


NAMES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close", PONG: "pong"}


@contextmanager
def shaken(way: Way, target: str) -> Iterator[RawClient]:
    """A client that has sent a request to upgrade, and got the head of an answer: in `head`."""
    url = urlsplit(way.url)
    context = ssl.create_default_context(cafile=way.caFile) if url.scheme == "wss" else None
    near = way.url
    if way.proxy is not None:
        near = f"ws://{urlsplit(way.proxy).netloc.rpartition('@')[2]}/"
    with RawClient(near, upgrade=False, context=context, timeout=10) as client:
        if way.proxy is not None:
            credentials = urlsplit(way.proxy).netloc.rpartition("@")[0]
            head = f"CONNECT {url.netloc} HTTP/1.1\r\nHost: {url.netloc}\r\n"
            if credentials:
                encoded = base64.b64encode(credentials.encode()).decode()
                head += f"Proxy-Authorization: Basic {encoded}\r\n"
            client.send(f"{head}\r\n".encode())
            client.head = client.until(b"\r\n\r\n")
            if b" 200 " not in client.head.partition(b"\r\n")[0]:
                yield client
                return
        client.send(request(target, Host=url.netloc))
        client.head = client.until(b"\r\n\r\n")
        yield client


def opened(client: RawClient) -> bool:
    return b" 101 " in client.head.partition(b"\r\n")[0]


def answer(box: Running) -> tuple[str, bool]:
    """The head of the answer, and whether a message comes back."""
    try:
        with shaken(box, "/echo") as client:
            head = client.head.decode("latin-1").strip().replace("\r\n", "; ")
            if not opened(client):
                return head, False
            client.send(text("hello"))
            return head, client.frame().payload == b"hello"
    except (OSError, EOFError) as e:
        return f"{type(e).__name__}: {e}", False


def arrived(box: Running) -> str:
    """What the way of a request has changed in it."""
    try:
        with shaken(box, "/lab/inspect") as client:
            if opened(client):
                body = client.frame().payload
            elif b" 200 " in client.head:
                # With a length or chunked: it is one object in any case.
                while not (body := client.rest).rstrip(b"0\r\n").endswith(b"}"):
                    client.read(len(body) + 1)
                body = body[body.index(b"{") : body.rindex(b"}") + 1]
            else:
                return "nothing arrives"
    except (OSError, EOFError, ValueError) as e:
        return f"{type(e).__name__}: {e}"
    seen = json.loads(body)
    sent = {name.lower(): value for name, value in UPGRADE.items()}
    sent["host"] = urlsplit(box.url).netloc
    got: dict[str, str] = {}
    for header in seen["headers"]:
        name, value = header[0].lower(), header[1]
        got[name] = f"{got[name]}, {value}" if name in got else value
    isLower = all(name.islower() for name, _ in seen["headers"])
    parts = ["all names in lower case"] if isLower else []
    parts += [f"+{name}: {value}" for name, value in got.items() if name not in sent]
    parts += [f"-{name}" for name in sent if name not in got]
    parts += [
        f"{name}: {got[name]} (was {value})"
        for name, value in sent.items()
        if name in got and got[name] != value
    ]
    return "; ".join([seen["version"], *parts])


IDLE = {
    "nothing is sent": ("/lab?ignore=600s", b""),
    "client sends messages": ("/lab?ignore=600s", text("x")),
    "client sends pings": ("/lab?pong=no&ignore=600s", frame(PING)),
    "client's pings are answered": ("/lab?ignore=600s", frame(PING)),
    "server sends messages": ("/lab?push=1s&ignore=600s", b""),
}


def idle(way: Way, page: str, seconds: int, what: str) -> str:
    """When and how it ends, on both sides."""
    target, data = IDLE[what]
    trace = secrets.token_urlsafe(18)
    with shaken(way, f"{target}&trace={trace}") as client:
        if not opened(client):
            return "no WebSocket"
        client.socket.settimeout(0.5)
        began, sent = time.monotonic(), 0.0
        end = "kept"
        while time.monotonic() < began + 3 * seconds:
            try:
                if data and time.monotonic() > sent + seconds / 3:
                    client.send(data)
                    sent = time.monotonic()
                if client.frame().opcode == CLOSE:
                    end = "close frame"
                    break
            except TimeoutError:
                continue
            except EOFError:
                end = "FIN"
                break
            except OSError as e:
                end = "RST" if isinstance(e, ConnectionResetError) else type(e).__name__
                break
        took = time.monotonic() - began
        if end != "kept":
            return f"{end} after {took:.1f} s; server: {_ended(page, trace)}"
        server = _traced(page, trace)["ended"]
        return "kept" if server is None else f"kept; server: {_how(server)}"


def _ended(page: str, trace: str) -> str:
    deadline = time.monotonic() + 5
    while (found := _traced(page, trace)["ended"]) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return "still open 5 s later" if found is None else _how(found)


def _how(ended: Any) -> str:
    return f"{ended['how']} by the {ended['by']}"


def _traced(page: str, trace: str) -> Any:
    with urllib.request.urlopen(f"{page}trace/{trace}") as response:
        return json.load(response)


def checked(box: Box, service: ServiceProcess, seconds: int | None) -> bool:
    print(f"\n### {box.name}\n\n| | |\n|---|---|", flush=True)

    def row(name: str, value: str) -> None:
        print(f"| {name} | {value.replace('|', chr(92) + '|')} |", flush=True)

    if (why := missing(box)) is not None:
        row("missing", why)
        return True
    row("version", version(box))
    with running(box, service.port) as its:
        head, echoes = answer(its)
        row("answer to an upgrade", head)
        row("echoes", "yes" if echoes else "no")
        if its.proxy is not None and "@" in its.proxy:
            stranger = replace(its, proxy=f"http://127.0.0.1:{its.port}")
            row("answer without credentials", answer(stranger)[0])
        row("what arrives", arrived(its))
    if seconds is not None and echoes and box.shorten is not None:
        with running(box, service.port, seconds) as its, ThreadPoolExecutor() as threads:
            ends = {what: threads.submit(idle, its, service.page, seconds, what) for what in IDLE}
            for what, end in ends.items():
                row(f"{seconds} s, {what}", end.result())
    return echoes or not box.isRight


HELLO = zlib.compressobj(wbits=-15)
COMPRESSED = (HELLO.compress(b"hello") + HELLO.flush(zlib.Z_SYNC_FLUSH))[:-4]
DEFLATE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

SENT = {
    "a message": text("hello"),
    "a compressed one": frame(TEXT, COMPRESSED, rsv=4),
    "40,000 bytes": frame(BINARY, bytes(40_000)),
    "200,000 in 10 frames": b"".join(
        frame(CONTINUATION if n else BINARY, bytes(20_000), fin=n == 9) for n in range(10)
    ),
    "5,000 bytes of cookies": text("hello"),
    "a ping that the server ignores": frame(PING, b"hello"),
    "a close with 3000": close(3000, "bye"),
    "silence": b"",
}


def hopped(hop: Hop, what: str) -> str:
    """What comes back of this, within 8 s."""
    began = time.monotonic()
    got = []
    try:
        with RawClient(hop.url, upgrade=False, timeout=8) as client:
            headers = {"Host": "localhost", "Sec_WebSocket_Extensions": DEFLATE}
            if "cookies" in what:
                headers["Cookie"] = "c" * 5000
            target = "/lab?pong=no" if "ping" in what else "/echo"
            client.send(request(target, **headers))
            client.head = client.until(b"\r\n\r\n")
            got.append(client.head.split(b" ", 2)[1].decode())
            agreed = b"sec-websocket-extensions" in client.head.lower()
            if not agreed:
                got.append("no extension")
            if not opened(client):
                return ", ".join(got)
            if b"\r\nupgrade:" not in client.head.lower():
                got.append("no Upgrade")
            if not agreed and what == "a compressed one":
                return ", ".join(got)
            client.send(SENT[what])
            isDone = False
            while not isDone:
                came = client.frame()
                kind = NAMES.get(came.opcode, str(came.opcode))
                if came.opcode == CLOSE:
                    kind += f" {int.from_bytes(came.payload[:2])}"
                got.append(f"{kind} of {len(came.payload):,} bytes")
                isDone = came.fin and came.opcode != CLOSE
    except TimeoutError:
        got.append("nothing in 8 s")
    except EOFError:
        got.append("FIN")
    except OSError as e:
        got.append("RST" if isinstance(e, ConnectionResetError) else type(e).__name__)
    if got[-1] in ("FIN", "RST"):
        got[-1] += f" after {time.monotonic() - began:.1f} s"
    frames = Counter(got)
    return ", ".join(f"{count} × {each}" if count > 1 else each for each, count in frames.items())


def checkHop(name: str, service: ServiceProcess) -> None:
    print(f"\n### {name}\n\n| | |\n|---|---|", flush=True)
    with HOPS[name](service.port) as hop, ThreadPoolExecutor() as threads:
        found = {what: threads.submit(hopped, hop, what) for what in SENT}
        if any(timed in name for timed in ("idle", "half-open", "blackhole", "buffers")):
            found |= {what: threads.submit(idle, hop, service.page, 5, what) for what in IDLE}
        for what, came in found.items():
            print(f"| {what} | {came.result()} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--idle", type=int, metavar="SECONDS", help="and cut idle ones after so many"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of boxes and hops; all without one"
    )
    options = parser.parse_args()
    # The boxes are ended as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ServiceProcess(*OPTIONS) as service:
        boxes = [BOXES[name] for name in options.names or BOXES if name in BOXES]
        failed = [box.name for box in boxes if not checked(box, service, options.idle)]
        for name in options.names or HOPS:
            if name in HOPS:
                checkHop(name, service)
    print(f"\ndo not echo, and should: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
