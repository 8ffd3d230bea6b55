"""How tasks are handed to an engine, and what comes back. Torch-free.

An engine starts workers, hands tasks to them, and tries a task again whose worker died. A worker opens
what it needs once, when its first task comes. Tasks may run twice, and what they do must not mind.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from distill_cli.errors import DistillError, reason

# A worker's function of a task; and an importable function, or a partial of one, that makes it.
Work = Callable[[Any], Any]
Opens = Callable[[], Work]
# Seconds between two looks at what goes on.
LOOK = 0.5


@dataclass(frozen=True, kw_only=True)
class WorkerId:
    """A process that did a task.

    Attributes:
        host: Name of its machine.
        node: The engine's name of its node; that of its machine where the engine has none.
        pid: Number of the process.
    """

    host: str
    node: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a task.

    Attributes:
        worker: Who did it.
        value: What its function returned.
        error: The line of its error; None where it has none.
        code: The exit code of the error's kind.
    """

    worker: WorkerId
    value: Any = None
    error: str | None = None
    code: int = 1


class RemoteError(DistillError):
    """A task failed on a worker, with the exit code of what failed it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"on {answer.worker.host}: {answer.error}")
        self.exit_code = answer.code


class Session(Protocol):
    """An engine that runs, with its workers."""

    def device(self, asked: str) -> str:
        """The device that workers are told, given that of the recipe.

        Raises:
            UsageError: Workers cannot have it.
        """

    def run(
        self,
        opens: Opens,
        tasks: Sequence[Any],
        *,
        done: Callable[[Any, Answer], None],
        look: Callable[[Sequence[Any]], None],
    ) -> None:
        """Runs tasks, in any order.

        Args:
            opens: Makes the function of a worker, in the worker.
            tasks: The tasks; they are pickled.
            done: Called with each task and what became of it, once.
            look: Called at least every few seconds with the tasks that run; what it raises ends the
                job.

        Raises:
            InternalError: A task's workers died again and again.
        """


class Engine(Protocol):
    """A way to have tasks done."""

    def started(self, tell: Callable[[str], None]) -> AbstractContextManager[Session]:
        """The engine, running; what has not been done when the context is left is cancelled.

        Args:
            tell: Shows a person a line.

        Raises:
            UsageError: It is not installed, or cannot be reached.
        """

    def task_count(self, units: int) -> int:
        """The number of tasks that so many units of work are divided into by default."""


def answered(work: Work, task: Any, node: str | None = None) -> Answer:
    """Does a task in this process; its error becomes a part of the answer."""
    host = socket.gethostname()
    worker = WorkerId(host=host, node=node or host, pid=os.getpid())
    try:
        return Answer(worker=worker, value=work(task))
    except DistillError as error:
        return Answer(worker=worker, error=str(error), code=error.exit_code)
    except Exception as error:
        if os.environ.get("DISTILL_DEBUG"):
            raise
        text = f"{type(error).__name__}: {reason(error)}"
        return Answer(worker=worker, error=f"a worker failed: {text}")


def value_of(answer: Answer) -> Any:
    """What a task's function returned.

    Raises:
        RemoteError: It failed.
    """
    if answer.error is not None:
        raise RemoteError(answer)
    return answer.value
