"""One spelling of an address."""

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from echotwist.wire.peer import nameOf


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (IPv4Address("TCP", "192.0.2.1", 80), "192.0.2.1:80"),
        (IPv6Address("TCP", "2001:db8::1", 80), "[2001:db8::1]:80"),
        # However it is spelled.
        (IPv6Address("TCP", "2001:DB8:0:0:0:0:0:1", 80), "[2001:db8::1]:80"),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 80), "192.0.2.1:80"),
        (IPv6Address("TCP", "::ffff:c000:201", 80), "192.0.2.1:80"),
        (IPv6Address("TCP", "0:0:0:0:0:ffff:c000:201", 80), "192.0.2.1:80"),
        (IPv6Address("TCP", "fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        (UNIXAddress(b"/run/x"), "unix"),
        (UNIXAddress(None), "unix"),
        (None, "unknown"),
    ],
)
def test_peers_have_readable_names(address: Any, name: str) -> None:
    assert nameOf(address) == name


def test_a_missing_peer_address_is_unknown() -> None:
    assert nameOf(IPv6Address("TCP", "no address", 80)) == "unknown"
