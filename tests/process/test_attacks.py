"""Hostile clients against the process: what they see, and what they cost.

Memory, descriptors and counts are read off the live process. An attack may cost what the limits
say for as long as they say, and nothing after.
"""

import contextlib
import re
import selectors
import socket
import time
from collections.abc import Iterator

import pytest
from support.deflate import deflated
from support.probe import eventually, get, works
from support.process import Twistd

from echotwist.testing.frames import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    binary,
    close,
    frame,
    parse,
    text,
)
from echotwist.testing.raw import request

MB = 2**20


@pytest.fixture
def service() -> Iterator[Twistd]:
    """A process with short timeouts, so that tests can wait for them."""
    with Twistd(
        "--handshake-timeout=2s", "--close-timeout=1s", "--ping-interval=1s", "--ping-timeout=1s"
    ) as service:
        # Some modules are loaded at the first request and at the first compressed message.
        for extensions in (None, "permessage-deflate"):
            with service.connect(Sec_WebSocket_Extensions=extensions) as client:
                client.send(binary(bytes(MB)) + close(1000))
                client.gone()
        service.expect("#2 .* closed")
        yield service


@pytest.mark.slow(reason="ten clients fill the buffers of two kernels")
@pytest.mark.parametrize(
    "data",
    [binary(bytes(65_000)), frame(PING, bytes(125)) * 1000, text("x") * 10_000],
    ids=["data", "pings", "small messages"],
)
def test_backpressure_bounds_a_client_that_sends_and_never_reads(
    service: Twistd, data: bytes
) -> None:
    before, descriptors = service.memory(), service.descriptors()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(10)]
        taken = sum(client.stuff(data, 300 * MB) for client in clients)
        # A few megabytes in the buffers of two kernels; then nothing more.
        assert taken < 10 * 20 * MB
        assert service.memory() - before < 10 * MB
        works(service)
    eventually(lambda: service.descriptors() == descriptors)
    assert service.memory() - before < 5 * MB


@pytest.mark.slow(reason="ten clients fill the buffers of two kernels")
@pytest.mark.parametrize("target", [b"/websockets.js", b"/healthz", b"/echo"])
def test_backpressure_bounds_a_client_that_requests_and_never_reads(
    service: Twistd, target: bytes
) -> None:
    before = service.memory()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect(upgrade=False)) for _ in range(5)]
        asked = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target * 1000
        taken = sum(client.stuff(asked, 100 * MB) for client in clients)
        assert taken < 5 * 20 * MB
        assert service.memory() - before < 10 * MB
        works(service)


@pytest.mark.slow(reason="waits for the close timeout of 1 s")
def test_the_close_timeout_ends_a_client_that_closes_and_never_reads(
    service: Twistd,
) -> None:
    descriptors = service.descriptors()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(service.connect(receiveBuffer=4096))
            client.send(binary(bytes(2 * MB)) + close(1000))
        eventually(lambda: service.descriptors() > descriptors)
        eventually(lambda: service.descriptors() == descriptors, 10)
    works(service)


def bomb(size: int) -> bytes:
    return deflated(bytes(size), 9)


@pytest.mark.slow(reason="compresses half a gigabyte")
def test_a_decompression_bomb_in_one_frame_and_in_many_is_1009(service: Twistd) -> None:
    before = service.memory()
    payload = bomb(512 * MB)
    assert len(payload) < MB
    many = [payload[start : start + 1000] for start in range(0, len(payload), 1000)]
    fragments = b"".join(
        frame(CONTINUATION if n else BINARY, piece, fin=n == len(many) - 1, rsv=0 if n else 4)
        for n, piece in enumerate(many)
    )
    for data in (frame(BINARY, payload, rsv=4), fragments):
        with service.connect(Sec_WebSocket_Extensions="permessage-deflate") as client:
            client.send(data)
            *_, last = parse(client.gone())
            assert last.payload[:2] == b"\x03\xf1"
    # It inflates up to --max-message before it knows.
    assert peak(service) - before < 80 * MB
    works(service)


def peak(service: Twistd) -> int:
    with open(f"/proc/{service.pid}/status") as status:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    assert found
    return int(found[1]) * 1024


