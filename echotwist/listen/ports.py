"""Where clients reach the service: listening, and saying where."""

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist.fatal import Fatal
from echotwist.http.site import AdminSite, HttpSite
from echotwist.limits import BACKLOG
from echotwist.listen.proxy import ProxyFactory
from echotwist.listen.tls import TlsEndpoint, TlsFactory

_log = Logger(namespace="echotwist")


@dataclass
class Listener:
    """Where to listen: the endpoint, and what the operator called it."""

    description: str
    endpoint: IStreamServerEndpoint
    site: HttpSite

    @property
    def isProxied(self) -> bool:
        """Whether clients come through a proxy that says so; see `proxy`."""
        return self.description.startswith("haproxy:")

    @property
    def isAdmin(self) -> bool:
        return isinstance(self.site, AdminSite)

    @property
    def scheme(self) -> str:
        return "http" + "s" * self.description.startswith("ssl:")


class Listening(Service):
    """Serves on `listeners`."""

    def __init__(self, reactor: Any, listeners: Sequence[Listener]) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._ports: list[tuple[Listener, IListeningPort]] = []

    def privilegedStartService(self) -> None:
        """Listen, before twistd gives up root. Raises Fatal."""
        failed: list[Fatal] = []
        for listener in self._listeners:
            listening = listener.endpoint.listen(self._factoryFor(listener))
            listening.addCallback(self._listening, listener)
            listening.addErrback(self._cannotListen, listener, failed)
            if failed:
                raise failed[0]

    def _factoryFor(self, listener: Listener) -> IProtocolFactory:
        """HTTP, below it the PROXY protocol, and below that TLS, as the listener has them."""
        factory: Any = listener.site
        journal = listener.site.context.journal
        if listener.isProxied:
            factory = ProxyFactory(factory, journal)
        if isinstance(listener.endpoint, TlsEndpoint):
            factory = TlsFactory(listener.endpoint.certificate, factory, self._reactor, journal)
        made: IProtocolFactory = factory
        return made

    def _cannotListen(self, failure: Failure, listener: Listener, failed: list[Fatal]) -> None:
        failed.append(cannotListen(listener.description, failure))
        if self._reactor.running:  # Twisted's endpoints fail at once; somebody else's may not.
            _log.critical("{why}", why=failed[0])
            self._reactor.stop()

    def startService(self) -> None:
        if not self._ports:
            self.privilegedStartService()
        super().startService()
        # When it is said to be ready, it is: a signal drains it from now on.
        self._reactor.callWhenRunning(self._ready)

    def _listening(self, port: IListeningPort, listener: Listener) -> None:
        self._ports.append((listener, port))

    @property
    def isListening(self) -> bool:
        """Whether it does so everywhere; somebody else's endpoint may take its time."""
        return len(self._ports) == len(self._listeners)

    def _ready(self) -> None:
        for listener, port in self._ports:
            _announce(listener, port)

    def stopService(self) -> "Deferred[Any]":
        """Stop listening."""
        super().stopService()
        return DeferredList([self._stopListening(isAdmin) for isAdmin in (False, True)])

    def _stopListening(self, isAdmin: bool) -> "Deferred[Any]":
        return DeferredList(
            [
                maybeDeferred(port.stopListening)
                for listener, port in self._ports
                if listener.isAdmin == isAdmin
            ]
        )


@implementer(IStreamServerEndpoint)
@dataclass
class EveryInterface:
    """All IPv4 and IPv6 addresses of the machine, on one socket.

    Twisted's `tcp:` is IPv4 alone. Its `tcp6:` serves both only where the kernel's
    net.ipv6.bindv6only is 0, and not at all on a machine without IPv6.
    """

    reactor: Any
    port: int
    isShared: bool = False
    """With other processes; see `workers`."""

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        try:
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            with socket.create_server(
                ("", self.port),
                family=family,
                backlog=BACKLOG,
                reuse_port=self.isShared,
                dualstack_ipv6=family == socket.AF_INET6,
            ) as listener:
                listener.setblocking(False)
                return succeed(self.reactor.adoptStreamPort(listener.fileno(), family, factory))
        except OSError:
            return fail()


def cannotListen(description: str, failure: Failure) -> Fatal:
    return Fatal(f"cannot listen on {description}: {_why(failure)}")


def _why(failure: Failure) -> str:
    error: Any = failure.value
    if isinstance(error, CannotListenError):
        if error.socketError == "Cannot acquire lock":  # twisted/internet/unix.py, 26.10
            taken = os.strerror(errno.EADDRINUSE)
            return f"{taken}, as {os.fsdecode(error.port)}.lock says"
        error = error.socketError
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


def _announce(listener: Listener, port: IListeningPort) -> None:
    if listener.isAdmin:
        _log.info("metrics on {where}", where=listener.description)
        return
    if listener.isProxied:  # Not for browsers.
        _log.info("listening on {where}, for a proxy", where=listener.description)
        return
    match port.getHost():
        case IPv4Address(host="0.0.0.0", port=number):
            _announceUrl(listener.scheme, f"127.0.0.1:{number}", " (on all IPv4 addresses)")
        case IPv6Address(host="::", port=number) if _isDual(port):
            _announceUrl(listener.scheme, f"localhost:{number}")
        case IPv6Address(host="::", port=number):
            _announceUrl(listener.scheme, f"[::1]:{number}", " (on all IPv6 addresses)")
        case IPv4Address(host=host, port=number):
            _announceUrl(listener.scheme, f"{host}:{number}")
        case IPv6Address(host=host, port=number):
            _announceUrl(listener.scheme, f"[{host}]:{number}")
        case UNIXAddress(name=bytes(name)):
            _log.info("listening on unix:{where}", where=os.fsdecode(name))
        case address:
            _log.info("listening on {where}", where=address)


def _announceUrl(scheme: str, where: str, also: str = "") -> None:
    """An address that answers. `localhost` does on both families alone: where a browser tries
    `::1` first, another service may listen there."""
    _log.info(
        "open {scheme}://{where}/ in a browser, "
        "or connect a WebSocket client to {websocket}://{where}/echo{also}",
        scheme=scheme,
        websocket=scheme.replace("http", "ws"),
        where=where,
        also=also,
    )


def _isDual(port: Any) -> bool:
    """Whether IPv4 clients reach a port that listens on `::`: net.ipv6.bindv6only decides it
    where Twisted opens the socket."""
    with socket.socket(fileno=os.dup(port.fileno())) as listening:
        return not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
