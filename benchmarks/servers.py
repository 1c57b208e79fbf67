"""The servers: what starts each, whether it is installed, which version it is."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
PEERS = HERE / "peers"

START = 20
"""Seconds that a server may take until it is ready."""

END = 2
"""Seconds that it may take to end. One that was attacked may still have much to do."""

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"


class Missing(Exception):
    """Something is not installed; the message says what."""


@dataclass(frozen=True)
class Certificate:
    """Two files of PEM, signed by itself."""

    cert: Path
    key: Path


ONE_CORE = ("more than one core in one process",)


@dataclass(frozen=True)
class Server:
    """One that is measured. `command` makes what starts it, or raises Missing."""

    name: str
    title: str
    command: Callable[[int, bool, Certificate | None], Sequence[str | Path]]
    versions: Callable[[], str]
    path: str = "/"
    ready: str = "ready"
    lacks: tuple[str, ...] = ONE_CORE
    """What a row may need (`Row.needed`) that this one does not do, or not in this setting."""

    checksText: bool = True


def echotwist(*options: str) -> Callable[[int, bool, Certificate | None], Sequence[str | Path]]:
    def command(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
        if not TWISTD.exists() or not installed("echotwist"):
            raise Missing("echotwist is not installed: pip install .")
        listen = [f"--port={port}"]
        if certificate is not None:
            endpoint = f"ssl:{port}:interface=127.0.0.1"
            listen = [f"--listen={endpoint}:privateKey={certificate.key}"
                      f":certKey={certificate.cert}"]  # fmt: skip
        return [TWISTD, "-n", "--pidfile=", "echotwist", *listen, *options]

    return command


def pythonPeer(
    module: str, *needs: str
) -> Callable[[int, bool, Certificate | None], Sequence[str | Path]]:
    def command(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
        for package in needs:
            if not installed(package):
                raise Missing(f"{package} is not installed")
        return [sys.executable, PEERS / module, *peerOptions(port, deflate, certificate)]

    return command


def node(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    if shutil.which("node") is None:
        raise Missing("node is not installed")
    if not (PEERS / "node_modules/ws").exists():
        raise Missing("ws is not installed: npm install --prefix benchmarks/peers")
    return ["node", PEERS / "ws_echo.mjs", *peerOptions(port, deflate, certificate)]


def bun(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    program = PEERS / "node_modules/.bin/bun"
    if not program.exists():
        raise Missing("bun is not installed: npm install --prefix benchmarks/peers")
    return [program, PEERS / "bun_echo.js", *peerOptions(port, deflate, certificate)]


def gorilla(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    return [builtGorilla(), *peerOptions(port, deflate, certificate)]


def beast(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    program = compiled(
        "beast", [PEERS / "beast_echo.cpp", ARGUMENTS],
        [*FAST_CPP, "-lssl", "-lcrypto"],
    )  # fmt: skip
    return [program, *peerOptions(port, deflate, certificate)]


def libwebsockets(
    port: int, deflate: bool, certificate: Certificate | None
) -> Sequence[str | Path]:
    program = compiled(
        "libwebsockets", [PEERS / "libwebsockets_echo.c", ARGUMENTS], [*FAST_C, "-lwebsockets"]
    )
    return [program, *peerOptions(port, deflate, certificate)]


def uwebsockets(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    package = importlib.util.find_spec("socketify")
    if package is None or package.origin is None:
        raise Missing("socketify, which brings the library, is not installed")
    folder = Path(package.origin).parent
    kind = "arm64" if platform.machine() == "aarch64" else "amd64"
    library = f"libsocketify_linux_{kind}.so"
    if not (folder / library).exists():
        raise Missing(f"socketify brings no {library}")
    program = compiled(
        "uwebsockets", [PEERS / "uwebsockets_echo.c", ARGUMENTS],
        [*FAST_C, f"-L{folder}", f"-l:{library}", f"-Wl,-rpath,{folder}"],
    )  # fmt: skip
    return [program, *peerOptions(port, deflate, certificate)]


def floor(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    return [compiled("floor", [HERE / "floor.c"], PLAIN), str(port)]


def peerOptions(port: int, deflate: bool, certificate: Certificate | None) -> list[str]:
    options = ["--deflate"] if deflate else []
    if certificate is not None:
        options += ["--cert", str(certificate.cert), "--key", str(certificate.key)]
    return [*options, str(port)]  # Go takes options before the rest only.


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def packages(*names: str) -> Callable[[], str]:
    def versions() -> str:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)

    return versions


def debian(title: str, *names: str) -> Callable[[], str]:
    """Of the first of these packages that is installed."""

    def versions() -> str:
        for name in names:
            found = output("dpkg-query", "-W", "-f=${Version}", name)
            if found != UNKNOWN:
                return f"{title} {found} (Debian)"
        return f"{title} {UNKNOWN}"

    return versions


def bunVersion() -> str:
    return f"Bun {output(str(PEERS / 'node_modules/.bin/bun'), '--version')}"


def nodeVersions() -> str:
    found = []
    for name in ("ws", "bufferutil"):
        manifest = PEERS / "node_modules" / name / "package.json"
        if manifest.exists():
            found.append(f"{name} {json.loads(manifest.read_text())['version']}")
    return ", ".join([*found, f"Node {output('node', '--version')}"])


def goVersions() -> str:
    package = debian("gorilla/websocket", "golang-github-gorilla-websocket-dev")()
    return f"{package}, {output('go', 'version').split()[2]}"


UNKNOWN = "of unknown version"


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


SERVERS = [
    Server("echotwist", "echotwist", echotwist("--log-rate=0"),
           packages("echotwist", "autobahn", "Twisted"), "/echo", "open http", lacks=()),
    Server("echotwist-log", "echotwist, logging", echotwist(),
           packages("echotwist"), "/echo", "open http", lacks=()),
    Server("autobahn", "Autobahn, Twisted", pythonPeer("autobahn_echo.py", "autobahn"),
           packages("autobahn", "Twisted")),
    Server("websockets", "websockets, uvloop",
           pythonPeer("websockets_echo.py", "websockets", "uvloop"),
           packages("websockets", "uvloop")),
    Server("aiohttp", "aiohttp, uvloop", pythonPeer("aiohttp_echo.py", "aiohttp", "uvloop"),
           packages("aiohttp", "uvloop")),
    Server("picows", "picows, uvloop", pythonPeer("picows_echo.py", "picows", "uvloop"),
           packages("picows", "uvloop"), lacks=(*ONE_CORE, "permessage-deflate"),
           checksText=False),
    Server("socketify", "socketify", pythonPeer("socketify_echo.py", "socketify"),
           packages("socketify")),
    Server("ws", "ws, Node", node, nodeVersions),
    Server("bun", "Bun", bun, bunVersion),
    Server("gorilla", "gorilla/websocket, Go", gorilla, goVersions, lacks=(), checksText=False),
    Server("beast", "Boost.Beast, C++", beast,
           debian("Boost", "libboost1.81-dev", "libboost-dev")),
    Server("libwebsockets", "libwebsockets, C", libwebsockets,
           debian("libwebsockets", "libwebsockets-dev")),
    Server("uwebsockets", "uWebSockets, C++", uwebsockets,
           lambda: f"the library of {packages('socketify')()}"),
    Server("floor", "the floor: bare C", floor, lambda: output("gcc", "--version").split("\n")[0],
           lacks=(*ONE_CORE, "permessage-deflate", "TLS", "fragments", "pings",
                  "hostile clients"), checksText=False),
]  # fmt: skip

UNMEASURED = {
    "tokio-tungstenite, fastwebsockets (Rust)": "they are on crates.io alone; Debian 12 has no "
    "library of WebSocket for Rust",
    "uWebSockets.js, hyper-express (Node)": "npm has no uWebSockets.js: what depends on it fetches "
    "it from GitHub. Bun has the same server, and uWebSockets itself is measured",
    "uWebSockets from its sources": "PyPI, npm and Debian do not have them; measured is the "
    "library that socketify brings, which waits by libuv and not by epoll",
    "coder/websocket, gobwas/ws (Go)": "gorilla stands for Go; Debian has the first one as it was "
    "in 2021, and not the other",
    "Netty, Jetty (Java), Kestrel (.NET)": "not tried: PyPI and npm do not have them, and Debian "
    "has the first two as they were years ago",
}
"""Who could be the best of all, and why nobody knows."""

FAST_C = ("gcc", "-O3", "-march=native")
FAST_CPP = ("g++", "-O3", "-march=native", "-std=c++17")
PLAIN = ("gcc", "-O2", "-march=native")
ARGUMENTS = PEERS / "arguments.h"
LOAD = [HERE / "load.c", HERE / "hostile.c", HERE / "load.h"]


def load() -> Path:
    try:
        return compiled("load", LOAD, [*PLAIN, "-pthread", "-lz", "-lssl", "-lcrypto"])
    except Missing:
        return compiled("load", LOAD, [*PLAIN, "-DNO_TLS", "-pthread", "-lz"])


def compiled(name: str, sources: Sequence[Path], options: Sequence[str]) -> Path:
    """The program made of `sources` by `options`, of which the first is the compiler. It is made
    anew if either has changed. Raises Missing."""
    program, made = BUILD / name, BUILD / f"{name}.made"
    compiler, *flags = options
    parts = [source for source in sources if source.suffix != ".h"]
    libraries = [flag for flag in flags if flag.startswith("-l")]
    others = [flag for flag in flags if not flag.startswith("-l")]
    command = [compiler, *others, "-o", str(program), *map(str, parts), *libraries]
    isMade = program.exists() and made.exists() and made.read_text() == shlex.join(command)
    if isMade and all(program.stat().st_mtime > source.stat().st_mtime for source in sources):
        return program
    if shutil.which(compiler) is None:
        raise Missing(f"{compiler} is not installed")
    BUILD.mkdir(exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{name} does not compile: {firstError(done.stderr)}")
    made.write_text(shlex.join(command))
    return program


def firstError(told: str) -> str:
    lines = [line for line in told.splitlines() if "error" in line]
    return (lines or told.splitlines() or ["for no reason that it told"])[0].strip()


def builtGorilla() -> Path:
    source, program = PEERS / "gorilla_echo.go", BUILD / "gorilla"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if shutil.which("go") is None:
        raise Missing("go is not installed")
    BUILD.mkdir(exist_ok=True)
    # Debian has libraries for Go as sources in one place, and no modules.
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    done = subprocess.run(
        ["go", "build", "-o", program, source],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Missing(f"gorilla_echo.go does not build: {done.stderr.strip()}")
    return program


class Died(Exception):
    """A server did not start, or did not stay."""


@contextmanager
def running(
    server: Server,
    port: int,
    cores: Sequence[int],
    folder: Path,
    deflate: bool,
    tls: Certificate | None,
) -> Iterator[int]:
    """The process, pinned to `cores`, once it is ready; its id. Raises Missing or Died."""
    command = server.command(port, deflate, tls)
    log = folder / "server.log"
    with log.open("wb") as stdout:  # A file never makes the server wait, as a pipe would.
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *command],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + START
        while server.ready not in (told := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Died(f"{server.name} did not start: {told[-500:]}")
            time.sleep(0.02)
        yield process.pid
        if process.poll() is not None:
            raise Died(f"{server.name} ended: {log.read_text(errors='replace')[-500:]}")
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
