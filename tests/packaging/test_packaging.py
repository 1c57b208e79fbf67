"""What users install: the sdist, the wheel, an editable checkout, and the README's commands.

They take a minute and the package index, so they are run by `tox -e packaging` alone.
"""

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from echotwist.fastpath.sources import NAMES

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "echotwist/resources"

PAGE = [str(path.relative_to(RESOURCES)) for path in (RESOURCES).rglob("*") if path.is_file()]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commit as whoever clones it has it."""
    folder = tmp_path_factory.mktemp("clone")
    run("git", "clone", "--quiet", ROOT, folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def distributions(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ".", cwd=clone)
    return folder


def venv(folder: Path, *install: str | Path, cwd: Path) -> Path:
    run(sys.executable, "-m", "venv", folder, cwd=cwd)
    run(folder / "bin/pip", "install", "--quiet", *install, cwd=cwd)
    return folder / "bin/twistd"


def served(command: Sequence[str | Path], cwd: Path) -> tuple[str, bytes]:
    """Run a service, get its page, and stop it. Returns its log and the page."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    log = ""
    try:
        for line in process.stdout:
            log += line
            if "taking up to" in line:  # The last line of the start.
                url = re.findall(r"open (http://\S+)", log)[0]
                with urllib.request.urlopen(url, timeout=20) as response:
                    page = response.read()
                process.terminate()
        assert process.wait(20) == 0, log
    finally:
        process.kill()
        process.stdout.close()
    return log, page


def test_the_wheel_has_the_page_and_the_plugin(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in (*(f"echotwist/resources/{name}" for name in PAGE),
                 "echotwist/py.typed", "echotwist/fastpath/_loop.abi3.so",
                 *(f"echotwist/fastpath/{name}" for name in NAMES),
                 "echotwist/testing/plugin.py", "twisted/plugins/echotwist_plugin.py"):  # fmt: skip
        assert name in names
    # Either would break the plugins of everybody, or be served to them.
    assert "twisted/plugins/__init__.py" not in names
    assert "twisted/__init__.py" not in names
    assert "echotwist/resources/__init__.py" not in names
    assert not [name for name in names if name.startswith(("tests", "conformance"))]


def test_the_sdist_has_every_file_the_wheel_is_built_from(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    for name in (*(f"echotwist/resources/{name}" for name in PAGE), "README.md", "LICENSE",
                 "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md",
                 "setup.py", "pyproject.toml",
                 *(f"echotwist/fastpath/{name}" for name in NAMES),
                 "twisted/plugins/echotwist_plugin.py"):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("how", ["wheel", "folder", "editable"])
def test_an_installation_works_from_any_folder(
    how: str, clone: Path, distributions: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (wheel,) = distributions.glob("*.whl")
    installed: dict[str, list[str | Path]] = {
        "wheel": [wheel],
        "folder": [clone],
        "editable": ["-e", clone],
    }
    twistd = venv(tmp_path / "venv", *installed[how], cwd=empty)
    assert "A WebSocket echo service." in run(twistd, "--help", cwd=empty)
    log, page = served([twistd, "-n", "--pidfile=", "echotwist", "--port=0"], empty)
    assert page == (ROOT / "echotwist/resources/websockets.html").read_bytes()
    assert "fast path: threads: " in log
    assert "compressed messages stay" not in log
    assert "Traceback" not in log
    assert list(empty.iterdir()) == []


def test_the_fixture_is_there_for_whoever_installs_the_wheel(
    distributions: Path, tmp_path: Path
) -> None:
    """As docs/testing.md has it, with pytest and a client, and nothing else."""
    (wheel,) = distributions.glob("*.whl")
    venv(tmp_path / "venv", wheel, "pytest", "websockets", cwd=tmp_path)
    (example,) = re.findall(
        r"^```python test_client\.py\n(.*?)^```$",
        (ROOT / "docs/testing.md").read_text(),
        re.M | re.S,
    )
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_client.py").write_text(example)
    command = (tmp_path / "venv/bin/pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    assert "4 passed" in run(*command, cwd=folder)
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == [
        "test_client.py"
    ]


def test_without_a_compiler_autobahn_echoes(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    copy = tmp_path / "copy"
    run("git", "clone", "--quiet", clone, copy, cwd=tmp_path)
    twistd = venv(tmp_path / "venv", copy, cwd=tmp_path)
    log, _ = served([twistd, "-n", "--pidfile=", "echotwist", "--port=0"], tmp_path)
    assert "no fast path, it is not compiled here: Autobahn echoes everything" in log


def test_without_zlibs_header_compressed_messages_stay_with_the_reactor(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "zlib.h").write_text("#error\n")  # Found before the system's.
    monkeypatch.setenv("CFLAGS", f"-I{headers}")
    copy = tmp_path / "copy"
    run("git", "clone", "--quiet", clone, copy, cwd=tmp_path)
    twistd = venv(tmp_path / "venv", copy, cwd=tmp_path)
    log, _ = served([twistd, "-n", "--pidfile=", "echotwist", "--port=0"], tmp_path)
    assert "fast path: threads: " in log
    assert (
        "compressed messages stay with the reactor: the fast path was compiled without zlib" in log
    )


def test_leftovers_of_an_earlier_build_are_not_in_the_wheel(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("git", "clone", "--quiet", clone, copy, cwd=tmp_path)
    build: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, copy]
    run(*build, cwd=tmp_path)
    (built,) = (copy / "build").glob("lib*")
    (built / "echotwist/left.py").touch()
    run(*build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "echotwist/left.py" not in archive.namelist()


def test_the_readmes_command_installs_and_runs_it(clone: Path) -> None:
    (command,) = re.findall(
        r"^(python3 -m venv .*twistd .*)$", (clone / "README.md").read_text(), re.M
    )
    assert command.endswith("twistd -n echotwist --port 8080")
    # But for the port, which somebody may have taken, and so that the signal reaches twistd.
    command = command.replace("8080", "0").replace(
        "&& .venv/bin/twistd", "&& exec .venv/bin/twistd"
    )
    _, page = served(["bash", "-c", command], clone)
    assert b"WebSocket echo" in page


def test_the_readmes_quick_command_is_green(clone: Path, tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^(python3 -m venv .* && .*pytest .*)$", (clone / "README.md").read_text(), re.M
    )
    copy = tmp_path / "copy"
    run("git", "clone", "--quiet", clone, copy, cwd=tmp_path)
    told = run("bash", "-c", f"{command} -q", cwd=copy)
    assert re.search(r"^\d{4} passed, \d+ deselected in ", told, re.M), told


def test_ci_runs_the_readmes_command_for_the_tests(clone: Path) -> None:
    (command,) = re.findall(r"^(python3 -m venv .*tox)$", (clone / "README.md").read_text(), re.M)
    assert (clone / ".ci/run").read_text().splitlines()[-1] == command