def test_frames_after_a_decompression_bomb_are_not_buffered(service: Twistd) -> None:
    with service.connect(Sec_WebSocket_Extensions="permessage-deflate") as client:
        client.send(frame(BINARY, bomb(64 * MB), rsv=4))
        client.read(4)  # It has been refused, and its memory given back.
        before = service.memory()
        client.stuff(frame(BINARY, bytes(60_000), rsv=4), 30 * MB)
        assert service.memory() - before < 8 * MB
        *_, last = parse(client.gone())
        assert last.payload[:2] == b"\x03\xf1"


@pytest.mark.parametrize("declared", [2**62, 16 * MB + 1])
def test_a_declared_frame_length_costs_no_memory(service: Twistd, declared: int) -> None:
    before = service.memory()
    with service.connect() as client:
        client.send(b"\x82\xff" + declared.to_bytes(8, "big") + bytes(4) + bytes(1000))
        *_, last = parse(client.gone())
        assert last.payload[:2] == b"\x03\xf1"
    assert service.memory() - before < 4 * MB


@pytest.mark.slow(reason="waits for a keepalive of 2 s")
def test_an_unfinished_message_costs_no_more_memory_than_was_sent(service: Twistd) -> None:
    before = service.memory()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(service.connect())
            client.send(b"\x82\xff" + (16 * MB).to_bytes(8, "big") + bytes(4))
            client.send(bytes(MB))
        assert service.memory() - before < 20 * MB
        # They are silent, and dropped by the keepalive.
        eventually(lambda: service.log.count("ping not answered") == 10)
    # Python's allocator keeps some. Autobahn's reference cycles once kept all of it.
    assert service.memory() - before < 5 * MB


def test_a_flood_of_tiny_fragments_is_1009(service: Twistd) -> None:
    before = service.memory()
    with service.connect() as client:
        client.send(frame(BINARY, b"", fin=False))
        many = frame(CONTINUATION, b"", fin=False) * 1000
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                client.send(many)
        *_, last = parse(client.gone())
        assert last.payload[:2] == b"\x03\xf1"
    assert service.memory() - before < 8 * MB


@pytest.mark.slow(reason="waits for the handshake timeout of 2 s")
def test_the_handshake_timeout_ends_slow_headers_and_idle_connections(service: Twistd) -> None:
    descriptors = service.descriptors()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect(upgrade=False)) for _ in range(50)]
        slow = [stack.enter_context(service.connect(upgrade=False)) for _ in range(50)]
        began = time.monotonic()
        data = iter(request())
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                byte = bytes([next(data)])
                for client in slow:
                    client.send(byte)
                selectors.DefaultSelector().select(0.05)
        assert time.monotonic() - began < 15
        for client in idle:
            assert client.gone() == b""
        for client in slow:
            assert client.gone().startswith(b"HTTP/1.1 408 ")
    eventually(lambda: service.descriptors() == descriptors)


@pytest.mark.parametrize(
    "header",
    ["Content-Length: 100000000000", "Transfer-Encoding: chunked"],
    ids=["100 GB", "chunked"],
)
def test_an_endless_request_body_is_refused(service: Twistd, header: str) -> None:
    before = service.memory(), service.descriptors()
    with service.connect(upgrade=False) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
        client.stuff(b"10000\r\n" + bytes(65536) + b"\r\n", 100 * MB)
        assert client.gone().startswith(b"HTTP/1.1 413 ")
    assert service.memory() - before[0] < 4 * MB
    eventually(lambda: service.descriptors() == before[1])


def test_accepting_resumes_after_descriptors_ran_out() -> None:
    soft = 200
    with (
        Twistd(
            "--threads=3", before=["sh", "-c", f'ulimit -n {soft}; exec "$@"', "sh"], check=True
        ) as service,
        contextlib.ExitStack() as stack,
    ):
        room = soft - 100 - 2 * 3
        clients = [stack.enter_context(service.connect()) for _ in range(room)]
        # The next ones are told so, ...
        with service.connect(upgrade=False) as client:
            client.send(request())
            assert client.socket.recv(100).startswith(b"HTTP/1.1 503 ")
        assert get(service) == 200
        # ... and many more at once are dropped, while everybody else is served.
        crowd = []
        for _ in range(200):
            with contextlib.suppress(ConnectionResetError):  # Even that fast.
                crowd.append(stack.enter_context(service.connect(upgrade=False)))
        eventually(lambda: service.descriptors() < soft)
        clients[0].socket.sendall(text("x"))
        assert parse(clients[0].read(3)) == [Frame(TEXT, b"x")]
        for client in crowd + clients:
            client.socket.close()
        eventually(lambda: service.descriptors() < 20)
        works(service)
        assert "EMFILE" not in service.log


