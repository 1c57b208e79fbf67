"""Every limit of the service, each with its reason.

A limit that an operator may change is a field of `Limits`. `tap` makes an option of it
(`maxMessage` becomes `--max-message`) and prints its reason in --help. Limits that nobody should
need to change are the constants below.
"""

import math
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RESERVED_DESCRIPTORS = 100
"""Descriptors kept free of connections: for the log, for the event loop itself, and for requests
that are answered 503 because every connection is taken."""

OVERFLOW_CONNECTIONS = 50
"""Connections accepted above --max-connections, to answer them 503 or /healthz. The next one
replaces the HTTP connection that has been idle longest; WebSockets are never replaced. Half of
RESERVED_DESCRIPTORS, so that accept() never fails."""

ADMIN_CONNECTIONS = 20
"""Connections to --admin at a time, from the same reserve. The next one replaces the one that has
been idle longest."""

BACKLOG = 1024
"""Connections that the kernel queues while the process is busy. Twisted's default of 50 loses SYNs
when a thousand clients reconnect at once. The kernel caps this at net.core.somaxconn."""

MAX_REQUEST_LINE = 16 << 10
"""Bytes of a request line. RFC 9112, 3 recommends at least 8,000."""

MAX_HEADERS = 500
"""Headers of a request."""

MAX_HEADER_BYTES = (16 << 10) + 512
"""Bytes of all headers of a request: 16 KB of cookies and tokens, which most servers accept, plus
some 200 bytes for the handshake itself."""

MAX_PROXY_HEADER = 4096
"""Bytes of a PROXY protocol header, version 2, which the memory budget does not count. The format
allows 65,551; proxies send about a hundred, or a thousand with the name in a client's
certificate."""

HEADER_OVERHEAD = 300
"""Bytes of memory that Python needs for one header of a request, beyond its text (measured)."""

SMALL_FRAGMENT = 64
"""A fragment shorter than this many bytes counts as small; see `Limits.fragmentAllowance`."""

LOG_FILE_BYTES = 10 << 20
"""Bytes after which a log file is rotated, by the next line. Twistd's default of 1 MB is full in
two minutes at the full --log-rate."""

LOG_FILES_KEPT = 10
"""Rotated log files; the oldest is overwritten. With LOG_FILE_BYTES that is at most 110 MB."""

LOG_QUEUE_CHARACTERS = 1 << 20
"""Characters of log queued for a slow reader of the standard output; further lines are lost. It
covers a minute at the full --log-rate, on top of the 64 KB of a pipe."""

LOG_FLUSH_TIMEOUT = 1.0
"""Seconds that an ending process waits for the reader of its last log lines."""

MAX_SECONDS = 7 * 24 * 3600.0
"""Longest time in seconds that an option accepts. epoll rejects 25 days, and the reactor would then
spin."""

LAB_STEP = 600.0
"""Seconds that a step of a script at /lab may take. Proxies cut what is silent after one to ten
minutes; a client that wants more goes on by itself."""

LAB_LEAST = 0.01
"""Seconds between two messages or pings that a script sends by itself, at the least. A timer has
its turn before all others."""

LAB_HOLD = 60.0
"""Seconds that a script may hold back the 101: longer than clients wait for it."""

LAB_SEGMENT = 16 << 10
"""Bytes of the largest segment that a script may ask for: more are never written at a time, so that
little is made for a client that does not read."""

LAB_STEPS = 200
"""Steps of a script. A request line of 16 KB has room for thousands, each a coroutine's turn."""

LAB_REPETITIONS = 1_000_000
"""Messages that a step may echo or ignore."""

LAB_PAYLOAD = 16 << 20
"""Bytes that a step may send: the largest message of the Autobahn testsuite. It is made while it is
sent, and takes no memory."""

LAB_HEADERS = 100_000
"""Headers that a script may add to the 101; the most that reports of clients speak of."""

LAB_HEADER_BYTES = 4 << 20
"""Bytes of their values together. They are made while they are sent."""

LAB_FLOOD = 10.0
"""Seconds that a script may flood a client."""

LAB_CASE = 180.0
"""Seconds that the script of a case may take, and then its client, whatever that sends. At 1 Mbit/s
16 MiB take 134 s."""

LAB_LIFETIME = 24 * 3600.0
"""Seconds after which a connection at /lab is dropped, whatever its script says. A probe of a path
looks at it for hours."""

LAB_ANSWER = 3600.0
"""Seconds that /lab/sse, /lab/stream and a live trace answer. Proxies cut what lasts too long after
a minute to an hour; an EventSource comes again, and goes on where it was."""

LAB_INTERVAL = 0.1
"""Seconds between two events of /lab/sse at the least: a proxy that buffers shows at ten a second
already."""

