"""What the probe finds out of messages, on hops in memory that change them."""

import pytest
from support.path import FrameHop, HeadHop, Hop, Path, unmasking

from echotwist.paths.finding import Finding
from echotwist.probe.report import Report
from echotwist.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
)


def found(report: Report) -> dict[str, Finding]:
    return {finding.rule: finding for finding in report.findings}


def passed(report: Report) -> dict[str, bool | None]:
    return {check["check"]: check["passed"] for check in report.measured["bytes"]}


# Sizes.


class FrameLimit(FrameHop):
    """Takes no frame above 32 KB."""

    def frameUp(self, found: Frame) -> None:
        if len(found.payload) > 32_768:
            self.sendToClient(unmasking(Frame(CLOSE, b"\x03\xf1too big")))
            self.cut(client=False)
        else:
            super().frameUp(found)


class MessageLimit(FrameHop):
    """Takes no message above 128 KB; it drops TCP."""

    def began(self) -> None:
        super().began()
        self.size = 0

    def frameUp(self, found: Frame) -> None:
        self.size = len(found.payload) + (self.size if found.opcode == CONTINUATION else 0)
        if self.size > 131_072:
            self.cut("rst")
        else:
            super().frameUp(found)


class WayBackLimit(FrameHop):
    def frameDown(self, found: Frame) -> None:
        if len(found.payload) > 65_535:
            self.cut("fin")
        else:
            super().frameDown(found)


class Swallows(FrameHop):
    """Passes nothing of 126 bytes, and of 16 KB another."""

    def frameUp(self, found: Frame) -> None:
        if found.opcode == BINARY and len(found.payload) == 16_384 and found.fin:
            super().frameUp(Frame(BINARY, b"another"))
        elif len(found.payload) != 126:
            super().frameUp(found)


def test_a_limit_of_frames_is_told_from_one_of_messages() -> None:
    report = Path(FrameLimit).probe(5, only=["sizes"])
    finding = found(report)["size-limit"]
    assert finding.title.startswith("a frame above 32,768 bytes does not pass")
    assert "AWS API Gateway" in finding.consistentWith[0]
    (first, *_) = [size for size in report.measured["sizes"] if not size["passed"]]
    assert first["size"] == 32_769
    assert first["code"] == 1009
    assert first["arrived"] is False
    assert not first["refusedByServer"]


def test_a_limit_of_messages_counts_their_fragments() -> None:
    report = Path(MessageLimit).probe(5, only=["sizes"])
    assert "131,072 bytes" in found(report)["size-limit"].title
    failed = [size["size"] for size in report.measured["sizes"] if not size["passed"]]
    assert failed == [131_073, 1_048_575, 1_048_576] * 2, "it gives up after three"


def test_a_limit_on_the_way_back_is_told_from_one_there() -> None:
    report = Path(WayBackLimit).probe(5, only=["sizes"])
    assert "on its way back" in found(report)["size-limit"].title


class CutsOnce(FrameHop):
    """Cuts everything once, as a reload does."""

    hasCut = False

    def frameUp(self, found: Frame) -> None:
        if len(found.payload) == 65_536 and not CutsOnce.hasCut:
            CutsOnce.hasCut = True
            self.cut("rst")
        else:
            super().frameUp(found)


def test_a_connection_that_was_cut_once_has_no_limit() -> None:
    report = Path(CutsOnce).probe(5, only=["sizes"])
    assert CutsOnce.hasCut
    assert report.findings == []


def test_the_limit_of_the_server_is_none_of_the_path() -> None:
    report = Path(Hop, "--max-message=1M").probe(5, only=["sizes"])
    assert set(found(report)) == {"server-limit"}
    assert report.isClean


def test_what_is_swallowed_or_changed_on_the_ladder_is_found() -> None:
    report = Path(Swallows).probe(5, only=["sizes"])
    why = {size["size"]: size["why"] for size in report.measured["sizes"] if not size["passed"]}
    assert why[126] == "no echo in 60 s"
    assert why[16_384] == "another message came: 7 bytes, opcode 2"
    assert not report.isClean


