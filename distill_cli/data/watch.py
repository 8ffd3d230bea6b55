"""A watch over worker processes that somebody waits for: no wait is without an end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread

from distill_cli.errors import InternalError

# Seconds between two looks, and the number of looks after which waiting ends: at workers that are
# stopped, and at workers of which nothing is known but that they send nothing.
EVERY, MOST_STOPPED, MOST_WAITING = 1.0, 30, 600


class Watch:
    """Kills workers that send nothing, so that whoever waits for them is woken with a reason.

    Looks are counted, not seconds: they stop with this process, when a person suspends it and its
    workers together. A look happens in a thread of its own, because a result is fetched from its
    worker over a socket, for which Python waits without an end.

    Args:
        workers: The processes.
    """

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        self.workers = workers
        # Why the workers were killed; None while they were not.
        self.error: InternalError | None = None
        # The number of the result that is waited for; None while nobody waits.
        self.awaited: int | None = None
        self._over = Event()
        self._thread = Thread(target=self._look, name="watch over workers", daemon=True)
        if workers:
            self._thread.start()

    def end(self) -> None:
        """Ends the watch."""
        self._over.set()

    def _look(self) -> None:
        last, waiting, stopped = None, 0, 0
        while not self._over.wait(EVERY):
            awaited = self.awaited
            if awaited is None or awaited != last:
                last, waiting, stopped = awaited, 0, 0
                continue
            waiting += 1
            stopped = stopped + 1 if any(map(_is_stopped, self.workers)) else 0
            if stopped >= MOST_STOPPED:
                self._wake("a worker that reads images was stopped, and nobody let it go on")
            elif waiting >= MOST_WAITING:
                minutes = round(waiting * EVERY / 60)
                self._wake(f"the workers that read images sent nothing for {minutes} minutes")

    def _wake(self, message: str) -> None:
        hint = "What was saved before is intact; --workers 0 reads images without other processes"
        self.error = InternalError(message, hint=hint)
        for worker in self.workers:
            worker.kill()
        self._over.set()


def _is_stopped(worker: BaseProcess) -> bool:
    """Whether a process is stopped by a signal; only Linux says so."""
    if sys.platform != "linux":
        return False
    try:
        status = Path(f"/proc/{worker.pid}/stat").read_text()
    except OSError:
        return False
    # The name in brackets may hold anything; the state follows the last bracket.
    return status.rpartition(")")[2].split()[:1] == ["T"]
