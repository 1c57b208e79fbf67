"""Judges what a client made of a case, by what is seen from the server's side.

Each thing that a client must do (see `cases`) has a method here, that gives an opinion of what was
seen so far. Of alternatives the best counts. What cannot be seen is never OK: whether a client
reports 1006 to its user, what it kept in memory, or what it would have done if it had not left.

Where RFC 6455 leaves room:

- To fail a connection is to end it; before that a client SHOULD send a close frame with a code that
  says why, and may leave that out only where it would hardly arrive (7.1.7). So a client that drops
  TCP without a close frame, or whose close has another code or none, is NON-STRICT. The Autobahn
  testsuite has OK for the former.
- A client that still answers a ping after what is broken, and then fails the connection, has gone
  on for a moment: NON-STRICT. One that echoes a message after it has gone on: FAILED.
- A client that has several pings to answer may answer only the latest (5.5.3): OK.
- A handshake that fails has no connection that one could close (4.1): a close frame is NON-STRICT.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from echotwist.lab.agreement import valuesOf
from echotwist.lab.cases import (
    HELLO,
    KEPT,
    LATER,
    AnswerClose,
    BackOff,
    Behavior,
    Case,
    Deliver,
    EndTcp,
    Fail,
    GiveUp,
    MaskFreshly,
    Message,
    Must,
    NoticeSilence,
    Refuse,
    Report,
)
from echotwist.lab.frames import BINARY, BLOCK, CLOSE, PING, TEXT, filling
from echotwist.lab.observer import Frame, Observer

NOTED = 64
"""Messages, pongs and masks that are noted of a connection; no case needs more."""

FAULTS = (1002, 1007)
"""Close codes by which the server refuses what breaks a rule (RFC 6455, 7.4.1). By others it says
that something is too much for it."""

AT_ONCE = 1.0
"""Seconds. A client that leaves sooner than this was not waiting for anything."""

_STOPPED = "was sent away, since the server is stopping"
_DROPPED = "was dropped before the case was over: it took too long, or the server is stopping"

_RANKS = {behavior: rank for rank, behavior in enumerate(Behavior)}


class Verdict(NamedTuple):
    behavior: Behavior
    behaviorClose: Behavior
    """Of the closing handshake, as the Autobahn testsuite has it: also WRONG CODE. INFORMATIONAL if
    there was none to judge."""

    why: str
    """A sentence without its subject, the client: `closed with 1002 after 3 ms`."""

    duration: int
    """From the request to the end, in ms."""

    remoteCloseCode: int | None
    """Of the client's close frame. None if it had none, or if there was no close frame."""


class _Opinion(NamedTuple):
    behavior: Behavior
    why: str
    isFinal: bool = True
    """Whether nothing that may still happen changes it."""


def _ok(why: str) -> _Opinion:
    return _Opinion(Behavior.OK, why)


def _nonStrict(why: str) -> _Opinion:
    return _Opinion(Behavior.NON_STRICT, why)


def _informational(why: str) -> _Opinion:
    return _Opinion(Behavior.INFORMATIONAL, why)


def _unclean(why: str) -> _Opinion:
    return _Opinion(Behavior.UNCLEAN, why)


def _failed(why: str) -> _Opinion:
    return _Opinion(Behavior.FAILED, why)


def _notYet(why: str) -> _Opinion:
    """It fails, unless something happens."""
    return _Opinion(Behavior.FAILED, why, isFinal=False)