def test_sizes_are_tried_without_a_lab_too() -> None:
    report = Path(FrameLimit, "--no-lab").probe(5, only=["sizes"])
    assert found(report)["size-limit"].title.startswith("a frame above 32,768 bytes")
    assert all(size["arrived"] is None for size in report.measured["sizes"])


# Bytes.


class Breaks(FrameHop):
    """Changes what goes to the server, by what the test sets."""

    what = ""

    def frameUp(self, found: Frame) -> None:
        payload = found.payload
        match self.what:
            case "text" if found.opcode == TEXT and payload:
                payload = payload.replace("e\u0301".encode(), "é".encode())
            case "binary" if found.opcode == BINARY:
                payload = payload.replace(b"\r\n", b"\n").replace(b"\x00", b"")
            case "empty" if not payload and found.opcode == TEXT:
                return
            case "opcode" if found.opcode == TEXT:
                found = Frame(BINARY, payload, found.fin, found.rsv)
            case "compressed" if found.rsv:
                self.sendToClient(unmasking(Frame(CLOSE, b"\x03\xearsv")))
                self.cut(client=False)
                return
            case "ping" if found.opcode == PING:
                self.sendToClient(unmasking(Frame(PONG, payload)))
                return
            case "pong" if found.opcode == PING:
                self.sendToClient(unmasking(Frame(PONG, b"another")))
                return
            case "refragments" if found.opcode in (BINARY, CONTINUATION) and len(payload) > 4096:
                super().frameUp(Frame(found.opcode, payload[:4096], False))
                super().frameUp(Frame(CONTINUATION, payload[4096:], found.fin))
                return
            case "close" if found.opcode == CLOSE:
                payload = b"\x03\xe8"
            case "no close" if found.opcode == CLOSE:
                self.cut()
                return
        super().frameUp(Frame(found.opcode, payload, found.fin, found.rsv))


class BreaksBack(FrameHop):
    what = ""

    def frameDown(self, found: Frame) -> None:
        payload = found.payload
        match self.what:
            case "compressed" if found.rsv:
                payload = b"\xff\xff" + payload
            case "inflated" if found.rsv:
                found = Frame(found.opcode, payload, found.fin, 0)
            case "fragments" if found.opcode in (BINARY, CONTINUATION) and len(payload) > 1:
                half = len(payload) // 2
                super().frameDown(Frame(found.opcode, payload[:half], False))
                super().frameDown(Frame(CONTINUATION, payload[half:], found.fin))
                return
            case "between" if found.opcode == TEXT and payload == b"between":
                super().frameDown(Frame(TEXT, b"be"))
                return
            case "pong late" if found.opcode == PONG:
                self.reactor.callLater(1.0, super().frameDown, found)
                return
            case "close" if found.opcode == CLOSE:
                payload = b"\x03\xe8"
            case "message" if found.opcode == CLOSE:
                super().frameDown(Frame(TEXT, b"more"))
            case "swallow" if found.opcode == CLOSE:
                self.cut(client=False)
                return
            case "reset" if found.opcode == CLOSE:
                self.cut("rst")
                return
        super().frameDown(Frame(found.opcode, payload, found.fin, found.rsv))


def through(kind: type[FrameHop], does: str, *options: str) -> Report:
    class This(kind):  # type: ignore[valid-type, misc]
        what = does

    return Path(This, *options).probe(5, only=["bytes"])


