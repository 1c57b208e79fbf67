"""What the fast path is compiled of.

The compiled part is a file beside the others, and may be another one than belongs to them: a build
for one Python (`_loop.cpython-311-x86_64-linux-gnu.so`) that was left there is imported before
the one for all (`_loop.abi3.so`), however old it is. So it says what it was compiled of, and
`lending` compares that with what is installed. setup.py runs this file, too.
"""

from hashlib import sha256
from pathlib import Path

NAMES = ("_loop.pyx", "_octets.h")


def identity(folder: Path) -> str:
    """Of the sources in `folder`. Raises OSError."""
    return sha256(b"".join((folder / name).read_bytes() for name in NAMES)).hexdigest()
