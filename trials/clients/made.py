"""What must be installed or compiled before a driver runs."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"

LONGEST = 600
"""Seconds that a compiler or npm may take."""


class Missing(Exception):
    """Something is not installed; the message says what."""


class Workshop:
    """Makes drivers in a folder of its own. All methods raise Missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, module: str, *packages: str) -> list[str]:
        for package in packages:
            version(package)
        return [sys.executable, "-m", f"clients.drivers.{module}"]

    @cached_property
    def modules(self) -> Path:
        """The drivers in JavaScript, with what they import beside them."""
        program("npm", "npm")
        shutil.copy(HERE / "package.json", self._folder)
        for suffix in ("js", "mjs"):
            for file in DRIVERS.glob(f"*.{suffix}"):
                shutil.copy(file, self._folder)
        _make("npm", "install", "--silent", "--no-fund", "--no-audit", cwd=self._folder)
        return self._folder

    def node(self, file: str, *options: str) -> list[str]:
        return [program("node", "nodejs"), *options, str(self.modules / file)]

    def shipped(self, name: str) -> str:
        """A program that npm has brought."""
        found = self.modules / "node_modules/.bin" / name
        if not found.exists():
            raise Missing(f"npm has not brought {name}")
        return str(found)

    def go(self, name: str, package: str) -> list[str]:
        program("go", "golang-go")
        made = self._folder / name
        # Debian has libraries for Go as sources in one place, and no modules.
        paths = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
        source = str(DRIVERS / f"{name}.go")
        _make("go", "build", "-o", str(made), source, needs=package, env=paths)
        return [str(made)]

    def c(self, name: str, library: str, package: str) -> list[str]:
        program("gcc", "gcc")
        made = self._folder / name
        source = str(DRIVERS / f"{name}.c")
        _make("gcc", "-O2", "-o", str(made), source, f"-l{library}", needs=package)
        return [str(made)]


def _make(
    *command: str, cwd: Path | None = None, needs: str = "", env: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, timeout=LONGEST,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason told"]
        wrong = next((line for line in lines if "error" in line), lines[-1])
        hint = f" (Debian: {needs})" if needs else ""
        raise Missing(f"{command[0]} failed{hint}: {wrong.strip()}")


def program(name: str, package: str) -> str:
    """Its path, which may be beside this Python."""
    found = shutil.which(name, path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if found is None:
        raise Missing(f"{name} is not installed (Debian: {package})")
    return found


def version(package: str) -> str:
    """Of a package of Python."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"{package} is not installed (PyPI)") from None


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as e:
        raise Missing(f"{command[0]} does not tell its version: {e}") from None


def debian(package: str) -> str:
    """The version of a package of Debian."""
    return output("dpkg-query", "-W", "-f=${Version}", package)
