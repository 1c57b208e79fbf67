"""Every limit of the service, each with its reason.

A limit that an operator may change is a field of `Limits`; `tap` makes an option of
each (`maxMessage` becomes `--max-message`) and shows its text as the manual. What
nobody should have to change stands below as a constant.
"""

import math
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RESERVE = 100
"""Descriptors that connections leave free: the log, the event loop's own, and the
requests that are answered with 503 because the connections are all taken."""

OVERFLOW = 50
"""Connections over the limit that are still accepted, to be told 503 or to ask for
/healthz. The next one takes the place of that which has asked nothing for longest, WebSockets
not counted. Half of RESERVE, so that accept() never fails."""

OPERATORS = 20
"""Connections to --admin at a time, out of the same reserve; the next one takes the place of
that which has asked nothing for longest."""

BACKLOG = 1024
"""Connections that the kernel keeps while the process is busy. Twisted's own 50 loses
SYNs when a thousand clients return at once; the kernel caps this at net.core.somaxconn."""

TARGET = 16 << 10
"""Bytes of a request line. RFC 9112, 3 wants at least 8,000."""

HEADERS = 500
"""Headers of a request."""

HEADERS_BYTES = (16 << 10) + 512
"""Bytes of all headers of a request: 16 KB of cookies and tokens, as most servers take, beside
the 200 bytes or so of a handshake itself."""

PROXY_HEADER = 4096
"""Bytes of a header of the PROXY protocol, version 2, which no budget counts. It could have 65,551;
proxies send some hundred, or a thousand with the name in a client's certificate."""

HEADER = 300
"""Bytes that a header of a request takes beside its own, as Python keeps it (measured)."""

FRAGMENT = 64
"""Bytes under which a frame of a message in several is small; see `Limits.smallFragments`."""

LOG_FILE = 10 << 20
"""Bytes of a log file that is rotated then, by the next line. Twistd's own 1 MB is full in two
minutes at the full --log-rate."""

LOG_FILES = 10
"""Rotated log files that are kept; an older one is replaced. With LOG_FILE, 110 MB at the most."""

LOG_QUEUE = 1 << 20
"""Characters of the log that wait for who reads the standard output; what comes then is lost.
A minute at the full --log-rate, beside the 64 KB of a pipe."""

LOG_EXIT = 1.0
"""Seconds that the end of the process waits for who reads the last lines."""

LONGEST = 7 * 24 * 3600.0
"""Longest time in seconds that an option takes: epoll refuses 25 days, and the reactor
would then spin."""

_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.IGNORECASE | re.ASCII)
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|s|m|h)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)


def size(text: str) -> int:
    """The bytes that `text` stands for: `65536`, `64k`, `16M`, `1G` (powers of 1024).

    Raises ValueError, with a message for the operator, also for zero.
    """
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("takes a size such as 65536, 64k or 16M")
    value = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    if value >= 2**62:  # RFC 6455, 5.2: a frame's length has 63 bits.
        raise ValueError("takes a size that a frame can have, such as 16M")
    return value


def seconds(text: str) -> float:
    """The seconds that `text` stands for: `10`, `10s`, `500ms`, `1.5m`, `2h`.

    Raises ValueError, with a message for the operator, also for zero and for more than
    LONGEST.
    """
    value = secondsOrNever(text)
    if value == 0:
        raise ValueError("takes a time of more than 0, such as 500ms or 10s")
    return value


def secondsOrNever(text: str) -> float:
    """As `seconds`, and 0 is allowed."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("takes a time such as 500ms, 10s, 2m or 1h")
    value = float(match[1]) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[match[2]]
    if value > LONGEST:
        raise ValueError("takes a time of at most 168h")
    return value


def count(text: str) -> int:
    """A whole number, 0 or more. Raises ValueError with a message for the operator."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("takes a whole number such as 100")
    return int(text)


