"""The URLs of the lab.

/lab                              runs the script in its query; without an upgrade, checks it,
                                  and tells the manual
/lab/cases                        the catalogue
/lab/report?agent=NAME            what a client made of it
/lab/inspect /lab/sse /lab/stream see `companions`
/lab/verdict                      what a page has measured of its path, judged; see `verdict`
/trace/ID                         see `traceresource`
/runCase?case=N&agent=NAME        runs a case of the catalogue, for the harness of a client
/getCaseCount and others          see `harness`
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Any

from twisted.web.resource import Resource

from echotwist.http.answer import Refused
from echotwist.http.channel import Request
from echotwist.http.upgrade import UpgradeResource
from echotwist.lab.answer import Open, answerJson, answerPreflight, refuse
from echotwist.lab.cases import CASES, Case
from echotwist.lab.companions import ServerSentEvents, Stream, inspected, tlsFacts
from echotwist.lab.connection import LabConnection
from echotwist.lab.harness import agentOf, caseOf, makeHarness
from echotwist.lab.judge import Judge, Verdict
from echotwist.lab.observer import Observer
from echotwist.lab.report import ReportResource, Reports
from echotwist.lab.steps import STEPS, BadStep, Script, Step, parse
from echotwist.lab.trace import Full, Taken, Trace, Traces
from echotwist.lab.traceresource import TraceResource
from echotwist.lab.verdict import VerdictResource
from echotwist.lab.visits import Visits
from echotwist.websocket.connection import Connection, ConnectionFactory
from echotwist.websocket.connections import Connections
from echotwist.websocket.deflate import Accept
from echotwist.wire.context import Context
from echotwist.wire.peer import addressOf, nameOf

_REASON = "the script is malformed"
"""In the log; the answer says more, in the client's words."""


_REFUSAL = parse(b"status=503")
"""The script of a client that has come too often."""


class OpenUpgradeResource(UpgradeResource, ABC):
    """Tells the page of any origin what it is, unless that asks for an upgrade."""

    isUsual = False

    def render_GET(self, request: Request) -> bytes | int:
        if _isUpgrade(request):
            return super().render_GET(request)
        return answerJson(request, 200, self.described(request))

    def render_OPTIONS(self, request: Request) -> bytes:
        return answerPreflight(request)

    @abstractmethod
    def described(self, request: Request) -> Any:
        """The answer without an upgrade, for JSON."""


class LabResource(OpenUpgradeResource):
    """Upgrades requests to connections that run a script."""

    def __init__(
        self, factory: ConnectionFactory, allowedOrigins: Collection[str], traces: Traces
    ) -> None:
        super().__init__(factory, allowedOrigins)
        self._clock = traces.context.reactor.seconds
        self._traces = traces
        self._visits = Visits(traces.context.reactor)

    def render_GET(self, request: Request) -> bytes | int:
        try:
            return super().render_GET(request)
        except BadStep as e:
            if _isUpgrade(request):
                return refuse(request, _REASON, explained(e))
            # The answer to a question, and no client that is refused. An editor asks while somebody
            # types: a line in the log for each would hide those that matter.
            return answerJson(request, 400, explained(e))

    def described(self, request: Request) -> dict[str, Any]:
        """The manual, for a script that would be run. Raises BadStep."""
        parse(_queryOf(request))
        return manual()

    def connectionFor(self, request: Request) -> Connection:
        """Raises BadStep and Refused."""
        return self._run(request, parse(_queryOf(request)))

    def _run(
        self, request: Request, script: Script, judged: Callable[[Verdict], object] | None = None
    ) -> LabConnection:
        connection = super().connectionFor(request)
        assert isinstance(connection, LabConnection)
        connection.script, gaps = self._admitted(request, script)
        observers: list[Observer] = []
        if script.case is not None:
            connection.judge = Judge(script.case, self._clock, gaps)
            observers.append(connection.judge)
        if script.trace is not None:
            trace = self._trace(request, script.trace, script.case)
            observers.append(trace)
            judged = judged or (lambda verdict: trace.describe(verdict=verdict._asdict()))
        head = raw(request)
        for observer in observers:
            observer.requested(head)
        connection.observers = observers
        connection.judged = judged
        return connection

    def _admitted(self, request: Request, script: Script) -> tuple[Script, Sequence[float]]:
        """The script, or what `accepts` makes of it; and the seconds between the client's visits,
        if it has that step."""
        most = next((step.value for step in script.opening if step.name == "accepts"), None)
        if most is None:
            return script, ()
        client = _named(request) or str(addressOf(request.getClientAddress()))
        visitor = self._visits.add(client, request.uri)
        return script if visitor.count <= most else _REFUSAL, visitor.gaps

    def _trace(self, request: Request, name: str, case: Case | None) -> Trace:
        """Raises BadStep and Refused."""
        channel: Any = request.channel
        try:
            trace = self._traces.open(name, channel.begun)
        except Taken:
            raise BadStep("trace", "is in use; choose another ID, at random") from None
        except Full:
            raise Refused(503, "too many traces are running", Retry_After="5") from None
        peer, client = nameOf(request.getClientAddress()), _named(request)
        trace.describe(
            peer=peer,
            client=client,
            proxies=[peer] if client is not None else [],
            tls=tlsFacts(request),
            case=None if case is None else case.id,
        )
        return trace


