"""TLS in the loops of a process, with clients that we did not write."""

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certificate import tlsEndpoint
from support.echoes import echoes
from support.process import Twistd, needs

from echotwist.testing import ServiceProcess
from echotwist.testing.frames import CONTINUATION, TEXT, binary, close, frame, text
from echotwist.testing.raw import RawClient, request

Tell = Callable[[bytes, bytes], bytes]


@contextmanager
def opensslClient(service: Any, version: str) -> Iterator[Tell]:
    """`openssl s_client`. A line that begins with K is a command: new keys, on both sides."""
    openssl = needs("openssl", "openssl")
    command = [openssl, "s_client", version, "-connect", f"127.0.0.1:{service.port}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        killer = threading.Timer(30, client.kill)
        killer.start()
        received = bytearray()

        def tell(data: bytes, end: bytes) -> bytes:
            """Send, and read as far as `end`."""
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(data)
            client.stdin.flush()
            received.clear()
            while not received.endswith(end):
                byte = client.stdout.read(1)
                assert byte, bytes(received)
                received.extend(byte)
            return bytes(received)

        yield tell
        client.kill()
        killer.cancel()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_as_a_client_is_echoed(tmp_path: Path, version: str) -> None:
    with (
        Twistd(f"--listen={tlsEndpoint(tmp_path)}:interface=127.0.0.1") as service,
        opensslClient(service, version) as tell,
    ):
        tell(request(), b"\r\n\r\n")
        for n in range(5):
            message = f"message {n}"
            tell(text(message), b"\x81\x09" + message.encode())
            if version == "-tls1_3":
                tell(b"K\n", b"KEYUPDATE\n")
        tell(close(1000), b"\x88\x02\x03\xe8")


def test_many_clients_go_to_and_fro_between_loops_and_reactor() -> None:
    """In threads, so that they meet."""
    with ServiceProcess("--log-rate=0", "--threads=2", tls=True) as service:
        failures: list[BaseException] = []

        def talk(seed: int) -> None:
            chance = random.Random(seed)
            try:
                with RawClient(service.url, context=service.clientContext) as client:
                    for _ in range(60):
                        payload = chance.randbytes(chance.choice([0, 5, 125, 3000, 70_000]))
                        kind = chance.randrange(3)
                        if kind == 0:
                            # Too large for a loop's memory in fragments: Autobahn's.
                            client.send(frame(TEXT, b"y" * 70_000, fin=False))
                            client.send(frame(CONTINUATION, b"z"))
                            assert client.frame().payload == b"y" * 70_000 + b"z"
                        client.send(binary(payload) * (1 + kind))
                        for _ in range(1 + kind):
                            assert client.frame().payload == payload
                    client.send(close(1000))
                    assert client.frame().payload == b"\x03\xe8"
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_the_loops_serve_python_clients_over_tls(compression: str | None) -> None:
    messages = [random.Random(size).randbytes(size) for size in (0, 1, 1000, 65_536, 3_000_000)]
    with ServiceProcess("--log-rate=0", tls=True) as service:
        echoes(service.url, messages, service.clientContext, compression=compression, max_size=None)
