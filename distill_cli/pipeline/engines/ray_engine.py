"""Ray: workers are actors, which open what they need once; nodes may join and leave meanwhile."""

from __future__ import annotations

import io
import math
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from distill_cli.errors import InternalError, UsageError, counted, reason
from distill_cli.pipeline.engines.protocol import LOOK, Answer, Opens, Session, Work, answered
from distill_cli.pipeline.engines.ray_pool import RayPool, last_line

# Bytes of the object store of a Ray of our own, through which next to nothing goes: the least that Ray
# takes is 75 MiB, and /dev/shm of a container has 64 MiB, where Ray takes /tmp instead.
OBJECT_STORE = 80 << 20
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
        pool = RayPool(self.ray, self._actor_class(), opens, self.options.retries, self.tell)
        waiting, running = deque(range(len(tasks))), dict[Any, tuple[Any, int]]()
        tries = [0] * len(tasks)
        try:
            while waiting or running:
                pool.grow(min(self._room(), len(waiting) + len(running)))
                while waiting and pool.idle:
                    actor, number = pool.idle.pop(), waiting.popleft()
                    running[actor.answer.remote(pickle.dumps(tasks[number]))] = (actor, number)
                pool.say_waiting(f"{self.options.num_cpus:g} CPU and {self.gpus:g} GPU")
                ready, _ = self.ray.wait([*pool.starting, *running], timeout=LOOK)
                for reference in ready:
                    if reference in pool.starting:
                        pool.admit(reference)
                        continue
                    actor, number = running.pop(reference)
                    tries[number] += 1
                    answer = self._fetched(reference, tries[number])
                    if answer is None:
                        pool.drop(actor)
                        waiting.append(number)
                    else:
                        pool.idle.append(actor)
                        done(tasks[number], answer)
                look([tasks[number] for _, number in running.values()])
        finally:
            pool.end()

    def _actor_class(self) -> Any:
        # Ray's own tries of a task are used up in a moment, while it has yet to notice that a worker
        # died; and a worker that it starts again keeps its task, whether there is room for it or not.
        return self.ray.remote(
            num_cpus=self.options.num_cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0
        )(Served)

    def _fetched(self, reference: Any, tries: int) -> Answer | None:
        """A task's answer; None where its worker died and the task is to be tried again."""
        try:
            answer: Answer = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            if tries <= self.options.retries:
                return None
            raise InternalError(
                f"a task's worker died {counted(tries, 'time')}: {last_line(error)}",
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