def test_clients_that_do_not_read_the_page_are_dropped() -> None:
    """Each of them once kept a file open, until every request was a traceback."""
    with Twistd(before=["sh", "-c", 'ulimit -n 200; exec "$@"', "sh"]) as service:
        with contextlib.ExitStack() as stack:
            for _ in range(130):
                with contextlib.suppress(ConnectionError):
                    client = stack.enter_context(service.connect(upgrade=False, receiveBuffer=4096))
                    client.send(b"GET /websockets.js HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
            works(service)
            assert service.descriptors() < 200
        assert get(service) == 200
    assert len(service.lines) < 300


@pytest.mark.slow(reason="reads for up to 6 s, three keepalives")
def test_keepalive_spares_a_slow_reader() -> None:
    """Megabytes wait in the kernel, where no progress is visible to the service."""
    with Twistd("--ping-interval=300ms", "--ping-timeout=2s") as service:
        with service.connect(receiveBuffer=32768) as client:
            client.send(binary(bytes(2 * MB)))
            began = time.monotonic()
            while len(client.rest) < 2 * MB and time.monotonic() < began + 6:
                client.rest += client.socket.recv(8192)
                selectors.DefaultSelector().select(0.04)
            client.read(2 * MB)
            client.send(close(1000))
            client.gone()
    assert "ping not answered" not in service.log


@pytest.mark.slow(reason="waits for a keepalive of 2 s")
def test_keepalive_reaps_a_half_dead_peer(service: Twistd) -> None:
    descriptors = service.descriptors()
    with service.connect():
        eventually(lambda: service.descriptors() == descriptors + 1)
        eventually(lambda: service.descriptors() == descriptors, 10)
    service.expect("closed: 1006 'ping not answered'")


def test_no_client_can_forge_a_log_line(service: Twistd) -> None:
    nasty = "\r\n2026-01-01T00:00:00+0000 [forged] \x1b[2J\x07\x9b31m\u202e\u2028"
    for changes in ({"X": "\x1b[2J\x07\x9b31m"}, {"Origin": "\x1b[31m"}):
        with service.connect(upgrade=False) as client:
            client.send(request(**changes))
            client.socket.recv(100)
    with service.connect() as client:
        client.send(text(nasty) + binary(nasty.encode()) + close(4000, nasty))
        client.gone()
    with service.connect(upgrade=False) as client:
        client.send(b"GET /\x1b[31m HTTP/1.1\r\nHost: \x1b\r\n\r\n")
        client.gone()
    service.stop()
    assert "Traceback" not in service.log
    for line in service.lines:
        assert re.match(r"20\d\d-\d\d-\d\dT", line), line
        assert line.isprintable(), line
        assert "[forged]" not in line[:60]


@pytest.mark.slow(reason="opens ten thousand connections")
def test_ten_thousand_connections_leak_nothing() -> None:
    def some(service: Twistd, count: int) -> None:
        for n in range(count):
            # By a reset, by FIN, by a close, in the middle of a frame, before the handshake.
            with service.connect(upgrade=n % 5 != 4) as client:
                match n % 5:
                    case 0:
                        linger = b"\1\0\0\0\0\0\0\0"
                        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    case 1:
                        client.send(text("x"))
                    case 2:
                        client.send(close(1000))
                        client.gone()
                    case 3:
                        client.send(text("hello")[:5])

    # Of so many handshakes one meets a machine that stalls for the 2 s that the fixture waits.
    with Twistd() as service:
        some(service, 1000)
        descriptors = service.descriptors()
        memory = service.memory()
        some(service, 9000)
        eventually(lambda: service.descriptors() <= descriptors)
        assert service.memory() - memory < 4 * MB
        works(service)
