"""HAProxy and nginx, configured as they are in deploy/, before two echotwists that are replaced one
after the other while a thousand clients talk.

It needs both proxies, and takes a minute: it is run by `tox -e deploy` alone.
"""

import asyncio
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import trustme
import websockets.exceptions
import websockets.sync.client
from support.crowd import Crowd, connect
from support.echoes import echoes
from support.process import Twistd, freePorts, needs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

CLIENTS = 1000

NOBODY = 65534

AS_NOBODY: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def wait(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """As many as the machine allows: each client has one here, and two in the proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Proxy:
    """HAProxy or nginx on a free port, before two echotwists. Use with `with`."""

    program: str
    endpoint = "tcp"
    environment: dict[str, str] = {}

    def __init__(self, *options: str, edit: Callable[[str], str] = lambda text: text) -> None:
        self.port, self.spare, *self.ports = freePorts(4)
        self._options = options
        self._edit = edit
        self._stack = ExitStack()
        self.echotwists: list[Twistd] = []

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/echo"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Not pytest's, which only its owner may enter; the proxy is not root.
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.folder.chmod(0o777)
            self._log = self.folder / "log"
            self._stack = stack
            self.echotwists = [self._start(number) for number in (0, 1)]
            with self._log.open("w") as log:
                self.process = subprocess.Popen(
                    self.command(), cwd=self.folder, stdout=log, stderr=log,
                    env={**os.environ, **self.environment},
                    **(AS_NOBODY if os.getuid() == 0 else {}),
                )  # fmt: skip
            stack.callback(self._end)
            wait(self._listens, lambda: self.log)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *why: Any) -> None:
        self._stack.__exit__(*why)

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def _start(self, number: int) -> Twistd:
        where = f"{self.endpoint}:{self.ports[number]}:interface=127.0.0.1"
        # Each `with` checks how its service ended, also of one that was replaced.
        return self._stack.enter_context(Twistd(f"--listen={where}", *self._options))

    def replace(self, number: int) -> None:
        """As docs/operations.md describes it."""
        assert self.echotwists[number].stop() == 0
        self.echotwists[number] = self._start(number)
        self.waitFor(number)

    def waitFor(self, number: int) -> None:
        """Wait until the proxy sends clients there. nginx has no health checks, and always does."""

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def configuration(self) -> str:
        return (self.folder / "configuration").read_text()

    def _write(self, text: str) -> str:
        file = self.folder / "configuration"
        file.write_text(self._edit(text))
        return str(file)


class HAProxy(Proxy):
    program = "haproxy"
    endpoint = "haproxy:tcp"

    def command(self) -> list[str]:
        self.environment = {
            "ECHOTWIST_FRONT": f":::{self.port}",
            "ECHOTWIST_ONE": f"127.0.0.1:{self.ports[0]}",
            "ECHOTWIST_TWO": f"127.0.0.1:{self.ports[1]}",
            "ECHOTWIST_STATS": f"127.0.0.1:{self.spare}",
        }
        return [
            needs("haproxy", "haproxy"),
            "-f",
            self._write((DEPLOY / "haproxy/haproxy.cfg").read_text()),
        ]

    def waitFor(self, number: int) -> None:
        wait(lambda: self._status(number) == "UP", lambda: self.log)

    def checks(self) -> str:
        """The statistics, with the result of the last health check of each."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.spare}/;csv") as response:
            text: str = response.read().decode()
        return text

    def _status(self, number: int) -> str:
        """Such as UP, or `UP 1/2` while its checks begin to fail."""
        names, *lines = self.checks().splitlines()
        rows = [dict(zip(names.split(","), line.split(","), strict=False)) for line in lines]
        (row,) = [row for row in rows if row["svname"] == ("one", "two")[number]]
        return row["status"]


class Nginx(Proxy):
    program = "nginx"

    def command(self) -> list[str]:
        text = (DEPLOY / "nginx/nginx.conf").read_text()
        for old, new in (
            ("listen 8080 ", f"listen {self.port} "),
            ("listen [::]:8080 ", f"listen [::]:{self.port} "),
            ("server 127.0.0.1:8081 ", f"server 127.0.0.1:{self.ports[0]} "),
            ("server 127.0.0.1:8082 ", f"server 127.0.0.1:{self.ports[1]} "),
        ):
            assert text.count(f" {old}") == 1
            text = text.replace(f" {old}", f" {new}")
        return [needs("nginx", "nginx"), "-p", str(self.folder), "-c", self._write(text)]


