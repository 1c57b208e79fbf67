"""Whatever bytes come before a handshake, and however they are cut."""

import re

from hypothesis import given
from hypothesis import strategies as st
from support.memory import Client, Service

from echotwist.testing.raw import request

_PIECES = [
    *(b"GET ", b"HEAD ", b"OPTIONS ", b"POST ", b"get ", b"PROXY ", b"\x16\x03\x01", b"\x00"),
    *(b"/", b"/echo", b"/healthz", b"*", b"ws://h/echo", b"http:///", b"\x85"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b" HTTP/1.1\n"),
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n\r\n\x00\r\nQUIT\n"),
    *(b"Host: a\r\n", b"Host: a\n", b"Host : a\r\n", b" folded\r\n", b"Upgrade: websocket\r\n"),
    *(b"Connection: close\r\n", b"Connection: Upgrade\r\n", b"Expect: 100-continue\r\n"),
    *(b"Content-Length: 0\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"X: \x80\xff\t\r\n", b"X: \x00\r\n", b"X: " + b"y" * 9000 + b"\r\n"),
    *(request(), request("/"), b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
]

_data = st.lists(st.one_of(st.sampled_from(_PIECES), st.binary(max_size=20)), max_size=12)


def _statuses(client: Client) -> list[bytes]:
    found = re.findall(rb"^HTTP/1\.1 (\d{3}) ", client.received(), re.M)
    # What begins no request is seen at once if it comes in one piece, and may not be seen before
    # the deadline if it does not.
    return [b"400 or 408" if status in (b"400", b"408") else status for status in found]


@given(_data.map(b"".join), st.integers(1, 40))
def test_segmentation_of_a_request_changes_no_response(data: bytes, segment: int) -> None:
    service = Service(isFast=False)
    answers = []
    for cut in (None, segment):
        client = service.connect()
        client.send(data, cut)
        service.advance(60)
        answers.append(_statuses(client))
        # The connection has ended, whatever was sent.
        assert client.socket.closed or b"101" in answers[-1]
    assert answers[0] == answers[1]
    for client in service.clients:
        client.finish()
    service.advance(60)
    assert service.site.channels == {}
    assert service.context.budget.buffered == 0
    assert service.timers() == 0
