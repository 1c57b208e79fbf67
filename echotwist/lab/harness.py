"""What the harness of a client asks around the cases, as the Autobahn testsuite's fuzzingserver
answers it over WebSocket:

    /getCaseCount                     100
    /getCaseInfo?case=1               {"id": "H01", "description": "..."}
    /getCaseStatus?case=1&agent=NAME  {"behavior": "OK"}
    /updateReports?agent=NAME

Each is a text message, of /updateReports none, and a close with 1000. `casetuple=H01` may stand for
`case=1`. What the testsuite does not understand it answers with an HTTP error, and so do we: a
harness counts to what /getCaseCount says, and never sees that.

The cases are what is to be tried, and not these: so nothing here is compressed, and the message is
not in one segment with the 101, which many clients lose.
"""

import json
import re
from collections.abc import Callable, Collection

from twisted.web.resource import Resource

from echotwist.http.answer import Refused
from echotwist.http.channel import Request
from echotwist.http.upgrade import UpgradeResource
from echotwist.lab.answer import argumentsOf
from echotwist.lab.cases import CASES, Case
from echotwist.lab.report import Reports, agentName
from echotwist.limits import LAB_AGENT_CHARACTERS, LAB_VERDICT
from echotwist.websocket.connection import Connection, ConnectionFactory

NORMAL = 1000
"""RFC 6455, 7.4.1."""

UNKNOWN = "UNIMPLEMENTED"
"""The testsuite's word for a case without a result. It would wait for one for ever."""

_FIRST, _LAST = 0.01, 1.0
"""Seconds until the first look for what to say, and at most between two; each takes twice as long
as the one before. The first is also what separates the message from the 101."""

Find = Callable[[], str | None]
"""What to say; empty for nothing, None if that is not known yet."""


class Teller(Connection):
    """Says one thing, and closes."""

    find: Find
    """Whoever makes the connection sets it."""

    def onOpen(self) -> None:
        super().onOpen()
        self._until = self.context.reactor.seconds() + LAB_VERDICT
        # Nothing else uses the timer meanwhile: there is no time for a ping.
        self.setTimer(_FIRST, self._look, _FIRST)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A harness is not echoed: it counts on the first message to be the answer."""

    def _look(self, waited: float) -> None:
        text = self.find()
        if text is None and self.context.reactor.seconds() < self._until:
            pause = min(2 * waited, _LAST)
            self.setTimer(pause, self._look, pause)
            return
        if text is None:  # Only a verdict may be unknown.
            text = _status(UNKNOWN)
        if text:
            self.sendMessage(text.encode(), isBinary=False, doNotCompress=True)
        self._awaitClose()
        self.sendCloseFrame(code=NORMAL)


class HarnessResource(UpgradeResource):
    """Upgrades requests to connections that say what `finderOf` finds for them."""

    isUsual = False

    def __init__(
        self,
        factory: ConnectionFactory,
        allowedOrigins: Collection[str],
        finderOf: Callable[[Request], Find],
    ) -> None:
        super().__init__(factory, allowedOrigins)
        self._finderOf = finderOf

    def connectionFor(self, request: Request) -> Connection:
        """Raises Refused."""
        find = self._finderOf(request)
        teller = super().connectionFor(request)
        assert isinstance(teller, Teller)
        teller.find = find
        return teller


def makeHarness(
    factoryOf: Callable[[type[Connection]], ConnectionFactory],
    reports: Reports,
    allowedOrigins: Collection[str],
) -> dict[bytes, Resource]:
    """The URLs, by their only segment."""

    def count(request: Request) -> Find:
        return lambda: str(len(CASES))

    def info(request: Request) -> Find:
        case = caseOf(request)
        description = f"The server {case.title} ({case.source})."
        return lambda: json.dumps({"id": case.id, "description": description})

    def status(request: Request) -> Find:
        case, agent = caseOf(request), agentOf(request)

        def find() -> str | None:
            verdict = reports.get(agent).get(case.id)
            return None if verdict is None else _status(verdict.behavior)

        return find

    def update(request: Request) -> Find:
        agentOf(request)
        return lambda: ""  # A report is always up to date.

    factory = factoryOf(Teller)
    return {
        b"getCaseCount": HarnessResource(factory, allowedOrigins, count),
        b"getCaseInfo": HarnessResource(factory, allowedOrigins, info),
        b"getCaseStatus": HarnessResource(factory, allowedOrigins, status),
        b"updateReports": HarnessResource(factory, allowedOrigins, update),
    }


def _status(behavior: str) -> str:
    return json.dumps({"behavior": behavior})


def caseOf(request: Request) -> Case:
    """The case that a request names by its place in the catalogue, from 1, or by its ID. Raises
    Refused."""
    number, name = _parameter(request, "case"), _parameter(request, "casetuple")
    cases = list(CASES.values())
    if number is not None:
        # Of both, the testsuite takes the number, too.
        if re.fullmatch(r"\d{1,6}", number, re.ASCII) and 1 <= int(number) <= len(cases):
            return cases[int(number) - 1]
    elif name is None:
        raise Refused(400, "the parameter case is missing")
    elif (case := CASES.get(name.strip())) is not None:
        return case
    raise Refused(400, "there is no such case; /getCaseCount says how many there are")


def agentOf(request: Request) -> str:
    """The name that the client gives itself. Raises Refused."""
    name = _parameter(request, "agent")
    if name is None:
        raise Refused(400, "the parameter agent is missing")
    try:
        return agentName(name)
    except ValueError:
        most = LAB_AGENT_CHARACTERS
        raise Refused(400, f"an agent has 1 to {most} characters that print") from None


def _parameter(request: Request, name: str) -> str | None:
    """Raises Refused."""
    match argumentsOf(request).get(name, []):
        case []:
            return None
        case [value]:
            return value.decode("utf-8", "replace")
        case _:
            raise Refused(400, f"the parameter {name} came twice")
