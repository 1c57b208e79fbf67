"""The service as PID 1: its handlers of signals."""

import os
import signal
import sys
from typing import Any

import pytest

from echotwist import init
from echotwist.tap import Options, makeService


class Signals:
    """Stands in for the module `signal`, so that the handlers of this process stay."""

    SIG_IGN = signal.SIG_IGN
    SIG_UNBLOCK = signal.SIG_UNBLOCK

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {signal.SIGHUP: signal.SIG_IGN}
        self.masked: list[Any] = []

    def getsignal(self, number: int) -> Any:
        return self.handlers.get(number)

    def signal(self, number: int, handler: Any) -> None:
        self.handlers[number] = handler

    def pthread_sigmask(self, *arguments: Any) -> None:
        self.masked.append(arguments)


def test_ignored_signals_stay_ignored_and_blocked_ones_are_unblocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals = Signals()
    ends: list[int] = []
    monkeypatch.setattr(init, "signal", signals)
    monkeypatch.setattr(os, "_exit", ends.append)
    init.handleSignalsAsInit(2)
    assert signals.masked == []
    init.handleSignalsAsInit(1)
    assert signals.handlers.pop(signal.SIGHUP) == signal.SIG_IGN
    assert signals.masked == [(signal.SIG_UNBLOCK, init.DRAIN_SIGNALS)]
    for number, handler in signals.handlers.items():
        handler(number, None)
    assert ends == [143, 130]


def test_what_twistd_loads_handles_signals_and_has_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handled: list[int] = []
    monkeypatch.setattr(init, "handleSignalsAsInit", handled.append)
    monkeypatch.delitem(sys.modules, "echotwist.twistd", raising=False)
    from twisted.plugins.echotwist_plugin import echotwist

    assert handled == []  # A look at all plugins loads nothing of the service.
    assert (echotwist.options, echotwist.makeService) == (Options, makeService)
    assert handled == [os.getpid()]
