"""Where the log goes: files, pipes, and readers that do not read."""

import contextlib
import errno
import gc
import os
import re
import resource
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.probe import eventually

from echotwist.observe import output
from echotwist.observe.output import LogFile, Stream, openLog


def remark(format: str, **values: Any) -> str:
    return f"! {format.format(**values)}\n"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 100 bytes, of which three are kept, and a queue of 1,000 characters."""
    monkeypatch.setattr(output, "LOG_FILE_BYTES", 100)
    monkeypatch.setattr(output, "LOG_FILES_KEPT", 3)
    monkeypatch.setattr(output, "LOG_QUEUE_CHARACTERS", 1000)
    monkeypatch.setattr(output, "LOG_FLUSH_TIMEOUT", 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def file(path: Path) -> LogFile:
    log = openLog(str(path), remark)
    assert isinstance(log, LogFile)
    return log


def lines(log: Any, first: int, last: int) -> None:
    """Lines of ten bytes."""
    for number in range(first, last):
        log.write(f"line {number:4}\n")


# A file.


def test_a_log_file_is_appended_to(path: Path) -> None:
    path.write_text("before\n")
    file(path).write("é\n")
    assert path.read_bytes() == b"before\n\xc3\xa9\n"


@pytest.mark.usefixtures("small")
def test_rotation_keeps_the_newest_files(path: Path) -> None:
    other = path.with_name("log.4")
    other.write_text("not ours")
    lines(file(path), 0, 95)
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "log", "log.1", "log.2", "log.3", "log.4",
    ]  # fmt: skip
    assert other.read_text() == "not ours"
    kept = "".join(path.with_name(f"log{end}").read_text() for end in (".3", ".2", ".1", ""))
    assert kept == "".join(f"line {number:4}\n" for number in range(60, 95))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_rotation_keeps_the_mode(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    before = os.umask(0o077)
    try:
        log = file(path)
        lines(log, 0, 11)
        assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {mode}
        path.rename(path.with_name("moved"))
        log.reopen()
        lines(log, 11, 12)
    finally:
        os.umask(before)
    assert path.read_text() == "line   11\n"
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {mode}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
@pytest.mark.usefixtures("small")
def test_rotation_keeps_the_owner(path: Path) -> None:
    path.touch()
    os.chown(path, 12345, 54321)
    lines(file(path), 0, 11)
    assert {(s.st_uid, s.st_gid) for each in path.parent.iterdir() if (s := each.stat())} == {
        (12345, 54321)
    }


def test_a_log_file_that_was_renamed_is_reopened_and_not_rotated(path: Path) -> None:
    log = file(path)
    log.write("one\n")
    moved = path.rename(path.with_name("moved"))
    log.write("two\n")
    log.reopen()
    log.write("three\n")
    assert moved.read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    log.reopen()  # It has not been renamed again.
    log.write("four\n")
    assert path.read_text() == "three\nfour\n"
    assert sorted(path.parent.iterdir()) == [path, moved]


def test_a_rotation_that_cannot_keep_owner_and_mode_leaks_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have neither, nor do users that a namespace does not map."""

    def fail(*_: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    log = file(path)
    gc.collect()  # Descriptors of earlier tests.
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fchown", fail)
    monkeypatch.setattr(os, "fchmod", fail)
    for number in range(5):
        log.write(f"{number}\n")
        path.rename(path.with_name(str(number)))
        log.reopen()
    log.write("end\n")
    assert path.read_text() == "end\n"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_log_file_made_by_logrotate_keeps_its_mode(path: Path) -> None:
    log = file(path)
    path.rename(path.with_name("moved"))
    path.touch()
    path.chmod(0o604)
    log.reopen()
    log.write("here\n")
    assert path.read_text() == "here\n"
    assert path.stat().st_mode & 0o777 == 0o604


def test_a_truncated_log_file_has_no_hole(path: Path) -> None:
    log = file(path)
    log.write("copied\n")
    os.truncate(path, 0)
    log.write("next\n")
    assert path.read_bytes() == b"next\n"


@pytest.mark.usefixtures("small")
def test_a_log_file_that_logrotate_rotated_is_not_rotated_again(path: Path) -> None:
    log = file(path)
    lines(log, 0, 10)
    moved = path.rename(path.with_name("log.1"))
    lines(log, 10, 11)
    assert moved.read_text() == "".join(f"line {number:4}\n" for number in range(10))
    assert path.read_text() == "line   10\n"
    assert sorted(path.parent.iterdir()) == [path, moved]


@pytest.mark.usefixtures("small")
def test_a_log_file_that_cannot_be_rotated_goes_on_and_says_so_once(path: Path) -> None:
    path.with_name("log.2").mkdir()
    path.with_name("log.3").mkdir()
    path.with_name("log.3").joinpath("full").touch()
    log = file(path)
    lines(log, 0, 13)
    written = path.read_text().splitlines()
    assert [line for line in written if line[0] != "!"] == [f"line {n:4}" for n in range(13)]
    (said,) = (line for line in written if line[0] == "!")
    assert said.startswith("! the log stays in the same file: [Errno 39] Directory not empty")


def test_a_log_file_that_cannot_be_reopened_goes_on_where_it_was(path: Path) -> None:
    log = file(path)
    moved = path.rename(path.with_name("moved"))
    path.mkdir()
    log.reopen()
    log.write("one\n")
    log.write("two\n")
    # It is tried with each line, and reported once.
    assert moved.read_text().splitlines()[::2] == ["one", "two"]
    path.rmdir()
    log.write("three\n")
    assert path.read_text() == "three\n"
    # It is reported again if it happens again.
    again = path.rename(path.with_name("again"))
    path.mkdir()
    log.reopen()
    log.write("four\n")
    assert again.read_text().startswith("three\n")
    assert "the log stays in the same file" in again.read_text()


def test_a_log_thread_that_cannot_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = os.pipe()
    stream = Stream(theirs, remark)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        stream.write("one\n")
    stream.write("two\n")
    stream.flush(20)
    assert os.read(ours, 100) == b"one\ntwo\n"
    os.close(ours)


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file may be larger; Python has SIGXFSZ ignored."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_lost_to_a_full_disk_are_counted(path: Path) -> None:
    log = file(path)
    with room(35):
        lines(log, 0, 1003)
    assert path.read_text() == "line    0\nline    1\nline    2\nline "
    log.write("there is\nroom\n")
    log.write("again\n")
    assert path.read_text().splitlines()[3:] == [
        "line ",
        "! 1,000 lines of the log were lost as it could not be written: File too large",
        "there is",
        "room",
        "again",
    ]


@pytest.mark.parametrize("name", ["/nonexistent/log", "."])
def test_a_log_file_that_cannot_be_opened_is_an_oserror(name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        openLog(name, remark)


def test_a_fifo_that_nobody_reads_is_an_oserror_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        openLog(str(tmp_path / "fifo"), remark)


def test_a_device_is_a_stream(tmp_path: Path) -> None:
    assert isinstance(openLog("/dev/null", remark), Stream)


# A stream.


def test_a_stream_gets_each_line_in_its_encoding(pipe: tuple[int, int]) -> None:
    log = Stream(pipe[1], remark, "ascii")
    log.write("one\n")
    log.write("é\n")
    log.flush(20)
    assert os.read(pipe[0], 1000) == b"one\n\\xe9\n"


def filled(writer: int) -> int:
    """Fill a pipe. Returns the number of bytes."""
    os.set_blocking(writer, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"\0" * 4096)
    os.set_blocking(writer, True)
    return count


def everything(reader: int, log: Stream) -> str:
    """Everything that can be read until the log is idle."""
    read = b""
    os.set_blocking(reader, False)

    def isDone() -> bool:
        nonlocal read
        with contextlib.suppress(BlockingIOError):
            while more := os.read(reader, 65536):
                read += more
        with log._changed:
            return log._isIdle and not log._queue

    eventually(isDone)
    isDone()
    return read.decode().lstrip("\0")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("isBlocking", [True, False])
def test_the_log_does_not_wait_for_a_slow_reader_and_tells_it_what_it_lost(
    pipe: tuple[int, int], isBlocking: bool
) -> None:
    reader, writer = pipe
    filled(writer)
    os.set_blocking(writer, isBlocking)
    log = Stream(writer, remark)
    began = time.monotonic()
    lines(log, 0, 5000)
    log.write("two\nlines\n")
    log.flush(0.1)
    assert time.monotonic() - began < 2
    read = everything(reader, log).splitlines()
    kept = [line for line in read if line[0] != "!"]
    assert kept == [f"line {number:4}" for number in range(len(kept))]
    # The queue has room for a hundred, and the thread may have taken one.
    assert 100 <= len(kept) <= 101
    assert read[len(kept) :] == [
        f"! {5002 - len(kept):,} lines of the log were lost while nobody read it"
    ]
    lines(log, 1, 4)
    assert everything(reader, log) == "line    1\nline    2\nline    3\n"


@pytest.mark.usefixtures("small")
def test_lost_lines_are_reported_where_they_are_missing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled(writer)
    log = Stream(writer, remark)
    lines(log, 0, 200)
    read = everything(reader, log)
    lines(log, 200, 202)
    log.flush(20)
    read += everything(reader, log)
    assert re.fullmatch(
        r"(line .{4}\n)+! \d+ lines of the log were lost while nobody read it\n"
        r"line  200\nline  201\n",
        read,
    )


@contextlib.contextmanager
def stalled(kind: str) -> Iterator[tuple[int, int, Callable[[], None]]]:
    """A reader, a writer that is blocked, and a function that lets it go on."""
    if kind == "terminal":
        reader, writer = os.openpty()
        tty.setraw(writer)
        termios.tcflow(writer, termios.TCOOFF)  # Ctrl-S.
        yield reader, writer, lambda: termios.tcflow(writer, termios.TCOON)
    else:
        ends = socket.socketpair()
        reader, writer = (end.detach() for end in ends)
        filled(writer)
        yield reader, writer, lambda: None
    os.close(reader)
    os.close(writer)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["terminal", "socket"])
def test_the_log_does_not_wait_for_a_terminal_or_socket(kind: str) -> None:
    with stalled(kind) as (reader, writer, resume):
        log = Stream(writer, remark)
        began = time.monotonic()
        lines(log, 0, 5000)
        log.flush(0.1)
        assert time.monotonic() - began < 2
        resume()
        read = everything(reader, log).splitlines()
    lost = re.fullmatch(r"! ([\d,]+) lines of the log were lost while nobody read it", read.pop())
    assert lost
    assert read == [f"line {number:4}" for number in range(len(read))]
    assert len(read) + int(lost[1].replace(",", "")) == 5000


def test_the_log_survives_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = Stream(writer, remark)
    os.close(reader)
    lines(log, 0, 100)
    log.flush(20)
    assert not log._queue
    assert log._writer._lost == 100


def test_a_device_that_is_full_costs_no_memory() -> None:
    log = openLog("/dev/full", remark)
    assert isinstance(log, Stream)
    lines(log, 0, 100)
    log.flush(20)
    assert log._writer._lost == 100


@pytest.mark.usefixtures("small")
def test_a_line_longer_than_the_queue_is_lost(pipe: tuple[int, int]) -> None:
    log = Stream(pipe[1], remark)
    log.write("x" * 2000 + "\n")
    log.write("next\n")
    log.flush(20)
    # The second line may come before the loss of the first was reported.
    assert re.fullmatch(
        r"! 1 lines of the log were lost while nobody read it\nnext\n"
        r"|! 2 lines of the log were lost while nobody read it\n",
        everything(pipe[0], log),
    )
