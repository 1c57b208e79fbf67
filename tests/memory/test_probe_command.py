"""`echotwist probe`: its options, what it prints, and with what status it ends."""

import errno
import importlib
import io
import json
import os
import sys
from pathlib import Path as File
from typing import Any

import pytest
from support.path import HeadHop, Hop, Path
from twisted.internet.defer import ensureDeferred

from echotwist.probe import command
from echotwist.probe.report import Report
from echotwist.probe.target import BadTarget, Target, parseHeader, parseProxy

URL = "ws://127.0.0.1:8080/echo"


class Refuses(HeadHop):
    def request(self, head: bytes) -> bytes | None:
        return head.replace(b"Upgrade: websocket\r\n", b"")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on a path in memory. Returns its exit status."""

    def start(*arguments: str, hop: type[Hop] = Hop, until: float | None = None) -> int:
        path = Path(hop)

        def react(main: Any, argv: Any) -> None:
            running = ensureDeferred(main(path.reactor, *argv))
            if until is None:
                path.drive(running)
            else:
                path.drive(running, until, lambda: stopping(path))

        def stopping(path: Path) -> None:
            for trigger, *rest in path.reactor.triggers["before"]["shutdown"]:
                trigger(*(rest[0] if rest else ()))

        monkeypatch.setattr(command, "react", react)
        try:
            command.main(["probe", *arguments])
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return start


def test_a_clean_path_ends_with_0(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(URL, "--for=5s") == 0
    out, err = capsys.readouterr()
    clean = "Nothing was found that breaks a WebSocket on this path; silence was watched for 5 s."
    assert clean in " ".join(out.split())
    assert "pass, 15 sizes up to 16,777,216 bytes" in out
    assert err == ""
    assert "\x1b" not in out


def test_a_finding_ends_with_1(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(URL, hop=Refuses) == 1
    assert "problem: Upgrade did not arrive at the server" in capsys.readouterr().out


def test_json_is_a_report(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(URL, "--json", "--for=5s", "--only=idle,bytes") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["status"] == 0
    report = Report.fromJson(out)
    assert report.url == URL
    assert set(report.measured) == {"handshake", "farEnd", "idle", "bytes"}
    assert Report.fromJson(report.asJson()) == report


def test_markdown_has_the_findings_and_a_table(
    start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(URL, "--markdown", hop=Refuses) == 1
    out = capsys.readouterr().out
    assert out.startswith("# ws://127.0.0.1:8080/echo\n")
    assert "## problem: Upgrade did not arrive" in out
    assert "| handshake | answer | HTTP/1.1 426 Upgrade Required |" in out


def test_an_interrupt_prints_what_is_known(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(URL, until=40) == 2
    out = capsys.readouterr().out
    assert "Nothing was found, and not all could be run." in out
    assert "interrupted" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def reconfigure(self, errors: str) -> None:
        pass


def test_a_terminal_has_color_and_sees_progress(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert start(URL, "--for=10s", hop=Refuses) == 1
    assert "\x1b[31mproblem: " in out.getvalue()
    assert start(URL, "--for=10s", "--only=idle") == 0
    shown = err.getvalue()
    assert "0:02 left; idle: 5 connections" in shown
    assert shown.endswith("\r\x1b[K")


def test_no_color_is_obeyed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("NO_COLOR", "1")
    start(URL, hop=Refuses)
    assert "\x1b" not in out.getvalue()


def test_a_fault_of_its_own_is_not_hidden(
    start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(measured: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("echotwist.paths.rules.judge", broken)
    assert start(URL, "--only=handshake") == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: URL"),
        (["ftp://example/"], "a WebSocket's URL begins with ws:// or wss://, not 'ftp://example/'"),
        (["ws://a..b/echo"], "'a..b' is no name of a host"),
        (["ws:///echo"], "it names no host"),
        (["ws://example:port/"], "is not a URL"),
        (["ws://example:0/"], "nothing listens on port 0"),
        (["ws://example/\udcff"], "has what does not print"),
        ([URL, "--proxy=http://proxy.example:0"], "nothing listens on port 0"),
        (["ws://me:secret@example/"], "no credentials in the URL"),
        (["ws://example/#part"], "a fragment is nothing that a server gets"),
        ([URL, "--for=0"], "takes a time of more than 0"),
        ([URL, "--only=all"], "'all' is none of handshake, bytes, sizes, flow, idle"),
        ([URL, "--header=nothing"], "a header is NAME: VALUE"),
        ([URL, "--header=X: \x07"], "must be printable ASCII"),
        ([URL, "--header=upgrade: h2c"], "is the probe's own"),
        ([URL, "--proxy=socks5://me:secret@example"], "a proxy is http://"),
        ([URL, "--proxy=me:secret@example:8080"], "is not a proxy"),
        ([URL, "--proxy=http://me:secr/et@example"], "its host or port is none"),
        ([URL, "--header=Bearer secret"], "a header is NAME: VALUE"),
        (["wss://example/", "--cacert=/nowhere"], "cannot read /nowhere: No such file"),
        ([URL, "--every=5m"], "--every is for --serve"),
        ([URL, "--json", "--markdown"], "not allowed with argument"),
    ],
)
def test_what_is_wrong_is_told_and_ends_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["probe", *arguments])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert words in " ".join(err.split())
    assert "secr" not in err


class Unwritable(io.StringIO):
    """Raises this once it is flushed."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def reconfigure(self, errors: str) -> None:
        pass

    def flush(self) -> None:
        raise self._error


