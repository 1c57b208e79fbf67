"""The rows: what is asked of the servers, and which figure of the answer is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One load. `figure` is the one to compare by; `better` says which end of it is good."""

    name: str
    title: str
    load: tuple[str, ...]
    figure: str = "messages_per_s"
    unit: str = "msg/s"
    better: str = "higher"
    deflate: bool = False
    tls: bool = False
    needs: tuple[str, ...] = ()
    """What else a server must do to be measured; see `Server.lacks`."""

    oneCore: str = ""
    """The row with the same load, of a server that has one core: here it has all, and shares the
    last one with the load."""

    rounds: int | None = None
    """At most, of those that are slow."""

    stretch: float = 1
    """How many times as long as others it is measured."""

    text: bool = False
    withLog: bool = False
    """The message log of echotwist is measured too."""

    chart: bool = False

    @property
    def needed(self) -> set[str]:
        return {
            *self.needs,
            *(["permessage-deflate"] if self.deflate else []),
            *(["TLS"] if self.tls else []),
            *(["more than one core in one process"] if self.oneCore else []),
        }


SMALL = ("--size=125",)
BLOCKS = ("--connections=8", "--size=65536", "--inflight=2")
JSON = ("--connections=50", "--size=1024", "--kind=json", "--deflate")
TLS = ("--connections=50", *SMALL, "--tls")


def wait(kind: str, what: str, *, deflate: bool = False, tls: bool = False) -> Row:
    return Row(
        f"wait{'-tls' if tls else ''}-{kind}",
        f"A newcomer's wait (p99) while 20 clients send {what} without pause"
        f"{', over TLS' if tls else ''}",
        ("--mode=newcomers", f"--hostile={kind}", *(["--tls"] if tls else [])),
        "p99_ms", "ms", "lower", deflate=deflate, tls=tls, needs=("hostile clients",),
        rounds=2, stretch=2,
    )  # fmt: skip


ROWS = [
    Row("small", "50 connections, 125 bytes, one in flight",
        ("--connections=50", *SMALL), withLog=True, chart=True),
    Row("text", "50 connections, 125 bytes of ASCII text, one in flight",
        ("--connections=50", *SMALL, "--kind=ascii"), text=True),
    Row("many", "2,000 connections, 125 bytes, one in flight",
        ("--connections=2000", *SMALL), chart=True),
    Row("pipelined", "50 connections, 125 bytes, 64 in flight",
        ("--connections=50", *SMALL, "--inflight=64"), chart=True),
    Row("blocks", "8 connections, 64 KiB, 2 in flight",
        BLOCKS, "mb_per_s", "MB/s", chart=True),
    Row("blocks-ascii", "8 connections, 64 KiB of ASCII text, 2 in flight",
        (*BLOCKS, "--kind=ascii"), "mb_per_s", "MB/s", text=True),
    Row("blocks-text3", "8 connections, 64 KiB of three-byte characters, 2 in flight",
        (*BLOCKS, "--kind=text3"), "mb_per_s", "MB/s", text=True, chart=True),
    Row("large", "4 connections, 4 MiB, one in flight",
        ("--connections=4", "--size=4194304"), "mb_per_s", "MB/s"),
    Row("fragments", "50 connections, 128 bytes in 4 fragments, one in flight",
        ("--connections=50", "--size=128", "--fragments=4"), needs=("fragments",)),
    Row("pings", "50 connections, pings of 125 bytes, one in flight",
        ("--connections=50", *SMALL, "--pings"), needs=("pings",)),
    Row("handshakes", "32 clients that connect, upgrade and close, again and again",
        ("--mode=handshakes", "--connections=32"), "handshakes_per_s", "handshakes/s", chart=True),
    Row("deflate", "50 connections, 1 KB of JSON text, one in flight, permessage-deflate "
        "without context takeover",
        JSON, deflate=True, text=True, chart=True),
    Row("deflate-blocks", "8 connections, 64 KiB of JSON text, 2 in flight, permessage-deflate "
        "without context takeover",
        (*BLOCKS, "--kind=json", "--deflate"), "mb_per_s", "MB/s", deflate=True, text=True),
    Row("tls", "50 connections, 125 bytes, one in flight, over TLS", TLS, tls=True, chart=True),
    Row("tls-blocks", "8 connections, 64 KiB, 2 in flight, over TLS",
        (*BLOCKS, "--tls"), "mb_per_s", "MB/s", tls=True),
    Row("idle", "memory of one of 10,000 idle connections, after one echo each",
        ("--mode=idle", "--connections=10000"), "bytes_per_connection", "bytes", "lower",
        rounds=1, chart=True),
    Row("tls-idle", "memory of one of 2,000 idle connections over TLS, after one echo each",
        ("--mode=idle", "--connections=2000", "--tls"), "bytes_per_connection", "bytes", "lower",
        tls=True, rounds=1),
    Row("mixed", "Latency (p99) of 10 connections, 125 bytes, one in flight, while 4 stream "
        "messages of 4 MiB",
        ("--connections=10", *SMALL, "--heavy=4"), "p99_us", "µs", "lower", chart=True),
    Row("wait", "A newcomer's wait (p99) while nothing else happens",
        ("--mode=newcomers",), "p99_ms", "ms", "lower", needs=("hostile clients",), rounds=2),
    wait("pings", "pings"),
    wait("fragments", "messages in 3,000 fragments of a byte"),
    wait("tiny-deflate", "texts of one byte, deflated,", deflate=True),
    wait("deflate", "texts of 64 KiB, deflated,", deflate=True),
    wait("bomb", "15 MB of zeros, deflated,", deflate=True),
    wait("http", "GET /, 300 at a time,"),
    wait("pings", "pings", tls=True),
    Row("small-cores", "50 connections, 125 bytes, one in flight, on all cores",
        ("--connections=50", *SMALL), oneCore="small"),
    Row("deflate-cores", "50 connections, 1 KB of JSON text, one in flight, permessage-deflate "
        "without context takeover, on all cores",
        JSON, deflate=True, text=True, oneCore="deflate"),
    Row("tls-cores", "50 connections, 125 bytes, one in flight, over TLS, on all cores",
        TLS, tls=True, oneCore="tls"),
]  # fmt: skip
