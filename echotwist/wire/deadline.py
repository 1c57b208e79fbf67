"""A deadline for a peer that may be slow, as long as something moves."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

STEPS = 5
"""Looks that a deadline takes. More would be more exact, and wake the process more often."""


class Deadline:
    """Calls `expired` once nothing has `moved` for `timeout` seconds, and up to a step more.

    `moved` is asked STEPS times in these, and says whether anything has moved since it was last
    asked. Each step is a timer of its own, and before `expired` the reactor has one more turn, in
    which it reads. So a process does not hold it against a peer that it was stopped meanwhile
    (SIGSTOP, a paused virtual machine): all steps but one still have their length, and what the
    kernel received counts.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        timeout: float,
        moved: Callable[[], bool],
        expired: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._step = timeout / STEPS
        self._moved = moved
        self._expired = expired
        self._wait(STEPS)

    def _wait(self, left: int) -> None:
        delay = self._step if left else 0
        self._call: IDelayedCall = self._reactor.callLater(delay, self._look, left)

    def _look(self, left: int) -> None:
        if self._moved():
            self._wait(STEPS)
        elif left:
            self._wait(left - 1)
        else:
            self._expired()

    def active(self) -> bool:
        return bool(self._call.active())

    def cancel(self) -> None:
        self._call.cancel()
