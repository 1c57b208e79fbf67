"""twistd, with a service that recalls what it has lent all the time: connections at random are
asked to leave, or aborted."""

import random
import sys
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.scripts.twistd import run

from echotwist import tap

EVERY = 0.01
"""Seconds."""

makeService = tap.makeService


def makeHarried(options: tap.Options) -> Any:
    tree: Any = makeService(options)
    connections = tree.services[1].connections.open
    choice = random.Random(1).choice

    def harry() -> None:
        if connections:
            connection = choice(list(connections))
            choice([connection.goAway, connection.abort])()

    LoopingCall(harry).start(EVERY)
    return tree


tap.makeService = makeHarried  # type: ignore[assignment]
del sys.argv[0]
run()
