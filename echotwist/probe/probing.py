"""One probe: all areas, in their order, and the verdicts."""

from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from echotwist import __version__
from echotwist.paths import rules
from echotwist.paths.measured import Handshake
from echotwist.probe import flow, handshake, idle, octets, sizes
from echotwist.probe.connection import Ended, Late
from echotwist.probe.dialer import Dialer, NotReached, Refused
from echotwist.probe.farend import FarEnd
from echotwist.probe.report import Report
from echotwist.probe.target import Target

AREAS = ("handshake", "bytes", "sizes", "flow", "idle")
"""What can be chosen. Without the handshake there is nothing, so that is always run."""


def areasOf(names: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError if one is none of AREAS."""
    for name in names:
        if name not in AREAS:
            raise ValueError(f"{name!r} is none of {', '.join(AREAS)}")
    return tuple(names)


Say = Callable[[str, str], object]
"""Is told the area, and what is tried; empty once it is done."""


class Probing:
    """A probe of `target` that takes `seconds`. `report` grows while it runs."""

    def __init__(
        self,
        reactor: Any,
        target: Target,
        seconds: float,
        only: Collection[str] = AREAS,
        say: Say = lambda area, what: None,
    ) -> None:
        self.report = Report(
            target.url, datetime.now(UTC).isoformat(timespec="seconds"), __version__
        )
        self._reactor = reactor
        self._near = Dialer(reactor, target)
        self._far = FarEnd(self._near)
        self._seconds, self._only, self._say = seconds, only, say
        self.triesHttp2 = False
        """Whether HTTP/2 is tried, too. It needs the library h2."""

    async def run(self) -> Report:
        """Also ends, with a report of what is known, when it is cancelled."""
        began = self._reactor.seconds()
        try:
            await self._measure()
        except CancelledError:
            self._stopped("interrupted")
        finally:
            self._near.abortAll()
            self.report.duration = self._reactor.seconds() - began
            self.report.findings = rules.judge(self.report.measured)
        return self.report

    async def _measure(self) -> None:
        measured, far = self.report.measured, self._far
        facts = measured["handshake"] = {}
        await self._area("handshake", self._shakeHands(facts))
        measured["farEnd"] = {"isLab": far.isLab, "why": far.why, "server": far.server}
        if (notReached := facts.get("notReached")) is not None:
            self.report.incomplete["handshake"] = notReached["why"]
            self._stopped(notReached["why"])
        elif facts.get("refused") is not None:
            self._stopped("there is no WebSocket")
        else:
            if facts.get("labRefused") is not None:
                far.isLab, far.why = False, "no WebSocket reaches it"
                measured["farEnd"]["isLab"], measured["farEnd"]["why"] = far.isLab, far.why
            await self._messages()

    async def _shakeHands(self, facts: Handshake) -> None:
        await handshake.measure(self._near, self._far, facts)
        if self.triesHttp2 and facts.get("notReached") is None:
            # Not at the top: the library is there only for those who have asked for it.
            from echotwist.probe import http2

            self._say("handshake", "HTTP/2")
            facts["http2"] = await http2.measure(self._near)

    async def _messages(self) -> None:
        """The long rows beside the others, which follow one another: each wants the path alone."""
        measured, near, far = self.report.measured, self._near, self._far
        watching: Deferred[None] | None = None
        if "idle" in self._only:
            rows = measured["idle"] = []
            say = self._telling("idle")
            watch = idle.measure(near, far, self._seconds, rows, say)
            watching = ensureDeferred(self._area("idle", watch))
        try:
            if "bytes" in self._only:
                checks = measured["bytes"] = []
                tell = self._telling("bytes")
                await self._area("bytes", octets.measure(near, far, checks, tell))
            if "sizes" in self._only:
                ladder = measured["sizes"] = []
                tell = self._telling("sizes")
                await self._area("sizes", sizes.measure(near, far, ladder, tell))
            if "flow" in self._only:
                speed = measured["flow"] = {}
                await self._area("flow", flow.measure(near, far, speed, self._telling("flow")))
            if watching is not None:
                await watching
        except BaseException:
            if watching is not None:
                watching.addErrback(lambda _: None)  # That it was cancelled.
                watching.cancel()
            raise

    def _telling(self, area: str) -> Callable[[str], object]:
        return lambda what: self._say(area, what)

    async def _area(self, area: str, measuring: Coroutine[Any, Any, None]) -> None:
        """Have one area measured; what keeps it from being finished is noted."""
        self._say(area, "begins")
        try:
            await measuring
        except NotReached as error:
            self.report.incomplete[area] = f"{error.stage}: {error}"
        except Refused as error:
            self.report.incomplete[area] = str(error)
        except Ended as error:
            self.report.incomplete[area] = f"the connection ended by {error.end.words()}"
        except Late:
            self.report.incomplete[area] = "no answer in time"
        except CancelledError:
            self.report.incomplete[area] = "interrupted"
            raise
        finally:
            self._say(area, "")

    def _stopped(self, why: str) -> None:
        for area in self._only:
            if area not in self.report.measured:
                self.report.incomplete.setdefault(area, why)
