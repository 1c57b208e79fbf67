"""A resolver that does not answer."""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from endurance.figures import Figure, Unavailable, atMost, exactly
from support.probe import get, works
from support.process import Twistd

HOLE = "192.0.2.1"
"""Nobody has this address (RFC 5737)."""


def silent(share: float) -> Sequence[Figure]:
    """The only nameserver of the process never answers (in a mount namespace of its own). It
    starts, and serves clients on its port for IPv4 and IPv6, for which Twisted calls
    getnameinfo(), and asks the resolver nothing: strace sees no packet to port 53, and nothing said
    to another resolver."""
    if shutil.which("strace") is None or shutil.which("unshare") is None:
        raise Unavailable("strace or unshare is not installed (Debian: strace, util-linux)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conf, hosts, trace = folder / "resolv.conf", folder / "nsswitch.conf", folder / "trace"
        conf.write_text(f"nameserver {HOLE}\noptions timeout:30 attempts:1\n")
        hosts.write_text("hosts: dns\n")
        script = (
            'mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf || exit; '
            'shift 2; exec strace -D -f -qq -e trace=connect,sendto,sendmsg,sendmmsg -o "$@"'
        )
        before = ["unshare", "--mount", "sh", "-c", script, "sh", str(conf), str(hosts), str(trace)]
        try:
            subprocess.run([*before, "true"], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as e:
            raise Unavailable("a mount namespace, or strace in it, is not allowed here") from e
        # A question would be seen.
        ask = [sys.executable, "-c", "import socket; socket.gethostbyname('example.org')"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*before, *ask], capture_output=True, timeout=3)
        assert _questions(trace), trace.read_text()
        began = time.monotonic()
        with Twistd(before=before) as service:
            started = time.monotonic() - began
            service.expect("taking up to")
            began = time.monotonic()
            for _ in range(20):
                works(service)
            get(service)
            took = time.monotonic() - began
            service.expect("#20 .* closed")
        asked = _questions(trace)
    return [
        atMost("seconds to start, under strace", started, 5),
        atMost("seconds for 20 connections and a page", took, 3),
        exactly("questions to a resolver", len(asked), 0),
    ]


def _questions(trace: Path) -> list[str]:
    lines = trace.read_text().splitlines()
    return [line for line in lines if HOLE in line or re.search(r"htons\(53\)|nscd|resolve", line)]
