"""echotwist as a test fixture: a WebSocket echo that starts in a moment, on a free port.

    with ServiceProcess("--max-message=1M") as echo:
        connect(echo.url)

docs/testing.md has the examples, for pytest, unittest, asyncio, Twisted and other languages.

This package imports nothing until it is used: pytest loads the plugin at its start, and the tests
choose the reactor.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from echotwist.testing.inreactor import ServiceInReactor
    from echotwist.testing.process import NotStarted, ServiceProcess

__all__ = ["NotStarted", "ServiceProcess", "startInReactor"]


def __getattr__(name: str) -> Any:
    if name not in ("NotStarted", "ServiceProcess"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from echotwist.testing import process

    return getattr(process, name)


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
