"""What a process says of a fast path that it cannot use."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import websockets.sync.client
from support.process import Twistd

from echotwist.fastpath import _loop, lending


@pytest.mark.parametrize("kind", ["of other sources", "broken"])
def test_a_compiled_part_of_another_build_is_not_used(tmp_path: Path, kind: str) -> None:
    """Python would import it instead of the right one, `_loop.abi3.so`."""
    ours = Path(lending.__file__).parents[1]
    shutil.copytree(ours, tmp_path / "echotwist", ignore=shutil.ignore_patterns("__pycache__"))
    other = (tmp_path / "echotwist/fastpath/_loop").with_suffix(
        sysconfig.get_config_var("EXT_SUFFIX")
    )
    compiled = Path(_loop.__file__).read_bytes()
    assert _loop.sources.encode() in compiled
    replaced = {
        "of other sources": (_loop.sources.encode(), b"0" * 64),
        "broken": (b"ELF", b"FLE"),
    }[kind]
    other.write_bytes(compiled.replace(*replaced))
    why = {
        "broken": f"the compiled part cannot be loaded: {other}: invalid ELF header",
    }.get(kind, f"{other} was compiled from other sources")
    with Twistd(env={"PYTHONPATH": str(tmp_path)}, ready="taking up to") as service:
        assert f"no fast path, {why}: Autobahn echoes everything" in service.log
        with websockets.sync.client.connect(service.ws) as client:
            client.send("hello")
            assert client.recv() == "hello"
