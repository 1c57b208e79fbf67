"""The options, and the service that is made of them."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.memory import Service
from twisted.internet.testing import MemoryReactorClock

from echotwist import __version__
from echotwist.fatal import Fatal
from echotwist.limits import Limits
from echotwist.listen.ports import DualStackEndpoint
from echotwist.operate.signals import Signals
from echotwist.operate.systemd import Notifier
from echotwist.service import EchoService
from echotwist.tap import Options, makeService, optionOf

README = Path(__file__).parents[2] / "README.md"


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_the_defaults_are_those_of_the_limits() -> None:
    options = parsed()
    limits = Limits()
    # Each loop of the fast path has two descriptors.
    connections = limits.maxConnections - 2 * options["threads"]
    assert options["limits"] == replace(limits, maxConnections=connections)
    assert options["port"] == 8080


def test_options_are_parsed() -> None:
    limits = parsed(
        "--max-message=64k",
        "--max-connections=7",
        "--max-connections-per-address=2",
        "--memory-budget=1G",
        "--handshake-timeout=500ms",
        "--ping-interval=1m",
        "--ping-timeout=3",
        "--close-timeout=4s",
        "--drain-timeout=1h",
        "--log-rate=0",
    )["limits"]
    assert limits == Limits(
        maxMessage=65536,
        maxConnections=7,
        maxConnectionsPerAddress=2,
        memoryBudget=1 << 30,
        handshakeTimeout=0.5,
        pingInterval=60,
        pingTimeout=3,
        closeTimeout=4,
        drainTimeout=3600,
        logRate=0,
    )


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("--port=x", "--port 'x': takes a port from 0 to 65535"),
        ("--port=65536", "--port '65536': takes a port from 0 to 65535"),
        ("--port=-1", "--port '-1': takes a port from 0 to 65535"),
        ("--max-message=0", "--max-message '0': takes a size such as"),
        ("--max-message=lots", "--max-message 'lots': takes a size such as"),
        (
            "--memory-budget=100M",
            "--memory-budget '100M': takes at least 134,217,728 bytes, eight times --max-message",
        ),
        ("--ping-interval=soon", "--ping-interval 'soon': takes a time such as"),
        ("--close-timeout=0", "--close-timeout '0': takes a time of more than 0"),
        ("--threads=0", "--threads '0': takes a whole number from 1 to 1024, or auto"),
        ("--workers=0", "--workers '0': takes a whole number from 1 to 1024, or auto"),
        ("--worker=3/2", "--worker '3/2': takes a worker such as 1/2"),
        ("--worker=0/2", "--worker '0/2': takes a worker such as 1/2"),
        ("--worker=first", "--worker 'first': takes a worker such as 1/2"),
        ("--threads=x", "--threads 'x': takes a whole number such as 100"),
        ("--max-connections=0", "--max-connections '0': takes a whole number of at least 1"),
        ("--log-rate=-5", "--log-rate '-5': takes a whole number"),
        ("--allow-origin=example.com", "--allow-origin 'example.com': takes an origin such as"),
        ("--trusted-proxy=x", "--trusted-proxy 'x': takes a network such as 10.0.0.0/8"),
        ("--trusted-proxy=10.0.0.1/8", "--trusted-proxy '10.0.0.1/8': takes 10.0.0.0/8 for"),
        ("--unknown", "option --unknown not recognized"),
        ("--port", "option --port requires argument"),
        ("--no-compression=1", "option --no-compression must not have an argument"),
        ("extra", "takes no argument 'extra'"),
    ],
)
def test_a_bad_value_is_one_clear_line(argument: str, error: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(argument)
    message = str(caught.value)
    assert message.startswith(f"echotwist: {error}")
    assert "\n" not in message
    # Python prints a message and ends with status 1.
    assert isinstance(caught.value.code, str)


KINDS = (
    "must begin with tcp:, tcp6:, ssl:, unix: or systemd:, such as tcp:8080, or with haproxy: "
    "before one of these"
)


@pytest.mark.parametrize("option", ["listen", "admin"])
@pytest.mark.parametrize(
    ("endpoint", "error"),
    [
        ("", KINDS),
        ("x", KINDS),
        ("8080", KINDS),
        ("TCP:8080", KINDS),
        ("nosuch:1", KINDS),
        ("stdio:", KINDS),
        ("haproxy:", KINDS),
        ("haproxy:haproxy:tcp:1", KINDS),
        ("HAPROXY:tcp:1", KINDS),
        ("tls:8443", f"{KINDS}; TLS is ssl:"),
        ("haproxy:tls:/etc/certificates:8443", f"{KINDS}; TLS is ssl:"),
        ("TLS:/etc/certificates:8443", KINDS),
        ("tcp", "needs the port, as in tcp:8080"),
        ("tcp:interface=127.0.0.1", "needs the port, as in tcp:8080"),
        ("tcp:", "port='': takes a port from 0 to 65535"),
        ("tcp:foo", "port='foo': takes a port from 0 to 65535"),
        ("tcp: 80", "port=' 80': takes a port from 0 to 65535"),
        ("tcp:8_0", "port='8_0': takes a port from 0 to 65535"),
        ("tcp:-1", "port='-1': takes a port from 0 to 65535"),
        ("tcp:99999", "port='99999': takes a port from 0 to 65535"),
        ("tcp6:99999", "port='99999': takes a port from 0 to 65535"),
        ("haproxy:tcp:99999", "port='99999': takes a port from 0 to 65535"),
        ("tcp:8080:bar=1", "tcp: takes no bar=, only port, interface, backlog"),
        ("tcp:1:127.0.0.1:2:3", "tcp: takes only port, interface, backlog"),
        ("tcp:1:port=2", "tcp: has port twice"),
        ("tcp:1:backlog=2:backlog=3", "tcp: has backlog twice"),
        ("tcp:1:backlog=x", "backlog='x': takes a whole number such as 100"),
        ("tcp:1:backlog=0", "backlog='0': takes a whole number of at least 1, such as 1024"),
        ("tcp:1:backlog=2147483648", "backlog='2147483648': takes a whole number of at least 1"),
        ("tcp:1:interface=nonsense", r"interface='nonsense': takes an address, such as 127.0.0.1"),
        ("tcp:1:interface=1.2.3", r"interface='1.2.3': takes an address, such as 127.0.0.1"),
        ("tcp:1:interface=::1", r"write a colon in a value as \:, as in 'tcp:8080:inter"),
        ("tcp6:1:interface=1.2.3.4", r"interface= takes an IPv6 address in tcp6:, such as \:\:1"),
        ("tcp6:1:interface=localhost", r"interface= takes an IPv6 address in tcp6:, such as"),
        ("tcp:1\\", r"ends with a \ that escapes nothing"),
        ("ssl", "needs the port, as in ssl:8443:privateKey=key.pem:certKey=chain.pem"),
        ("ssl:x", "port='x': takes a port from 0 to 65535"),
        ("ssl:443:privateKey=", "privateKey='': must not be empty"),
        ("ssl:443:privateKey=/none", "cannot read /none: No such file or directory"),
        ("unix", "needs the address, as in unix:/run/echotwist.sock"),
        ("unix:", "address='': takes a path, such as /run/echotwist.sock"),
        (f"unix:/{'x' * 107}", f"address='/{'x' * 107}': takes a path of at most 107 bytes"),
        ("unix:/x:mode=rw", "mode='rw': takes a mode such as 660"),
        ("unix:/x:mode=888", "mode='888': takes a mode such as 660"),
        ("unix:/x:lockfile=no", "lockfile='no': takes 0 or 1"),
        ("systemd", "needs the domain, as in systemd:domain=INET6:index=0"),
        ("systemd:domain=INET6", "systemd: needs either index= or name="),
        ("systemd:domain=INET6:index=0:name=x", "systemd: needs either index= or name="),
        ("systemd:domain=inet:index=0", "domain='inet': takes INET, INET6 or UNIX"),
        ("systemd:domain=INET:index=-1", "index='-1': takes a whole number such as 100"),
        ("systemd:domain=INET:index=9", "systemd has passed no such socket to this process"),
        ("systemd:domain=INET:name=a\\:b", "systemd has passed no such socket to this process"),
    ],
)
def test_a_bad_endpoint_is_one_clear_line(option: str, endpoint: str, error: str) -> None:
    with pytest.raises(SystemExit) as caught:
        Service(f"--{option}={endpoint}")
    message = str(caught.value)
    assert message.startswith(f"echotwist: --{option} {endpoint!r}: {error}")
    assert "\n" not in message


def test_endpoints_of_other_plugins_are_refused(tmp_path: Path) -> None:
    """It might bring its own TLS, without our limits. Twisted's `tls:` is such a plugin."""
    from twisted.internet.endpoints import serverFromString

    description = f"tls:{tmp_path}:0"
    assert serverFromString(MemoryReactorClock(), description) is not None
    with pytest.raises(SystemExit, match="TLS is ssl:"):
        Service(f"--listen={description}")


