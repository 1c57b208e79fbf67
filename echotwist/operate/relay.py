"""What the supervisor hears from its workers: the lines that they log, and what their --admin
answers."""

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

ANSWER_TIMEOUT = 2.0
"""Seconds that a worker may take to answer. Prometheus waits for ten."""

_log = Logger(namespace="echotwist")


class LogRelay(Logger):
    """Logs what workers log. ProcessMonitor, whose logger it is, gives it each line that a worker
    writes."""

    def info(self, format: str | None = None, *args: Any, **values: Any) -> None:
        if "line" not in values:
            super().info(format, *args, **values)
            return
        worker, line = values["tag"], values["line"]
        try:
            event = json.loads(line)
            level = LogLevel.lookupByName(event.pop("level"))
            namespace, text = event.pop("namespace"), event.pop("message")
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not from the log: Python prints this before the log begins, or as the process dies.
            if line:
                _log.error("worker {worker}: {text!r}", worker=worker, text=line)
            return
        if "traceback" in event:
            text = f"{text}\n{event['traceback']}"
        # The line gets a new time. `format` is a parameter of `emit`.
        values = {key: value for key, value in event.items() if key not in ("time", "format")}
        Logger(namespace).emit(
            level, "worker {worker}: {text}", **{**values, "worker": worker, "text": text}
        )

    def failure(self, format: str, failure: Any = None, *args: Any, **values: Any) -> None:
        """ProcessMonitor cannot start a worker. The format that it gives has no place for why."""
        _log.error(
            "worker {worker} cannot be started: {why}",
            worker=values.get("name"),
            why=failure and failure.getErrorMessage(),
        )


def askAll(
    reactor: Any, sockets: Mapping[str, str], path: str
) -> "Deferred[dict[str, bytes | None]]":
    """Send GET `path` to the --admin of each worker.

    `sockets` has the path of each worker's Unix socket, by its number. Fires with the body of each
    worker's answer, by its number; None if there was no answer within ANSWER_TIMEOUT, or not a
    complete one with status 200. It does not fail.
    """
    asking = [_ask(reactor, address, path) for address in sockets.values()]
    return DeferredList(asking, consumeErrors=True).addCallback(
        lambda answers: {
            worker: body if isAnswered else None
            for worker, (isAnswered, body) in zip(sockets, answers, strict=True)
        }
    )


@inlineCallbacks
def _ask(reactor: Any, address: str, path: str) -> Any:
    endpoint = UNIXClientEndpoint(reactor, address, timeout=ANSWER_TIMEOUT)
    factory: Any = Factory.forProtocol(partial(_Request, path))
    factory.noisy = False
    request: Any = yield endpoint.connect(factory)
    try:
        answer: bytes = yield request.answer.addTimeout(ANSWER_TIMEOUT, reactor)
    finally:
        request.transport.abortConnection()
    head, _, body = answer.partition(b"\r\n\r\n")
    size = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
    isWhole = size is not None and int(size[1]) == len(body)
    return body if isWhole and head.startswith(b"HTTP/1.1 200 ") else None


class _Request(Protocol):
    """An HTTP request to a worker. Twisted's Agent would log lines for each request, and keep
    connections to workers that are gone."""

    def __init__(self, path: str) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._path = path
        self._received: list[bytes] = []

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode()
        )

    def dataReceived(self, data: bytes) -> None:
        self._received.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.callback(b"".join(self._received))
