"""The echo: what comes in goes out.

`Echo.onMessage` is the whole echo. The rest is a faster way for the frames that Autobahn need not
judge, which are nearly all that an echo receives: text and binary messages, and pings.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from echotwist.fastpath import lending
from echotwist.fastpath.lending import FastPath
from echotwist.websocket.connection import Connection
from echotwist.wire.transport import isAtRest, send
from echotwist.wire.turns import PIECE

_PLAIN = (0x81, 0x82)
"""The first byte of a text or binary message in one frame, not compressed (RFC 6455, 5.2)."""

_COMPRESSED = (0xC1, 0xC2)
"""The same, compressed (RFC 7692, 6.1)."""

_ORDINARY = (*_PLAIN, 0x01, 0x02, 0x89, 0x8A)
"""Also the first fragment of a message, a ping, and a pong."""


class Shortcut(NamedTuple):
    """A way past Autobahn for messages that begin with one of these bytes."""

    firstBytes: tuple[int, ...]

    take: Callable[["Echo", FastPath, bytes], bytes]
    """Takes what was read. Echoes what it can at its beginning and returns the rest, for Autobahn;
    or lends the connection with all of it."""


class Echo(Connection):
    """A connection that echoes each message."""

    _shortcut: Shortcut | None = None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.context.journal.message(self, payload, isBinary)
        self.sendInTurn(payload, isBinary)

    def onOpen(self) -> None:
        super().onOpen()
        if self.fastPath is None:
            return
        deflate = self._perMessageCompress
        isLendable = self.fastPath.canServe(self.transport)
        if deflate is None:
            self._shortcut = LENT if isLendable else ECHOED_IN_PLACE
        elif deflate.noContextTakeover:
            canDeflate = isLendable and not lending.whyNotDeflate
            self._shortcut = LENT_DEFLATED if canDeflate else INFLATED

    def dataReceived(self, data: bytes) -> None:
        if (
            self._shortcut is not None
            and self.fastPath is not None
            and data[0] in self._shortcut.firstBytes
            and self.isBetweenMessages()
        ):
            data = self._shortcut.take(self, self.fastPath, data)
            if self.isLent:
                return
        super().dataReceived(data)


def _lend(echo: Echo, fastPath: FastPath, data: bytes) -> bytes:
    if not isAtRest(echo.transport) or echo.connections.draining:
        return data
    echo.lend(fastPath, data)
    return b""


def _echoPlain(echo: Echo, fastPath: FastPath, data: bytes) -> bytes:
    if (found := fastPath.echoFrames(data)) is None:
        return data
    frames, used = found
    if used:
        echo.heard = echo.context.reactor.seconds()
        send(echo.transport, frames)
    return data[used:]


def _echoCompressed(echo: Echo, fastPath: FastPath, data: bytes) -> bytes:
    """Echo each message that is whole and right. Autobahn reports
    what is wrong with another."""
    journal = echo.context.journal
    if journal.logsFrames and journal.isShowing:
        return data  # Only Autobahn tells of frames.
    # What is larger Autobahn inflates in pieces.
    most = min(echo.context.limits.maxMessage, PIECE)
    turns = echo.context.turns
    end = turns.sliceEnd(isNew=False)
    deflate: Any = echo._perMessageCompress  # A `deflate.Deflate`.
    echoes = []
    while (found := fastPath.parseCompressedFrame(data)) is not None:
        isBinary, payload, used = found
        message = deflate.inflated(payload, most)
        if message is None or not (isBinary or _isUtf8(message)):
            break
        journal.message(echo, message, isBinary)
        answer = deflate.deflated(message)
        echoes += [frameHeader(_COMPRESSED[isBinary], len(answer)), answer]
        data = data[used:]
        if turns.clock() >= end and data:
            echo.waitForTurn(data)
            data = b""
            break
    if echoes:
        echo.heard = echo.context.reactor.seconds()
        send(echo.transport, b"".join(echoes))
    return data


LENT = Shortcut(_ORDINARY, _lend)
"""A thread of the fast path serves the connection until something unusual comes."""

LENT_DEFLATED = Shortcut((*_ORDINARY, *_COMPRESSED, 0x41, 0x42), _lend)
"""The same, with permessage-deflate; also the first fragment of a compressed message."""

ECHOED_IN_PLACE = Shortcut(_PLAIN, _echoPlain)
"""The fast path echoes what the reactor has read. For TLS, where the loops cannot do it."""

INFLATED = Shortcut(_COMPRESSED, _echoCompressed)
"""The reactor inflates, and deflates, each message in one go. Where the loops cannot."""


def _isUtf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def frameHeader(first: int, size: int) -> bytes:
    """The header of a frame of a server (RFC 6455, 5.2), for a payload of `size` bytes. `first` is
    its first byte: FIN, RSV1 to RSV3, and the opcode."""
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)
