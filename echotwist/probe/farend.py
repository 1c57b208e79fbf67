"""The far end of the path: what a service with a lab can be asked, and what it saw."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from twisted.internet.task import deferLater

from echotwist.paths.head import Head, hidden
from echotwist.paths.measured import Arrived
from echotwist.probe.connection import Ended, Late
from echotwist.probe.dialer import Dialer, NotReached, Refused
from echotwist.probe.wellformed import inspectedOf, parsed, traceOf

_SETTLED = 3.0
"""Seconds that the other end of a connection may take to see its end, too."""


class FarEnd:
    """Has `isLab` once `look` has been called."""

    def __init__(self, near: Dialer) -> None:
        self._near = near
        self.isLab = False
        self.why = "it was not reached"
        self.server: str | None = None

    async def look(self) -> None:
        """Whether there is a lab, beside the URL."""
        try:
            head, body = await self._near.get(self._near.target.beside("lab"))
        except (NotReached, Refused) as error:
            self.why = str(error)
            return
        self.server = head.get("server")
        found = parsed(body) if head.status == 200 else None
        self.isLab = isinstance(found, dict) and "steps" in found
        beside = self._near.target.beside("lab")
        self.why = "" if self.isLab else f"GET {beside} is answered {head.line!r}, and no script"

    def script(self, *steps: str) -> tuple[str, str]:
        """The path of a connection at the lab that does this, and the ID of its trace."""
        trace = urlsafe_b64encode(os.urandom(18)).decode()
        query = "&".join([*steps, f"trace={trace}"])
        return f"{self._near.target.beside('lab')}?{query}", trace

    def way(self, *steps: str) -> tuple[str, str]:
        """As `script`; without a lab the path of the URL, and no ID."""
        return self.script(*steps) if self.isLab else (self._near.target.path, "")

    async def inspect(self) -> Arrived | None:
        """A request that asks for an upgrade, as the server saw it. None if it cannot be told."""
        path = self._near.target.beside("lab/inspect")
        try:
            try:
                upgrade = await self._near.upgrade(path)
            except Refused as refused:
                found = inspectedOf(refused.body)
            else:
                deadline = self._near.reactor.seconds() + _SETTLED
                _, _, payload, _ = await upgrade.connection.message(deadline)
                found = inspectedOf(payload)
                upgrade.connection.abort()
        except (NotReached, Ended, Late):
            return None
        return found

    async def trace(self, traceId: str) -> dict[str, Any] | None:
        """What the server saw, as soon as it has seen the end, or after _SETTLED seconds without;
        None if it cannot be told."""
        path = self._near.target.beside(f"trace/{traceId}")
        deadline = self._near.reactor.seconds() + _SETTLED
        while True:
            try:
                head, body = await self._near.get(path)
            except (NotReached, Refused):
                return None
            found = traceOf(body) if head.status == 200 else None
            if found is None:
                return None
            isLate = self._near.reactor.seconds() > deadline
            if found["ended"] is not None or isLate:
                return found
            await deferLater(self._near.reactor, 0.2, lambda: None)


def eventsOf(trace: Mapping[str, Any] | None, kind: str) -> list[dict[str, Any]]:
    """The events of this type, in their order."""
    return [each for each in (trace or {}).get("events", ()) if each["type"] == kind]


def requestOf(trace: Mapping[str, Any] | None) -> Head | None:
    """The request as it arrived. A value that the lab does not show is told by its size."""
    for event in eventsOf(trace, "requested"):
        headers = [
            (each["name"], hidden(each["redacted"]) if each["value"] is None else each["value"])
            for each in event["headers"]
        ]
        return Head(event["line"], headers)
    return None


def responseOf(trace: Mapping[str, Any] | None) -> Head | None:
    """The answer as it left."""
    for event in eventsOf(trace, "opened"):
        return Head.parse(event["head"].encode("latin-1", "replace"))
    return None
