"""The client of echotwist.testing that sends bytes."""

import socket
import struct

import pytest

from echotwist.testing import ServiceProcess
from echotwist.testing.frames import PONG, TEXT, Frame, binary, close, frame, text
from echotwist.testing.raw import RawClient, request


def test_it_shakes_hands_and_takes_frames_and_bytes(echotwist: ServiceProcess) -> None:
    with RawClient(echotwist.url, Sec_WebSocket_Protocol="chat") as client:
        assert client.head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in client.head
        client.send(text("one") + text("two"))
        assert client.read(5).startswith(b"\x81\x03one")
        assert client.frame() == Frame(TEXT, b"one")
        assert client.until(b"wo") == b"\x81\x03two"
        client.send(close(1000, "bye"))
        assert client.end() == b"\x88\x05\x03\xe8bye"
        with pytest.raises(EOFError):
            client.frame()


def test_it_speaks_tls(echotwist_tls: ServiceProcess) -> None:
    with RawClient(echotwist_tls.url, context=echotwist_tls.clientContext) as client:
        client.send(text("hello"))
        assert client.frame() == Frame(TEXT, b"hello")
    with pytest.raises(AssertionError, match="wants a context"):
        RawClient(echotwist_tls.url)


def test_it_speaks_plain_http(echotwist: ServiceProcess) -> None:
    with RawClient(echotwist.url, upgrade=False) as client:
        client.send(request("/nothing", Connection="close"))
        assert client.gone().startswith(b"HTTP/1.1 404 ")


def test_an_answer_other_than_101_is_an_error(echotwist: ServiceProcess) -> None:
    with pytest.raises(AssertionError, match=r"HTTP/1\.1 426 "):
        RawClient(echotwist.url, Sec_WebSocket_Version="12")


@pytest.mark.echotwist("--ping-interval=100ms", "--ping-timeout=1s")
def test_it_sends_without_reading_until_nothing_is_taken(echotwist: ServiceProcess) -> None:
    with RawClient(echotwist.url) as client:
        sent = client.stuff(binary(bytes(60_000)), 500 * 2**20, patience=0.2)
        assert 60_000 < sent < 500 * 2**20
    with RawClient(echotwist.url) as client:
        assert client.stuff(frame(PONG), 1000) >= 1000


def test_it_ends_by_fin_and_by_reset(echotwist: ServiceProcess) -> None:
    with RawClient(echotwist.url) as client:
        client.finish()
        assert client.end() == b""
    client = RawClient(echotwist.url)
    client.reset()
    assert client.socket.fileno() == -1


def test_a_reset_is_told_from_an_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        with RawClient(url, upgrade=False) as client, server.accept()[0] as other:
            other.sendall(b"x")
            assert client.read(1) == b"x"
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
            with pytest.raises(ConnectionResetError):
                client.end()
            assert client.gone() == b"x"


def test_a_client_with_a_small_buffer_is_connected_with_it(echotwist: ServiceProcess) -> None:
    with RawClient(echotwist.url, receiveBuffer=4096) as client:
        assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 16384
        client.send(text("x"))
        assert client.frame() == Frame(TEXT, b"x")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            RawClient(f"ws://127.0.0.1:{unused.getsockname()[1]}/", receiveBuffer=4096)
