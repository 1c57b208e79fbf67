"""Everything at once, on real threads: lending, recalling, closing, aborting, and draining.

    python trials/sanitize/stress.py SECONDS

Run by sanitize.py, with `SANITIZER` in the environment: the libraries that the service loads, and
the clients do not.
"""

import os
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

from support.process import Twistd
from support.traffic import Peer, crowd

ROUNDS = 3
CLIENTS = 8


def main(seconds: float) -> None:
    total: Counter[str] = Counter()
    for n in range(ROUNDS):
        with Twistd(
            *("--threads=3", "--no-compression", "--max-message=8M", "--log-rate=20"),
            # Short, so that loops look after them all the time.
            *("--ping-interval=50ms", "--ping-timeout=2s", "--close-timeout=1s"),
            before=[sys.executable, str(Path(__file__).with_name("harried.py"))],
            env={"LD_PRELOAD": os.environ.get("SANITIZER", "")},
        ) as service:
            open = partial(Peer, service.port)
            # The drain comes while they talk; and they still do when it has ended.
            drain = threading.Timer(seconds / ROUNDS, service.process.terminate)
            drain.start()
            total += crowd([open] * CLIENTS, seconds / ROUNDS + 0.5, n, isHarried=True)
            drain.join()
            service.wait(60)
        assert "fast path: threads: 3" in service.log, service.log
        assert "drained in" in service.log, service.log
    print(*(f"{value:,} {name}" for name, value in total.items()), sep=", ")
    assert total["ended by the service"] > 100, total


if __name__ == "__main__":
    main(float(sys.argv[1]))
