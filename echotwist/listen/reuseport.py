"""Ports on which several processes listen: `--workers`.

    PortReservation    in the supervisor: binds the ports without listening
    ReusePortReactor   in a worker: listens on them, with SO_REUSEPORT (socket(7))

The supervisor reserves the ports, so that a port that is taken ends it at once, and port 0 is the
same free port for every worker. The kernel gives each connection to one of the listening workers.

Both stand in for the reactor, because Twisted's endpoints have no parameter for SO_REUSEPORT
(26.10, twisted/internet/endpoints.py, `TCP4ServerEndpoint`).
"""

import socket
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.tcp import makeBinding


class ReusePortReactor:
    """A reactor on whose TCP ports other processes may listen, too."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        binding = makeBinding(interface, port, reuseAddress=True, reusePort=True)
        return self._reactor.listenTCP(binding, factory, backlog, interface)


class PortReservation:
    """A reactor that binds TCP ports to `sockets` without listening, for a `ReusePortReactor`.

    Until `share` is called, no other process can bind them, nor can this one a second time, on
    whatever interface. Raises CannotListenError, also for what cannot be shared.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.sockets: list[socket.socket] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("listenUNIX", "adoptStreamPort"):
            return self._refuse
        return getattr(self._reactor, name)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise CannotListenError("", "", OSError("--workers can share only TCP ports"))

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if not port:
            raise CannotListenError(interface, port, OSError("--workers needs a port other than 0"))
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        return self._bind(family, interface, port)

    def dualStack(self, port: int) -> int:
        """Reserve `port` on every interface, as `ports.DualStackEndpoint` listens. Returns the
        port, which is a free one for 0."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return self._bind(family, "", port)

    def _bind(self, family: int, host: str, port: int) -> int:
        reserved = socket.socket(family, socket.SOCK_STREAM)
        self.sockets.append(reserved)
        # The kernel may still know connections of the previous process.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not host:
            # With a host, the kernel's default applies, as where Twisted listens.
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            reserved.bind((host, port))
        except OSError as e:
            raise CannotListenError(host, port, e) from e
        # While it is set, another process that does not listen either could bind the same port.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        number: int = reserved.getsockname()[1]
        return number

    def share(self) -> None:
        """Let workers listen on the ports."""
        for reserved in self.sockets:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def close(self) -> None:
        for reserved in self.sockets:
            reserved.close()