@pytest.mark.parametrize(
    ("kind", "does", "check", "why"),
    [
        (Breaks, "text", "text", "bytes came back as"),
        (Breaks, "binary", "binary", "1024 bytes came back as"),
        (Breaks, "empty", "empty messages", "no answer in time"),
        (Breaks, "opcode", "text", "the echo has opcode 2 and RSV 0 instead of opcode 1"),
        (Breaks, "compressed", "a compressed message", "a close frame with 1002 ('rsv')"),
        (BreaksBack, "compressed", "a compressed message", "the echo cannot be inflated"),
        (BreaksBack, "inflated", "a compressed message", "another message came back"),
        (BreaksBack, "between", "a ping between fragments", "the echo came as 6265"),
        (Breaks, "pong", "a ping between fragments", "a pong with another payload came"),
        (Breaks, "ping", "who answers pings", "the ping did not arrive"),
        (Breaks, "refragments", "frames and masks", "came to the server as 4,096, 15,904, 3, 0"),
        (Breaks, "", "frames and masks", "the frames came to the server with other masks"),
        (Breaks, "close", "the client's close", "4321 came to the server as 1000"),
        (Breaks, "no close", "the client's close", "the close frame did not come to the server"),
        (BreaksBack, "reset", "the client's close", "was not answered by a close frame, but by"),
        (BreaksBack, "swallow", "the client's close", "by a close frame, but by no end"),
        (BreaksBack, "close", "the client's close", "4321 was answered by 1000"),
        (BreaksBack, "close", "the server's close", "came as a close frame with 1000"),
        (BreaksBack, "message", "the server's close", "another frame came"),
    ],
)
def test_what_does_not_arrive_as_it_was_sent_is_found(
    kind: type[FrameHop], does: str, check: str, why: str
) -> None:
    report = through(kind, does)
    (result,) = [each for each in report.measured["bytes"] if each["check"] == check]
    assert result["passed"] is False
    assert why in result["why"]
    assert report.findings


def test_fragments_that_are_joined_or_cut_on_the_way_back_are_found() -> None:
    class Cuts(BreaksBack):
        what = "fragments"

        def up(self, data: bytes) -> None:
            self.sendToServer(data)  # With its own masks.

    report = Path(Cuts).probe(5, only=["bytes"])
    (result,) = [each for each in report.measured["bytes"] if each["check"] == "frames and masks"]
    assert result["why"] == "5 fragments from the server came as 10"


def test_a_pong_may_come_after_the_echo() -> None:
    assert passed(through(BreaksBack, "pong late"))["a ping between fragments"] is True


def test_without_compression_none_is_checked() -> None:
    results = passed(Path(Hop, "--no-compression").probe(5, only=["bytes"]))
    assert results.pop("a compressed message") is None
    assert set(results.values()) == {True}


def test_without_a_lab_what_it_would_tell_is_not_seen() -> None:
    report = Path(Hop, "--no-lab").probe(5, only=["bytes"])
    results = passed(report)
    assert results["who answers pings"] is None
    assert results["frames and masks"] is None
    assert results["the server's close"] is None
    assert results["text"] is results["the client's close"] is True
    assert report.isClean


class NoTraces(HeadHop):
    """Has no other path than /lab and /echo."""

    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"GET /trace/", b"GET /nothing/")


def test_without_traces_what_they_would_tell_is_not_seen() -> None:
    report = Path(NoTraces).probe(5)
    results = passed(report)
    assert results["who answers pings"] is None
    assert results["frames and masks"] is None
    assert results["the client's close"] is None
    assert report.measured["flow"]["toServer"]["received"] == []
    assert report.findings == []


class LimitWithoutTraces(FrameLimit):
    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"GET /trace/", b"GET /nothing/")


def test_without_traces_a_size_may_have_arrived_or_not() -> None:
    report = Path(LimitWithoutTraces).probe(5, only=["sizes"])
    failed = [size for size in report.measured["sizes"] if not size["passed"]]
    assert {size["arrived"] for size in failed} == {None}


# Speed.


class Buffers(Hop):
    """Passes on what the server sends once a second."""

    def began(self) -> None:
        self._held = bytearray()
        self._timer: object = None

    def toClient(self, data: bytes) -> None:
        self._held += data
        if self._timer is None:
            self._timer = self.reactor.callLater(1.0, self._flush)

    def _flush(self) -> None:
        self._timer = None
        data, self._held = bytes(self._held), bytearray()
        self.sendToClient(data)


def test_a_buffer_on_the_way_is_found() -> None:
    report = Path(Buffers).probe(5, only=["flow"])
    finding = found(report)["buffered"]
    assert "messages from the server come late, and in lumps" in finding.title
    assert "one was sent every 200 ms" in finding.evidence[0]


def test_a_buffer_is_found_without_a_lab() -> None:
    assert "buffered" in found(Path(Buffers, "--no-lab").probe(5, only=["flow"]))


