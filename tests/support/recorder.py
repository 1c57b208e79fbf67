"""What was logged."""

from typing import Any

from twisted.logger import ILogObserver
from zope.interface import implementer


@implementer(ILogObserver)
class Recorder:
    """Keeps the events that it observes."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)
