"""A WebSocket echo service on Twisted and Autobahn that people can trust.

Read it in the order in which a message travels: `tap` (the options), `service`
(start, listen, drain), `listen` (ports, TLS), `http` (the URLs, the handshake),
`websocket` (the echo), `fastpath` (the echo, compiled). docs/architecture.md has a
picture, and every file.
"""

import os
import sys

from echotwist.init import handleSignalsAsInit

__version__ = "0.1.0"

# In a container whose PID 1 is pytest, which imports the plugin, they are those of the tests.
handleSignalsAsInit(0 if "pytest" in sys.modules else os.getpid())