class RunCase(LabResource):
    """`/runCase`: a case of the catalogue, for the harness of a client, which hears of the verdict
    by /getCaseStatus."""

    def __init__(
        self,
        factory: ConnectionFactory,
        allowedOrigins: Collection[str],
        traces: Traces,
        reports: Reports,
    ) -> None:
        super().__init__(factory, allowedOrigins, traces)
        self._reports = reports

    def described(self, request: Request) -> dict[str, Any]:
        return manual()  # Its query is no script.

    def connectionFor(self, request: Request) -> Connection:
        """Raises Refused."""
        case, agent = caseOf(request), agentOf(request)
        self._reports.begin(agent, case)
        script = parse(b"case=" + case.id.encode())
        return self._run(request, script, lambda verdict: self._reports.add(agent, case, verdict))


class Catalogue(Open):
    """`/lab/cases`."""

    def render_GET(self, request: Request) -> bytes:
        return answerJson(request, 200, [_entry(case) for case in CASES.values()])


class InspectResource(OpenUpgradeResource):
    """`/lab/inspect`, also as a WebSocket, whose first message it is."""

    def described(self, request: Request) -> dict[str, Any]:
        return inspected(request)

    def connectionFor(self, request: Request) -> Connection:
        connection = super().connectionFor(request)
        assert isinstance(connection, LabConnection)
        step = Step(STEPS["send"], json.dumps(inspected(request)).encode())
        connection.script = Script(body=(step,))
        return connection


def _isUpgrade(request: Request) -> bool:
    return "websocket" in request.tokens("Upgrade")


def _queryOf(request: Request) -> bytes:
    return request.uri.partition(b"?")[2]


def _entry(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "title": case.title,
        "script": case.script,
        "source": case.source,
        "seen": case.seen or None,
        "needs": case.needs or None,
    }


def _named(request: Request) -> str | None:
    """The client whom trusted proxies name."""
    site: Any = request.site
    name, _ = site.clientOf(request)
    return None if name == nameOf(request.getClientAddress()) else str(name)


def raw(request: Request) -> bytes:
    """A request as it came."""
    first = b"%b %b %b" % (request.method, request.uri, request.clientproto)
    return b"\r\n".join([first, *request.headerLines, b"", b""])


def manual() -> dict[str, Any]:
    """The table of steps, for programs and people."""
    return {
        "usage": "ws://HOST/lab?STEP&STEP: the steps are run in their order, then it echoes",
        "steps": [
            {
                "name": kind.name,
                "when": kind.phase.value,
                "syntax": kind.syntax,
                "atMost": kind.cap or None,
                "meaning": kind.meaning,
                "example": kind.example,
            }
            for kind in STEPS.values()
        ],
    }


def explained(error: BadStep) -> dict[str, Any]:
    """What is wrong with a script, what was meant, and what there is."""
    kind = STEPS.get(error.step)
    close = get_close_matches(error.step, STEPS, 1)
    return {
        "error": {
            "step": error.step,
            "problem": error.problem,
            "takes": kind.syntax if kind is not None else None,
            "example": kind.example if kind is not None else None,
            "meant": close[0] if kind is None and close else None,
        },
        "steps": [kind.syntax for kind in STEPS.values()],
    }


def makeLab(
    context: Context, connections: Connections, accept: Accept, allowedOrigins: Collection[str]
) -> dict[bytes, Resource]:
    """The URLs of the lab, by their first segment."""

    def factoryOf(kind: type[Connection]) -> ConnectionFactory:
        return ConnectionFactory(kind, context, connections, None, accept)

    reports, traces = Reports(context), Traces(context)
    factory = factoryOf(LabConnection)
    lab = LabResource(factory, allowedOrigins, traces)
    lab.putChild(b"cases", Catalogue())
    lab.putChild(b"report", ReportResource(reports))
    lab.putChild(b"inspect", InspectResource(factory, allowedOrigins))
    lab.putChild(b"sse", ServerSentEvents(context, connections))
    lab.putChild(b"stream", Stream(context, connections))
    lab.putChild(b"verdict", VerdictResource())
    return {
        b"lab": lab,
        b"trace": TraceResource(traces, connections),
        b"runCase": RunCase(factory, allowedOrigins, traces, reports),
        **makeHarness(factoryOf, reports, allowedOrigins),
    }