LAB_RATE = 1 << 20
"""Bytes a second of /lab/stream: twenty lines of 52 KB. It shows who buffers, not who is fast."""

LAB_AGENTS = 200
"""Clients whose verdicts are kept; the one that ran no case for longest makes room. With some
300 bytes a verdict (measured) and 130 cases each, that is 8 MB."""

LAB_AGENT_CHARACTERS = 100
"""Characters of a client's name: that of a library, a version and a platform."""

LAB_REPORT = 24 * 3600.0
"""Seconds for which its verdicts are kept after the last."""

LAB_VERDICT = 10.0
"""Seconds for which /getCaseStatus waits for a verdict. The client may ask while the connection of
the case is still ending, and that takes --close-timeout, if TCP is left open."""

LAB_MEASURED = 32 << 10
"""Bytes of what a page has measured of its path, as JSON, for /lab/verdict. It has about 10 KB, and
the most that is taken is judged in a millisecond or two. Twisted would write to disk what has
100,000 bytes and more."""

LAB_MEASURED_LIST = 100
"""Elements of a list in it. There are 25 gaps of a trickle, and five connections."""

LAB_MEASURED_HEADERS = 40
"""Headers of a list in it. Proxies add up to some fifteen; each is compared with all known signs of
proxies."""

LAB_MEASURED_TEXT = 4 << 10
"""Characters of a text in it, such as the value of a header."""

LAB_VISIT = 60.0
"""Seconds without a visit after which `accepts` lets a client in again. Most that wait longer each
time wait for less than this, and a harness that runs all cases takes longer."""

LAB_VISITS = 1000
"""Clients and URLs whose visits are counted, with 700 bytes each; the one that came longest ago
makes room."""

LAB_TRACES = 1000
"""Traces that are kept. Reports of a client link to a trace for each of more than a hundred cases.
When it is full, the oldest that has ended is forgotten; if all are running, a new one is
refused."""

LAB_TRACES_BYTES = 32 << 20
"""Bytes of memory that they take together: that of a case takes some 10 KB, and the largest 900 KB.
When they would take more, the oldest that has ended is forgotten; if all are running, they leave
out what comes."""

LAB_TRACE_EVENTS = 500
"""Frames, and what else happens, that a trace keeps of the beginning, and so many of the end; and
as many segments. An hour's pings, each with its pong, are 720 frames at a ping each 10 s."""

LAB_TRACE_DECLINED = 32
"""Declined offers that a trace keeps. Clients make one or two; 16 KB of headers have thousands."""

LAB_TRACE_LIFETIME = 3600.0
"""Seconds that a trace is kept after the end of its connection: to look at it in peace, and to show
it to somebody."""

LAB_TRACE_READERS = 10
"""Those to whom one trace is written at a time. Each event wakes all of them."""

LAB_HEARTBEAT = 15.0
"""Seconds after which a stream over HTTP says that there is nothing new. Proxies cut what is silent
for 30 to 60 s; and only what cannot be written shows that a reader is gone."""

_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.IGNORECASE | re.ASCII)
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|s|m|h)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)


def parseSize(text: str) -> int:
    """Parse a size into bytes: `65536`, `64k`, `16M`, `1G` (powers of 1024).

    Raises ValueError, with a message for the operator, if it is malformed, zero, or too large.
    """
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("takes a size such as 65536, 64k or 16M")
    value = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    if value >= 2**62:  # RFC 6455, 5.2: a frame's length has 63 bits.
        raise ValueError("takes a size that a frame can have, such as 16M")
    return value


def parseSeconds(text: str) -> float:
    """Parse a time into seconds: `10`, `10s`, `500ms`, `1.5m`, `2h`.

    Raises ValueError, with a message for the operator, if it is malformed, zero, or longer than
    MAX_SECONDS.
    """
    value = parseSecondsOrZero(text)
    if value == 0:
        raise ValueError("takes a time of more than 0, such as 500ms or 10s")
    return value


def parseSecondsOrZero(text: str) -> float:
    """Like `parseSeconds`, but 0 is allowed."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("takes a time such as 500ms, 10s, 2m or 1h")
    value = float(match[1]) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[match[2]]
    if value > MAX_SECONDS:
        raise ValueError("takes a time of at most 168h")
    return value


def parseCount(text: str) -> int:
    """Parse a whole number, 0 or more. Raises ValueError, with a message for the operator."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("takes a whole number such as 100")
    return int(text)


