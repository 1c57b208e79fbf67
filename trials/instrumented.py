"""A copy of the package with its extension compiled for a sanitizer.

Beside the installed package, and before it on PYTHONPATH: what is installed stays as it is. Not
built by setup.py, the -O3 of which comes behind whatever CFLAGS say, and wins.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from support.skipped import note

from echotwist.fastpath.sources import identity

ROOT = Path(__file__).parent.parent

OURS = ("tests", "trials")
"""Folders of modules that are run and imported."""


def build(folder: Path, *flags: str, compiler: str = "gcc") -> dict[str, str]:
    """Make the copy in `folder`. Returns the environment in which it is what is imported."""
    for package in ("echotwist", "twisted/plugins"):
        unwanted = shutil.ignore_patterns("__pycache__", "_loop.c", "*.so", "dropin.cache")
        shutil.copytree(ROOT / package, folder / package, ignore=unwanted)
    source = folder / "echotwist/fastpath/_loop.pyx"
    subprocess.run([sys.executable, "-m", "cython", "-3", source], check=True)
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer", *flags),
            # As in setup.py. Cython makes other code for the limited API.
            *(
                "-DPy_LIMITED_API=0x030B0000",
                f'-DSOURCES="{identity(folder / "echotwist/fastpath")}"',
                "-DHAS_ZLIB=1",
            ),
            *("-I" + sysconfig.get_path("include"), source.with_suffix(".c")),
            *("-o", folder / f"echotwist/fastpath/_loop{sysconfig.get_config_var('EXT_SUFFIX')}"),
            "-lz",
        ],
        check=True,
    )
    path = os.pathsep.join([str(folder), *(str(ROOT / name) for name in OURS)])
    return {**os.environ, "PYTHONPATH": path}


def isMissing(compiler: str, packages: str) -> bool:
    """Whether to skip what needs this compiler; noted for the end of `tox`. Never in CI."""
    skips = [] if shutil.which(compiler) else [f"{compiler} is not installed (Debian: {packages})"]
    if note(skips):
        raise SystemExit(skips[0])
    print(*(f"skipped: {skip}" for skip in skips))
    return bool(skips)


def library(name: str) -> str:
    """Where gcc has this one."""
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()
