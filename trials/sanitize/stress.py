"""Everything at once, on real threads: lending, recalling, closing, aborting, and draining.

    python trials/sanitize/stress.py SECONDS

Run by sanitize.py, with `SANITIZER` in the environment: the libraries that the service loads, and
the clients do not.
"""

import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from support.certificate import tlsEndpoint
from support.process import Twistd
from support.traffic import Peer, crowd

ROUNDS = 3


def main(seconds: float) -> None:
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        listen = [f"--listen={endpoint}" for endpoint in ("tcp:0", tlsEndpoint(Path(folder)))]
        for n in range(ROUNDS):
            total += stress(listen, seconds / ROUNDS, n)
    print(*(f"{value:,} {name}" for name, value in total.items()), sep=", ")
    assert total["ended by the service"] > 100, total


def stress(listen: Sequence[str], seconds: float, seed: int) -> Counter[str]:
    with Twistd(
        *(*listen, "--threads=3", "--max-message=8M", "--log-rate=20"),
        # Short, so that loops look after them all the time.
        *("--ping-interval=50ms", "--ping-timeout=2s", "--close-timeout=1s"),
        before=[sys.executable, str(Path(__file__).with_name("harried.py"))],
        env={"LD_PRELOAD": os.environ.get("SANITIZER", "")},
    ) as service:
        service.expect("taking up to")
        plain, secure = service.portOf("ws"), service.portOf("wss")
        opens = [
            *[partial(Peer, plain)] * 3,
            *[partial(Peer, plain, isDeflated=True)] * 3,
            *[partial(Peer, secure, isTls=True)] * 2,
            partial(Peer, secure, isTls=True, isDeflated=True),
        ]
        # The drain comes while they talk; and they still do when it has ended.
        drain = threading.Timer(seconds, service.process.terminate)
        drain.start()
        count = crowd(opens, seconds + 0.5, seed, isHarried=True)
        drain.join()
        service.wait(60)
    assert "fast path: threads: 3" in service.log, service.log
    assert "drained in" in service.log, service.log
    return count


if __name__ == "__main__":
    main(float(sys.argv[1]))
