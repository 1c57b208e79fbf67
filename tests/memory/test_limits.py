import resource

import pytest

from echotwist import limits
from echotwist.limits import (
    Limits,
    parseConnections,
    parseCount,
    parseSeconds,
    parseSecondsOrZero,
    parseSize,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("65536", 65536),
        ("64k", 65536),
        ("64K", 65536),
        ("64kb", 65536),
        ("16M", 2**24),
        ("1g", 2**30),
    ],
)
def test_sizes_are_parsed(text: str, value: int) -> None:
    assert parseSize(text) == value


@pytest.mark.parametrize(
    "text", ["", "0", "0k", "-1", "1.5M", "1T", "k", "16 M", "1e3", "٣", "9" * 16, "16M\n"]
)
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes a size"):
        parseSize(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("10s", 10),
        ("500ms", 0.5),
        ("1.5m", 90),
        ("2h", 7200),
        ("168h", 604800),
        ("0.5", 0.5),
    ],
)
def test_times_are_parsed(text: str, value: float) -> None:
    assert parseSeconds(text) == parseSecondsOrZero(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1d", "10 s", "nan", "inf", "1e3", "169h", "999999999999h", "٣", ".5", "1s\n"],
)
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes a time"):
        parseSecondsOrZero(text)


def test_only_some_times_may_be_zero() -> None:
    assert parseSecondsOrZero("0") == 0
    with pytest.raises(ValueError, match="more than 0"):
        parseSeconds("0ms")


def test_numbers_are_parsed() -> None:
    assert parseCount("0") == 0
    for text in ("-1", "1.5", "x", "", "9" * 16):
        with pytest.raises(ValueError, match="takes a whole number"):
            parseCount(text)


def test_max_connections_follows_the_descriptor_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = 1024
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, 2 * soft))
    assert parseConnections("auto") == 924
    assert parseConnections("924") == 924
    assert parseConnections("7") == 7
    with pytest.raises(ValueError, match="at least 1, or auto"):
        parseConnections("0")
    with pytest.raises(ValueError, match=r"\(ulimit -n\) is 1024, enough for 924 connections"):
        parseConnections("925")
    soft = 50
    for text in ("auto", "1"):
        with pytest.raises(ValueError, match=r"\(ulimit -n\) is 50, enough for 0 connections"):
            parseConnections(text)
    soft = resource.RLIM_INFINITY
    assert parseConnections("auto") == 2**31


def test_a_size_over_the_length_field_of_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="that a frame can have"):
        parseSize("999999999999999G")


def test_there_are_descriptors_for_clients_that_are_refused() -> None:
    assert 0 < limits.OVERFLOW_CONNECTIONS < limits.RESERVED_DESCRIPTORS


def test_the_defaults_are_those_of_the_manual() -> None:
    defaults = Limits()
    assert defaults.maxMessage == 16 * 2**20
    assert (defaults.handshakeTimeout, defaults.pingInterval, defaults.pingTimeout) == (10, 30, 20)
    assert (defaults.closeTimeout, defaults.drainTimeout, defaults.logRate) == (5, 10, 100)


def test_a_compressed_message_may_be_larger_on_the_wire() -> None:
    """By as much as zlib's deflateBound allows."""
    for n in (1, 1000, 2**24):
        assert Limits(maxMessage=n).maxWirePayload >= n + (n >> 3) + (n >> 6) + 11
