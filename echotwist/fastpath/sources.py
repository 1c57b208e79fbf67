"""The sources of the compiled part, and a hash that tells whether it was compiled from them.

A build for one Python (`_loop.cpython-311-x86_64-linux-gnu.so`) that an older installation left
behind is imported in place of the build for all of them (`_loop.abi3.so`). So the compiled part
carries the hash of what it was compiled from, and `lending` compares that with what is installed.
setup.py runs this file, too.
"""

from hashlib import sha256
from pathlib import Path

NAMES = (
    "_loop.pyx",
    "_deflate.pxd",
    "_frame.pxd",
    "_mailbox.pxd",
    "_memory.pxd",
    "_message.pxd",
    "_octets.h",
    "_openssl.h",
    "_stream.pxd",
    "_tls.pxd",
    "_unsent.pxd",
    "_zlib.h",
)
"""Files that the extension is compiled from."""


def identity(folder: Path) -> str:
    """The SHA-256 of the sources in `folder`, in hexadecimal. Raises OSError."""
    return sha256(b"".join((folder / name).read_bytes() for name in NAMES)).hexdigest()