def listened(description: str) -> Any:
    """What the service asks the reactor for."""
    service = Service(f"--listen={description}")
    service.echo.privilegedStartService()
    reactor = service.reactor
    (asked,) = reactor.tcpServers + reactor.unixServers
    return asked


def test_an_endpoint_takes_the_parameters_of_twisteds() -> None:
    assert listened("tcp:1")[0::3] == (1, "")
    assert listened("tcp:port=1:interface=localhost")[3] == "127.0.0.1"
    assert listened("tcp:1:interface=\\:\\:1")[3] == "::1"
    assert listened("tcp6:1")[3] == "::"
    assert listened("tcp6:1:7:fe80\\:\\:1%eth0")[2:] == (7, "fe80::1%eth0")


def test_a_unix_socket_is_not_world_accessible() -> None:
    address, _, backlog, mode, wantPID = listened("unix:/run/x")
    assert (address, backlog, mode, wantPID) == ("/run/x", 1024, 0o660, True)
    assert listened("haproxy:unix:/run/x")[3] == 0o660
    assert listened("unix:/run/x:mode=0600:lockfile=0")[3:] == (0o600, False)
    assert listened("unix:address=/run/x:mode=666")[3] == 0o666


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"echotwist {__version__}\n"


def test_making_the_service_does_nothing() -> None:
    reactor = MemoryReactorClock()
    tree = makeService(parsed("--listen=tcp:1", "--listen=tcp:2"), reactor)
    assert [type(service) for service in tree] == [Signals, EchoService, Notifier]
    assert reactor.tcpServers == []
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("endpoint", "backlog"),
    [
        ("tcp:1", 1024),
        ("tcp:1:backlog=7", 7),
        ("tcp:1:127.0.0.1:7", 7),
        ("tcp:1:127.0.0.1", 1024),
        ("haproxy:tcp:1", 1024),
        ("tcp6:1:interface=\\:\\:1", 1024),
    ],
)
def test_endpoints_have_a_backlog_of_1024_unless_told_otherwise(
    endpoint: str, backlog: int
) -> None:
    service = Service(f"--listen={endpoint}")
    service.echo.privilegedStartService()
    (server,) = service.reactor.tcpServers
    assert server[2] == backlog


