"""Listening: the ports on which clients reach the service, and the log lines that name them."""

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.application.service import Service
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

from echotwist.fatal import Fatal, failWhileRunning
from echotwist.http.site import AdminSite, HttpSite
from echotwist.limits import BACKLOG
from echotwist.listen.location import PROXY_PREFIX, Location, isDualStack, locate
from echotwist.listen.proxy import ProxyFactory
from echotwist.listen.tls import TlsEndpoint

_log = Logger(namespace="echotwist")


@dataclass
class ListenSpec:
    """One endpoint to listen on, and the site to serve there."""

    description: str
    """The endpoint as the operator wrote it."""

    endpoint: IStreamServerEndpoint
    site: HttpSite

    @property
    def isProxied(self) -> bool:
        """Whether a proxy speaks the PROXY protocol here; see `proxy`."""
        return self.description.startswith(PROXY_PREFIX)

    @property
    def isAdmin(self) -> bool:
        return isinstance(self.site, AdminSite)


class ListenService(Service):
    """Listens on the endpoints of `specs`."""

    def __init__(self, reactor: Any, specs: Sequence[ListenSpec]) -> None:
        self._reactor = reactor
        self._specs = specs
        self._ports: list[tuple[ListenSpec, IListeningPort]] = []
        self._isStarting = False

    def privilegedStartService(self) -> None:
        """Listen, before twistd gives up root. Raises Fatal."""
        self._isStarting = True
        try:
            self._listen()
        finally:
            self._isStarting = False

    def _listen(self) -> None:
        failed: list[Fatal] = []
        for spec in self._specs:
            journal = spec.site.context.journal
            factory: Any = ProxyFactory(spec.site, journal) if spec.isProxied else spec.site
            endpoint: Any = spec.endpoint
            if isinstance(endpoint, TlsEndpoint):
                endpoint = replace(endpoint, journal=journal, turns=spec.site.context.turns)
            listening = endpoint.listen(factory)
            listening.addCallback(self._add, spec)
            listening.addErrback(self._cannotListen, spec, failed)
            if failed:
                raise failed[0]

    def _cannotListen(self, failure: Failure, spec: ListenSpec, failed: list[Fatal]) -> None:
        failed.append(cannotListen(spec.description, failure))
        # Twisted's endpoints fail at once, and then this raises; others may fail later.
        if self._reactor.running and not self._isStarting:
            failWhileRunning(self._reactor, failed[-1])

    def startService(self) -> None:
        if not self._ports:
            self.privilegedStartService()
        super().startService()
        # Not before: once the log says that it is ready, a signal must drain it.
        self._reactor.callWhenRunning(self._ready)

    def _add(self, port: IListeningPort, spec: ListenSpec) -> None:
        self._ports.append((spec, port))

    @property
    def isListening(self) -> bool:
        """Whether every endpoint listens by now; those that are not Twisted's may take a while."""
        return len(self._ports) == len(self._specs)

    def locations(self, isAdmin: bool = False) -> list[Location]:
        """Where clients reach the service; with `isAdmin`, where the operator does."""
        return [_locationOf(spec, port) for spec, port in self._ports if spec.isAdmin == isAdmin]

    def _ready(self) -> None:
        for spec, port in self._ports:
            _announce(spec, port)

    def stopService(self) -> "Deferred[Any]":
        """Stop listening."""
        super().stopService()
        return DeferredList([self._stopListening(isAdmin) for isAdmin in (False, True)])

    def _stopListening(self, isAdmin: bool) -> "Deferred[Any]":
        return DeferredList(
            [
                maybeDeferred(port.stopListening)
                for spec, port in self._ports
                if spec.isAdmin == isAdmin
            ]
        )


@implementer(IStreamServerEndpoint)
@dataclass
class DualStackEndpoint:
    """All IPv4 and IPv6 addresses of the machine, on one socket.

    Twisted's `tcp:` is IPv4 only. Its `tcp6:` serves both only where the kernel's
    net.ipv6.bindv6only is 0, and fails on a machine without IPv6.
    """

    reactor: Any
    port: int
    reusePort: bool = False
    """Whether other processes may listen on the same port; see `reuseport`."""

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        try:
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            with socket.create_server(
                ("", self.port),
                family=family,
                backlog=BACKLOG,
                reuse_port=self.reusePort,
                dualstack_ipv6=family == socket.AF_INET6,
            ) as listening:
                listening.setblocking(False)
                return succeed(self.reactor.adoptStreamPort(listening.fileno(), family, factory))
        except OSError:
            return fail()


def cannotListen(description: str, failure: Failure) -> Fatal:
    return Fatal(f"cannot listen on {description}: {_reasonOf(failure)}")


def _reasonOf(failure: Failure) -> str:
    error: Any = failure.value
    if isinstance(error, CannotListenError):
        if error.socketError == "Cannot acquire lock":  # 26.10, internet/unix.py, `Port`.
            taken = os.strerror(errno.EADDRINUSE)
            return f"{taken}, as {os.fsdecode(error.port)}.lock says"
        error = error.socketError
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


def _announce(spec: ListenSpec, port: IListeningPort) -> None:
    if spec.isAdmin:
        _log.info("metrics on {where}", where=spec.description)
        return
    if spec.isProxied:  # Not for browsers.
        _log.info("listening on {where}, for a proxy", where=spec.description)
        return
    location = _locationOf(spec, port)
    if location.authority is not None:
        _announceUrl(location.scheme, location.authority, location.remark)
    elif location.path is not None:
        _log.info("listening on unix:{where}", where=location.path)
    else:
        _log.info("listening on {where}", where=port.getHost())


def _locationOf(spec: ListenSpec, port: IListeningPort) -> Location:
    return locate(spec.description, port.getHost(), lambda: _isDual(port))


def _announceUrl(scheme: str, where: str, also: str = "") -> None:
    _log.info(
        "open {scheme}://{where}/ in a browser, "
        "or connect a WebSocket client to {websocket}://{where}/echo{also}",
        scheme=scheme,
        websocket=scheme.replace("http", "ws"),
        where=where,
        also=also,
    )


def _isDual(port: Any) -> bool:
    """Whether IPv4 clients reach a port that listens on `::`. Where Twisted opened the socket,
    net.ipv6.bindv6only decides that."""
    with socket.socket(fileno=os.dup(port.fileno())) as listening:
        return isDualStack(listening)
