"""Starts the ranks of `--ranks` by torch's own launcher, in this process, and starts them anew.

One store serves all attempts; the machine of node 0 keeps it. Each attempt is a launch of its own under a
name that ends in its number, so that what it leaves there is not taken for the next one's.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distill_cli import meeting
from distill_cli.errors import InternalError, reason
from distill_cli.launched import BY_OPTION, UNMENDED
from distill_cli.launcher.machines import ANSWER, Machines

# Seconds beyond the grace of a stop, for the end of what is stopped; for a last word; between two looks.
_MARGIN, _ASKING, _LOOK = 15, 5.0, 0.1
# Seconds that a machine whose ranks are through waits for the others.
PARTING = 10.0
# Codes after which there is no other attempt.
FINAL = (0, *UNMENDED, *(128 + number for number in (signal.SIGINT, signal.SIGTERM)))

INTERRUPTION = "stopped at once; what was saved before is intact"

Work = Callable[[list[str], bool], None]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of an attempt.

    Attributes:
        code: The exit code that it means.
        line: What a person should know of it; None where a rank has said it.
    """

    code: int
    line: str | None = None


@dataclass(kw_only=True)
class Launcher:
    """The launch of one command.

    Attributes:
        machines: Which ranks are started where.
        work: What each rank does, given `args` and whether an earlier attempt has begun.
        args: The command line, without the program.
        start_method: How processes are started, as multiprocessing has it.
        restarts: How often the ranks are started anew.
        grace: Seconds that they have from a signal on.
        state: Something that is another as soon as an attempt has begun.
        tell: Says a line to a person.
    """

    machines: Machines
    work: Work
    args: Sequence[str]
    start_method: str
    restarts: int = 0
    grace: float = 30.0
    state: Callable[[], object] = lambda: None
    tell: Callable[[str], object] = print

    def run(self) -> Ended:
        """All attempts.

        Raises:
            DistillError: The machines do not meet.
        """
        with (
            _quiet(self.grace),
            _parting(),
            tempfile.TemporaryDirectory(prefix="distill-ranks-") as folder,
        ):
            try:
                return self._attempts(folder)
            except SignalException as stop:
                # Between two attempts.
                return Ended(code=128 + int(stop.sigval), line=INTERRUPTION)

    def _attempts(self, folder: str) -> Ended:
        host, port = self.machines.address
        store, before = self.machines.store(), self.state()
        for attempt in range(self.restarts + 1):
            goes_on = self.machines.muster(
                store, attempt, begun=self.state() != before, tell=self.tell
            )
            name = f"{BY_OPTION}{attempt}"
            ended = self._attempt(name, (host, port or store.port), goes_on, folder, store)
            if ended.code in FINAL or attempt == self.restarts:
                break
            if ended.line:
                self.tell(ended.line)
            self.tell(f"the ranks are started anew, {attempt + 1} of {self.restarts}")
        return ended

    def _attempt(
        self, name: str, address: tuple[str, int], goes_on: bool, folder: str, store: Any
    ) -> Ended:
        """One attempt, to its end."""
        machines = self.machines
        config = LaunchConfig(
            min_nodes=machines.nodes,
            max_nodes=machines.nodes,
            nproc_per_node=machines.ranks,
            run_id=name,
            rdzv_backend="static",
            rdzv_endpoint=f"{address[0]}:{address[1]}",
            rdzv_configs={"rank": machines.node, "timeout": int(ANSWER)},
            max_restarts=0,
            start_method=self.start_method,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        words = meeting.part_of(store, name)
        try:
            elastic_launch(config, self.work)(list(self.args), goes_on)
        except ChildFailedError as error:
            return self._failed(error, words)
        except SignalException as stop:
            _end_all(self.grace + _MARGIN)
            return self._stopped(stop.sigval, words)
        except (RuntimeError, OSError) as error:
            _end_all(_MARGIN)
            raise InternalError(f"the ranks could not be started: {reason(error)}") from None
        return Ended(code=0)

    def _failed(self, error: ChildFailedError, words: Any) -> Ended:
        rank, failure = next(iter(error.failures.items()))
        try:
            word = meeting.bounded(lambda: meeting.last_word(words), _ASKING)
        except Exception:
            return Ended(
                code=1, line=f"machine 0, {self.machines.address[0]}, does not answer any more"
            )
        if word is None:
            code, host = failure.exitcode, socket.gethostname()
            message = f"it ended with code {code}" if code > 0 else _killed(-code)
            return Ended(
                code=max(code, 1), line=self._unsaid(f"rank {rank} on {host}: {message}", words)
            )
        return Ended(code=int(word["code"]), line=self._unsaid(meeting.in_words(word), words))

    def _stopped(self, number: int, words: Any) -> Ended:
        code, line = 128 + int(number), INTERRUPTION
        with suppress(Exception):
            if (word := meeting.bounded(lambda: meeting.last_word(words), _ASKING)) is not None:
                code, line = int(word["code"]), meeting.in_words(word)
        return Ended(code=code, line=self._unsaid(line, words))

    def _unsaid(self, line: str, words: Any) -> str | None:
        """The line, unless rank 0 has said it on this machine."""
        return None if self.machines.node == 0 and not meeting.claim(words) else line


class Agent(LocalElasticAgent):
    """torch's, which would wait for other machines for five minutes, deaf to signals."""

    def _exit_barrier(self) -> None:
        store: Any = self._store
        machines = self._worker_group.group_world_size
        until, number = time.monotonic() + PARTING, 1
        try:
            while meeting.bounded(partial(store.add, "through", number), _ASKING) < machines:
                if time.monotonic() > until:
                    return
                number = 0
                time.sleep(_LOOK)
        except SignalException:
            raise
        except Exception:
            # Machine 0, which keeps the store, is gone first.
            return


@contextmanager
def _parting() -> Iterator[None]:
    """Has torch's launcher use our agent: it takes no other by its arguments."""
    name = "LocalElasticAgent"
    plain = getattr(api, name)
    setattr(api, name, Agent)
    try:
        yield
    finally:
        setattr(api, name, plain)


def begin_rank() -> None:
    """Makes this process a rank, whom signals reach by its launcher alone."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def _quiet(grace: float) -> Iterator[None]:
    """What torch's launcher is told; its logs are of no use to a person."""
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(grace) + _MARGIN)
    if not os.environ.get("DISTILL_DEBUG"):
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _killed(number: int) -> str:
    try:
        return f"it was killed ({signal.Signals(number).name})"
    except ValueError:
        return f"it was killed (signal {number})"


def _end_all(seconds: float) -> None:
    """Waits for ranks that were told to end; passes on further signals, and kills what does not end."""
    until = time.monotonic() + seconds
    while children := multiprocessing.active_children():
        try:
            if time.monotonic() > until:
                for child in children:
                    child.kill()
            children[0].join(_LOOK)
        except SignalException as again:
            for child in children:
                if child.pid is not None:
                    os.kill(child.pid, again.sigval)
