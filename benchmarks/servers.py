"""The servers: what starts each, whether it is installed, which version it is."""

import importlib.metadata
import json
import os
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

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"


class Missing(Exception):
    """Something is not installed; the message says what."""


@dataclass(frozen=True)
class Certificate:
    """Two files of PEM, signed by itself."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Server:
    """One that is measured. `command` makes what starts it, or raises Missing."""

    name: str
    title: str
    command: Callable[[int, bool, Certificate | None], Sequence[str | Path]]
    versions: Callable[[], str]
    path: str = "/"
    ready: str = "ready"
    deflate: bool = True
    tls: bool = True
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


def gorilla(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    return [builtGorilla(), *peerOptions(port, deflate, certificate)]


def floor(port: int, deflate: bool, certificate: Certificate | None) -> Sequence[str | Path]:
    return [compiled("floor"), str(port)]


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


def nodeVersions() -> str:
    found = []
    for name in ("ws", "bufferutil"):
        manifest = PEERS / "node_modules" / name / "package.json"
        if manifest.exists():
            found.append(f"{name} {json.loads(manifest.read_text())['version']}")
    return ", ".join([*found, f"Node {output('node', '--version')}"])


def goVersions() -> str:
    package = output("dpkg-query", "-W", "-f=${Version}", "golang-github-gorilla-websocket-dev")
    return f"gorilla/websocket {package} (Debian), {output('go', 'version').split()[2]}"


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "of unknown version"


SERVERS = [
    Server("echotwist", "echotwist", echotwist("--log-rate=0"),
           packages("echotwist", "autobahn", "Twisted"), "/echo", "open http"),
    Server("echotwist-log", "echotwist, logging", echotwist(),
           packages("echotwist"), "/echo", "open http"),
    Server("autobahn", "Autobahn, Twisted", pythonPeer("autobahn_echo.py", "autobahn"),
           packages("autobahn", "Twisted")),
    Server("websockets", "websockets, uvloop",
           pythonPeer("websockets_echo.py", "websockets", "uvloop"),
           packages("websockets", "uvloop")),
    Server("aiohttp", "aiohttp, uvloop", pythonPeer("aiohttp_echo.py", "aiohttp", "uvloop"),
           packages("aiohttp", "uvloop")),
    Server("picows", "picows, uvloop", pythonPeer("picows_echo.py", "picows", "uvloop"),
           packages("picows", "uvloop"), deflate=False, checksText=False),
    Server("socketify", "socketify", pythonPeer("socketify_echo.py", "socketify"),
           packages("socketify")),
    Server("ws", "ws, Node", node, nodeVersions),
    Server("gorilla", "gorilla/websocket, Go", gorilla, goVersions, checksText=False),
    Server("floor", "the floor: bare C", floor, lambda: output("gcc", "--version").split("\n")[0],
           deflate=False, tls=False, checksText=False),
]  # fmt: skip


def compiled(name: str) -> Path:
    """The program made of NAME.c, made anew if that has changed. Raises Missing."""
    source, program = HERE / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if shutil.which("gcc") is None:
        raise Missing("gcc is not installed")
    BUILD.mkdir(exist_ok=True)
    base: list[str | Path] = ["gcc", "-O2", "-march=native", "-o", program, source]
    variants = [["-lz", "-lssl", "-lcrypto"], ["-DNO_TLS", "-lz"]] if name == "load" else [[]]
    for libraries in variants:
        done = subprocess.run([*base, *libraries], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return program
    raise Missing(f"{name}.c does not compile: {done.stderr}")


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
    server: Server, port: int, core: int, folder: Path, deflate: bool, tls: Certificate | None
) -> Iterator[int]:
    """The process, pinned to `core`, once it is ready; its id. Raises Missing or Died."""
    command = server.command(port, deflate, tls)
    log = folder / "server.log"
    with log.open("wb") as stdout:  # A file never makes the server wait, as a pipe would.
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
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
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