def descriptors(text: str, taken: int = 0) -> int:
    """A number of connections, 1 or more, or `auto`: what the limit of open files
    (RLIMIT_NOFILE, the soft one) carries, less RESERVE and what is `taken`.

    Raises ValueError with a message for the operator, also for more than that.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**31 if soft == resource.RLIM_INFINITY else soft - RESERVE - taken
    value = most if text == "auto" else count(text)
    if value > most or most < 1:
        raise ValueError(
            f"the limit of open files (ulimit -n) is {soft}, which carries {max(most, 0)}"
        )
    if value < 1:
        raise ValueError("takes a whole number of at least 1, or auto")
    return value


def memory(text: str) -> int:
    """As `size`, or `auto`."""
    return 512 << 20 if text == "auto" else size(text)


def _limit(default: str, parse: Callable[[str], Any], reason: str) -> Any:
    return field(
        default_factory=lambda: parse(default),
        metadata={"default": default, "parse": parse, "reason": reason},
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may cost. Sizes are bytes, times are seconds."""

    maxMessage: int = _limit(
        "16M",
        size,
        "Largest message, in bytes after decompression; a larger one is refused with 1009. "
        "16M is the largest message of the Autobahn testsuite.",
    )
    maxConnections: int = _limit(
        "auto",
        descriptors,
        "WebSocket connections at a time; further ones are answered 503. auto: as many as "
        f"the limit of open files carries, less {RESERVE} and 2 for each of --threads.",
    )
    maxConnectionsPerAddress: int = _limit(
        "0",
        count,
        "WebSocket connections at a time from one client; further ones are answered 503. An IPv6 "
        "client is a network of /64, and behind --trusted-proxy it is the client that counts. "
        "0: as many as --max-connections; a company or a proxy may be one address.",
    )
    memoryBudget: int = _limit(
        "auto",
        memory,
        "Memory for what all clients have not sent whole or do not read, besides some 8 KB for "
        "each; those that hold most are closed with 1013. auto: 512M, half of a small machine, "
        "or eight times the largest message for each of --workers if that is more.",
    )
    handshakeTimeout: float = _limit(
        "10s",
        seconds,
        "Time for a whole handshake, from accept to 101, however slowly its bytes arrive. "
        "TLS included; a slow mobile network takes 3s.",
    )
    pingInterval: float = _limit(
        "30s",
        secondsOrNever,
        "A client that is silent for this long is sent a ping; 0 for never: who does not read is "
        "then waited for until it says that it sends no more. 30s keeps the usual proxies (60s) "
        "and NATs from forgetting an idle connection.",
    )
    pingTimeout: float = _limit(
        "20s",
        seconds,
        "A connection on which nothing moves for this long after a ping is aborted: "
        "no byte received, and none of what waits for the client acknowledged.",
    )
    closeTimeout: float = _limit(
        "5s",
        seconds,
        "A client that is to finish a close, whoever began it, is aborted when nothing has moved "
        "for this long: none of what waits for it acknowledged. So it has this long once all is "
        "delivered; until then, who reads little by little is alive, as it is to a ping.",
    )
    drainTimeout: float = _limit(
        "10s",
        seconds,
        "Time for all clients to leave after SIGTERM, SIGINT or SIGHUP; the rest is aborted, also "
        "those that still read. "
        "Twice the close, and well below systemd's 90s.",
    )
    logRate: int = _limit(
        "100",
        count,
        "Lines a second of the message log; one line a second counts the rest. "
        "0 turns it off. A person can skim 100, and they fill a disk by 1 GB a day at most.",
    )

    @property
    def bufferBudget(self) -> int:
        """Bytes of `memoryBudget` that are given out.

        The rest is what malloc loses between blocks of many sizes that come and go: ten thousand
        hostile clients took 1.4 times of what they held (measured, without the fast path).
        """
        return self.memoryBudget * 2 // 3

    @property
    def smallFragments(self) -> int:
        """Bytes that the frames of a message in several may lack, all together, of FRAGMENT each.

        RFC 6455 lets a message consist of any number of empty fragments; this ends it at 262,144
        of them by default. An account of its own: a message of `maxMessage` bytes may end with
        an empty fragment, as writers of streams end theirs. Not below 1,024 of them, however
        small a message has to be: they cost time and no memory.
        """
        return max(self.maxMessage, 1024 * FRAGMENT)

    @property
    def maxWirePayload(self) -> int:
        """Bytes of a message on the wire, before decompression.

        What zlib's deflateBound() allows for data that does not compress, so that a
        message of `maxMessage` random bytes passes also when its client deflates it.
        """
        return self.maxMessage + math.ceil(self.maxMessage * 9 / 64) + 1024
