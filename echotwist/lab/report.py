"""What clients made of the cases: kept for a day, and shown at /lab/report?agent=NAME.

The name is the client's own, as with the Autobahn testsuite, and whoever knows it may read its
report, and add to it. Names are never listed.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from echotwist.http.channel import Request
from echotwist.lab.answer import (
    BadParameter,
    Open,
    Parameter,
    answerJson,
    answerText,
    parametersOf,
    refuseParameter,
)
from echotwist.lab.cases import CASES, Behavior, Case
from echotwist.lab.judge import Verdict
from echotwist.limits import LAB_AGENT_CHARACTERS, LAB_AGENTS, LAB_REPORT
from echotwist.wire.context import Context

_MEANINGS = {
    Behavior.FAILED: "the client broke a rule.",
    Behavior.UNCLEAN: "TCP, or the closing handshake, did not end as it should.",
    Behavior.NON_STRICT: "the client may do so, and should do otherwise.",
    Behavior.INFORMATIONAL: "what matters cannot be seen here, or no rule says what is right.",
    Behavior.OK: "as it should be.",
}
"""What a client's behavior means; the worst comes first."""

_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.4 }
body { margin: 1rem auto; max-width: 70rem; padding: 0 1rem }
h1 { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1.5rem 0; width: 100% }
caption { border-inline-start: .5rem solid; padding: .3rem .6rem; text-align: start }
th, td { border-bottom: 1px solid; padding: .3rem .6rem; text-align: start; vertical-align: top }
#FAILED caption { border-color: #c62828 }
#UNCLEAN caption { border-color: #ad1457 }
#NON-STRICT caption { border-color: #b26a00 }
#INFORMATIONAL caption { border-color: #1565c0 }
#OK caption { border-color: #2e7d32 }
"""

_POLICY = (
    "default-src 'none'; "
    f"style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_QUALITY = re.compile(r"q=([01](?:\.\d{0,3})?)", re.ASCII)
"""RFC 9110, 12.4.2, in lower case."""

Found = list[tuple[Case, Verdict]]

_AGENT = f"a name of 1 to {LAB_AGENT_CHARACTERS} characters that print"


def agentName(text: str) -> str:
    """The name of a client. Raises ValueError if it may not have it."""
    if not (1 <= len(text) <= LAB_AGENT_CHARACTERS and text.isprintable()):
        raise ValueError(f"takes {_AGENT}")
    return text


def _form(text: str) -> str:
    if text not in ("html", "json"):
        raise ValueError
    return text


@dataclass
class _Results:
    """Of one client."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By the IDs of the cases."""

    since: float = 0.0
    """When the last was added."""


class Reports:
    """The verdicts of all clients; those that ran no case for longest come first."""

    def __init__(self, context: Context) -> None:
        self._reactor = context.reactor
        self._agents: dict[str, _Results] = {}

    def begin(self, agent: str, case: Case) -> None:
        """`agent` runs `case`, perhaps again. Until it has a verdict there is none."""
        if (results := self._agents.get(agent)) is not None:
            results.verdicts.pop(case.id, None)

    def add(self, agent: str, case: Case, verdict: Verdict) -> None:
        self._forgetOld()
        results = self._agents.pop(agent, None) or _Results()
        results.verdicts[case.id] = verdict
        results.since = self._reactor.seconds()
        self._agents[agent] = results
        if len(self._agents) > LAB_AGENTS:
            del self._agents[next(iter(self._agents))]

    def get(self, agent: str) -> Mapping[str, Verdict]:
        """By the IDs of the cases; empty if nothing is known of `agent`."""
        self._forgetOld()
        results = self._agents.get(agent)
        return {} if results is None else results.verdicts

    def _forgetOld(self) -> None:
        oldest = self._reactor.seconds() - LAB_REPORT
        for agent in [name for name, results in self._agents.items() if results.since <= oldest]:
            del self._agents[agent]


