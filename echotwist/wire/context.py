"""What all connections of a process share."""

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from echotwist.limits import Limits
from echotwist.observe.journal import Journal
from echotwist.wire.budget import Budget
from echotwist.wire.turns import Turns


@dataclass(frozen=True)
class Context:
    """Given to whatever serves connections, so that no object reaches through another for it."""

    reactor: IReactorTime
    """The clock, and the timers."""

    limits: Limits
    journal: Journal
    budget: Budget
    turns: Turns
