"""--log-frames: each frame of a connection, as it was received and as it was sent.

A line has the header alone, so that it is short and has none of the client's text. A frame that
Autobahn refuses is logged as well: it is what one is looking for. What a client sends after that is
discarded, and not logged.
"""

from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol

from echotwist.observe.journal import LONGEST_HEADER
from echotwist.wire.context import Context


class FrameLog(WebSocketServerProtocol):
    """A mixin before `Connection`. `ConnectionFactory` adds it if the journal wants it, so that
    without it no frame costs a check."""

    context: Context
    number: int
    address: str

    _header = b""
    """Of the frame that Autobahn is looking at, until it is logged."""

    def processData(self) -> bool:
        if self.current_frame is None:
            self._header = bytes(self.data[:LONGEST_HEADER])
        isMore: bool = super().processData()
        self._header = b""  # If it is still unlogged, it is incomplete.
        return isMore

    def onFrameBegin(self) -> None:
        self._logHeader()
        super().onFrameBegin()

    def _fail_connection(self, code: int, reason: str) -> None:  # type: ignore[override]
        self._logHeader()
        super()._fail_connection(code, reason)

    def _logHeader(self) -> None:
        header, self._header = self._header, b""
        if header:
            self.context.journal.frame(self, header, isSent=False)

    def _answersClose(self, data: bytes) -> bool:
        return False  # Only Autobahn tells of frames.

    def sendData(self, data: bytes, *arguments: Any, **named: Any) -> None:
        """Autobahn sends each frame by one call."""
        self.context.journal.frame(self, data[:LONGEST_HEADER], isSent=True)
        super().sendData(data, *arguments, **named)
