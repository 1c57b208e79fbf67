"""The service: listen, be ready, drain."""

import errno
import math
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    fail,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echotwist import fastpath
from echotwist.channel import Channel
from echotwist.init import DRAINING
from echotwist.limits import BACKLOG
from echotwist.protocol import EchoFactory, EchoProtocol
from echotwist.proxy import ProxyFactory
from echotwist.site import AdminSite, EchoSite

_SPREAD = 20
"""Steps in which a drain says 1001 to everybody, so that not all clients return at once."""

_STEP = 0.05
"""Seconds between two steps."""

_log = Logger(namespace="echotwist")


class Fatal(SystemExit, Exception):
    """The service cannot start; the message is for the operator.

    A SystemExit, so that Python prints one line and no traceback and ends with status 1; and
    an Exception, because twistd tidies up (its pid file, the parent process that waits for
    the daemon) for nothing else.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"echotwist: {message}")


@dataclass
class Listener:
    """Where to listen: the endpoint, and what the operator called it."""

    description: str
    endpoint: IStreamServerEndpoint
    site: EchoSite

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
            factory = ProxyFactory(listener.site) if listener.isProxied else listener.site
            listening = listener.endpoint.listen(factory)
            listening.addCallback(self._listening, listener)
            listening.addErrback(self._cannotListen, listener, failed)
            if failed:
                raise failed[0]

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


class EchoService(Listening):
    """Serves the connections of `factory` on `listeners`; its `stopService` drains."""

    def __init__(self, reactor: Any, listeners: Sequence[Listener], factory: EchoFactory) -> None:
        super().__init__(reactor, listeners)
        self.factory = factory

    @property
    def connected(self) -> int:
        return len(self.factory.connections)

    def isAlive(self) -> bool:
        return self.factory.fastPath is None or not self.factory.fastPath.hanging()

    @property
    def drainTimeout(self) -> float:
        return self.factory.limits.drainTimeout

    def startService(self) -> None:
        super().startService()
        if self.factory.fastPath is not None:
            try:
                self.factory.fastPath.start()
            except (OSError, RuntimeError) as e:
                raise Fatal(f"cannot start {self.factory.fastPath.threads} threads: {e}") from e

    def _ready(self) -> None:
        super()._ready()
        if self.factory.fastPath is not None:
            _log.info("fast path: threads: {count}", count=self.factory.fastPath.threads)
        else:
            why = fastpath.whyNot or "it is turned off"
            _log.info("no fast path, {why}: Autobahn echoes everything", why=why)
        _log.info("taking up to {count:,} connections", count=self.factory.limits.maxConnections)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Drain. Fires when every client is gone, at the latest after the drain limit."""
        Service.stopService(self)
        started = self._reactor.seconds()
        emptied = self.factory.drain()
        closed = self._stopListening(isAdmin=False)
        leaving = list(self.factory.connections)
        if leaving:
            _log.info("draining, with {count:,} connected", count=len(leaving))
        deadline = self._reactor.callLater(self.factory.limits.drainTimeout, self.hurry)
        self._askToLeave(leaving, math.ceil(len(leaving) / _SPREAD))
        yield DeferredList([emptied, self._answerTheRest()])
        for channel in self._channels():
            channel.loseConnection()  # Writes what it still has.
        if deadline.active():
            deadline.cancel()
        yield closed
        # Until now an operator could look on.
        yield self._stopListening(isAdmin=True)
        if self.factory.fastPath is not None:
            self.factory.fastPath.stop()
        self.factory.journal.flush()
        if leaving:
            _log.info("drained in {seconds:.1f} s", seconds=self._reactor.seconds() - started)

    def _askToLeave(self, leaving: list[EchoProtocol], many: int) -> None:
        for connection in leaving[:many]:
            connection.goAway()
        if rest := leaving[many:]:
            self._reactor.callLater(_STEP, self._askToLeave, rest, many)

    @inlineCallbacks
    def _answerTheRest(self) -> Any:
        """Give those a second who were accepted just before, and have not asked yet.

        They are told 503. Who never asks, as a browser's spare connection does, would keep the
        drain from its end if it were given more.
        """
        for _ in range(_SPREAD):
            if all(channel.isAnswered for channel in self._channels()):
                break
            yield deferLater(self._reactor, _STEP)

    def hurry(self) -> None:
        """End a drain at once."""
        self.factory.abortAll()
        for channel in self._channels():
            channel.transport.abortConnection()

    def _channels(self) -> list[Channel]:
        return [
            channel for site in {each.site for each in self._listeners} for channel in site.channels
        ]


class Drained(Protocol):
    """A service that drains as it is stopped."""

    def hurry(self) -> None: ...


class Signals(Service):
    """SIGTERM, SIGINT and SIGHUP: the first drains, a second one has `drained` end that at once.

    twistd's own handling would pass the signal on to the process when all is done, so that a
    perfect end would have the exit status of a failure (twisted/application/app.py, 26.10).
    """

    def __init__(self, reactor: Any, drained: Drained) -> None:
        self._reactor = reactor
        self._drained = drained
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        # Not before: the reactor installs its own handlers as it starts to run.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._install()
        # Whoever started this may have blocked them until there are handlers; see `init`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DRAINING)

    def _install(self) -> None:
        # SIGHUP is what a terminal sends that is closed; who started this by nohup, or in the
        # background of a script, does not want to hear of it.
        for number in DRAINING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: self.received())

    def received(self) -> None:
        if self._stopping:
            self._reactor.callFromThread(self._drained.hurry)
        else:
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)


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
