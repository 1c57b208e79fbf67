"""A probe that is interrupted, wherever it is: it ends at once, and leaves nothing behind."""

from typing import Any

import pytest
from support.path import Connector, Path
from twisted.internet.address import IPv4Address


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
