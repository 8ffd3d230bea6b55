"""The workers of a job on Ray: actors, that come and go with the nodes."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable
from typing import Any

from distill_cli.errors import InternalError, reason
from distill_cli.pipeline.engines.protocol import Opens

# Seconds after which a person is told that no worker has come.
PATIENCE = 15.0
# Colours of a terminal.
ANSI = re.compile("\x1b\\[[0-9;]*m")


class RayPool:
    """The actors of a run; those that have no process yet are given no task."""

    def __init__(
        self, ray: Any, kind: Any, opens: Opens, retries: int, tell: Callable[[str], None]
    ) -> None:
        self.ray, self.kind, self.tell, self.retries = ray, kind, tell, retries
        self.opens = pickle.dumps(opens)
        self.actors, self.idle = list[Any](), list[Any]()
        self.starting: dict[Any, Any] = {}
        self.failed = 0
        self.due: float | None = time.monotonic() + PATIENCE

    def grow(self, size: int) -> None:
        """Asks for actors, up to a number of them."""
        while len(self.actors) < size:
            actor = self.kind.remote(self.opens)
            self.actors.append(actor)
            self.starting[actor.ready.remote()] = actor

    def admit(self, reference: Any) -> None:
        """Takes an actor whose process has come."""
        actor = self.starting.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            # Its node may have gone; one after the other is more than that.
            self.failed += 1
            self.drop(actor)
            if self.failed <= self.retries:
                return
            raise InternalError(
                f"no worker of Ray could start: {last_line(error)}",
                hint="distill is to be installed on every node",
            ) from None
        self.idle.append(actor)
        self.failed, self.due = 0, None

    def say_waiting(self, needs: str) -> None:
        """Tells once that no worker has come, when it is time."""
        if self.due is not None and time.monotonic() > self.due:
            self.tell(f"no worker has started yet; each needs {needs}")
            self.due = None

    def drop(self, actor: Any) -> None:
        """Forgets one that died, and sees that it has."""
        self.actors.remove(actor)
        self.ray.kill(actor)

    def end(self) -> None:
        """Ends all of them, whatever they do."""
        while self.actors:
            self.drop(self.actors[-1])


def last_line(error: Exception) -> str:
    """The line of an error that names its cause: Ray tells whole tracebacks."""
    lines = [line for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return reason(Exception(lines[-1].strip())) if lines else reason(error)
