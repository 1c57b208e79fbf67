"""`tox` lists at its end the checks that did not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import skipped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which nothing is installed."""
    noted = {"PATH": str(tmp_path), "SKIPPED": str(tmp_path / "skipped/py3")}
    return {**{name: v for name, v in os.environ.items() if name != "CI"}, **noted}


def run(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


TEST = ("-m", "pytest", "-p", "no:cacheprovider")


@pytest.mark.slow(reason="starts pytest twice")
@pytest.mark.parametrize("isInCI", [False, True])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skipped_test_is_listed_and_fails_in_ci(
    bare: dict[str, str], isInCI: bool, workers: str, tmp_path: Path
) -> None:
    """The workers of pytest-xdist send their reports to the process that notes them."""
    env = {**bare, **({"CI": "true"} if isInCI else {})}
    done = run(env, *TEST, "tests/process/test_metrics.py", "-k", "accepts", "-n", workers)
    assert (done.returncode != 0) == isInCI, done.stdout
    told = run(bare, "tests/support/skipped.py", str(tmp_path / "skipped"))
    assert told.stdout == (
        "NOT CHECKED:\n"
        "  py3: tests/process/test_metrics.py::test_promtool_accepts_the_metrics: "
        "promtool is not installed (Debian: prometheus)\n"
    )
    # The next run skips nothing, and has nothing to list.
    done = run(bare, *TEST, "tests/memory/test_metrics.py", "-k", "dashboard")
    assert done.returncode == 0, done.stdout + done.stderr
    told = run(bare, "tests/support/skipped.py", str(tmp_path / "skipped"))
    assert told.stdout == "nothing was skipped\n"


@pytest.mark.slow(reason="starts pytest")
def test_a_pytest_that_a_test_starts_has_a_temporary_root_of_its_own(
    bare: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two that share one remove each other's folders, and one in a few hundred fails."""
    test = tmp_path / "test_folder.py"
    test.write_text("def test_folder(tmp_path):\n    print(tmp_path)\n")
    done = run(bare, *TEST, "-s", "-q", f"--rootdir={tmp_path}", "-c", os.devnull, str(test))
    assert str(tmp_path_factory.getbasetemp()) in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("fuzz/fuzz.py", "clang is not installed (Debian: clang libclang-rt-dev)"),
        ("sanitize/sanitize.py", "gcc is not installed (Debian: gcc)"),
    ],
)
def test_a_missing_compiler_is_listed_and_fails_in_ci(
    bare: dict[str, str], script: str, line: str, tmp_path: Path
) -> None:
    # Atheris has no wheel for some Pythons, and is not used here.
    (tmp_path / "atheris.py").touch()
    env = {
        **bare,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests"), str(ROOT / "trials")]),
    }
    done = run(env, f"trials/{script}")
    assert (done.returncode, done.stdout) == (0, f"skipped: {line}\n"), done.stderr
    assert (tmp_path / "skipped/py3").read_text() == f"{line}\n"
    done = run({**env, "CI": "true"}, f"trials/{script}")
    assert (done.returncode, done.stderr) == (1, f"{line}\n")


def test_skips_are_not_noted_without_tox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPPED", raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert not skipped.note(["x"])
    monkeypatch.setenv("CI", "true")
    assert skipped.note(["x"])
    assert not skipped.note([])
