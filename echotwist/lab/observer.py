"""What can be seen of a connection at /lab: a trace keeps it, and a judge decides by it."""

from typing import NamedTuple

SHOWN = 64
"""Bytes of a payload that a frame is seen with."""


HEAD = 16 << 10
"""Bytes of a response that are seen: its head, unless a script makes that longer."""


class Frame(NamedTuple):
    """A frame, as it was on the wire (RFC 6455, 5.2)."""

    fin: bool
    rsv: int
    """RSV1 is 4, RSV2 is 2, RSV3 is 1."""

    opcode: int
    length: int
    """Of the payload, as the header says."""

    mask: bytes | None
    payload: bytes
    """The first bytes (SHOWN) of it, unmasked, and compressed if the frame is."""


class Observer:
    """Is told of everything that happens, when it happens. Does nothing; subclasses override what
    they care for. An observer has a clock of its own."""

    def requested(self, request: bytes) -> None:
        """The request, as it came (see `resource`), before anything else."""

    def read(self, data: bytes) -> None:
        """These bytes came by one read: most often a segment."""

    def wrote(self, data: bytes) -> None:
        """These bytes went out by one write. The 101 comes this way, too, and all frames."""

    def opened(self, response: bytes) -> None:
        """The last byte of the response was written. `response` is its beginning (HEAD). It need
        not be a 101."""

    def frameReceived(self, frame: Frame) -> None:
        """A frame has come whole, or is refused for what its header says."""

    def frameSent(self, frame: Frame) -> None:
        """A frame is about to be written: all that the connection itself makes."""

    def bytesSent(self, data: bytes) -> None:
        """A script's own bytes are about to be written: the beginning (SHOWN) of `frame=`, or of a
        flood."""

    def messageReceived(self, payload: bytes, isBinary: bool) -> None:
        """A whole message, inflated."""

    def pingReceived(self, payload: bytes) -> None: ...

    def pongReceived(self, payload: bytes) -> None: ...

    def closeReceived(self, code: int | None, reason: bytes) -> None:
        """A close frame. `code` is None if it has none."""

    def closeSent(self, code: int | None) -> None:
        """The connection, or the script by `close=`, has said close."""

    def refused(self, code: int, reason: str) -> None:
        """The client's frames break a rule: this close code says which, `reason` in words."""

    def scriptEnded(self) -> None:
        """All steps are done. Bytes may still wait to be written."""

    def finReceived(self) -> None:
        """The client has ended its side of TCP."""

    def finSent(self) -> None:
        """We have ended our side of TCP, or will as soon as all is written."""

    def lost(self, how: str) -> None:
        """The connection is gone, and nothing more happens. `how`: "fin", if the client had ended
        its side; "eof", if TLS ended without the client's close_notify, by a FIN alone or an error
        of TLS; "rst", if it was reset by the client; "us", if we dropped it."""
