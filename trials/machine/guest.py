"""Runs in the machine that run.py boots, as its root: carries out docs/operations.md as it is
written, and looks. Each check is a function; its docstring is its name, and a line on the serial
port says whether it held.

The first boot ends with a reboot, the second with the last checks and the power off.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import document
from machine.websocket import Client, Refused

from echotwist.testing.frames import BINARY, CLOSE, frame

ONE = "echotwist.service"

LIMIT = 180
"""Seconds for a command, or for something to come."""

STATE = Path("/root/state.json")
"""What the first boot leaves for the second one."""

done: list[str] = []
"""The blocks of the document that have been carried out."""


def sh(script: str, *, fails: bool = False) -> str:
    """Returns what it wrote. `fails`: whether it must."""
    run = subprocess.run(
        ["bash", "-ec", script], capture_output=True, text=True, errors="replace", timeout=LIMIT,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert bool(run.returncode) == fails, f"{script}: {run.returncode}\n{run.stdout}{run.stderr}"
    return run.stdout + run.stderr


def documented(having: str, name: str = "systemd") -> str:
    """Carry out the block of the document with this in it."""
    block = document.block(name, having)
    done.append(block)
    return sh(block)


def shown(what: str, unit: str = ONE) -> str:
    return sh(f"systemctl show --value -p {what} {unit}").strip()


def isActive(unit: str) -> bool:
    return shown("ActiveState", unit) == "active"


def pid(unit: str = ONE) -> int:
    return int(shown("MainPID", unit))


def journal(arguments: str = "", unit: str = ONE) -> list[str]:
    """What this boot's journal has of the unit, systemd's own words about it included."""
    sh("journalctl --sync")
    return sh(f"journalctl -b -q -o cat -u {unit} {arguments}").splitlines()


def until(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"not in {limit} s: {what}"
        time.sleep(0.2)
    return value


def echoes(port: int = 8080, host: str = "127.0.0.1", **more: Any) -> None:
    with Client(port, host, **more) as client:
        assert client.echoes("hello") is None


CHECK = Path(f"/etc/systemd/system/{ONE}.d/check.conf")


def configured(unit: str, settings: str, then: str = "restart") -> Path:
    """A drop-in, in force after `then`. The document must tell of what it sets."""
    for name in re.findall(r"^(\w+=)", settings, re.M):
        assert name in document.section("systemd"), f"the document does not tell of {name}"
    path = Path(f"/etc/systemd/system/{unit}.d/check.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text(settings)
    sh("systemctl daemon-reload" + (f"; systemctl {then} {unit}" if then else ""))
    return path


def options(text: str) -> None:
    Path("/etc/default/echotwist").write_text(f"ECHOTWIST_OPTIONS={text}\n" if text else "")


def refused(port: int, headers: tuple[str, ...] = ()) -> str:
    """How a connection fails: a status, or the name of an error."""
    try:
        Client(port, headers=headers).socket.close()
    except Refused as e:
        return str(e)
    except OSError as e:
        return type(e).__name__
    return "not at all"


# The first boot.


def activated() -> None:
    """systemd-socket-activate starts it for the first client, as documented"""
    block = document.block("systemd", "systemd-socket-activate")
    done.append(block)
    process = subprocess.Popen(
        ["bash", "-c", f"exec {block}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert "Listening on 127.0.0.1:8080" in process.stderr.readline()
        echoes()
        process.terminate()
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def started() -> None:
    """the documented commands install and start the units"""
    documented("echotwist.service deploy")
    assert shown("ActiveState") == "active"
    assert shown("ActiveState", "echotwist.socket") == "active"
    assert sh("systemctl is-enabled echotwist.socket echotwist.service").split() == ["enabled"] * 2


def status() -> None:
    """it is ready before `enable --now` returns, and its status counts the connections"""
    assert shown("StatusText") == "0 connected"
    with Client() as client:
        assert client.echoes("hello") is None
        until(lambda: shown("StatusText") == "1 connected", "the status counts the client")
        assert 'Status: "1 connected"' in sh(f"systemctl status {ONE}")
    until(lambda: shown("StatusText") == "0 connected", "the status forgets the client")


def addresses() -> None:
    """it echoes on IPv4 and IPv6, and the log has the peers' addresses"""
    echoes(host="127.0.0.1")
    echoes(host="::1")
    lines = "\n".join(journal())
    assert re.search(r"#\d+ 127\.0\.0\.1:\d+ connected", lines), lines
    assert re.search(r"#\d+ \[::1\]:\d+ connected", lines), lines