both = pytest.mark.parametrize("kind", [HAProxy, Nginx])


async def pages(url: str, seen: list[str], leaving: asyncio.Event) -> None:
    """Get the page again and again, on a connection that is kept if the proxy keeps it."""
    async with aiohttp.ClientSession() as session:
        while not leaving.is_set():
            try:
                async with session.get(url) as response:
                    seen.append(f"{response.status}")
            except (aiohttp.ClientError, OSError) as e:
                seen.append(repr(e))
            await asyncio.sleep(0.02)


@both
def test_a_rolling_restart_behind_a_balancer_refuses_no_client(kind: type[Proxy]) -> None:
    async def run(proxy: Proxy) -> tuple[Crowd, list[str]]:
        crowd = Crowd(proxy.ws)
        got: list[str] = []
        leaving = asyncio.Event()
        getting = asyncio.create_task(pages(f"http://127.0.0.1:{proxy.port}/", got, leaving))
        await crowd.arrive(CLIENTS, pause=0.5)
        crowd.churn(pause=0.01)
        await crowd.answered()
        for number in (0, 1):
            before = [close.total() for close in crowd.closes]
            await asyncio.to_thread(proxy.replace, number)
            await crowd.answered()
            closed = [close.total() - b for close, b in zip(crowd.closes, before, strict=True)]
            # Each client is untouched, or was closed once; the second time all of them are.
            assert set(closed) <= {0, 1}
            assert sum(closed) in range(1, CLIENTS + 1)
            if number == 0:
                assert 0 in closed
        leaving.set()
        await getting
        await crowd.leave()
        return crowd, got

    started = time.monotonic()
    with kind() as proxy:
        crowd, got = asyncio.run(run(proxy))
    seen = dict(crowd.seen)
    print(f"{proxy.program}, {time.monotonic() - started:.1f} s: {seen}, {len(got)} pages")
    assert set(seen) <= {"connected", "answered", "unanswered", "close 1001"}, seen
    assert all(set(close) <= {1001} for close in crowd.closes)
    assert set(got) == {"200"}


@both
def test_a_balancer_retries_a_refused_connection_at_the_other_backend(kind: type[Proxy]) -> None:
    def blind(text: str) -> str:
        """So that the health checks do not see it in time; nginx has none."""
        return text.replace("inter 1s fastinter 200ms", "inter 1h fastinter 1h")

    async def run(proxy: Proxy) -> None:
        assert await asyncio.to_thread(proxy.echotwists[0].stop) == 0
        for number in range(20):
            connection = await connect(proxy.ws)
            connection.send(f"{number}")
            assert await connection.next() == f"{number}"
            await connection.leave()

    with kind(edit=blind) as proxy:
        assert (blind("inter 1s fastinter 200ms") in proxy.configuration) == (kind is HAProxy)
        asyncio.run(run(proxy))


class Failing:
    """Stands at the port of an echotwist and is ready, but answers no client: `how` is "close",
    as a port that is closed does to connections that were not accepted yet, or "503", as a drain
    does on those that were. `requests` are theirs."""

    def __init__(self, port: int, how: str) -> None:
        self.requests: list[bytes] = []
        self._port = port
        self._how = how

    async def __aenter__(self) -> "Failing":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = b""
        with suppress(asyncio.IncompleteReadError, OSError):
            request = await reader.readuntil(b"\r\n\r\n")
            # A header of PROXY version 2 begins with such a line's end, and its length is there.
            if request == b"\r\n\r\n":
                head = await reader.readexactly(12)
                await reader.readexactly(int.from_bytes(head[10:], "big"))
                request = await reader.readuntil(b"\r\n\r\n")
        if b" /readyz " in request:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif request:
            self.requests.append(request)
            if self._how == "503":
                writer.write(
                    b"HTTP/1.1 503 Service Unavailable\r\n"
                    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                )
            else:
                # An RST, as the kernel sends for what was never accepted.
                linger = b"\x01\0\0\0\0\0\0\0"
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
        writer.close()