class Near(Breaks):
    """Answers pings by itself, and the server is far away."""

    what = "ping"

    def frameDown(self, found: Frame) -> None:
        self.reactor.callLater(0.1, super().frameDown, found)


def test_pings_that_are_answered_near_by_are_guessed_without_a_lab() -> None:
    assert "pings-quick" in found(Path(Near, "--no-lab").probe(5, only=["flow"]))


class Disorder(FrameHop):
    """Swaps two messages of a burst."""

    def began(self) -> None:
        super().began()
        self.kept: list[Frame] = []

    def frameDown(self, found: Frame) -> None:
        if found.payload == b"burst 7":
            self.kept.append(found)
            return
        super().frameDown(found)
        while self.kept:
            super().frameDown(self.kept.pop())


def test_messages_out_of_order_are_found() -> None:
    assert "burst" in found(Path(Disorder).probe(5, only=["flow"]))


class Gone(FrameHop):
    """Ends when a burst comes."""

    def frameUp(self, found: Frame) -> None:
        if found.payload == b"burst 7":
            self.cut("rst")
        else:
            super().frameUp(found)


def test_an_area_that_cannot_be_finished_is_named() -> None:
    report = Path(Gone).probe(5, only=["flow"])
    assert report.incomplete == {"flow": "the connection ended by a reset"}
    assert report.status == 2


class Deaf(FrameHop):
    def frameUp(self, found: Frame) -> None:
        if found.payload != b"burst 7":
            super().frameUp(found)


def test_an_area_can_be_interrupted() -> None:
    class Mute(FrameHop):
        def frameUp(self, found: Frame) -> None:
            pass

    report = Path(Mute).probe(5, only=["bytes"], until=130)
    assert report.incomplete == {"bytes": "interrupted"}


def test_an_answer_that_never_comes_is_named() -> None:
    report = Path(Deaf).probe(5, only=["flow"])
    assert report.incomplete == {"flow": "no answer in time"}


class Greets(FrameHop):
    """Stands for a server that says something first."""

    def response(self, head: bytes) -> bytes | None:
        return head + unmasking(Frame(TEXT, b"welcome")) if self.isUpgraded else head


def test_a_server_that_greets_is_no_fault_of_the_path() -> None:
    report = Path(Greets, "--no-lab").probe(5, only=["bytes", "sizes"])
    assert report.findings == []


class Fragments(BreaksBack):
    """Stands for a server that echoes frame by frame."""

    what = "all"

    def frameDown(self, found: Frame) -> None:
        if found.opcode == TEXT and found.payload == b"between":
            super().frameDown(Frame(TEXT, b"be", False))
            super().frameDown(Frame(CONTINUATION, b"tween"))
        else:
            super().frameDown(found)


def test_an_echo_in_fragments_is_an_echo() -> None:
    assert passed(Path(Fragments).probe(5, only=["bytes"]))["a ping between fragments"] is True


def test_a_server_with_a_small_limit_is_measured_for_the_rest() -> None:
    report = Path(Hop, "--max-message=1M").probe(5)
    assert set(found(report)) == {"server-limit"}
    assert report.isClean


class Pongs(FrameHop):
    """Sends pongs that nobody asked for, many at once."""

    def frameDown(self, found: Frame) -> None:
        super().frameDown(found)
        if found.payload.startswith(b"push"):
            for _ in range(500):
                super().frameDown(Frame(PONG, b""))


def test_pongs_are_no_messages_of_a_trickle() -> None:
    report = Path(Pongs).probe(5, only=["flow"])
    assert len(report.measured["flow"]["toClient"]["received"]) < 100
    assert report.findings == []


class Ticks(FrameHop):
    """Stands for a server that says something of its own now and then."""

    _count = 0

    def frameDown(self, found: Frame) -> None:
        self._count += 1
        if self._count % 7 == 0:
            super().frameDown(Frame(TEXT, b"tick"))
        super().frameDown(found)


def test_messages_of_the_servers_own_are_no_echoes() -> None:
    report = Path(Ticks, "--no-lab").probe(5, only=["flow"])
    assert report.findings == []
    assert report.measured["flow"]["burst"]["inOrder"]
