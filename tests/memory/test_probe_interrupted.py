"""A probe that is interrupted, wherever it is: it ends at once, and leaves nothing behind."""

from typing import Any

import pytest
from support.memory import Reactor
from support.path import Connector, Path
from twisted.internet.address import IPv4Address
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from zope.interface import implementer

from echotwist.probe.probing import Probing
from echotwist.probe.report import Report
from echotwist.probe.target import Target


@pytest.mark.parametrize("until", [0, 0.001, 0.02, 1.5, 6, 20])
def test_it_ends_at_once(until: float) -> None:
    """The fixture `log` fails it for an error that nobody has taken."""
    path = Path()
    path.probe(until=until)
    assert path.reactor.seconds() < until + 0.01


def test_while_it_connects() -> None:
    path = Path()
    stopped: list[bool] = []

    class Connecting(Connector):
        def stopConnecting(self) -> None:
            stopped.append(True)

        def getDestination(self) -> IPv4Address:
            return IPv4Address("TCP", "127.0.0.1", 8080)

    def connectTcp(host: str, port: int, factory: Any, *_: object, **__: object) -> Connector:
        connector = Connecting()
        factory.startedConnecting(connector)
        return connector

    path.reactor.connectTCP = connectTcp
    report = path.probe(until=5)
    assert report.incomplete["handshake"] == "interrupted"
    assert path.reactor.seconds() <= 5
    assert stopped == [True]


class Resolver:
    """Answers the first question, and no other."""

    def __init__(self) -> None:
        self.asked = 0

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, **_: object) -> None:
        self.asked += 1
        if self.asked == 1:
            receiver.resolutionBegan(None)
            receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
            receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class Resolving(Reactor):
    def __init__(self) -> None:
        super().__init__()
        self.nameResolver: Any = Resolver()


def test_while_it_resolves() -> None:
    """Twisted's endpoint takes that for a name without an address."""
    reactor = Resolving()
    probing = Probing(reactor, Target.parse("ws://canary.example/echo"), 3600)
    reports: list[Report] = []
    running = ensureDeferred(probing.run()).addCallback(reports.append)
    assert reactor.nameResolver.asked == 2
    running.cancel()
    assert reports[0].incomplete["handshake"] == "interrupted"