@both
@pytest.mark.parametrize("how", ["close", "503"])
def test_a_balancer_retries_a_failed_request_at_the_other_backend(
    kind: type[Proxy], how: str
) -> None:
    async def run(proxy: Proxy) -> list[bytes]:
        assert await asyncio.to_thread(proxy.echotwists[0].stop) == 0
        async with Failing(proxy.ports[0], how) as failing:
            await asyncio.to_thread(proxy.waitFor, 0)
            for number in range(20):
                connection = await connect(proxy.ws, forged=FORGED)
                connection.send(f"{number}")
                assert await connection.next() == f"{number}"
                await connection.leave()
            return failing.requests

    with kind() as proxy:
        requests = asyncio.run(run(proxy))
    assert len(requests) >= 5
    if kind is Nginx:
        for request in requests:
            lines = request.lower().split(b"\r\n")
            forwarded = [line for line in lines if b"forwarded" in line]
            assert forwarded == [b"x-forwarded-for: 127.0.0.1"]
            assert f"host: 127.0.0.1:{proxy.port}".encode() in lines


FORGED = {"X-Forwarded-For": "203.0.113.66", "Forwarded": "for=203.0.113.66"}


@both
def test_the_log_has_the_clients_address_behind_a_balancer(kind: type[Proxy]) -> None:
    options = ["--trusted-proxy=127.0.0.1"] if kind is Nginx else []
    addresses = [f"127.0.1.{number}" for number in range(1, 21)]

    async def run(proxy: Proxy) -> None:
        for address in addresses:
            connection = await connect(proxy.ws, source=address, forged=FORGED)
            connection.send("who am I")
            assert await connection.next() == "who am I"
            await connection.leave()

    with kind(*options) as proxy:
        asyncio.run(run(proxy))
    log = "\n".join(echotwist.log for echotwist in proxy.echotwists)
    assert sorted(re.findall(r"#\d+ (127\.0\.1\.\d+)\S* connected", log)) == sorted(addresses)
    assert all(" connected" in echotwist.log for echotwist in proxy.echotwists)
    assert "203.0.113" not in log


@both
def test_a_balancer_serves_ipv4_and_ipv6(kind: type[Proxy]) -> None:
    """Browsers try ::1 first for localhost. The log has IPv4 clients by their IPv4 address."""
    options = ["--trusted-proxy=127.0.0.1"] if kind is Nginx else []

    async def run(proxy: Proxy) -> None:
        for host in ("127.0.0.1", "[::1]", "localhost"):
            connection = await connect(f"ws://{host}:{proxy.port}/echo")
            connection.send(host)
            assert await connection.next() == host
            await connection.leave()

    with kind(*options) as proxy:
        asyncio.run(run(proxy))
    log = "\n".join(echotwist.log for echotwist in proxy.echotwists)
    # nginx tells no port.
    found = re.findall(r"#\d+ (127\.0\.0\.1|::1|\[::1\])(?::\d+)? connected", log)
    assert len(found) == 3
    assert {name.strip("[]") for name in found} == {"127.0.0.1", "::1"}


@both
def test_an_ipv4_only_bind_address_may_be_configured(kind: type[Proxy]) -> None:
    """As on a machine without IPv6."""

    class Old(kind):  # type: ignore[misc,valid-type]
        def command(self) -> list[str]:
            command = list(super().command())
            if kind is HAProxy:
                self.environment["ECHOTWIST_FRONT"] = f":{self.port}"
            return command

    def withoutIpv6(text: str) -> str:
        return re.sub(r"(?m)^ *listen \[::\]:.*$", "", text)

    with Old(edit=withoutIpv6) as proxy:
        assert "[::]" not in re.sub("#.*", "", proxy.configuration)
        with websockets.sync.client.connect(proxy.ws) as client:
            client.send("hello")
            assert client.recv() == "hello"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", proxy.port))


@both
def test_keepalive_keeps_an_idle_client_through_a_balancer(kind: type[Proxy]) -> None:
    def sooner(text: str) -> str:
        assert " 2m" in text
        return re.sub(r" 2m\b", " 2s", text)

    async def isOpen(proxy: Proxy) -> bool:
        """After it was silent for twice as long as the proxy waits."""
        connection = await connect(proxy.ws)
        try:
            async with asyncio.timeout(4):
                assert await connection.events.get() is None
        except TimeoutError:
            connection.send("still here")
            assert await connection.next() == "still here"
            await connection.leave()
            return True
        return False

    with kind("--ping-interval=500ms", "--ping-timeout=1s", edit=sooner) as proxy:
        assert asyncio.run(isOpen(proxy))
    with kind("--ping-interval=0", edit=sooner) as proxy:
        assert not asyncio.run(isOpen(proxy))


