"""What a script makes of the answer to a handshake (RFC 6455, 4.2.2)."""

import random
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from echotwist.lab.frames import BLOCK
from echotwist.lab.steps import Step

GARBAGE = b"FOO BAR BAZ\r\n\r\n"

_BODY = b"The lab was asked to say so.\n"


class Opening:
    """The steps before the 101."""

    def __init__(self, steps: Iterable[Step]) -> None:
        steps = tuple(steps)
        self._values = {step.name: step.value for step in steps}
        self._added = [b"%b:%b" % step.value for step in steps if step.name == "header"]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        """The value of a step; None if there is no such step."""
        return self._values.get(name)

    def refusal(self) -> bytes:
        """The answer of `status`."""
        lines = [
            b"HTTP/1.1 %d Asked For" % self["status"],
            *self._added,
            b"Content-Type: text/plain",
            b"Content-Length: %d" % len(_BODY),
            b"Connection: close",
        ]
        return b"\r\n".join([*lines, b"", _BODY])

    def response(self, head: bytes) -> Iterator[bytes]:
        """The 101 in pieces. `head` is as it should be, without the empty line."""
        first, *lines = head.split(b"\r\n")[:-1]
        first = self["status-line"] or first
        if omitted := self["omit"]:
            lines, _ = _without(lines, omitted.encode())
        if accept := self["accept"]:
            lines, found = _without(lines, b"sec-websocket-accept")
            wrong = b"Sec-WebSocket-Accept: " + b64encode(random.randbytes(20))
            lines += {"wrong": [wrong], "none": [], "twice": found * 2}[accept]
        if (subprotocol := self["subprotocol"]) is not None:
            lines, found = _without(lines, b"sec-websocket-protocol")
            name = b"Sec-WebSocket-Protocol: "
            one = [] if subprotocol == b"none" else [name + subprotocol]
            lines += (found or [name + b"lab"]) * 2 if subprotocol == b"twice" else one
        if (extension := self["extension"]) is not None:
            lines, _ = _without(lines, b"sec-websocket-extensions")
            lines += [] if extension == b"none" else [b"Sec-WebSocket-Extensions: " + extension]
        lines += self._added
        cookies = range(self["cookies"] or 0)
        lines += [b"Set-Cookie: lab-%d=x; Path=/lab; Max-Age=1" % n for n in cookies]
        newline = b"\n" if self["newline"] else b"\r\n"
        yield newline.join([first, *lines]) + newline
        many, size = self["headers"] or (0, 0)
        for n in range(many):
            yield b"X-Lab-%d: " % n
            for start in range(0, size, BLOCK):
                yield b"x" * min(size - start, BLOCK)
            yield newline
        yield newline


def _without(lines: Sequence[bytes], name: bytes) -> tuple[list[bytes], list[bytes]]:
    """The header lines that have not this name, in lower case; and those that have."""
    found = [line for line in lines if line.partition(b":")[0].lower() == name]
    return [line for line in lines if line not in found], found
