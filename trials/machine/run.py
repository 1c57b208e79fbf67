"""What docs/operations.md says of systemd, of the log files and of containers, carried out by a
real Debian: systemd is process 1 there, and the kernel, cgroups and journald are its own.

    python trials/machine/run.py FOLDER        `tox -e machine` does this

    debootstrap          makes a Debian 12, from the mirror that this machine's apt uses. FOLDER
                         keeps it: later runs need no network for it
    chroot               has the commands for installing, and `docker build`, as the document has
                         them: compilers and package managers would take an hour in an emulation
    mke2fs -d            makes a disk of it
    qemu                 boots it, emulated: KVM is not to be had inside of most CI machines
    guest.py             is started by systemd in there, types the other commands of the document,
                         looks at what they do, and writes a line for each check to a serial port

Needs root. The exit status is 0 if every check held, and 1 if not. Where the tools are missing
nothing is checked: `tox -e skipped` tells so, and in CI that is a failure.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from machine import document
from support import skipped

ROOT = Path(__file__).parents[2]

TOOLS = {
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "apt-get": "apt",
    "git": "git",
    "unshare": "util-linux",
}
"""Commands, and Debian's packages of them."""

SUITE = "bookworm"

PYTHON = ["python3", "python3-venv", "libpython3-dev"]
"""What the container's base has, like the image `python:...-slim`."""

MACHINE = [
    "systemd", "systemd-sysv", "dbus", "linux-image-cloud-amd64", "initramfs-tools", "gcc",
    "libc6-dev", "zlib1g-dev", "logrotate", "openssl", "podman", "podman-docker", "netavark",
    "iptables",
]  # fmt: skip
"""What the machine has beside."""

BOOT_LIMIT = 900
"""Seconds for everything inside. It takes a third of that on two idle cores."""

PLATFORMS = ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64",
             "manylinux_2_34_x86_64", "manylinux_2_36_x86_64"]  # fmt: skip
"""Wheels for Debian 12, whatever this machine is."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

UNIT = """\
[Unit]
Description=The checks of the machine

[Service]
WorkingDirectory=/root/echotwist
Environment=PYTHONPATH=/root/echotwist/tests:/root/echotwist/trials:/root/echotwist
Environment=PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -u trials/machine/guest.py
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1

[Install]
WantedBy=multi-user.target
"""


class Failed(Exception):
    """A step did not work; says which, and what it wrote."""


def main(folder: Path) -> int:
    missing = lacking()
    isFailure = skipped.note([f"a booted Debian: {missing}"] if missing else [])
    if missing:
        print(f"NOT RUN: nothing was checked. {missing}", file=sys.stderr)
        return int(isFailure)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def did(what: str) -> None:
        nonlocal began
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()

    try:
        python, machine = bases(folder)
        did("Debian")
        fetchWheels(folder / "wheels")
        root = installed(machine, folder)
        did("echotwist, installed as the document says")
        buildImage(root, python, folder)
        did("the container's image, built as the document says")
        disk = folder / "disk"
        run("mke2fs", "-q", "-t", "ext4", "-d", root, disk, "4G")
        did("disk")
        isGood = boot(root, disk, folder / "console")
        did("boot, checks, and a second boot")
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    finally:
        for name in ("root", "image", "new"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "disk").unlink(missing_ok=True)
    return 0 if isGood else 1


def lacking() -> str:
    """What this needs and has not got."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # Not on every user's.
    packages = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if packages:
        return f"Install (Debian): {' '.join(packages)}"
    if os.getuid() != 0:
        return "It needs root, for debootstrap and chroot."
    return ""


def run(*command: str | Path, limit: float = 300, env: dict[str, str] | None = None) -> str:
    """Returns what it wrote."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit, env=env,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{' '.join(map(str, command))}: not done in {limit} s") from e
    if done.returncode:
        wrote = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise Failed(f"{' '.join(map(str, command))}: {done.returncode}\n{wrote}")
    return done.stdout


def inside(root: Path, script: str, limit: float = 300) -> str:
    """Run a shell script in a folder that holds a system, with a /proc, /sys and /dev.

    The mounts are in a namespace of their own, and so go by themselves. podman wants / to be one.
    Nothing of this machine's environment gets in: it may configure pip, or apt.
    """
    mounts = 'mount --bind "$1" "$1"; for d in proc sys dev; do mount --rbind /$d "$1/$d"; done; '
    enter = f'exec env -i PATH={PATH} HOME=/root LANG=C.UTF-8 chroot "$1" bash -ec "$2"'
    return run("unshare", "--mount", "bash", "-ec", mounts + enter, "-", root, script, limit=limit)


def mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    targets = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages",
        "Component: main",
    )  # fmt: skip
    pairs = [line.split() for line in targets.splitlines()]
    for uri, release in pairs:
        if release == SUITE:
            return uri
    for uri, _ in pairs:
        if uri.rstrip("/").endswith("/debian"):  # Of another release; it has this one too.
            return uri
    raise Failed(f"apt on this machine knows no mirror of Debian:\n{targets}")


def bases(folder: Path) -> tuple[Path, Path]:
    """Two Debians, one with Python alone and one to boot; made once."""
    key = hashlib.sha256(repr((SUITE, PYTHON, MACHINE)).encode()).hexdigest()[:8]
    kept = folder / f"debian-{key}"
    if not kept.exists():
        for old in folder.glob("debian-*"):
            shutil.rmtree(old)
        new = folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        python, machine = new / "python", new / "machine"
        run(
            "debootstrap", "--variant=minbase", f"--include={','.join(PYTHON)}", SUITE, python,
            mirror(), limit=600,
        )  # fmt: skip
        shutil.rmtree(python / "var/cache/apt/archives")
        (python / "var/cache/apt/archives/partial").mkdir(parents=True)
        # Python's own image has `python` and `pip`.
        inside(python, "python3 -m venv /usr/local")
        run("cp", "-a", python, machine)
        shutil.copy("/etc/resolv.conf", machine / "etc/resolv.conf")
        inside(
            machine,
            "export DEBIAN_FRONTEND=noninteractive; apt-get update; "
            f"apt-get install -y --no-install-recommends {' '.join(MACHINE)}; apt-get clean",
            limit=600,
        )
        new.rename(kept)
    return kept / "python", kept / "machine"


def fetchWheels(folder: Path) -> None:
    """Of what echotwist needs, to run and to be built, for Debian's Python."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    shutil.rmtree(folder, ignore_errors=True)
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder,
        "--only-binary=:all:", "--python-version=3.11", "--implementation=cp",
        "--abi=cp311", "--abi=abi3", "--abi=none", *(f"--platform={p}" for p in PLATFORMS),
        ROOT, *build,
    )  # fmt: skip