def test_a_socket_of_systemd_has_its_own_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="systemd"):
        Service("--listen=systemd:domain=INET:index=0")


def test_without_listen_it_listens_on_every_interface() -> None:
    (listener,) = Service("--port=81").echo._specs
    assert isinstance(listener.endpoint, DualStackEndpoint)
    assert (listener.description, listener.endpoint.port) == ("port 81", 81)


def test_the_reactor_is_that_of_the_process() -> None:
    from twisted.internet import reactor

    (_, echo, _) = makeService(parsed("--port=0"))
    assert echo.context.reactor is reactor


def documented() -> dict[str, str]:
    """The options of the README's table, and what it says of their defaults."""
    rows = re.findall(r"^\| `--([a-z-]+)(?: [^`]*)?` \| ([^|]*) \|", README.read_text(), re.M)
    return {name: default.strip(" `") for name, default in rows}


def test_the_readme_has_every_option() -> None:
    options = Options()
    names = {name for name in options.longOpt if name not in ("help", "version")}
    assert {name.rstrip("=") for name in names} == set(documented())


def test_the_readme_has_every_default() -> None:
    for limit in fields(Limits):
        assert documented()[optionOf(limit.name)] == limit.metadata["default"]


def test_help_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    usage = Options().getUsage(80)
    assert "--listen=" in usage
    for line in usage.splitlines():
        assert len(line) <= 80
        assert not re.search(r"\S {4,}[a-z]+ ", line[24:]), line


def test_fatal_is_caught_by_twistd_and_printed_by_python() -> None:
    assert issubclass(Fatal, Exception)
    assert issubclass(Fatal, SystemExit)
