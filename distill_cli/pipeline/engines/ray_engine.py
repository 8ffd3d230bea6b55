"""Ray: workers are actors, which open what they need once; nodes may join and leave meanwhile."""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from distill_cli.errors import InternalError, UsageError, counted, reason
from distill_cli.pipeline.engines.protocol import LOOK, Answer, Opens, Session, Work, answered

# Bytes of the object store of a Ray of our own, through which next to nothing goes: the least that Ray
# takes is 75 MiB, and /dev/shm of a container has 64 MiB, where Ray takes /tmp instead.
OBJECT_STORE = 80 << 20
# Seconds after which a person is told that no worker has come.
PATIENCE = 15.0
# Colours of a terminal.
ANSI = re.compile("\x1b\\[[0-9;]*m")
# What workers take over of the environment of whoever starts them.
PASSED_ON = ("DISTILL_CACHE", "DISTILL_DATA", "DISTILL_DEBUG", "PYTHONPATH")


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options of `--on ray`.

    Attributes:
        num_cpus: Processors of a worker.
        num_gpus: GPUs of a worker, or a share of one; None for one where the cluster has any.
        workers: Workers to ask for; None for as many as the nodes that are there have room for.
        retries: How often a task is tried again whose worker died.
    """

    num_cpus: float = 1
    num_gpus: float | None = None
    workers: int | None = None
    retries: int = 5


class Nowhere(io.TextIOBase):
    """Drops what is written: Ray prints to stdout what its nodes say, and results go there."""

    def write(self, text: str) -> int:
        """Drops the text."""
        return len(text)


class Served:
    """What a worker process holds: the function of tasks, made when the first one comes.

    Args:
        opens: Makes it, pickled: what cannot be imported here is the first task's fault.
    """

    def __init__(self, opens: bytes) -> None:
        self.opens = opens
        self.work: Work | None = None

    def ready(self) -> None:
        """Nothing: it returns once the process is there."""

    def answer(self, task: bytes) -> Answer:
        """Does a task, which is pickled."""
        import ray

        def work(task: bytes) -> Any:
            if self.work is None:
                opens: Opens = pickle.loads(self.opens)
                self.work = opens()
            return self.work(pickle.loads(task))

        return answered(work, task, ray.get_runtime_context().get_node_id())


class RayEngine:
    """A Ray cluster: one that is there, or one of this machine's own.

    Args:
        address: `ray://HOST:PORT`; None for the cluster that RAY_ADDRESS names, else one of our own.
        options: The options.
    """

    def __init__(self, address: str | None, options: RayOptions) -> None:
        self.address, self.options = address, options

    def task_count(self, units: int) -> int:
        """One task a unit: a worker keeps what it has opened."""
        return units

    @contextmanager
    def started(self, tell: Callable[[str], None]) -> Iterator[Session]:
        """Joins the cluster or starts one, and leaves it or ends it."""
        ray = _imported(client=self.address is not None)
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        own: dict[str, Any] = {}
        if address == "local":
            # Nobody else is meant to reach it.
            own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            own |= {"object_store_memory": OBJECT_STORE}
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": environment},
                **own,
            )
        except Exception as error:
            raise UsageError(
                f"Ray at {address} cannot be reached: {reason(error)}",
                hint="Is the cluster up, of the same versions of Ray and Python?",
            ) from None
        try:
            with redirect_stdout(Nowhere()):
                yield RaySession(ray, self.options, tell)
        finally:
            # Actors end with the driver's connection, a cluster of our own with all its processes.
            ray.shutdown()


class RaySession:
    """A connection to a cluster.

    Args:
        ray: The module.
        options: The options.
        tell: Shows a person a line.
    """

    def __init__(self, ray: Any, options: RayOptions, tell: Callable[[str], None]) -> None:
        self.ray, self.tell = ray, tell
        gpus = options.num_gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self.gpus, self.options = gpus, options

    def device(self, asked: str) -> str:
        """A GPU where the engine assigns one, else the CPU."""
        kind = asked.partition(":")[0]
        if asked != kind:
            raise UsageError(f"--device {asked}: Ray assigns GPUs", hint=f"Say --device {kind}")
        if kind == "cuda" and not self.gpus:
            raise UsageError("--device cuda: no node of the cluster has a GPU")
        if kind == "cpu":
            self.gpus = 0
        return ("cuda" if self.gpus else "cpu") if kind == "auto" else kind

    def run(
        self,
        opens: Opens,
        tasks: Sequence[Any],
        *,
        done: Callable[[Any, Answer], None],
        look: Callable[[Sequence[Any]], None],
    ) -> None:
        """Runs tasks on a pool of actors that grows with the cluster."""
        pool = _Pool(self.ray, self._actor_class(), opens, self.tell)
        waiting, running = deque(tasks), dict[Any, tuple[Any, Any]]()
        try:
            while waiting or running:
                pool.grow(min(self._room(), len(waiting) + len(running)))
                while waiting and pool.idle:
                    actor, task = pool.idle.pop(), waiting.popleft()
                    running[actor.answer.remote(pickle.dumps(task))] = (actor, task)
                if not waiting:
                    # Their room is for workers that a node's end has left without.
                    pool.release_idle()
                pool.say_waiting(f"{self.options.num_cpus:g} CPU and {self.gpus:g} GPU")
                ready, _ = self.ray.wait([*pool.starting, *running], timeout=LOOK)
                for reference in ready:
                    if reference in pool.starting:
                        pool.admit(reference)
                    else:
                        actor, task = running.pop(reference)
                        done(task, self._fetched(reference))
                        pool.idle.append(actor)
                look([task for _, task in running.values()])
        finally:
            pool.end()

    def _actor_class(self) -> Any:
        return self.ray.remote(
            num_cpus=self.options.num_cpus,
            num_gpus=self.gpus,
            # A worker starts again on any node, as often as nodes go; a task is tried so many times.
            max_restarts=-1,
            max_task_retries=self.options.retries,
        )(Served)

    def _fetched(self, reference: Any) -> Answer:
        try:
            answer: Answer = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            raise InternalError(
                f"a task's worker died {counted(self.options.retries + 1, 'time')}: {last_line(error)}",
                hint="What was committed is intact. Did its memory run out? See the logs of Ray",
            ) from None
        return answer

    def _room(self) -> int:
        """The number of workers that all nodes which are there have room for, one at least."""
        if self.options.workers is not None:
            return self.options.workers
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return max(1, sum(map(self._room_of, nodes)))

    def _room_of(self, resources: Mapping[str, float]) -> int:
        needs = {"CPU": self.options.num_cpus, "GPU": self.gpus}
        rooms = [math.floor(resources.get(key, 0) / need) for key, need in needs.items() if need]
        return min(rooms, default=1)


class _Pool:
    """The actors of a run; those that have no process yet are given no task."""

    def __init__(self, ray: Any, kind: Any, opens: Opens, tell: Callable[[str], None]) -> None:
        self.ray, self.kind, self.opens, self.tell = ray, kind, opens, tell
        self.actors, self.idle = list[Any](), list[Any]()
        self.starting: dict[Any, Any] = {}
        self.due: float | None = time.monotonic() + PATIENCE

    def grow(self, size: int) -> None:
        """Asks for actors, up to a number of them."""
        while len(self.actors) < size:
            actor = self.kind.remote(pickle.dumps(self.opens))
            self.actors.append(actor)
            self.starting[actor.ready.remote()] = actor

    def admit(self, reference: Any) -> None:
        """Takes an actor whose process has come."""
        actor = self.starting.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise InternalError(
                f"a worker of Ray could not start: {last_line(error)}",
                hint="distill is to be installed on every node",
            ) from None
        self.idle.append(actor)
        self.due = None

    def say_waiting(self, needs: str) -> None:
        """Tells once that no worker has come, when it is time."""
        if self.due is not None and time.monotonic() > self.due:
            self.tell(f"no worker has started yet; each needs {needs}")
            self.due = None

    def release_idle(self) -> None:
        """Ends those that have nothing to do."""
        while self.idle:
            self._end(self.idle.pop())

    def end(self) -> None:
        """Ends all of them, whatever they do."""
        while self.actors:
            self._end(self.actors[-1])

    def _end(self, actor: Any) -> None:
        self.actors.remove(actor)
        self.ray.kill(actor)


def last_line(error: Exception) -> str:
    """The line of an error that names its cause: Ray tells whole tracebacks."""
    lines = [line for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return reason(Exception(lines[-1].strip())) if lines else reason(error)


def _imported(*, client: bool) -> Any:
    # Read when Ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    try:
        import ray

        if client:
            import grpc  # noqa: F401
    except ImportError:
        wanted = "Ray's client, which is" if client else "Ray, which is"
        raise UsageError(
            f"--on {'ray://' if client else 'ray'} needs {wanted} not installed here",
            hint="pip install 'distill-cli[ray]'",
        ) from None
    return ray