def setWheels(root: Path, wheels: Path) -> None:
    """Let every pip in this system take them instead of asking the network."""
    shutil.copytree(wheels, root / "wheels")
    (root / "etc/pip.conf").write_text(
        "[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n"
    )


def installed(machine: Path, folder: Path) -> Path:
    """A machine with a clone in /root/echotwist, installed as the document says."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("cp", "-a", machine, root)
    setWheels(root, folder / "wheels")
    clone = root / "root/echotwist"
    # What is committed, and what will be.
    for name in run(
        "git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    ).split("\0"):
        if name and (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    inside(root, "cd /root/echotwist\n" + document.block("systemd", "pip install"))
    unit = root / "etc/systemd/system/machine.service"
    unit.write_text(UNIT)
    (root / "etc/hostname").write_text("machine\n")
    inside(root, "systemctl enable machine.service")
    # Their work is none of ours, and it is slow here.
    inside(root, "systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service")
    return root


def buildImage(root: Path, python: Path, folder: Path) -> None:
    """`docker build` in the machine, by podman, from Debian's Python instead of Docker's."""
    base = folder / "image"
    shutil.rmtree(base, ignore_errors=True)
    run("cp", "-a", python, base)
    setWheels(base, folder / "wheels")
    containers = root / "etc/containers"
    containers.mkdir(exist_ok=True)
    (containers / "storage.conf").write_text(
        '[storage]\ndriver = "overlay"\ngraphroot = "/var/lib/containers/storage"\n'
        'runroot = "/run/containers/storage"\n'
    )
    # Debian has the configuration of the other one as well, which podman would take for a sign.
    (containers / "containers.conf").write_text('[network]\nnetwork_backend = "netavark"\n')
    (containers / "nodocker").touch()  # Or `docker` would say each time that it is podman.
    run("tar", "-C", base, "-cf", root / "base.tar", ".")
    command = document.block("Kubernetes and containers", "docker build")
    inside(
        root,
        "podman import -q /base.tar docker.io/library/python:3.13-slim\n"
        # chroot: without a cgroup and a network of its own, which may be forbidden here.
        f"cd /root/echotwist; export BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker\n{command}"
        "podman untag docker.io/library/python:3.13-slim; podman image prune -f; rm /base.tar",
    )


def boot(root: Path, disk: Path, console: Path) -> bool:
    """Run it until it turns itself off. Returns whether everything held."""
    (kernel,) = root.glob("boot/vmlinuz-*")
    (initrd,) = root.glob("boot/initrd.img-*")
    machine = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024",
         "-smp", "2", "-display", "none", "-monitor", "none", "-nic", "none",
         "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe",
         "-kernel", kernel, "-initrd", initrd,
         "-append", "root=/dev/vda rw console=ttyS0 panic=-1 systemd.default_timeout_start_sec=300",
         "-serial", f"file:{console}", "-serial", "stdio"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip
    assert machine.stdout is not None
    limit = threading.Timer(BOOT_LIMIT, machine.kill)
    limit.start()
    lines = []
    try:
        for line in machine.stdout:
            lines.append(line.rstrip())
            print(" ", lines[-1], flush=True)
        machine.wait(30)
    finally:
        limit.cancel()
        machine.kill()
        machine.wait()
        machine.stdout.close()
    good = sum(line.startswith("ok ") for line in lines)
    ends = [match for line in lines if (match := re.fullmatch(r"all (\d+) checks held", line))]
    if len(ends) == 1 and int(ends[0][1]) == good:
        return True
    tail = console.read_text(errors="replace").splitlines()[-60:] if console.exists() else []
    print("The end of the console:", *tail, sep="\n    ", file=sys.stderr)
    print(f"{good} checks held, and that is not all", file=sys.stderr)
    return False


def arguments(given: Sequence[str]) -> Path:
    if len(given) != 1:
        raise SystemExit(__doc__)
    return Path(given[0]).resolve()


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