def statusOf(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def confined() -> None:
    """DynamicUser: another user than root, no capabilities, system calls filtered"""
    process = Path(f"/proc/{pid()}")
    fields = dict(
        line.split(":\t", 1)
        for line in (process / "status").read_text().splitlines()
        if "\t" in line
    )
    users = set(fields["Uid"].split())
    assert len(users) == 1, users
    assert 61184 <= int(users.pop()) <= 65519, fields["Uid"]
    assert {fields[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    for name in ("net", "user", "mnt"):
        assert os.readlink(process / "ns" / name) != os.readlink(f"/proc/1/ns/{name}"), name
    for line in (process / "mountinfo").read_text().splitlines():
        mount = line.split()
        if mount[4] in ("/", "/etc", "/opt"):
            assert mount[5].startswith("ro"), line


def exposure() -> None:
    """the exposure inside is at most 0.5"""
    (measured,) = re.findall(
        r"Overall exposure level for \S+: ([\d.]+)",
        sh(f"systemd-analyze security --no-pager {ONE}"),
    )
    print(f"  exposure {measured}")
    assert float(measured) <= 0.5


class Crowd:
    """Clients in threads that echo until they are told 1001, and then come again at once."""

    def __init__(self, size: int) -> None:
        self.seen: Counter[str] = Counter()
        self.answers = [0] * size
        self._leaving = threading.Event()
        self._threads = [threading.Thread(target=self._stay, args=(i,)) for i in range(size)]
        for thread in self._threads:
            thread.start()

    def _stay(self, i: int) -> None:
        while not self._leaving.is_set():
            try:
                with Client() as client:
                    while not self._leaving.is_set():
                        code = client.echoes(f"{i}")
                        if code is not None:
                            self.seen[f"closed {code}"] += 1
                            break
                        self.answers[i] += 1
                        self._leaving.wait(0.5)
            except Refused as e:
                self.seen[f"answered {e}"] += 1
            except Exception as e:
                self.seen[repr(e)] += 1
                self._leaving.wait(0.5)

    def answered(self) -> None:
        """Each has had an echo of a message that it sent from now on."""
        before = list(self.answers)
        until(
            lambda: all(n >= b + 2 for n, b in zip(self.answers, before, strict=True)),
            f"everybody has an echo; {self.seen}",
        )

    def leave(self) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join(LIMIT)


def restarted() -> None:
    """three restarts under 100 clients: each is told 1001 each time, and none is refused"""
    crowd = Crowd(100)
    try:
        crowd.answered()
        for _ in range(3):
            before = pid()
            sh(f"systemctl restart {ONE}")
            assert pid() != before
            crowd.answered()
    finally:
        crowd.leave()
    print(f"  {dict(crowd.seen)}, {sum(crowd.answers)} echoes")
    # Who connected in the last moment of one is told 503, and comes again.
    assert set(crowd.seen) <= {"closed 1001", "answered 503"}
    assert crowd.seen["closed 1001"] + crowd.seen["answered 503"] >= 300


def levels() -> None:
    """journald has the level of each line, for -p and as JSON"""
    echoes()
    assert [line for line in journal("-p info") if "] #" in line]
    assert [line for line in journal("-p warning") if line.startswith("[")] == []
    entries = map(json.loads, sh(f"journalctl -b -q -o json _SYSTEMD_UNIT={ONE}").splitlines())
    ours = [entry for entry in entries if entry["MESSAGE"].startswith("[echotwist#info] #")]
    assert ours
    for entry in ours:
        assert entry["PRIORITY"] == "6"
        assert entry["SYSLOG_IDENTIFIER"] == "twistd"


def optioned() -> None:
    """options in /etc/default/echotwist, as documented"""
    documented("ECHOTWIST_OPTIONS")
    echoes(headers=("Origin: https://example.com",))
    assert refused(8080, ("Origin: https://example.org",)) == "403"


def moved() -> None:
    """another port, as documented"""
    options("")
    documented("port.conf")
    echoes(8081)
    echoes(8081, "::1")
    assert refused(8080) == "ConnectionRefusedError"


def unixSocket() -> None:
    """a Unix socket, with domain=UNIX; and JSON in the journal, with another --logger"""
    (command,) = re.findall(r"argv\[\]=(.*?) ;", shown("ExecStart"))
    for now, then in (("domain=INET6", "domain=UNIX"), ("logs.journald", "logs.json")):
        assert now in command
        assert then in document.section("systemd")
        command = command.replace(now, then)
    listen = Path("/etc/systemd/system/echotwist.socket.d/then.conf")  # After port.conf.
    listen.write_text(
        "[Socket]\nListenStream=\nListenStream=/run/echotwist.sock\nSocketMode=0600\n"
    )
    dropIn = configured("echotwist.service", f"[Service]\nExecStart=\nExecStart={command}\n", "")
    for _ in range(2):
        sh("systemctl restart echotwist.socket echotwist.service")
        echoes(path="/run/echotwist.sock")
        assert sh("stat -c %a:%U /run/echotwist.sock").strip() == "600:root"
    until(lambda: [line for line in journal() if '"event": "closed"' in line], "JSON in the log")
    line = json.loads([line for line in journal() if '"event": "connected"' in line][-1])
    assert (line["namespace"], line["level"], line["number"]) == ("echotwist", "info", 1)
    assert line["peer"] == "unix"
    listen.unlink()
    dropIn.unlink()
    sh("systemctl daemon-reload; systemctl restart echotwist.socket")


def beside() -> None:
    """TLS and --admin beside the socket; a certificate that ends soon is a warning in journald"""
    sh(
        "groupadd tls; mkdir -p /etc/echotwist; cd /etc/echotwist\n"
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out chain.pem -days 3 "
        "-subj /CN=localhost\n"
        "chgrp tls key.pem; chmod 640 key.pem"
    )
    options(
        "--admin tcp:9090:interface=127.0.0.1 --close-timeout 8s "
        "--listen ssl:8443:privateKey=/etc/echotwist/key.pem:certKey=/etc/echotwist/chain.pem"
    )
    configured(
        ONE,
        "[Service]\nPrivateNetwork=no\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
        "MemoryDenyWriteExecute=no\nSupplementaryGroups=tls\nTimeoutStopSec=2\n",
    )
    echoes(8081)
    echoes(8443, tls=True)
    with urllib.request.urlopen("http://127.0.0.1:9090/metrics", timeout=60) as response:
        assert b"echotwist_connections_accepted_total 2.0" in response.read()
    (warning,) = [line for line in journal("-p warning") if line.startswith("[")]
    assert "ends soon" in warning, warning


def longDrain() -> None:
    """a drain that takes longer than TimeoutStopSec= is not cut off"""
    with Client(8081) as client:
        assert client.echoes("hello") is None
        began = time.monotonic()
        sh(f"systemctl stop {ONE}")
        took = time.monotonic() - began
        assert client.next().opcode == CLOSE  # It was not answered for so long.
    print(f"  {took:.1f} s, with TimeoutStopSec=2")
    assert took > 7
    assert shown("Result") == "success"
    assert any("drained in" in line for line in journal()), journal()


def stopped() -> None:
    """a process that stands still is killed by the watchdog, and started again"""
    options("")
    CHECK.unlink()
    sh(f"systemctl daemon-reload; systemctl start {ONE}")
    before, count = pid(), int(shown("NRestarts"))
    os.kill(before, signal.SIGSTOP)
    began = time.monotonic()
    # It comes while nobody accepts, waits in systemd's socket, and is served by the next process.
    echoes(8081)
    print(f"  served again after {time.monotonic() - began:.0f} s")
    until(lambda: shown("ActiveState") == "active", "it is active")
    assert pid() != before
    assert int(shown("NRestarts")) == count + 1
    assert any("Watchdog timeout" in line for line in journal()), journal()


def hoard(clients: list[Client], enough: Callable[[], bool]) -> None:
    """Up to 120 clients come, each with a first fragment of 1 MB and nothing behind it."""
    fragment = frame(BINARY, bytes(1 << 20), fin=False)
    for _ in range(120):
        if enough():
            return
        with contextlib.suppress(OSError, Refused):
            clients.append(Client(8081))
            clients[-1].socket.settimeout(1)
            clients[-1].socket.sendall(fragment)


def outOfMemory() -> None:
    """the kernel kills it above MemoryMax=, and systemd says so and starts it again"""
    configured(ONE, "[Service]\nMemoryMax=140M\n")
    count = int(shown("NRestarts"))
    clients: list[Client] = []
    hoard(clients, lambda: int(shown("NRestarts")) > count)
    print(f"  after {len(clients)} clients")
    until(lambda: int(shown("NRestarts")) > count, "it is killed, and started again")
    for client in clients:
        client.socket.close()
    echoes(8081)
    lines = journal()
    assert any("killed by the OOM killer" in line for line in lines), lines
    assert any("Failed with result 'oom-kill'" in line for line in lines), lines


def budgeted() -> None:
    """with a --memory-budget 100 MB below MemoryMax= the same clients do not get it killed"""
    options("--max-message 4M --memory-budget 32M")
    sh(f"systemctl restart {ONE}")
    before = pid()
    clients: list[Client] = []
    hoard(clients, lambda: False)
    assert len(clients) == 120
    until(lambda: any("closed: 1013" in line for line in journal()), "some are told 1013")
    echoes(8081)
    used = int(Path(f"/sys/fs/cgroup/system.slice/{ONE}/memory.current").read_text())
    print(f"  {len(clients)} clients, {used >> 20} MB")
    assert pid() == before
    for client in clients:
        client.socket.close()


def container() -> None:
    """the image runs as documented, in 64 MB: read-only, not root, as PID 1; SIGTERM drains it"""
    block = document.block("Kubernetes and containers", "docker run")
    block = block.replace("docker run", "docker run --memory 64m")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {block}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    began = time.monotonic()
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        until(
            lambda: process.poll() is not None or any("taking up to" in line for line in lines),
            "it is ready",
        )
        assert process.poll() is None, lines
        print(f"  ready after {time.monotonic() - began:.0f} s")
        name = sh("docker ps -q").strip()
        inner = sh(f"docker inspect -f '{{{{.State.Pid}}}}' {name}").strip()
        fields = statusOf(Path(f"/proc/{inner}"))
        assert fields["NSpid"].split()[-1] == "1"
        assert set(fields["Uid"].split()) == {"65532"}
        assert fields["CapEff"] == "0" * 16
        mounts = Path(f"/proc/{inner}/mountinfo").read_text().splitlines()
        (options,) = [line.split()[5] for line in mounts if line.split()[4] == "/"]
        assert options.startswith("ro")
        group = Path(f"/proc/{inner}/cgroup").read_text().strip().partition("::")[2]
        memory = Path(f"/sys/fs/cgroup{group}")
        assert (memory / "memory.max").read_text().strip() == str(64 << 20)
        echoes(8080)
        sh(f"docker healthcheck run {name}")
        print(f"  {int((memory / 'memory.current').read_text()) >> 20} MB in use")
        with Client(8080) as client:
            assert client.echoes("hello") is None
            ended = time.monotonic()
            stop = subprocess.Popen(["docker", "stop", "-t", "15", name], stdout=subprocess.DEVNULL)
            closing = client.next()
            assert closing.payload[:2] == (1001).to_bytes(2, "big")
            client.socket.sendall(frame(CLOSE, closing.payload[:2]))
            assert stop.wait(LIMIT) == 0
        assert process.wait(LIMIT) == 0
        print(f"  stopped in {time.monotonic() - ended:.0f} s")
    finally:
        process.kill()
        process.wait()
        reader.join(LIMIT)
        process.stdout.close()
    log = "".join(lines)
    assert "fast path: threads: " in log, log
    assert "drained in" in log, log
    assert "Traceback" not in log, log
    assert "cache" not in log, log  # twistd's complaint that it cannot write dropin.cache.


def rotated() -> None:
    """logrotate rotates a log file by the documented recipe, and no line is lost"""
    recipes = re.findall(
        r"^```\n(/var/log/echotwist\.log \{\n.*?)^```$", document.section("Logs"), re.M | re.S
    )
    (recipe,) = [text for text in recipes if "USR1" in text]
    Path("/etc/logrotate.d/echotwist").write_text(recipe)
    log = Path("/var/log/echotwist.log")
    # So large that its turn has come, by `maxsize`.
    sh(f"install -m 640 -g adm /dev/null {log}; yes earlier | head -c 9500000 > {log}")
    command = "/opt/echotwist/bin/twistd --logfile=/var/log/echotwist.log"
    sh(f"{command} --pidfile=/run/echotwist.pid echotwist --port 8082 --log-rate 1000")
    until(lambda: "taking up to" in log.read_text(), "it is ready")
    seen = 0
    with Client(8082) as client:
        for seen in range(400):
            assert client.echoes(f"message {seen}") is None
            if seen == 100:
                # As its timer does: Debian confines it, too.
                rotation = subprocess.Popen(["systemctl", "start", "logrotate.service"])
            if seen > 100 and rotation.poll() is not None and log.stat().st_size:
                break
            time.sleep(0.1)
        assert rotation.wait(LIMIT) == 0
        assert client.echoes("the last") is None
    until(lambda: "'the last'" in log.read_text(), "the last line is in the new file")
    (old,) = log.parent.glob("echotwist.log-*")
    assert old.stat().st_size > 9_500_000
    assert sh(f"stat -c %a:%G {log}").strip() == "640:adm"
    lines = old.read_text() + log.read_text()
    assert re.findall(r"'message (\d+)'", lines) == [str(number) for number in range(seen + 1)]
    assert "message 0'" in old.read_text()
    process = int(Path("/run/echotwist.pid").read_text())
    os.kill(process, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{process}").exists(), "it ends")


def template() -> None:
    """two instances share a port, as documented; one that is restarted refuses nobody"""
    options("")
    CHECK.unlink()
    sh(f"systemctl daemon-reload; systemctl stop {ONE}")  # For the emulation's sake.
    documented("echotwist@1.service")
    units = ["echotwist@1.service", "echotwist@2.service"]
    assert [shown("ActiveState", unit) for unit in units] == ["active"] * 2
    clients = [Client() for _ in range(40)]
    for client in clients:
        assert client.echoes("hello") is None

    def counted() -> list[int]:
        return [int(shown("StatusText", unit).split()[0]) for unit in units]

    until(lambda: sum(counted()) == len(clients), "all are counted")
    counts = counted()
    print(f"  {counts[0]} and {counts[1]} of {len(clients)} clients")
    assert min(counts) >= 5
    for client in clients:
        client.socket.close()
    crowd = Crowd(20)
    try:
        crowd.answered()
        sh(f"systemctl restart {units[0]}")
        crowd.answered()
    finally:
        crowd.leave()
    assert set(crowd.seen) <= {"closed 1001", "answered 503"}, crowd.seen


def complete() -> None:
    """each block of the document's section has been carried out"""
    (install,) = [block for block in document.blocks("systemd") if "pip install" in block]
    done.append(install)  # Before the boot, by run.py.
    assert sorted(done) == sorted(document.blocks("systemd"))


# The second one.


def rebooted() -> None:
    """after a reboot the enabled units come up by themselves, and echo"""
    for unit in (ONE, "echotwist@1.service", "echotwist@2.service"):
        until(partial(isActive, unit), f"{unit} is active")
    echoes(8081)
    echoes(8080)


FIRST = [
    activated, started, status, addresses, confined, exposure, restarted, levels, optioned, moved,
    unixSocket, beside, longDrain, stopped, outOfMemory, budgeted, rotated, container, template,
    complete,
]  # fmt: skip

SECOND = [rebooted]


def main() -> None:
    booted = json.loads(STATE.read_text()) if STATE.exists() else None
    good = booted or 0
    for check in FIRST if booted is None else SECOND:
        name = check.__doc__
        began = time.monotonic()
        try:
            check()
        except Exception:
            print(f"NO  {name}, {time.monotonic() - began:.0f} s")
            report = traceback.format_exc().splitlines()[-30:]
            recent = sh("journalctl -q -b -n 40 --no-pager -o short-monotonic").splitlines()
            print(*(f"    {line}" for line in [*report, "the journal:", *recent]), sep="\n")
        else:
            print(f"ok  {name}, {time.monotonic() - began:.0f} s")
            good += 1
    if booted is None:
        STATE.write_text(json.dumps(good))
        sh("systemctl reboot")
    else:
        if good == len(FIRST) + len(SECOND):
            print(f"all {good} checks held")
        else:
            print(f"{good} of {len(FIRST) + len(SECOND)} checks held")
        sh("systemctl poweroff")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        main()
    except BaseException:
        traceback.print_exc()
        subprocess.run(["systemctl", "poweroff"], check=False)
        raise
