"""Starts the ranks of `--ranks` by torch's own launcher, in this process, and starts them anew.

One store serves all attempts; the machine of node 0 keeps it. Each attempt is a launch of its own under a
name that ends in its number, so that what it leaves there is not taken for the next one's.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distill_cli import __version__, meeting
from distill_cli.errors import InternalError, UsageError, counted, reason
from distill_cli.launched import BY_OPTION

# Ranks are forked from a process of one thread that has imported everything once.
START = "forkserver"
# Seconds that machines wait for each other before an attempt, and between two looks.
MUSTER = 600.0
_LOOK = 0.1
# Seconds beyond the grace of a stop, for the end of what is stopped; for a store that answers.
_MARGIN, _ANSWER = 15, 30.0
# Codes after which another attempt would end in the same way, or was not asked for.
FINAL = (0, 2, 3, 4, 5, *(128 + number for number in (signal.SIGINT, signal.SIGTERM)))

INTERRUPTION = "stopped at once; what was saved before is intact"

Work = Callable[[list[str], bool], None]


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Which ranks are started where.

    Attributes:
        ranks: Ranks of this machine.
        nodes: The number of machines.
        node: This one's number, from 0.
        address: Host and port where they meet; None of one machine.
    """

    ranks: int
    nodes: int = 1
    node: int = 0
    address: tuple[str, int] | None = None


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
        restarts: How often the ranks are started anew.
        grace: Seconds that they have from a signal on.
        state: Something that is another as soon as an attempt has begun.
        tell: Says a line to a person.
    """

    machines: Machines
    work: Work
    args: Sequence[str]
    restarts: int = 0
    grace: float = 30.0
    state: Callable[[], object] = lambda: None
    tell: Callable[[str], object] = print

    def run(self) -> Ended:
        """All attempts.

        Raises:
            DistillError: The machines do not meet.
        """
        with _quiet(self.grace), tempfile.TemporaryDirectory(prefix="distill-ranks-") as folder:
            try:
                return self._attempts(folder)
            except SignalException as stop:
                # Between two attempts.
                return Ended(code=128 + int(stop.sigval), line=INTERRUPTION)

    def _attempts(self, folder: str) -> Ended:
        host, port = self.machines.address or ("127.0.0.1", 0)
        store, before = self._store(host, port), self.state()
        for attempt in range(self.restarts + 1):
            goes_on = self._muster(store, attempt, begun=self.state() != before)
            name = f"{BY_OPTION}{attempt}"
            ended = self._attempt(name, (host, port or store.port), goes_on, folder, store)
            if ended.code in FINAL or attempt == self.restarts:
                break
            if ended.line:
                self.tell(ended.line)
            self.tell(f"the ranks are started anew, {attempt + 1} of {self.restarts}")
        return ended

    def _store(self, host: str, port: int) -> Any:
        """The store where all machines and ranks meet; kept by node 0."""
        if self.machines.node == 0:
            return meeting.store_at(host, port, leads=True, timeout=_ANSWER)
        _until(lambda: _listens(host, port), f"nobody answers at {host}:{port}, where machine 0 is")
        return meeting.store_at(host, port, leads=False, timeout=_ANSWER)

    def _muster(self, store: Any, attempt: int, *, begun: bool) -> bool:
        """Waits until all machines are here for an attempt.

        Returns:
            Whether an earlier attempt has begun what this one goes on with, as node 0 sees it.

        Raises:
            UsageError: Their commands do not fit each other.
            InternalError: Some do not come.
        """
        nodes, node = self.machines.nodes, self.machines.node
        own = {"host": socket.gethostname(), "pid": os.getpid(), "nodes": nodes, "begun": begun}
        own["version"] = __version__
        keys = [f"muster/{attempt}/{number}" for number in range(nodes)]
        kept = json.loads(store.compare_set(keys[node], "", json.dumps(own)))
        if (kept["host"], kept["pid"]) != (own["host"], own["pid"]):
            raise UsageError(
                f"--node-rank {node} is taken by {kept['host']}",
                hint=f"Give each machine a number of its own, from 0 to {nodes - 1}",
            )
        missing = [number for number in range(nodes) if not store.check([keys[number]])]
        if missing:
            self.tell(f"waiting for {counted(len(missing), 'more machine')}")
        numbers = ", ".join(map(str, missing))
        _until(lambda: store.check(keys), f"not all machines have come: of node rank {numbers}")
        first = json.loads(store.get(keys[0]))
        for key, option in (("nodes", "--nnodes"), ("version", "version")):
            if first[key] != own[key]:
                raise UsageError(
                    f"machine 0, {first['host']}, has {option} {first[key]}, and this one {own[key]}",
                    hint="Give every machine the same command and version of distill",
                )
        return bool(first["begun"])

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
            rdzv_configs={"rank": machines.node, "timeout": int(MUSTER)},
            max_restarts=0,
            start_method=START,
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
        word = meeting.last_word(words)
        if word is None:
            code = failure.exitcode
            message = f"it ended with code {code}" if code > 0 else _killed(-code)
            host = socket.gethostname()
            word = {"code": max(code, 1), "message": message, "rank": rank, "host": host}
            line = f"rank {rank} on {host}: {message}"
        else:
            line = meeting.in_words(word)
        return Ended(code=int(word["code"]), line=self._unsaid(line, words))

    def _stopped(self, number: int, words: Any) -> Ended:
        word = meeting.last_word(words)
        line = INTERRUPTION if word is None else meeting.in_words(word)
        code = 128 + int(number) if word is None else int(word["code"])
        return Ended(code=code, line=self._unsaid(line, words))

    def _unsaid(self, line: str, words: Any) -> str | None:
        """The line, unless rank 0 has said it on this machine."""
        return None if self.machines.node == 0 and not meeting.claim(words) else line


def prepare(modules: Sequence[str]) -> None:
    """Has ranks be started from a process that imports modules now, beside this one.

    Args:
        modules: Their names.
    """
    if START == "forkserver":
        launching = "torch.distributed.elastic.multiprocessing.api"
        multiprocessing.set_forkserver_preload([launching, *modules])
        forkserver.ensure_running()


def begin_rank() -> None:
    """Makes this process a rank, whom signals reach by its launcher alone."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def _quiet(grace: float) -> Iterator[None]:
    """What torch's launcher is told by the environment; its logs are of no use to a person."""
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(grace) + _MARGIN)
    if not os.environ.get("DISTILL_DEBUG"):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
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


def _until(happens: Callable[[], bool], failing: str) -> None:
    """Waits for other machines, interruptible by Ctrl-C.

    Raises:
        InternalError: They do not come in time.
    """
    until = time.monotonic() + MUSTER
    while True:
        try:
            if happens():
                return
        except RuntimeError:
            raise InternalError(f"machine 0 ended: {failing}") from None
        if time.monotonic() > until:
            raise InternalError(f"{failing}, within {MUSTER:g} s")
        time.sleep(_LOOK)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_LOOK * 10):
            return True
    except socket.gaierror as error:
        raise UsageError(f"--rendezvous: there is no machine {host}: {error.strerror}") from None
    except OSError:
        return False


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