class ReportResource(Open):
    """`/lab/report`: HTML for browsers, JSON for programs."""

    _parameters = {
        "agent": Parameter(_AGENT, agentName),
        "format": Parameter("html or json", _form),
    }

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self._reports = reports

    def render_GET(self, request: Request) -> bytes:
        try:
            values = parametersOf(request, self._parameters)
            if (agent := values["agent"]) is None:
                raise BadParameter("agent", "is missing", _AGENT)
        except BadParameter as bad:
            return refuseParameter(request, bad)
        verdicts = self._reports.get(agent)
        if not verdicts:
            unknown = BadParameter("agent", "has run no case, or long ago", _AGENT)
            return answerJson(request, 404, unknown.explained())
        # In the order of the catalogue, whatever that in which they were run.
        found = [(case, verdicts[case.id]) for case in CASES.values() if case.id in verdicts]
        request.setHeader("Vary", "Accept")
        if (values["format"] or _preferred(request.tokens("Accept"))) == "json":
            return answerJson(request, 200, {agent: _index(agent, found)})
        request.setHeader("Content-Security-Policy", _POLICY)
        request.setHeader("Referrer-Policy", "no-referrer")
        return answerText(request, "text/html; charset=utf-8", _page(agent, found))


def _preferred(accept: Sequence[str]) -> str:
    """HTML for what names it, as browsers do; JSON for what takes anything, as curl does."""
    qualities: dict[str, float] = {}
    for element in accept[:20]:
        kind, *parameters = (part.strip() for part in element.split(";"))
        found = [_QUALITY.fullmatch(parameter) for parameter in parameters]
        qualities[kind] = min((float(match[1]) for match in found if match), default=1)
    html = qualities.get("text/html", 0)
    return "html" if html and html >= qualities.get("application/json", 0) else "json"


def _address(agent: str) -> str:
    return f"report?agent={quote(agent, safe='')}"


def _index(agent: str, found: Found) -> dict[str, Any]:
    """As the testsuite's index.json has it, with a sentence more. `reportfile` is a URL from here,
    too."""
    return {
        case.id: {
            "behavior": verdict.behavior,
            "behaviorClose": verdict.behaviorClose,
            "duration": verdict.duration,
            "remoteCloseCode": verdict.remoteCloseCode,
            "reportfile": f"{_address(agent)}&format=html#{case.id}",
            "why": verdict.why,
        }
        for case, verdict in found
    }


def _page(agent: str, found: Found) -> str:
    groups: dict[Behavior, Found] = {behavior: [] for behavior in _MEANINGS}
    for case, verdict in found:
        groups[verdict.behavior].append((case, verdict))
    groups = {behavior: group for behavior, group in groups.items() if group}
    name = escape(agent)
    counts = "".join(
        f'<li><a href="#{behavior}">{behavior}</a>: {len(group)}\n'
        for behavior, group in groups.items()
    )
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: report</title>
<style>{_STYLE}</style>
<h1>{name}</h1>
<p>{len(found)} of {len(CASES)} cases were run.
<a href="{_address(agent)}&amp;format=json">The same as JSON.</a>
<ul>
{counts}</ul>
{"".join(_table(*group) for group in groups.items())}"""


def _table(behavior: Behavior, group: Found) -> str:
    rows = "".join(_row(case, verdict) for case, verdict in group)
    return f"""\
<table id="{behavior}">
<caption>{behavior}: {_MEANINGS[behavior]}</caption>
<thead>
<tr><th scope="col">Case<th scope="col">The server<th scope="col">The client\
<th scope="col">Section<th scope="col">Again
<tbody>
{rows}</table>
"""


def _row(case: Case, verdict: Verdict) -> str:
    texts = case.title, f"{verdict.behavior}: {verdict.why}", case.source
    cells = "".join(f"<td>{escape(text)}" for text in texts)
    again = f"<td><code>/lab?case={case.id}</code>"
    return f'<tr id="{case.id}"><th scope="row">{case.id}{cells}{again}\n'
