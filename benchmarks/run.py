"""Measures echotwist beside other WebSocket servers, and writes what it found.

    python benchmarks/run.py                  all of it, into docs/performance.md
    python benchmarks/run.py --quick          does everything work? Into benchmarks/build
    python benchmarks/run.py --only small --peers echotwist floor

Each server is started anew for each measurement, pinned to one core; the load (load.c, which
checks every echo byte for byte) is pinned to another. A round measures each row with one server
after the other, and there are several rounds, so that a machine that gets slower or faster
meanwhile does so for all. What is told is the median.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import report
import servers as serving
from results import Measurement, Results
from rows import ROWS, Row
from servers import (
    BUILD,
    HERE,
    SERVERS,
    TWISTD,
    Certificate,
    Died,
    Missing,
    Server,
    output,
    running,
)

RESERVE = 500
"""Descriptors that servers need beside those of their connections; echotwist keeps 100."""

QUIET = 0.05
"""Share of the cores that others may use before it is worth a word."""


class Failed(Exception):
    """The load found a wrong echo, or none; the message is its."""


ROOM = 180.0
"""Seconds for which it waits for room in netfilter's table."""


def main() -> None:
    asked = arguments()
    limit = raiseFiles()
    cores = sorted(os.sched_getaffinity(0))
    results = Results(asked.seconds, asked.warmup, asked.rounds, machine(cores))
    try:
        load = serving.load()
    except Missing as e:
        raise SystemExit(f"the load cannot be built: {e}") from e
    servers = available(asked.peers, results)
    rows = [row for row in ROWS if asked.only is None or row.name in asked.only]
    if len(cores) == 1:
        note(results, "There was one core: the servers and the load shared it.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate = selfSigned(folder, load, results) if any(row.tls for row in rows) else None
        plan = [
            (row, server)
            for row in rows
            for server in servers
            if applies(row, server) and (certificate is not None or not row.tls)
        ]
        minutes = sum(
            min(asked.rounds, row.rounds or asked.rounds)
            * (asked.seconds * row.stretch + asked.warmup + 1.5)
            for row, _ in plan
        ) / 60  # fmt: skip
        print(f"{asked.rounds} rounds of {len(plan)} measurements: about {minutes:.0f} minutes")
        for number in range(1, asked.rounds + 1):
            noteOthers(results, cores)
            for row, server in plan:
                if row.rounds is not None and number > row.rounds:
                    continue
                options = loadOptions(row, server, asked.seconds, asked.warmup, limit, results)
                tls = certificate if row.tls else None
                try:
                    found = measure(load, options, server, row, cores, folder, tls)
                    print(f"{number} {row.name:12} {server.name:14} {told(row, found)}", flush=True)
                    results.add(row.name, server.name, found)
                except (Died, Failed) as e:
                    results.failures.append(f"{row.name}, {server.name}, round {number}: {e}")
                    print(f"{number} {row.name:12} {server.name:14} FAILED: {e}", flush=True)
                    results.add(row.name, server.name, None)
                pinned = ["taskset", "-c", str(cores[-1]), "load", "--port=8080", *options]
                results.loads[row.name] = shown(part for part in pinned if part != "--path=/echo")
            # After each round, in case that somebody loses patience.
            results.save(BUILD / "results.json")
    for server in servers:
        results.versions[server.name] = server.versions()
        command = ["taskset", "-c", str(cores[0]), *server.command(8080, False, None)]
        results.commands[server.name] = shown(command)
    results.save(BUILD / "results.json")
    asked.output.mkdir(exist_ok=True)
    report.write(results, rows, servers, asked.output)
    print(f"written: {os.path.relpath(asked.output / report.NAME)} and its charts")
    for failure in results.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(bool(results.failures))


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows, servers = [row.name for row in ROWS], [server.name for server in SERVERS]
    parser.add_argument("--only", nargs="+", choices=rows, metavar="ROW", help=", ".join(rows))
    parser.add_argument(
        "--peers", nargs="+", choices=servers, metavar="SERVER", help=", ".join(servers)
    )
    parser.add_argument("--seconds", type=float, help="measured each time; default 1.5")
    parser.add_argument("--warmup", type=float, help="before that; default 0.5")
    parser.add_argument("--rounds", type=int, help="default 3; slow rows have fewer")
    parser.add_argument("--quick", action="store_true", help="1 round of 1 second, 0.3 before it")
    parser.add_argument(
        "--output", type=Path, help="folder; default docs, or benchmarks/build if not all is run"
    )
    asked = parser.parse_args()
    isAll = not (asked.quick or asked.only or asked.peers)
    asked.seconds = asked.seconds or (1 if asked.quick else 1.5)
    asked.warmup = asked.warmup or (0.3 if asked.quick else 0.5)
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    asked.output = asked.output or (HERE.parent / "docs" if isAll else BUILD)
    return asked


def raiseFiles() -> int:
    """Let this process and its children open as many files as they may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**31


def available(names: Sequence[str] | None, results: Results) -> list[Server]:
    """The servers that are asked for and installed."""
    servers = []
    for server in SERVERS:
        if names is None or server.name in names:
            try:
                server.command(0, False, None)
                servers.append(server)
            except Missing as e:
                note(results, f"{server.title}: skipped, {e}.")
    return servers


def note(results: Results, text: str) -> None:
    if text not in results.notes:
        results.notes.append(text)
        print(text, file=sys.stderr)


def noteOthers(results: Results, cores: Sequence[int]) -> None:
    """Look for a second at who else uses the cores. What they do is in every figure."""

    def busy() -> float:
        lines = Path("/proc/stat").read_text().splitlines()
        fields = {line.split()[0]: list(map(int, line.split()[1:9])) for line in lines if line}
        # All but idle and iowait, and with steal: what the host gave to another machine.
        return sum(sum(fields[f"cpu{core}"]) - sum(fields[f"cpu{core}"][3:5]) for core in cores)

    before = busy()
    time.sleep(1)
    share = (busy() - before) / os.sysconf("SC_CLK_TCK") / len(cores)
    results.others.append(round(share, 3))
    if share > QUIET:
        print(
            f"others use {share:.0%} of these cores: the figures will not be steady",
            file=sys.stderr,
        )


def selfSigned(folder: Path, load: Path, results: Results) -> Certificate | None:
    probe = subprocess.run([load, "--port=1", "--tls"], capture_output=True, text=True, check=False)
    if "not built" in probe.stderr:
        note(results, "TLS: skipped, the load was built without OpenSSL's headers.")
        return None
    if shutil.which("openssl") is None:
        note(results, "TLS: skipped, openssl is not installed.")
        return None
    certificate = Certificate(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", certificate.key, "-out", certificate.cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


def applies(row: Row, server: Server) -> bool:
    if server.name == "echotwist-log":
        return row.withLog
    return row.needed.isdisjoint(server.lacks)


def loadOptions(
    row: Row, server: Server, seconds: float, warmup: float, limit: int, results: Results
) -> list[str]:
    options = [f"--path={server.path}", *row.load, f"--seconds={seconds * row.stretch:g}",
               f"--warmup={warmup:g}"]  # fmt: skip
    for i, option in enumerate(options):
        name, _, value = option.partition("=")
        if name == "--connections" and int(value) > limit - RESERVE:
            options[i] = f"{name}={limit - RESERVE}"
            note(results, f"{row.name}: {limit - RESERVE:,} connections instead of {int(value):,}, "
                 f"because the limit of open files (ulimit -n) is {limit:,}.")  # fmt: skip
    return options


def measure(
    load: Path,
    options: Sequence[str],
    server: Server,
    row: Row,
    cores: Sequence[int],
    folder: Path,
    tls: Certificate | None,
) -> Measurement:
    waitForRoom()
    port = freePort()
    with running(
        server, port, cores if row.oneCore else cores[:1], folder, row.deflate, tls
    ) as pid:
        command: list[str | Path] = [
            "taskset", "-c", str(cores[-1]), load, f"--port={port}", f"--pid={pid}", *options
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired as e:
            raise Failed("the load did not end") from e
        if done.returncode:
            raise Failed(done.stderr.strip())
        measurement: Measurement = json.loads(done.stdout)
        return measurement


def waitForRoom() -> None:
    """Wait until the kernel has forgotten most connections. Where netfilter tracks them, it keeps
    each for two minutes after its end, and drops packets when its table is full: the servers of
    the handshakes make half a million, and those behind them would look slow, or dead."""
    table = Path("/proc/sys/net/netfilter")
    count, most = table / "nf_conntrack_count", table / "nf_conntrack_max"
    until = time.monotonic() + ROOM
    while count.exists() and int(count.read_text()) > int(most.read_text()) // 2:
        if time.monotonic() > until:
            raise Failed("netfilter's table of connections stays full")
        time.sleep(1)


def freePort() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def told(row: Row, found: Measurement) -> str:
    text = f"{found[row.figure]:12,.0f} {row.unit}"
    if "server_us" in found:
        text += f" {found['server_us']:9,.2f} µs of the server each"
    if "load_utilisation" in found:
        text += f", the load was busy for {found['load_utilisation']:.0%}"
    return text


def shown(command: Iterable[str | Path]) -> str:
    """A command as one would type it in a clone: without the paths of this machine."""
    words = []
    for part in command:
        if part == sys.executable:
            words.append("python")
        elif part == TWISTD:
            words.append("twistd")
        elif isinstance(part, Path) and part.is_relative_to(HERE):
            words.append(str(part.relative_to(HERE.parent)))
        else:
            words.append(shlex.quote(str(part)))
    return " ".join(words)


def machine(cores: Sequence[int]) -> dict[str, str]:
    processor = "of unknown make"
    memory = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            memory = int(line.split()[1]) // 1024**2
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": f"{processor}, {len(cores)} cores",
        "memory": f"{memory} GiB",
        "system": f"{system}, Linux {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": output("gcc", "--version").split("\n")[0],
        "TLS of the load": output("openssl", "version").partition(" (")[0],
    }


if __name__ == "__main__":
    main()
