"""What twistd loads when it is to run `echotwist`: handlers of signals first, then the service.

Nothing else loads it. Programs that use a part of echotwist, such as tests with `echotwist.testing`
that are PID 1 of a container, keep their own handlers.
"""

import os

from echotwist.init import handleSignalsAsInit

handleSignalsAsInit(os.getpid())

# Not at the top: these imports take most of the time of a start.
from echotwist.tap import Options, makeService  # noqa: E402

__all__ = ["Options", "makeService"]
