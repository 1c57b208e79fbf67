"""The options of `twistd echotwist`, and the service tree that they make."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from echotwist import __version__
from echotwist.fastpath import lending
from echotwist.fatal import Fatal
from echotwist.http.answer import Answer
from echotwist.http.forwarded import TrustedProxies, trustedProxy
from echotwist.http.site import AdminSite, EchoSite, Health, Readiness, makeAdminRoot, makeRoot
from echotwist.http.upgrade import UpgradeResource, canonicalOrigin
from echotwist.lab.resource import makeLab
from echotwist.limits import Limits, parseConnections, parseCount
from echotwist.listen.certificate import ExpiryReminder
from echotwist.listen.endpoints import endpointOf, parsePort
from echotwist.listen.ports import DualStackEndpoint, ListenService, ListenSpec
from echotwist.listen.reuseport import PortReservation, ReusePortReactor
from echotwist.listen.tls import certificatesOf
from echotwist.observe.journal import Journal
from echotwist.operate.announce import Announcement, parseTarget
from echotwist.operate.daemon import Daemon, checkTwistdOptions, isDaemon
from echotwist.operate.signals import Signals
from echotwist.operate.systemd import Notifier
from echotwist.operate.worker import Lifeline, WorkerSignals
from echotwist.service import EchoService
from echotwist.websocket import deflate
from echotwist.websocket.connection import ConnectionFactory
from echotwist.websocket.connections import Connections
from echotwist.websocket.echo import Echo
from echotwist.wire.budget import Budget
from echotwist.wire.context import Context
from echotwist.wire.turns import Turns


def optionOf(field: str) -> str:
    """The option of a field of Limits: `maxMessage` is `max-message`."""
    return re.sub("(?=[A-Z])", "-", field).lower()


def _manual(method: Callable[..., None]) -> Callable[..., None]:
    """Join the lines of a docstring for --help, which would keep their indentation."""
    method.__doc__ = " ".join((method.__doc__ or "").split())
    return method


class Options(TwistedOptions):
    """The options of `twistd echotwist`."""

    synopsis = "[options]"

    longdesc = (
        "Serves a page at / and echoes every WebSocket message at /echo. "
        "Sizes take 65536, 64k, 16M, 1G; times take 500ms, 10s, 2m, 1h, up to 168h. "
        "SIGTERM, SIGINT and SIGHUP drain it: every client is told 1001 and given time to leave. "
        "SIGUSR1 opens the file of twistd's --logfile anew, as after logrotate."
    )

    optParameters = [
        ["port", "p", "8080", "TCP port, on all IPv4 and IPv6 addresses; 0 takes a free one."],
        *(
            [optionOf(limit.name), None, limit.metadata["default"], limit.metadata["reason"]]
            for limit in fields(Limits)
        ),
        [
            "threads",
            None,
            "auto",
            "Threads of the fast path; auto: the cores that this process may use.",
        ],
        [
            "workers",
            None,
            "1",
            "Processes that share the work that the fast path does not do: handshakes, and what is "
            "unusual. auto: one for each core. They share --max-connections, --memory-budget, "
            "--log-rate and --threads, and listen on TCP ports alone.",
        ],
        ["worker", None, None, "Be worker K/N, such as 1/2; --workers starts these."],
        [
            "announce",
            None,
            None,
            "Write one line of JSON to this file as soon as clients are served, with the URLs, the "
            "process id and the version, and remove it as a drain begins. fd:N writes it to a "
            "descriptor that twistd inherits.",
        ],
    ]

    optFlags = [
        [
            "log-frames",
            None,
            "Log the header of each frame, as it was received and as it was sent, in the words of "
            "RFC 6455. These lines are among those of --log-rate; beyond it they are not counted. "
            "Fragments and compressed messages are then echoed in Python.",
        ],
        ["no-fast-path", None, "Let Autobahn echo everything, in Python."],
        ["no-lab", None, "Do not serve /lab, and what belongs to it."],
        ["no-compression", None, "Do not accept permessage-deflate."],
        [
            "context-takeover",
            None,
            "Keep the window of permessage-deflate from message to message: smaller messages, "
            "and some 300 KB a connection.",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.arguments: Sequence[str] = ()
        """The command line."""

        self["listen"] = []
        self["allow-origin"] = []
        self["admin"] = None
        self["trusted-proxy"] = []

    @_manual
    def opt_listen(self, endpoint: str) -> None:
        """Listen on this endpoint instead of --port, in Twisted's words: tcp:8080,
        tcp6:8080:interface=\\:\\:1, ssl:8443:privateKey=key.pem:certKey=cert.pem,
        unix:/run/echotwist.sock, systemd:domain=INET6:index=0, haproxy:tcp:8080. May be given
        several times."""
        self["listen"].append(endpoint)

    @_manual
    def opt_allow_origin(self, origin: str) -> None:
        """Let pages of this origin connect, such as https://example.com or null. May be given
        several times. Once it is given, only these pages, the service's own, and clients that
        are no browsers connect; the others are answered 403."""
        try:
            self["allow-origin"].append(origin if origin == "null" else canonicalOrigin(origin))
        except ValueError as e:
            raise UsageError(f"--allow-origin {origin!r}: {e}") from e

    @_manual
    def opt_admin(self, endpoint: str) -> None:
        """Serve /metrics for Prometheus, /healthz and /readyz on this endpoint, such as
        tcp:9090:interface=127.0.0.1. Whoever reaches it can read them."""
        self["admin"] = endpoint

    @_manual
    def opt_trusted_proxy(self, cidr: str) -> None:
        """Take the client's address from the headers X-Forwarded-For and Forwarded of proxies in
        this network, such as 10.0.0.0/8 or 192.0.2.1; unix: of those that come by a Unix socket.
        May be given several times. Without it, the log has the proxy's address."""
        try:
            self["trusted-proxy"].append(trustedProxy(cidr))
        except ValueError as e:
            raise UsageError(f"--trusted-proxy {cidr!r}: {e}") from e

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"echotwist {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        # twistd would print the whole manual before the error.
        self.arguments = tuple(options or ())
        try:
            super().parseOptions(options)
        except UsageError as e:
            raise Fatal(f"{e} (see twistd echotwist --help)") from e

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"takes no argument {arguments[0]!r}")

    def postOptions(self) -> None:
        checkTwistdOptions(self.parent or {})
        self["port"] = _parsed("port", self["port"], parsePort)
        self["workers"] = _parsed("workers", self["workers"], _cores)
        if self["announce"] is not None and self["worker"] is None:  # The supervisor has it.
            parse = partial(parseTarget, isDaemon=isDaemon(self.parent or {}))
            self["announce"] = _parsed("announce", self["announce"], parse)
        if self["worker"] is not None:
            self["worker"] = _parsed("worker", self["worker"], _worker)
        _, workers = self["worker"] or (1, self["workers"])
        self["threads"] = max(_parsed("threads", self["threads"], _cores) // workers, 1)
        if self["no-fast-path"] or lending.whyNot:
            self["threads"] = 0
        # Each thread of the fast path has two descriptors.
        parsers = {"maxConnections": partial(parseConnections, taken=2 * self["threads"])}
        values = {}
        for limit in fields(Limits):
            option = optionOf(limit.name)
            parse = parsers.get(limit.name, limit.metadata["parse"])
            values[limit.name] = _parsed(option, self[option], parse)
        least = 8 * values["maxMessage"] * workers
        if self["memory-budget"] == "auto":
            values["memoryBudget"] = max(values["memoryBudget"], least)
        if values["memoryBudget"] < least:
            raise UsageError(
                f"--memory-budget {self['memory-budget']!r}: takes at least {least:,} bytes, "
                "eight times --max-message for each of --workers"
            )
        if workers > 1:
            values["memoryBudget"] //= workers
            values["logRate"] = math.ceil(values["logRate"] / workers)
            most = values["maxConnectionsPerAddress"]
            values["maxConnectionsPerAddress"] = math.ceil(most / workers)
            if self["max-connections"] != "auto":  # auto counts a process's own descriptors.
                values["maxConnections"] = math.ceil(values["maxConnections"] / workers)
        self["limits"] = Limits(**values)


def _cores(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    number = parseCount(text)
    if not 1 <= number <= 1024:
        raise ValueError("takes a whole number from 1 to 1024, or auto")
    return number


def _worker(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("takes a worker such as 1/2")
    return int(match[1]), int(match[2])


def _parsed(option: str, text: str, parse: Any) -> Any:
    try:
        return parse(text)
    except ValueError as e:
        raise UsageError(f"--{option} {text!r}: {e}") from e


def makeService(options: Options, reactor: Any = None) -> MultiService:
    """The service tree, not started. Raises Fatal for an endpoint that cannot be."""
    if reactor is None:
        # Not at the top: that would install one before twistd has read --reactor.
        from twisted.internet import reactor

    services = Daemon(options.parent or {})
    isSupervisor = options["workers"] > 1 and options["worker"] is None
    for service in (_supervisor if isSupervisor else _server)(options, reactor):
        service.setServiceParent(services)
    return services


def _server(options: Options, reactor: Any) -> Iterator[IService]:
    """The services of a process that serves clients."""
    threads: int = options["threads"]
    context = _context(options, reactor, options["limits"].logRate, isHalved=threads > 0)
    journal = context.journal
    fastPath = lending.FastPath(reactor, context.limits, journal, threads) if threads else None
    number, step = options["worker"] or (1, 1)
    connections = Connections(context, itertools.count(number, step))
    accept = deflate.acceptFirst(bool(options["context-takeover"]))
    if options["no-compression"]:
        accept = deflate.acceptNone
    echoes = ConnectionFactory(Echo, context, connections, fastPath, accept)
    health, readiness = Health(fastPath), Readiness(connections)
    root = makeRoot(UpgradeResource(echoes, options["allow-origin"]), health, readiness)
    if not options["no-lab"]:
        for name, resource in makeLab(
            context, connections, accept, options["allow-origin"]
        ).items():
            root.putChild(name, resource)
    site = EchoSite(context, connections, root, TrustedProxies(options["trusted-proxy"]))
    isShared = options["worker"] is not None
    listenReactor: Any = reactor
    signals: type[Signals] = Signals
    companions: list[IService] = []
    if isShared:
        listenReactor, signals = ReusePortReactor(reactor), WorkerSignals
        companions.append(Lifeline(reactor))
    specs = [
        ListenSpec(text, _endpoint(listenReactor, "listen", text), site)
        for text in options["listen"]
    ]
    if not specs:
        everywhere = DualStackEndpoint(reactor, options["port"], isShared)
        specs.append(ListenSpec(f"port {options['port']}", everywhere, site))
    certificates = certificatesOf(spec.endpoint for spec in specs)
    if (admin := options["admin"]) is not None:
        # Not at the top: prometheus_client takes 0.1 s to import.
        from echotwist.operate.metrics import EchoCollector, Metrics, ReactorLag

        endpoint = _endpoint(reactor, "admin", admin)
        certificates += certificatesOf([endpoint])
        metrics = Metrics(EchoCollector(site, fastPath, certificates))
        root = makeAdminRoot(metrics, health, readiness)
        adminSite = AdminSite(context, root, TrustedProxies([]))
        specs.append(ListenSpec(admin, endpoint, adminSite))
        companions.append(ReactorLag(reactor, journal.totals.lag))
    if certificates and not isShared:
        companions.append(ExpiryReminder(reactor, certificates))
    echo = EchoService(context, specs, connections, fastPath)
    yield signals(reactor, echo)
    yield echo
    yield from companions
    if options["announce"] is not None and not isShared:  # The supervisor does.
        yield Announcement(reactor, echo, options["announce"])
    yield Notifier(reactor, echo)


def _context(options: Options, reactor: Any, logRate: int, isHalved: bool) -> Context:
    limits: Limits = options["limits"]
    # The loops of the fast path have the other half, if there are any.
    most = limits.bufferBudget // 2 if isHalved else limits.bufferBudget
    budget = Budget(most, limits.closeTimeout, reactor)
    journal = Journal(logRate, reactor, logsFrames=bool(options["log-frames"]))
    return Context(reactor, limits, journal, budget, Turns(reactor))


def _supervisor(options: Options, reactor: Any) -> Iterator[IService]:
    """The services of a process that starts workers for them."""
    # Not at the top: twisted.runner.procmon installs a reactor (26.10).
    from echotwist.operate.supervisor import Supervisor, SupervisorReadiness

    limits: Limits = options["limits"]
    reservation = PortReservation(reactor)
    ports = [(text, _endpoint(reservation, "listen", text)) for text in options["listen"]]
    # The option `reactor` of twistd is a name; that of twist is the reactor, beside its name.
    parent: dict[str, Any] = options.parent or {}
    supervisor = Supervisor(
        reactor,
        options.arguments,
        options["workers"],
        limits.drainTimeout,
        reservation,
        ports or [(f"port {options['port']}", options["port"])],
        parent.get("reactorName") or parent.get("reactor"),
    )
    certificates = certificatesOf(endpoint for _, endpoint in ports)
    if (admin := options["admin"]) is not None:
        from echotwist.operate.metrics import WorkersMetrics

        endpoint = _endpoint(reactor, "admin", admin)
        ours = certificatesOf([endpoint])
        certificates += ours
        metrics, readiness = WorkersMetrics(supervisor, ours), SupervisorReadiness(supervisor)
        root = makeAdminRoot(metrics, Answer(200, "ok"), readiness)
        site = AdminSite(_context(options, reactor, 0, isHalved=False), root, TrustedProxies([]))
        supervisor.admin = ListenService(reactor, [ListenSpec(admin, endpoint, site)])
    yield Signals(reactor, supervisor)
    yield supervisor
    if certificates:  # Once is enough; the workers do not log it.
        yield ExpiryReminder(reactor, certificates)
    if options["announce"] is not None:
        yield Announcement(reactor, supervisor, options["announce"])
    yield Notifier(reactor, supervisor)


def _endpoint(reactor: Any, option: str, text: str) -> IStreamServerEndpoint:
    """Raises Fatal."""
    try:
        return endpointOf(reactor, text)
    except ValueError as e:
        raise Fatal(f"--{option} {text!r}: {e}") from e
