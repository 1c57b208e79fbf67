"""The Dockerfile and the Kubernetes objects of deploy/, as far as they can be tested without a
container engine and without a cluster. Run by `tox -e deploy` alone; `tox -e machine` has an
engine.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
import websockets.sync.client
from support import readonly
from support.process import Twistd, freePorts, needs

from echotwist.tap import Options

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def kubernetes() -> list[Any]:
    """The documents for it."""
    # Not at the top: `tox -e deploy` alone has it, and every run of the tests imports this.
    import yaml

    return list(yaml.safe_load_all((DEPLOY / "kubernetes/echotwist.yaml").read_text()))


@pytest.mark.parametrize("version", ["1.30", "1.32", "latest"])
def test_kubernetes_schema_knows_every_field(version: str) -> None:
    import kubernetes_validate

    if version == "latest":
        version = kubernetes_validate.latest_version()
    for document in kubernetes():
        kubernetes_validate.validate(document, version, strict=True)


def test_kubernetes_manifests_fit_together() -> None:
    documents = kubernetes()
    deployment, service, budget = documents
    assert [document["kind"] for document in documents] == [
        "Deployment", "Service", "PodDisruptionBudget",
    ]  # fmt: skip
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels
    (constraint,) = pod["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == labels
    (container,) = pod["spec"]["containers"]
    port, admin = container["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    options = Options()
    options.parseOptions(container["args"])
    assert options["port"] == port["containerPort"]
    assert options["admin"] == f"tcp:{admin['containerPort']}"
    memory = container["resources"]["limits"]["memory"]
    limits = options["limits"]
    assert memory == "1Gi"
    assert limits.memoryBudget + limits.maxConnections * 8192 + 100_000_000 < 0.9 * 2**30
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert grace >= sleep + limits.drainTimeout + 5
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["httpGet"]["port"] for probe in probes} == {admin["name"]}
    paths = [probe["httpGet"]["path"] for probe in probes]
    (spare,) = freePorts(1)
    with (
        Twistd("--max-connections=100", f"--admin=tcp:{spare}:interface=127.0.0.1") as echotwist,
        contextlib.ExitStack() as stack,
    ):
        # A crowd that connects and asks nothing is no reason to restart it.
        for _ in range(170):
            address = ("127.0.0.1", echotwist.port)
            stack.enter_context(socket.create_connection(address, timeout=20))
        for url in (f"http://127.0.0.1:{spare}", echotwist.url.rstrip("/")):
            for path in paths * 10:
                with urllib.request.urlopen(url + path, timeout=20) as response:
                    assert response.status == 200
    user = [value for name, value in instructions() if name == "USER"]
    assert user == [f"{pod['spec']['securityContext']['runAsUser']}:"
                    f"{pod['spec']['securityContext']['runAsGroup']}"]  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile."""
    text = (DEPLOY / "docker/Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_passes_a_linter(tmp_path: Path) -> None:
    needs("npm", "npm")
    (tmp_path / "package.json").write_text('{"dependencies": {"dockerfile-utils": "^0.16.3"}}')
    subprocess.run(
        ["npm", "install", "--silent", "--no-fund"], cwd=tmp_path, check=True, timeout=300
    )
    linter = tmp_path / "node_modules/.bin/dockerfile-utils"
    dockerfile = DEPLOY / "docker/Dockerfile"
    done = subprocess.run([linter, "lint", dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # It is one that finds something.
    (tmp_path / "Dockerfile").write_text(dockerfile.read_text() + "USERS 1\n")
    done = subprocess.run([linter, "lint", tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert "USERS" in done.stdout + done.stderr


class Image:
    """The Dockerfile carried out in a folder, with this machine's Python and compiler."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._work = folder
        stages = [i for i, (name, _) in enumerate(instructions()) if name == "FROM"]
        assert len(stages) == 2
        self.last = dict(instructions()[stages[1] :])
        for name, rest in instructions()[: stages[1]]:
            match name:
                case "FROM":
                    pass  # Its Python is this one.
                case "WORKDIR":
                    self._workIn(rest)
                case "COPY":
                    self._copy(rest)
                case "RUN":
                    self._run(rest)
                case _:
                    raise AssertionError(name)
        assert self.last["COPY"] == "--from=build /echotwist /echotwist"

    def command(self, name: str) -> list[str]:
        """ENTRYPOINT, CMD or HEALTHCHECK."""
        parts: list[str] = json.loads(self.last[name][self.last[name].index("[") :])
        return [self._here(part) for part in parts]

    def _here(self, text: str) -> str:
        return re.sub(r"(^| )/echotwist\b", rf"\1{self._folder}/echotwist", text)

    def _workIn(self, rest: str) -> None:
        self._work = self._folder / rest.strip("/")
        self._work.mkdir(exist_ok=True)

    def _copy(self, rest: str) -> None:
        *names, where = rest.split()
        ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
        left = [line for line in ignored if "/" in line]
        for name in names:
            assert f"!{name}" in ignored
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    self._work / where,
                    ignore=shutil.ignore_patterns(*[Path(line).name for line in left]),
                )
            else:
                shutil.copy(ROOT / name, self._work / where)

    def _run(self, rest: str) -> None:
        if rest.startswith("apt-get"):
            return  # The compiler, which is here.
        command = re.sub(r"^python ", f"{sys.executable} ", self._here(rest))
        command = re.sub(r"^pip ", f"{sys.executable} -m pip ", command)
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, shell=True, cwd=self._work, env=environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, command + done.stdout + done.stderr


def test_the_image_works_on_a_read_only_file_system() -> None:
    """As its user, without capabilities, and by Landlock without the right to write any file."""
    if readonly.version() < 3:
        pytest.skip("this kernel has no Landlock (Linux 6.2 has)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = Image(folder)
        user, _, group = image.last["USER"].partition(":")
        (port,) = freePorts(1)
        assert image.command("CMD") == ["--port", "8080"]
        files = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
        process = subprocess.Popen(
            [*(asUser(user, group) if os.getuid() == 0 else []),
             sys.executable, readonly.__file__,
             *image.command("ENTRYPOINT"), "--port", str(port)],
            cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"PATH": os.environ["PATH"],
                 **dict(pair.split("=") for pair in image.last["ENV"].split())},
        )  # fmt: skip
        healthy = [part.replace(":8080/", f":{port}/") for part in image.command("HEALTHCHECK")]
        log = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log += line
                if "taking up to" in line:  # The last line of the start.
                    if os.getuid() == 0:
                        status = Path(f"/proc/{process.pid}/status").read_text()
                        assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
                    subprocess.run(healthy, check=True, timeout=20)
                    with websockets.sync.client.connect(f"ws://localhost:{port}/echo") as client:
                        client.send("hello")
                        assert client.recv() == "hello"
                        process.send_signal(getattr(signal, image.last["STOPSIGNAL"]))
                        with pytest.raises(websockets.exceptions.ConnectionClosed):
                            client.recv()
                        assert client.close_code == 1001
            assert process.wait(20) == 0, log
        finally:
            process.kill()
            process.communicate()
        assert "fast path: threads: " in log
        assert "Traceback" not in log
        assert "cache" not in log  # twistd's complaint that it cannot write dropin.cache.
        assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == files
        # What is gone is not healthy.
        assert subprocess.run(healthy, capture_output=True, check=False).returncode == 1


def asUser(user: str, group: str) -> list[str]:
    """All that it may do beyond any user is to read: the tests' Python may be in root's home."""
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups",
            "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
            "--bounding-set=-all,+dac_read_search"]  # fmt: skip
