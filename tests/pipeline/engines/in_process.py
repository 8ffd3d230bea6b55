"""An engine without processes: its workers are objects, and whatever they are handed was pickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from distill_cli.pipeline.engines.protocol import Answer, Opens, Work, answered


@dataclass
class InProcess:
    """Takes turns between workers; a test may have something happen before a task of a worker.

    Attributes:
        workers: Number of workers.
        before: Called with the number of the worker and the task, before each.
        ran: The tasks, each with its worker, in order.
    """

    workers: int = 2
    before: Callable[[int, Any], None] = lambda worker, task: None
    ran: list[tuple[int, Any]] = field(default_factory=list)

    def task_count(self, units: int) -> int:
        return units

    @contextmanager
    def started(self, tell: Callable[[str], None]) -> Iterator[InProcess]:
        self.open: dict[int, Work] = {}
        yield self

    def device(self, asked: str) -> str:
        return "cpu"

    def run(
        self,
        opens: Opens,
        tasks: Sequence[Any],
        *,
        done: Callable[[Any, Answer], None],
        look: Callable[[Sequence[Any]], None],
    ) -> None:
        for number, task in enumerate(tasks):
            worker, sent = number % self.workers, pickle.loads(pickle.dumps(task))
            self.before(worker, sent)
            if worker not in self.open:
                self.open[worker] = pickle.loads(pickle.dumps(opens))()
            answer = answered(self.open[worker], sent, f"node-{worker}")
            self.ran.append((worker, sent))
            look([task])
            done(task, pickle.loads(pickle.dumps(answer)))