def test_who_reads_no_further_gets_the_status_all_the_same(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hop, status in ((Hop, 0), (Refuses, 1)):
        monkeypatch.setattr(sys, "stdout", Unwritable(BrokenPipeError()))
        assert start(URL, "--only=handshake", hop=hop) == status


def test_a_report_that_cannot_be_written_ends_with_2(
    start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for out in (Unwritable(full), None):
        monkeypatch.setattr(sys, "stdout", out)
        assert start(URL, "--only=handshake") == 2
        assert "cannot write the report: " in capsys.readouterr().err


# Targets.


@pytest.mark.parametrize(
    ("url", "shown", "authority", "path"),
    [
        ("ws://example", "ws://example/", "example", "/"),
        ("wss://example:443/echo", "wss://example/echo", "example", "/echo"),
        ("http://a:8080/echo?b=c d", "ws://a:8080/echo?b=c%20d", "a:8080", "/echo?b=c%20d"),
        ("ws://Bücher.example/", "ws://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
        ("ws://straße.example/", "ws://xn--strae-oqa.example/", "xn--strae-oqa.example", "/"),
        ("ws://a_b/", "ws://a_b/", "a_b", "/"),
        ("https://[::1]/é", "wss://[::1]/%C3%A9", "[::1]", "/%C3%A9"),
    ],
)
def test_a_url_is_read_as_clients_do(url: str, shown: str, authority: str, path: str) -> None:
    target = Target.parse(url)
    assert target.url == shown
    assert target.authority == authority
    assert target.path == path


def test_the_lab_is_beside_the_url_below_a_prefix_too() -> None:
    assert Target.parse("ws://example/echo").beside("lab") == "/lab"
    assert Target.parse("ws://example/ws/echo?x=/y").beside("lab") == "/ws/lab"
    assert Target.parse("ws://example").beside("trace/1") == "/trace/1"


def test_a_proxy_has_credentials_that_are_not_shown() -> None:
    proxy = parseProxy("http://me:p%40ss@proxy.example:3128")
    assert (proxy.host, proxy.port, proxy.credentials) == ("proxy.example", 3128, "me:p@ss")
    assert "p@ss" not in repr(proxy)
    assert parseProxy("http://proxy.example").port == 8080


def test_a_header_is_a_name_and_a_value() -> None:
    assert parseHeader("Authorization:  Bearer a:b ") == ("Authorization", "Bearer a:b")


def test_a_file_of_authorities_must_have_some(tmp_path: File) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing\n")
    with pytest.raises(BadTarget, match="has no certificates in PEM"):
        Target.parse("wss://example/", caFile=str(file))
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(BadTarget, match="a certificate that cannot be read"):
        Target.parse("wss://example/", caFile=str(file))


def test_python_m_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(command, "main", given.append)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["probe", *arguments])
        monkeypatch.delitem(sys.modules, "echotwist.probe.__main__", raising=False)
        importlib.import_module("echotwist.probe.__main__")

    run(URL, "--json")
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(["--header=A: secret", URL])))
    run("-")
    assert given == [["probe", URL, "--json"], ["probe", "--header=A: secret", URL]]