@both
def test_the_tls_lines_of_the_balancer_configuration_work(kind: type[Proxy]) -> None:
    (port,) = freePorts(1)

    def withTls(text: str) -> str:
        # What is commented out is code if no space stands behind the #.
        text, count = re.subn(r"^( *)#(?=\S)", r"\1", text, flags=re.M)
        assert count == (4 if kind is Nginx else 3)
        assert " echotwist.pem" in text
        return re.sub(r"(:|listen )8443 ", rf"\g<1>{port} ", text)

    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    certificate = authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes()

    class Secured(kind):  # type: ignore[misc,valid-type]
        def command(self) -> list[str]:
            file = self.folder / "echotwist.pem"
            file.write_bytes(certificate)
            os.chown(file, NOBODY if os.getuid() == 0 else -1, -1)
            return list(super().command())

    with Secured(edit=withTls):
        echoes(f"wss://localhost:{port}/echo", ["hello"], context)
        with urllib.request.urlopen(f"https://localhost:{port}/", context=context) as response:
            assert b"WebSocket echo" in response.read()


@both
def test_a_reload_of_the_balancer_keeps_its_clients(kind: type[Proxy]) -> None:
    class Reloaded(kind):  # type: ignore[misc,valid-type]
        def command(self) -> list[str]:
            # As systemd runs it: HAProxy has a master then, as nginx always has.
            return [*super().command(), *(["-W"] if kind is HAProxy else [])]

    async def run(proxy: Proxy) -> None:
        connection = await connect(proxy.ws)
        proxy.process.send_signal(signal.SIGUSR2 if kind is HAProxy else signal.SIGHUP)
        for number in range(20):
            connection.send(f"{number}")
            assert await connection.next() == f"{number}"
            other = await connect(proxy.ws)
            other.send("new")
            assert await other.next() == "new"
            await other.leave()
            await asyncio.sleep(0.05)
        await connection.leave()

    with Reloaded() as proxy:
        asyncio.run(run(proxy))


def test_ipv4_clients_of_a_haproxy_for_both_families_have_ipv4_addresses() -> None:
    """It names them as ::ffff:127.0.0.1, spelled in yet another way."""

    def edit(text: str) -> str:
        old = 'bind "${ECHOTWIST_FRONT}"'
        assert text.count(old) == 1
        return text.replace(old, 'bind "${ECHOTWIST_FRONT}" v4v6')

    async def run(proxy: Proxy) -> None:
        for number in range(1, 11):
            connection = await connect(proxy.ws, source=f"127.0.1.{number}")
            await connection.leave()

    class BothFamilies(HAProxy):
        def command(self) -> list[str]:
            command = super().command()
            self.environment["ECHOTWIST_FRONT"] = f":::{self.port}"
            return command

    with BothFamilies(edit=edit) as proxy:
        asyncio.run(run(proxy))
    log = "\n".join(echotwist.log for echotwist in proxy.echotwists)
    found = re.findall(r"#\d+ (\S+):\d+ connected", log)
    assert sorted(found) == sorted(f"127.0.1.{number}" for number in range(1, 11))


def test_haproxys_default_health_check_finds_it_up() -> None:
    """`option httpchk` alone asks `OPTIONS / HTTP/1.0`."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if not line.lstrip().startswith("http-check"))

    with HAProxy(edit=edit) as proxy:
        assert "http-check" not in proxy.configuration
        for number in (0, 1):
            proxy.waitFor(number)
            wait(lambda: "L7OK" in proxy.checks(), proxy.checks)


@both
def test_a_client_with_many_cookies_gets_through(kind: type[Proxy]) -> None:
    """In one line of 15 KB. nginx's own limit is 8 KB, and HAProxy's a buffer of 16 KB."""

    async def run(proxy: Proxy) -> None:
        connection = await connect(proxy.ws, forged={"Cookie": "x" * 15_000})
        connection.send("still me")
        assert await connection.next() == "still me"
        await connection.leave()

    with kind(*(["--trusted-proxy=127.0.0.1"] if kind is Nginx else [])) as proxy:
        asyncio.run(run(proxy))
