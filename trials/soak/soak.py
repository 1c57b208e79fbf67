"""Mixed traffic against the process for a minute and a half; then it must be as it was.

    python trials/soak/soak.py [SECONDS]

Everything that comes back is compared with what was sent. Python and the allocator keep what they
needed once, so that memory is compared from the middle on.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from ssl import TLSVersion

from support.certificate import tlsEndpoint
from support.probe import eventually
from support.process import Twistd
from support.traffic import Peer, crowd

MB = 2**20

GIVING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""malloc() gives large blocks back at once. Left to itself it learns from 4 MB messages to keep
them, and what it holds goes up and down by several."""

GROWTH = 2 * MB
"""What the second half may add. Its traffic is that of the first, so a leak of five bytes a message
or of two kilobytes a connection is more; up to 1 MB comes and goes by itself."""


def main(seconds: float) -> None:
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        listen = [f"--listen={endpoint}" for endpoint in ("tcp:0", tlsEndpoint(Path(folder)))]
        times = ("--ping-interval=200ms", "--ping-timeout=20s", "--close-timeout=10s")
        with Twistd(*listen, *times, "--threads=2", env=GIVING) as service:
            service.expect("taking up to")
            assert "fast path: threads: 2" in service.log, service.log
            plain, secure = service.portOf("ws"), service.portOf("wss")
            opens = [
                *[partial(Peer, plain)] * 3,
                *[partial(Peer, plain, isDeflated=True)] * 2,
                partial(Peer, secure, isTls=True),
                partial(Peer, secure, isTls=True, version=TLSVersion.TLSv1_2),
                partial(Peer, secure, isTls=True, isDeflated=True),
            ]
            descriptors, threads = service.descriptors(), threadsOf(service)
            memory = [service.memory()]
            for n, share in enumerate((0.2, 0.4, 0.4)):
                total += crowd(opens, seconds * share, seed=n)
                eventually(lambda: service.descriptors() == descriptors)
                assert threadsOf(service) == threads
                memory.append(service.memory())
        faults = [
            line
            for line in service.lines
            if re.search(r"#(warn|error|critical)\]|Traceback|Unhandled", line)
        ]
    names = ("start", "warm", "middle", "end")
    print(*(f"{value:,} {name}" for name, value in total.items()), sep=", ")
    print(*(f"{name} {rss / MB:.1f} MB" for name, rss in zip(names, memory, strict=True)), sep=", ")
    print(f"{descriptors} descriptors, {threads} threads, {len(service.lines)} lines of log")
    assert not faults, faults[:10]
    assert memory[3] - memory[2] < GROWTH


def threadsOf(service: Twistd) -> int:
    return len(os.listdir(f"/proc/{service.pid}/task"))


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 80)
