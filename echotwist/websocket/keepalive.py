"""Keepalive: silent clients are pinged, and dropped when nothing moves after that."""

from typing import Any, Protocol

from echotwist.wire.context import Context
from echotwist.wire.transport import reads, unacknowledged


class Alive(Protocol):
    """A connection that is kept alive."""

    transport: Any
    heard: float
    """When it last received anything, in seconds of the reactor's clock."""

    def sendPing(self) -> None: ...

    def setTimer(self, delay: float, call: Any, *arguments: Any) -> None:
        """Its only timer."""

    def isHeld(self) -> bool:
        """Whether it cannot be heard for a reason that its client has nothing to do with."""

    def dropUnanswered(self) -> None: ...


Received = tuple[float, int]
"""Is another with each byte that comes: with TLS, also of a record that is not whole yet."""


def received(connection: Alive) -> Received:
    """What has come on it so far, to be compared."""
    return connection.heard, reads(connection.transport)


class Keepalive:
    """One for all connections, so that it costs each of them a timer and nothing else.

    Autobahn's own counts whole seconds only (txaio 26.6.1), and takes a pong for the one sign of
    life. A pong cannot overtake a long message, in either direction. So here a client lives if
    anything has moved since the ping: a byte was received, or some of what waited for the client
    was acknowledged.
    """

    def __init__(self, context: Context, interval: float) -> None:
        """`interval` is in seconds."""
        self._reactor = context.reactor
        self._interval = interval
        self._timeout = context.limits.pingTimeout

    def watch(self, connection: Alive) -> None:
        """Ping `connection` once it has been silent for the interval.

        Not simply every interval: a client that sends is known to live, and the testsuite takes
        a ping in the midst of a case for the end of it.
        """
        # Not below 0: the reactor's clock is the wall's, and may be set back.
        silence = max(self._reactor.seconds() - connection.heard, 0)
        # Float rounding may leave a remainder too small for a timer.
        if self._interval - silence > 1e-6:
            connection.setTimer(self._interval - silence, self.watch, connection)
            return
        before = unacknowledged(connection.transport)
        connection.sendPing()
        self._await(connection, received(connection), before, self._timeout)

    def _await(self, connection: Alive, came: Received, before: int, left: float) -> None:
        # In steps of the interval: a client that has answered may be due for the next ping. In two
        # at least, each a timer of its own: a stop of the process shortens only one of them.
        step = min(left, self._interval, self._timeout / 2)
        connection.setTimer(step, self._look, connection, came, before, left - step)

    def _look(self, connection: Alive, came: Received, before: int, left: float) -> None:
        """`left` seconds remain for something to move, and then a turn of the reactor: when a
        process goes on that was stopped (SIGSTOP, a paused virtual machine), its timers are due
        before it reads what the kernel has received meanwhile."""
        if received(connection) != came or connection.isHeld():
            self.watch(connection)
        elif left > 0:
            self._await(connection, came, before, left)
        elif left == 0:
            connection.setTimer(0, self._look, connection, came, before, -1)
        elif (now := unacknowledged(connection.transport)) < before:
            self._await(connection, came, now, self._timeout)
        else:
            connection.dropUnanswered()
