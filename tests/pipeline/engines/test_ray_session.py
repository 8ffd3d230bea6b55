"""What the engine `ray` does when workers die, on a stand-in for Ray's module."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from distill_cli.errors import InternalError, UsageError
from distill_cli.pipeline.engines.protocol import Answer, WorkerId, value_of
from distill_cli.pipeline.engines.ray_engine import RayOptions, RaySession


class RayActorError(Exception):
    """As Ray's, for an actor that died."""


@dataclass(eq=False)
class Actor:
    ray: Ray
    number: int
    dead: bool = False

    @property
    def ready(self) -> Any:
        return partial_of(lambda: self.ray.send(self, None))

    @property
    def answer(self) -> Any:
        return partial_of(lambda task: self.ray.send(self, task))


def partial_of(function: Callable[..., object]) -> Any:
    class Method:
        remote = staticmethod(function)

    return Method


@dataclass
class Ray:
    """Two nodes of two processors; a worker dies of each task in `deadly`, so many times."""

    deadly: dict[str, int] = field(default_factory=dict)
    starts_fail: int = 0
    actors: list[Actor] = field(default_factory=list)
    sent: dict[int, tuple[Actor, bytes | None]] = field(default_factory=dict)

    class exceptions:  # noqa: N801
        RayActorError = RayActorError
        RayError = Exception

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def nodes(self) -> list[dict[str, Any]]:
        alive = [{"Alive": True, "Resources": {"CPU": 2.0}}] * 2
        return [*alive, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, **options: Any) -> Any:
        def made(kind: object) -> Any:
            def start(opens: bytes) -> Actor:
                self.actors.append(Actor(self, len(self.actors)))
                return self.actors[-1]

            return partial_of(start)

        return made

    def send(self, actor: Actor, task: bytes | None) -> int:
        self.sent[len(self.sent)] = (actor, task)
        return len(self.sent) - 1

    def wait(self, references: Sequence[int], timeout: float) -> tuple[list[int], list[int]]:
        return [references[0]], list(references[1:])

    def get(self, reference: int) -> Answer | None:
        actor, task = self.sent[reference]
        if task is None:
            self.starts_fail -= 1
            if self.starts_fail >= 0:
                raise RayActorError(
                    "a traceback\nModuleNotFoundError: No module named 'distill_cli'"
                )
            return None
        name = pickle.loads(task)
        self.deadly[name] = self.deadly.get(name, 0) - 1
        if actor.dead or self.deadly[name] >= 0:
            raise RayActorError("The actor died.\nIts process was killed.")
        return Answer(worker=WorkerId(host="h", node="n", pid=actor.number), value=name.upper())

    def kill(self, actor: Actor) -> None:
        actor.dead = True


def run(ray: Ray, tasks: Sequence[str], **options: Any) -> dict[str, Answer]:
    session, answers = RaySession(ray, RayOptions(**options), print), dict[str, Answer]()
    nothing: Callable[[Any], None] = lambda running: None  # noqa: E731
    session.run(partial(partial, str), tasks, done=answers.__setitem__, look=nothing)
    assert all(actor.dead for actor in ray.actors)
    return answers


def test_as_many_workers_as_the_living_nodes_have_room_for() -> None:
    ray = Ray()
    answers = run(ray, [f"task {number}" for number in range(9)])
    assert {value_of(answer) for answer in answers.values()} == {f"TASK {n}" for n in range(9)}
    assert len(ray.actors) == 4
    for options, workers in (({"num_cpus": 2}, 2), ({"workers": 7}, 7), ({"num_cpus": 3}, 1)):
        run(ray := Ray(), [str(number) for number in range(9)], **options)
        assert len(ray.actors) == workers


def test_a_task_whose_worker_died_goes_to_another() -> None:
    ray = Ray(deadly={"b": 5})
    answers = run(ray, ["a", "b", "c"])
    assert value_of(answers["b"]) == "B"
    assert len(ray.actors) >= 1 + 5
    with pytest.raises(InternalError, match=r"worker died 6 times: Its process was killed\. What"):
        run(Ray(deadly={"b": 6}), ["a", "b", "c"])


def test_workers_that_cannot_start_end_the_job_at_last() -> None:
    assert len(run(Ray(starts_fail=5), ["a", "b"])) == 2
    with pytest.raises(InternalError, match="No module named 'distill_cli'"):
        run(Ray(starts_fail=6), ["a", "b"])


def test_devices_are_the_engines_to_assign() -> None:
    session = RaySession(Ray(), RayOptions(), print)
    assert [session.device(asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    for asked, said in (("cuda", "no node of the cluster has a GPU"), ("cuda:1", "--device cuda")):
        with pytest.raises(UsageError, match=said):
            session.device(asked)

    class WithGpus(Ray):
        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 4.0, "GPU": 2.0}

    assert RaySession(WithGpus(), RayOptions(), print).device("auto") == "cuda"
    session = RaySession(WithGpus(), RayOptions(), print)
    assert (session.device("cpu"), session.gpus) == ("cpu", 0)
