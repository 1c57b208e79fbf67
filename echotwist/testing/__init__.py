"""echotwist as a test fixture: a WebSocket echo that starts in a moment, on a free port, and goes.

    with ServiceProcess("--max-message=1M") as echo:
        connect(echo.url)

docs/testing.md has the examples, for pytest, unittest, asyncio, Twisted and other languages.

Nothing here imports Twisted as it is imported: pytest loads the plugin at its start, and the tests
choose the reactor.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from echotwist.testing.process import NotStarted, ServiceProcess

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from echotwist.testing.inreactor import ServiceInReactor

__all__ = ["NotStarted", "ServiceProcess", "startInReactor"]


def startInReactor(
    *options: str, tls: bool = False, reactor: Any = None
) -> "Deferred[ServiceInReactor]":
    """Start the service in `reactor`, which runs; None is Twisted's.

    Fires with an object that has the `url`, `page`, `options`, `clientContext` and `caFile` of
    ServiceProcess, and a `stop()` that returns a Deferred. Fails with NotStarted.
    """
    # Not at the top: that would import Twisted.
    from echotwist.testing.inreactor import start

    starting: Callable[..., Deferred[ServiceInReactor]] = start
    return starting(options, tls, reactor)