class Judge(Observer):
    """Judges the client of one connection, on which the script of `case` is run. `clock` gives
    seconds; `gaps` are those from each connection to the next, up to this one."""

    def __init__(self, case: Case, clock: Callable[[], float], gaps: Sequence[float] = ()) -> None:
        self.case = case
        self._gaps = gaps
        self._clock = clock
        self._began = clock()
        self._decision: tuple[_Opinion, Must] | None = None
        """The best opinion and what it is about, as soon as it is final."""

        self._drops = re.search(r"(?:^|&)(?:drop|cut)=", case.script) is not None
        self._breaks = re.search(r"(?:^|&)(?:frame|flood)=", case.script) is not None
        self._isLarge = re.search(r"(?:^|&)(?:flood|fill)=", case.script) is not None
        """Whether so much is sent that our FIN may wait behind it."""

        self._request = self._response = b""
        self._answering: float | None = None
        """When the answer to the handshake began; it may be long, and its end never come."""

        self._answered: float | None = None
        self._provoked: float | None = None
        """When the script's own bytes went out, or else the last message."""

        self._said: float | None = None
        """When the server said close, for the first time."""

        self._interruption = ""
        """Why the server ended the connection before the case was over."""

        self._scriptEnded: float | None = None

        self._read = 0
        self._readBefore = 0
        """Bytes that came before the answer."""

        self._framed = 0
        """Bytes of what came that belong to frames. What is not looked at is not in it."""

        self._stray = 0
        """The first byte of what is not looked at, if a frame may begin there."""

        self._last = b""
        """What was read last."""

        self._frames = 0
        self._pinged: float | None = None
        """When the first ping came after the script: if that hangs at its end, nothing answers."""

        self._masks: list[int] = []
        self._messages: list[Message] = []
        self._pongs: list[tuple[bytes, int]] = []
        """Their payloads, and how many messages had come before."""

        self._refusal: str | None = None
        self._closed: float | None = None
        self._code: int | None = None
        self._closedFirst = False
        """Whether the client said close before the server did."""

        self._ended: float | None = None
        """When the client ended its side of TCP, or reset it."""

        self._endedFirst = False
        """Whether it did before the server ended anything."""

        self._lost: str | None = None
        self._lostAt: float | None = None

    # What is seen.

    def requested(self, request: bytes) -> None:
        self._began = self._clock()
        self._request = request

    def read(self, data: bytes) -> None:
        if self._read == self._framed:
            self._stray = data[0]
        self._read += len(data)
        self._last = data

    def wrote(self, data: bytes) -> None:
        if self._answering is None:
            self._answering = self._clock()

    def opened(self, response: bytes) -> None:
        self._answered = self._clock()
        self._response = response
        self._readBefore = self._read
        if "status=" in self.case.script:
            self._scriptEnded = self._answered
        self._think()

    def frameReceived(self, frame: Frame) -> None:
        extended = 0 if frame.length < 126 else 2 if frame.length < 1 << 16 else 8
        self._framed += 2 + extended + (4 if frame.mask is not None else 0) + frame.length
        self._frames += 1
        if frame.mask is not None and len(self._masks) < NOTED:
            self._masks.append(int.from_bytes(frame.mask, "big"))

    def messageReceived(self, payload: bytes, isBinary: bool) -> None:
        if len(self._messages) < NOTED:
            self._messages.append(_noted(payload, isBinary))
        self._think()

    def pingReceived(self, payload: bytes) -> None:
        if self._pinged is None and self._scriptEnded is not None:
            self._pinged = self._clock()

    def pongReceived(self, payload: bytes) -> None:
        if len(self._pongs) < NOTED:
            self._pongs.append((payload, len(self._messages)))
            self._think()

    def closeReceived(self, code: int | None, reason: bytes) -> None:
        if self._closed is None:
            self._closed = self._clock()
            self._code = code
            self._closedFirst = self._said is None
            if 0 < self._unread() <= len(self._last):
                self._stray = self._last[-self._unread()]
        self._think()

    def bytesSent(self, data: bytes) -> None:
        self._provoked = self._clock()

    def frameSent(self, frame: Frame) -> None:
        if frame.opcode == CLOSE:
            if self._said is None and self._closed is None and self._refusal is None:
                # Not the script, and not an answer.
                self._interruption = _STOPPED
            self._say()
        elif frame.opcode in (TEXT, BINARY) and not self._breaks:
            self._provoked = self._clock()

    def closeSent(self, code: int | None) -> None:
        self._say()

    def _say(self) -> None:
        if self._said is None:
            self._said = self._clock()

    def refused(self, code: int, reason: str) -> None:
        if code not in FAULTS:
            self._interruption = f"was more than the server takes: {reason} ({code})"
        else:
            self._refusal = f"{reason} ({code})"
        self._think()

    def scriptEnded(self) -> None:
        if self._scriptEnded is None:
            self._scriptEnded = self._clock()

    def finReceived(self) -> None:
        self._end()
        self._think()

    def lost(self, how: str) -> None:
        if how in ("rst", "eof"):
            self._end()
        isOver = self._isOver() or self._scriptEnded is not None or self._refusal is not None
        if how == "us" and not isOver and self._closed is None and self._ended is None:
            self._interruption = self._interruption or _DROPPED
        self._lost = how
        self._lostAt = self._clock()
        self._decision = self._decision or self._best()

    def _end(self) -> None:
        if self._ended is None:
            self._ended = self._clock()
            self._endedFirst = self._said is None and not (
                self._scriptEnded is not None and self._drops
            )

    # What to think of it.

    @property
    def isDecided(self) -> bool:
        """Whether nothing that may still happen changes the verdict."""
        self._think()  # Time has passed.
        return self._decision is not None

    def verdict(self) -> Verdict:
        opinion, must = self._decision or self._best()
        isFair = opinion.behavior in (Behavior.OK, Behavior.NON_STRICT)
        if isFair and (broken := self._brokenLater(must)):
            opinion = _failed(f"{opinion.why}, {broken}")
        why, (close, clause) = opinion.why, self._judgeClose(must)
        if opinion.behavior not in (Behavior.FAILED, Behavior.UNCLEAN):
            why += clause
        end = self._lostAt if self._lostAt is not None else self._clock()
        duration = round((end - self._began) * 1000)
        return Verdict(opinion.behavior, close, why, duration, self._code)

    def _brokenLater(self, must: Must) -> str:
        """What the client has broken after it was judged, or as it closed; empty if nothing."""
        if refusal := self._refusedFor():
            return f"and {refusal}"
        if isinstance(must, Deliver) and len(self._messages) > len(must.messages):
            return f"and echoed {self._messages[len(must.messages)]} that nobody sent"
        if self._closed is not None and self._unread() and self._stray & 15 < CLOSE:
            return "and sent data after its close (RFC 6455, 5.5.1)"
        return ""

    def _think(self) -> None:
        if self._decision is None:
            opinion, must = self._best()
            if opinion.isFinal:
                self._decision = opinion, must

    def _best(self) -> tuple[_Opinion, Must]:
        """The best opinion, and what it is about. It is final if no other can become better."""
        opinions = [(self._judge(must), must) for must in self.case.musts]
        best, must = min(opinions, key=lambda each: _RANKS[each[0].behavior])
        isFinal = best.isFinal and (
            best.behavior is Behavior.OK or all(opinion.isFinal for opinion, _ in opinions)
        )
        return best._replace(isFinal=isFinal), must

    def _judge(self, must: Must) -> _Opinion:
        if self._answered is not None and (missing := self._missing()):
            return _informational(missing)
        if self._interruption:
            return _informational(self._interruption)
        before = self._read if self._answering is None else self._readBefore
        if before:
            return _failed(f"sent {before:,} bytes before the answer (RFC 6455, 4.1)")
        if isinstance(must, GiveUp):
            return self._giveUp()
        if isinstance(must, BackOff):
            return self._backOff()
        if isinstance(must, Refuse) and self._answering is not None:
            return self._refuse(must, self._answering)
        if isinstance(must, Refuse) or self._answered is None:
            return self._leftEarly("the answer") or _notYet("waits for the answer")
        match must:
            case Fail():
                return self._fail(must)
            case Deliver():
                return self._deliver(must)
            case MaskFreshly():
                return self._maskFreshly(must)
            case AnswerClose():
                return self._answerClose(must)
            case Report():
                return self._report(must)
            case EndTcp():
                return self._endTcp(must)
        return self._noticeSilence(must)

    def _missing(self) -> str:
        """What this case needs, and was not offered or agreed to."""
        needs = self.case.needs
        if needs == "subprotocol":
            isOffered = valuesOf(self._request, b"sec-websocket-protocol")
            return "" if isOffered else "offered no subprotocol"
        if not needs:
            return ""
        if not _hasExtension(self._request, needs):
            return f"did not offer {needs}"
        if not _hasExtension(self._response, needs):
            return f"offered {needs}, but the server did not agree to that"
        return ""

    def _refuse(self, must: Refuse, answering: float) -> _Opinion:
        sent = self._read
        if self._closed is not None and not self._closedFirst:
            return _failed("took the answer for a handshake, and answered the close")
        isClose = self._closed is not None and self._frames == 1 and not self._messages
        if sent and not isClose:
            what = "echoed a message" if self._messages else f"sent {sent:,} bytes"
            isFinal = bool(self._messages) or self._isOver()
            why = f"took the answer for a handshake, and {what}"
            return _Opinion(Behavior.FAILED, why, isFinal)
        if self._ended is not None and self._endedFirst:
            took = self._after(answering, self._ended)
            if self._closed is not None:
                return _nonStrict(
                    f"sent a close frame, and ended TCP after {took}: there was no connection yet "
                    "that it could close (RFC 6455, 7.1.7)"
                )
            return _ok(f"ended TCP after {took}")
        if self._isOver():
            why = "took it for no connection, and left TCP open for "
            why += self._after(answering, self._said)
            if must.mayStay:
                return _informational(f"{why}, which HTTP allows for another request")
            return _unclean(why)
        return _notYet("has not refused the answer yet")

    def _fail(self, must: Fail) -> _Opinion:
        if wrong := self._wrongEcho(must.after):
            return _failed(wrong)
        if self._provoked is None or len(self._messages) < len(must.after):
            return self._leftEarly("anything was wrong") or self._waits(must.after)
        if len(self._messages) > len(must.after):
            isLater = self._messages[len(must.after)] == LATER
            what = "the next message" if isLater else "the broken message"
            return _failed(f"went on and echoed {what}")
        if self._closed is None and (refusal := self._refusedFor()):
            return _failed(f"went on, and {refusal}")
        pongs = [payload for payload, _ in self._pongs]
        broken = self._brokenPing()
        if broken and any(payload.startswith(broken) for payload in pongs):
            return _failed("went on and answered the broken ping")
        hasGoneOn = LATER.payload in pongs
        after = self._after(self._provoked, self._closed)
        if self._closed is not None and (self._closedFirst or self._code in must.codes):
            if self._code in must.answers:
                return _failed(f"answered {_named(self._code)}, as if the close were in order")
            return self._closedAtFault(must, hasGoneOn, after)
        if self._ended is not None and self._endedFirst:
            how = "reset" if self._lost == "rst" else "ended"
            return _nonStrict(
                f"{how} TCP after {self._after(self._provoked, self._ended)} without a close frame,"
                " which RFC 6455, 7.1.7 advises"
            )
        if hasGoneOn and self._hasSaidAll():
            return _failed("went on and answered the next ping")
        if self._hasSaidAll():
            return _failed(f"took no notice for {self._after(self._provoked, self._said)}")
        return _notYet("has not failed the connection yet")

    def _brokenPing(self) -> bytes:
        """The payload of the ping that is broken, as much of it as fits into a pong; empty if
        something else is broken. Of a ping in fragments, the first."""
        violation = self.case.violation or b""
        if not violation or violation[0] & 15 != PING:
            return b""
        start = 4 if violation[1] == 126 else 2
        return violation[start : start + min(violation[1], 125)]

    def _closedAtFault(self, must: Fail, hasGoneOn: bool, after: str) -> _Opinion:
        why = f"closed {_named(self._code)} after {after}"
        behavior = must.best
        if must.best is not Behavior.OK:
            why += f"; {must.note}"
        if self._code not in must.codes:
            behavior = Behavior.NON_STRICT
            why += f", and not with {' or '.join(map(str, must.codes))}"
        if hasGoneOn:
            behavior = Behavior.NON_STRICT
            why += ", and answered the next ping before that"
        if unread := self._unread():
            behavior = Behavior.NON_STRICT
            why += f", and sent {unread:,} bytes after that"
        if self._lost == "us" and self._isLarge:
            why += "; TCP stayed open, but the FIN may not have reached it behind so much"
        elif self._lost == "us":
            behavior = Behavior.UNCLEAN
            why += ", and left TCP open"
        return _Opinion(behavior, why, isFinal=self._lost is not None)

    def _deliver(self, must: Deliver) -> _Opinion:
        messages, pongs = must.messages, must.pongs
        if wrong := self._wrongEcho(messages):
            return _failed(wrong)
        if len(self._messages) > len(messages):
            return _failed(f"echoed {self._messages[len(messages)]} that nobody sent")
        if refusal := self._refusedFor():
            return _failed(refusal)
        found = [payload for payload, _ in self._pongs if payload in pongs]
        hasAnswered = not pongs or (found[-1:] == [pongs[-1]] and _isPart(found, pongs))
        took = self._after(self._answered, self._said)
        if len(self._messages) == len(messages) and hasAnswered:
            done = f"echoed {_counted(messages)}"
            if pongs:
                done += f" and answered {_pings(found)}"
            if pongs and dict(self._pongs)[pongs[-1]] == len(messages):
                return _nonStrict(f"{done}, but only after the message that followed it")
            if must.best is not Behavior.OK:
                return _Opinion(must.best, f"{done}; {must.note}")
            return _ok(f"{done} in {self._after(self._answered, None)}")
        if self._closed is not None and self._closedFirst:
            return _failed(f"closed {_named(self._code)} after {took}, though nothing was wrong")
        if self._ended is not None and self._endedFirst:
            how = "reset" if self._lost == "rst" else "ended"
            return _failed(f"{how} TCP after {took}, though nothing was wrong")
        if not self._messages:
            why = f"echoed nothing in {took}"
        elif len(self._messages) < len(messages):
            why = f"echoed {len(self._messages)} of {_counted(messages)} in {took}"
        elif found:
            why = "did not answer the last ping, or answered out of order"
        elif self._pongs:
            why = "answered the ping with another payload"
        else:
            why = f"did not answer the ping in {took}"
        return _Opinion(Behavior.FAILED, why, isFinal=self._hasSaidAll())

    def _maskFreshly(self, must: MaskFreshly) -> _Opinion:
        opinion = self._deliver(Deliver(must.messages))
        if opinion.behavior is not Behavior.OK:
            return opinion
        masks = self._masks
        if len(set(masks)) == 1:
            return _failed(f"used one mask for all of {len(masks)} frames")
        if len(set(masks)) < len(masks):
            return _failed(f"used {len(set(masks))} masks for {len(masks)} frames")
        steps = {(after - before) % 2**32 for before, after in pairwise(masks)}
        if len(steps) == 1:
            return _failed(f"used masks that follow each other at a distance of {steps.pop()}")
        return _ok(
            f"used another mask for each of {len(masks)} frames; whether one can predict them "
            "cannot be seen"
        )

    def _answerClose(self, must: AnswerClose) -> _Opinion:
        if wrong := self._wrongEcho(must.after):
            return _failed(wrong)
        if self._said is None or len(self._messages) < len(must.after):
            return self._leftEarly("the server said close") or self._waits(must.after)
        if len(self._messages) > len(must.after):
            return _failed(f"took for a message what is none: echoed {self._messages[-1]}")
        if self._closed is None and (refusal := self._refusedFor()):
            return _failed(refusal)
        if self._closed is not None:
            return self._answeredClose(must)
        if self._ended is not None:
            how = "reset" if self._lost == "rst" else "ended"
            return _failed(f"{how} TCP without an answer, which RFC 6455, 5.5.1 demands")
        if self._lost is not None:
            return _failed(f"did not answer the close for {self._after(self._said, None)}")
        return _notYet("has not answered the close yet")

    def _answeredClose(self, must: AnswerClose) -> _Opinion:
        why = f"answered {_named(self._code)} after {self._after(self._said, self._closed)}"
        if unread := self._unread():
            return _failed(f"{why}, and sent {unread:,} bytes after that")
        if self._code in must.codes:
            opinion = _ok(why)
            if must.best is not Behavior.OK:
                opinion = _Opinion(must.best, f"{why}; {must.note}")
        elif self._code in (None, 1000):
            opinion = _nonStrict(f"{why}, and not with {must.codes[0]}, as RFC 6455, 5.5.1 has it")
        else:
            return _failed(f"{why}, as if the close were broken")
        if self._lost == "us":
            opinion = _unclean(f"{why}, and left TCP open")
        return opinion._replace(isFinal=self._lost is not None)

    def _report(self, must: Report) -> _Opinion:
        if wrong := self._wrongEcho(must.after):
            return _failed(wrong)
        if len(self._messages) < len(must.after):
            return self._leftEarly("the server did") or self._waits(must.after)
        sent = self._read - (self._framed if must.after else self._readBefore)
        isStray = self._lost is not None and sent > 0 and self._stray & 15 != CLOSE
        if len(self._messages) > len(must.after) or isStray:
            return _failed("went on, as if the server had not ended the connection")
        if refusal := self._refusedFor():
            return _failed(refusal)
        if self._lost is None:
            return _notYet("has not ended TCP yet")
        if self._lost != "us":
            return _informational(f"ended TCP, too; {must.what} cannot be seen")
        if "rst" in self.case.script:
            return _informational(f"was reset; {must.what} cannot be seen")
        took = self._after(self._provoked or self._answered, None)
        return _unclean(f"left TCP open for {took} after the server had ended its side")

    def _endTcp(self, must: EndTcp) -> _Opinion:
        if self._closed is None or not (self._closedFirst or must.isAnswer):
            if self._ended is not None or self._lost is not None:
                return _informational("did not say close, so that there was nothing to answer")
            return _notYet("has not said close yet")
        took = self._after(self._closed, self._ended)
        end = self._ended if self._ended is not None else self._clock()
        if end - self._closed > must.seconds:
            return _unclean(f"left TCP open for {took} after its close")
        if self._ended is not None:
            return _ok(f"ended TCP {took} after its close")
        if self._lost is not None:
            return _informational(
                f"kept TCP open for {took} after its close, until the server ended it"
            )
        return _notYet("has not ended TCP yet")

    def _giveUp(self) -> _Opinion:
        if self._answered is not None:
            took = self._after(self._began, self._answered)
            return _informational(f"waited for {took}; no rule says how long it may")
        if self._ended is None:
            return _notYet("waits for the answer")
        took = self._after(self._began, self._ended)
        if self._ended - self._began < AT_ONCE:
            return _informational(f"left after {took}, so that it did not wait")
        return _ok(f"gave up after {took}")

    def _noticeSilence(self, must: NoticeSilence) -> _Opinion:
        if wrong := self._wrongEcho((HELLO,)):
            return _failed(wrong)
        since = self._scriptEnded
        if since is None or not self._messages:
            return self._leftEarly("the server fell silent") or self._waits((HELLO,))
        if self._closed is not None or self._ended is not None:
            took = self._after(since, None)
            if self._pinged is None:
                return _informational(f"left after {took}, without a ping of its own")
            if self._clock() - self._pinged < AT_ONCE:
                return _informational(f"left after {took}, so that it did not wait for a pong")
            if self._code == 1000:
                return _informational(f"closed with 1000 after {took}, as if it were done")
            return _ok(f"left after {took} without an answer to its pings")
        if self._lost is not None or self._clock() - since > must.seconds:
            return _informational(f"was still there after {self._after(since, None)}")
        return _notYet("has not noticed yet")

    def _backOff(self) -> _Opinion:
        shown = ", ".join(f"{gap:.1f} s" for gap in self._gaps)
        why = f"came back after {shown}" if shown else "has not come back"
        waits = self._gaps[1:]  # The first has the script in it.
        if waits and max(waits) >= max(1.5 * waits[0], AT_ONCE / 2):
            return _ok(why)
        if len(waits) < 3:
            return _informational(f"{why}; whether it waits longer each time cannot be seen yet")
        return _nonStrict(f"{why}; RFC 6455, 7.2.3 advises to wait longer each time")

    # What several of them ask.

    def _isOver(self) -> bool:
        """Whether the server has ended it, by a close frame or by TCP."""
        return self._said is not None or self._lost is not None

    def _hasSaidAll(self) -> bool:
        """Whether nothing more comes from the client. On a slow path much may come after the server
        has said close."""
        return self._closed is not None or self._ended is not None or self._lost is not None

    def _leftEarly(self, what: str) -> _Opinion | None:
        if self._closed is not None and self._closedFirst:
            return _failed(f"closed {_named(self._code)} before {what}")
        if self._ended is not None:
            return _failed(f"ended TCP before {what}")
        return None

    def _waits(self, messages: Sequence[Message]) -> _Opinion:
        if refusal := self._refusedFor():
            return _failed(refusal)
        missing = messages[len(self._messages) :]
        why = f"did not echo {missing[0]}" if missing else "has not seen what is wrong yet"
        return _Opinion(Behavior.FAILED, why, isFinal=self._hasSaidAll())

    def _wrongEcho(self, messages: Sequence[Message]) -> str:
        """How the echoes differ from these messages; empty, as far as they do not."""
        for found, expected in zip(self._messages, messages, strict=False):
            if found == replace(expected, isBinary=not expected.isBinary):
                return f"echoed {expected} as {'binary' if found.isBinary else 'text'}"
            if found != expected:
                return f"echoed {found} where {expected} was due"
        return ""

    def _refusedFor(self) -> str:
        """How the client's own frames were broken; empty if they were not."""
        if self._refusal is None:
            return ""
        return f"sent what is broken itself: {self._refusal}"

    def _unread(self) -> int:
        """Bytes that came after what was looked at."""
        return self._read - self._framed

    def _after(self, since: float | None, until: float | None) -> str:
        start = self._began if since is None else since
        end = self._clock() if until is None else until
        return f"{max(round((end - start) * 1000), 0):,} ms"

    # The closing handshake.

    def _judgeClose(self, must: Must) -> tuple[Behavior, str]:
        """As the Autobahn testsuite does (its case/case.py): who closes first, whether it is
        answered, and with which code; and whether TCP is ended. Also what a verdict lacks then."""
        if not self._missing() and not self._interruption:
            match must:
                case Fail(codes=codes):
                    return self._judgeOwnClose(codes), ""
                case AnswerClose(codes=codes):
                    return self._judgeAnswer(codes)[0], ""
                case Deliver() | MaskFreshly():
                    return self._judgeAnswer((1000,))
        return Behavior.INFORMATIONAL, ""

    def _judgeOwnClose(self, codes: Sequence[int]) -> Behavior:
        isFirst = self._endedFirst if self._closed is None else self._closedFirst
        if not isFirst and self._code not in codes:  # It may cross the server's.
            return Behavior.FAILED
        if self._code is not None and self._code not in codes:
            return Behavior.WRONG_CODE
        if self._lost == "us":
            return Behavior.INFORMATIONAL if self._isLarge else Behavior.UNCLEAN
        return Behavior.OK

    def _judgeAnswer(self, codes: Sequence[int | None]) -> tuple[Behavior, str]:
        if self._said is None or self._closedFirst:
            return Behavior.FAILED, ", and did not wait for the server to close"
        if self._closed is None:
            return Behavior.UNCLEAN, ", and did not answer the close"
        if self._code is not None and self._code not in codes:
            return Behavior.WRONG_CODE, f", and answered the close {_named(self._code)}"
        if self._lost == "us":
            return Behavior.UNCLEAN, ", and left TCP open"
        return Behavior.OK, ""


def _noted(payload: bytes, isBinary: bool) -> Message:
    size = len(payload)
    if size <= KEPT:
        return Message(payload, size, isBinary)
    isFilling = all(
        payload[at : at + BLOCK] == filling(at, min(at + BLOCK, size))
        for at in range(0, size, BLOCK)
    )
    return Message(b"", size, isBinary, isFilling)


def _hasExtension(head: bytes, name: str) -> bool:
    """Whether a head of HTTP has this name somewhere among its extensions."""
    return any(name in value.lower() for value in valuesOf(head, b"sec-websocket-extensions"))


def _named(code: int | None) -> str:
    return "without a code" if code is None else f"with {code}"


def _counted(messages: Sequence[Message]) -> str:
    return "the message" if len(messages) == 1 else f"{len(messages)} messages"


def _pings(pongs: Sequence[bytes]) -> str:
    return "the ping" if len(pongs) == 1 else f"{len(pongs)} pings"


def _isPart(some: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Whether `some` are in `whole`, in this order."""
    rest = iter(whole)
    return all(each in rest for each in some)