def parseConnections(text: str, taken: int = 0) -> int:
    """Parse a number of connections, 1 or more. `auto` is the maximum: the soft limit on open files
    (RLIMIT_NOFILE), less RESERVED_DESCRIPTORS and the descriptors that are `taken`.

    Raises ValueError, with a message for the operator, if it is malformed, zero, or above the
    maximum.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**31 if soft == resource.RLIM_INFINITY else soft - RESERVED_DESCRIPTORS - taken
    value = most if text == "auto" else parseCount(text)
    if value > most or most < 1:
        raise ValueError(
            f"the limit on open files (ulimit -n) is {soft}, enough for {max(most, 0)} connections"
        )
    if value < 1:
        raise ValueError("takes a whole number of at least 1, or auto")
    return value


def parseBudget(text: str) -> int:
    """Parse a size into bytes. `auto` is 512 MB. Raises ValueError, as `parseSize` does."""
    return 512 << 20 if text == "auto" else parseSize(text)


def _limit(default: str, parse: Callable[[str], Any], reason: str) -> Any:
    return field(
        default_factory=lambda: parse(default),
        metadata={"default": default, "parse": parse, "reason": reason},
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may cost. Sizes are in bytes, times in seconds."""

    maxMessage: int = _limit(
        "16M",
        parseSize,
        "Largest message, in bytes after decompression; a larger one is closed with 1009. "
        "16M is the largest message of the Autobahn testsuite.",
    )
    maxConnections: int = _limit(
        "auto",
        parseConnections,
        "WebSocket connections at a time; further ones are answered 503. auto: as many as "
        f"the limit on open files allows, less {RESERVED_DESCRIPTORS} and 2 for each of --threads.",
    )
    maxConnectionsPerAddress: int = _limit(
        "0",
        parseCount,
        "WebSocket connections at a time from one client; further ones are answered 503. An IPv6 "
        "client is a /64 network. Behind --trusted-proxy or the PROXY protocol, the client that "
        "the proxy names counts. 0: no limit but --max-connections, since a whole company may "
        "share one address.",
    )
    memoryBudget: int = _limit(
        "auto",
        parseBudget,
        "Memory for the incomplete messages and unread echoes of all clients, on top of some 8 KB "
        "for each connection, or 70 KB with TLS. When too much is used, those that use most are "
        "closed with 1013. auto: 512M, half of a small machine, or eight times --max-message for "
        "each of --workers if that is more.",
    )
    handshakeTimeout: float = _limit(
        "10s",
        parseSeconds,
        "Time for a whole handshake, from accept to 101, however slowly its bytes arrive. "
        "This includes TLS; a slow mobile network takes 3s.",
    )
    pingInterval: float = _limit(
        "30s",
        parseSecondsOrZero,
        "Ping a client that has been silent for this long. 0: never; a client that stops reading "
        "is then kept until it ends its side of the connection. 30s keeps common proxies (60s) and "
        "NATs from forgetting an idle connection.",
    )
    pingTimeout: float = _limit(
        "20s",
        parseSeconds,
        "Abort a connection on which nothing has moved for this long after a ping: no byte was "
        "received, and no pending byte was acknowledged.",
    )
    closeTimeout: float = _limit(
        "5s",
        parseSeconds,
        "Abort a closing connection on which nothing has moved for this long, whoever began the "
        "close: no pending byte was acknowledged. The client has this long to finish the close "
        "once everything is delivered; until then a client that reads slowly counts as alive.",
    )
    drainTimeout: float = _limit(
        "10s",
        parseSeconds,
        "Time for all clients to leave after SIGTERM, SIGINT or SIGHUP; the rest are aborted, even "
        "those that are still reading. Twice --close-timeout, and well below systemd's 90s.",
    )
    logRate: int = _limit(
        "100",
        parseCount,
        "Lines a second of the message log; one more line a second counts the rest. 0 turns the "
        "message log off. A person can skim 100, and they fill at most 1 GB of disk a day.",
    )

    @property
    def bufferBudget(self) -> int:
        """Bytes of `memoryBudget` that may be used for buffers.

        The rest is what malloc loses to fragmentation when blocks of many sizes come and go: ten
        thousand hostile clients took 1.4 times what they had buffered (measured, without the fast
        path).
        """
        return self.memoryBudget * 2 // 3

    @property
    def fragmentAllowance(self) -> int:
        """Bytes by which the fragments of one message may fall short of SMALL_FRAGMENT, in total.

        RFC 6455, 5.4 allows any number of empty fragments in a message; this allows 262,144 by
        default. It is separate from `maxMessage`, because a message of that size may still end with
        an empty fragment, as messages of stream writers do. At least 1,024 fragments are allowed,
        however small `maxMessage` is: they cost time but no memory.
        """
        return max(self.maxMessage, 1024 * SMALL_FRAGMENT)

    @property
    def maxWirePayload(self) -> int:
        """Bytes of a compressed message on the wire, before decompression.

        What zlib's deflateBound() allows for data that does not compress, so that `maxMessage`
        random bytes pass even if the client deflates them.
        """
        return self.maxMessage + math.ceil(self.maxMessage * 9 / 64) + 1024
