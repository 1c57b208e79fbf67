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
    text: bool = False
    withLog: bool = False
    """The message log of echotwist is measured too."""

    chart: bool = False


SMALL = ("--size=125",)
BLOCKS = ("--connections=8", "--size=65536", "--inflight=2")

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
    Row("handshakes", "32 clients that connect, upgrade and close, again and again",
        ("--mode=handshakes", "--connections=32"), "handshakes_per_s", "handshakes/s", chart=True),
    Row("deflate", "50 connections, 1 KB of JSON text, one in flight, permessage-deflate "
        "without context takeover",
        ("--connections=50", "--size=1024", "--kind=json", "--deflate"), deflate=True, text=True,
        chart=True),
    Row("tls", "50 connections, 125 bytes, one in flight, over TLS",
        ("--connections=50", *SMALL, "--tls"), tls=True, chart=True),
    Row("idle", "memory of one of 10,000 idle connections, after one echo each",
        ("--mode=idle", "--connections=10000"), "bytes_per_connection", "bytes", "lower",
        chart=True),
    Row("mixed", "Latency (p99) of 10 connections, 125 bytes, one in flight, while 4 stream "
        "messages of 4 MiB",
        ("--connections=10", *SMALL, "--heavy=4"), "p99_us", "µs", "lower", chart=True),
]  # fmt: skip
