"""Packaging. The tool tables are in pyproject.toml."""

import re
import runpy
import shutil
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

here = Path(__file__).parent

# The free-threaded builds of Python have no limited API yet.
isLimited = not sysconfig.get_config_var("Py_GIL_DISABLED")

# Run, not imported: a build has none of the dependencies.
sources = runpy.run_path(str(here / "echotwist/fastpath/sources.py"))
identity = sources["identity"](here / "echotwist/fastpath")

ROOMS = (
    *("fastpath", "http", "lab", "listen", "observe", "operate", "paths", "probe", "testing"),
    *("websocket", "wire"),
)


class Build(build):
    """Of nothing that an earlier build has left: all that is in its folder goes into the wheel."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    """With zlib if its header and its library are there; it compiles without them, too."""

    def build_extension(self, extension: Extension) -> None:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text("#include <zlib.h>\nint main(void) { return !zlibVersion(); }\n")
            try:
                objects = self.compiler.compile([str(probe)], output_dir=folder)
                self.compiler.link_executable(objects, "probe", folder, libraries=["z"])
            except (CompileError, LinkError):
                self.warn("no zlib.h (Debian: zlib1g-dev): compressed messages stay with Autobahn")
            else:
                extension.define_macros.append(("HAS_ZLIB", "1"))
                extension.libraries.append("z")
        super().build_extension(extension)


fastpath = Extension(
    "echotwist.fastpath._loop",
    ["echotwist/fastpath/_loop.pyx"],
    depends=[f"echotwist/fastpath/{name}" for name in sources["NAMES"]],
    include_dirs=["echotwist/fastpath"],
    extra_compile_args=["-O3"],
    # One build serves every Python from 3.11 on. It costs nothing: the loop calls none.
    py_limited_api=isLimited,
    define_macros=[
        ("SOURCES", f'"{identity}"'),
        *([("Py_LIMITED_API", "0x030B0000")] if isLimited else []),
    ],
    # Without a compiler, or epoll, Autobahn echoes everything; the service says so at its start.
    optional=True,
)

setup(
    name="echotwist",
    version=re.search(r'__version__ = "(.+)"', (here / "echotwist/__init__.py").read_text())[1],
    description="A WebSocket echo service on Twisted and Autobahn that people can trust",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    install_requires=[
        # The reactor, HTTP and twistd; tls for ssl: endpoints. 26.10 mends request smuggling.
        "Twisted[tls]>=26.10.0",
        # WebSocket, RFC 6455 and RFC 7692. 26.10.1 bounds decompression.
        "autobahn>=26.10.1",
        # The logger that Autobahn's classes want.
        "txaio>=26.6.1",
        # /metrics of --admin, in the format that Prometheus reads.
        "prometheus_client>=0.21",
        # TLS itself. 24.3 takes cryptography's certificates.
        "pyOpenSSL>=24.3",
        # Reads keys and certificates without asking a terminal; 42 knows when they end, in UTC.
        "cryptography>=42",
        # Names of hosts as browsers read them (IDNA 2008, UTS 46); Twisted[tls] needs it, too.
        "idna>=3",
        # Declares what Twisted's interfaces ask for.
        "zope.interface>=8",
    ],
    extras_require={
        # `echotwist probe --http2`: HTTP/2 and HPACK. 4.1 sends the extended CONNECT of RFC 8441.
        "http2": ["h2>=4.1"],
        "test": [
            "pytest>=9",
            # Tests of real sockets run in Twisted's reactor.
            "pytest-twisted>=1.14",
            # Any order: a test that needs another one fails.
            "pytest-randomly>=4",
            # For tests of the fixture `echotwist`, whose users have it.
            "pytest-asyncio>=1.3",
            # Four at a time, as tox runs them: most of the tests wait for time or for a process.
            "pytest-xdist>=3.8",
            # Any messages, cut anywhere.
            "hypothesis>=6.150",
            # The page, in Debian's Chromium.
            "playwright>=1.60",
            # Certificates for TLS.
            "trustme>=1.2",
            # A server of RFC 8441, and what `echotwist probe --http2` needs.
            "h2>=4.1",
            # Clients that we did not write.
            "aiohttp>=3.14",
            "picows>=2.3",
            "websockets>=17",
        ],
    },
    entry_points={
        # `echotwist probe URL`; see docs/probe.md.
        "console_scripts": ["echotwist = echotwist.probe.command:main"],
        # The fixtures `echotwist` and `echotwist_tls`; see docs/testing.md.
        "pytest11": ["echotwist = echotwist.testing.plugin"],
    },
    # An editable install is then a plain path: twistd looks for plugins in folders of sys.path.
    package_dir={"": "."},
    # Named: find_packages() misses twisted.plugins, which must have no __init__.py.
    packages=[
        "echotwist",
        *(f"echotwist.{room}" for room in ROOMS),
        "echotwist.resources",
        "twisted.plugins",
    ],
    package_data={
        # The sources, so that what is compiled can be compared with them; see sources.py.
        "echotwist": ["py.typed"],
        "echotwist.fastpath": ["*.h", "*.pxd", "*.pyi", "*.pyx"],
        "echotwist.resources": ["*.html", "*.css", "*.js", "*.svg", "workbench/*"],
    },
    ext_modules=[fastpath],
    cmdclass={"build": Build, "build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if isLimited else {},
    zip_safe=False,
    classifiers=[
        "Framework :: Twisted",
        "Programming Language :: Python :: 3",
        "Topic :: Internet :: WWW/HTTP",
    ],
)
