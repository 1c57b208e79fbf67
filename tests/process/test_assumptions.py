"""What the service takes for granted of twistd, as a process."""

import subprocess
import sys
from pathlib import Path

from support.process import TWISTD


def test_importing_the_plugin_and_the_options_installs_no_reactor() -> None:
    code = "import sys, echotwist.tap; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_twistd_looks_up_users_before_it_loads_a_plugin(tmp_path: Path) -> None:
    """Once twistd has a message of its own, docs/operations.md no longer needs to explain this."""
    for option in ("--uid=nosuchuser", "--gid=nosuchgroup"):
        run = subprocess.run(
            [*TWISTD, "-n", option, "echotwist", "--port=0"],
            capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
        )  # fmt: skip
        assert run.returncode == 1
        assert run.stderr.splitlines()[-1].startswith("KeyError: ")
        assert "echotwist/tap.py" not in run.stderr
