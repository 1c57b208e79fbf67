"""Clients in a process of their own, which answers questions."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

PATIENCE = 120
"""Seconds for an answer."""


@dataclass(frozen=True)
class Failed:
    why: str


class Beside:
    """Use with `with`, which waits until the process is ready.

    It runs `target` with a pipe and the `arguments`. That sends None when it is ready, and then
    answers what it receives from the pipe; its end is an EOFError.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(target, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: str = "") -> Any:
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        assert self._pipe.poll(PATIENCE), "a process of clients is stuck"
        answer = self._pipe.recv()
        assert not isinstance(answer, Failed), answer.why
        return answer

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _run(target: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    try:
        target(pipe, *arguments)
    except EOFError:
        pass  # It is over.
    except BaseException as failure:
        pipe.send(Failed(f"{target.__module__}: {failure!r}"))
