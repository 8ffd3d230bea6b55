"""A dump on an engine: this process holds the locks, plans and manifests, workers make the rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distill_cli.cache.places import Place, place_of
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.plan_diff import plan_differences
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError, StoppedError, UsageError
from distill_cli.files import one_writer, real_path, remove_temporaries, write_text
from distill_cli.pipeline.engines.protocol import Answer, Session, WorkerId, value_of
from distill_cli.pipeline.folders import check_cache_folders, clear_cache, next_free
from distill_cli.pipeline.inputs.class_maps import BY_NAME
from distill_cli.pipeline.inputs.data import keep_lines
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.inputs.teacher_folders import expand_teachers
from distill_cli.pipeline.labels.dump import Dumped, finished
from distill_cli.pipeline.labels.dump_tasks import (
    Begin,
    Begun,
    Make,
    Order,
    Stored,
    collected,
    staged,
)
from distill_cli.pipeline.labels.placement import Placement, runs, threads_of
from distill_cli.pipeline.labels.prepare import stopped, teacher_folders
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.stopping import StopRequest, stop_signals
from distill_cli.training.events import Sink
from distill_cli.types import Count


def dump_on(
    recipe: CacheRecipe,
    placement: Placement,
    *,
    sink: Sink,
    progress: Count,
    overwrite: bool = False,
) -> list[Dumped]:
    """Has the labels of every teacher on every view made by an engine's workers.

    The bytes are those of a plain dump.

    Args:
        recipe: Teachers, data, views.
        placement: Where.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        overwrite: Replace caches that are there, instead of going on.

    Raises:
        DistillError: The dump failed or was stopped; the exit code is that of the fault.
    """
    recipe = _absolute(recipe, sink)
    folders = teacher_folders(Path(str(recipe.out)), expand_teachers(recipe.teachers or []))
    check_cache_folders(Path(str(recipe.out)), folders)
    place = None if placement.staging is None else place_of(placement.staging)
    with stop_signals() as request, placement.engine.started(sink.message) as session:
        order = _order(recipe, session, placement)
        begun = _begun(session, order, request, overwrite=overwrite)
        for line in begun.messages:
            sink.message(line)
        with _writers(recipe, folders, begun, overwrite=overwrite) as writers:
            job = _Job(writers, place, sink, progress, request)
            job.run(session, order, placement)
            return [
                finished(begun.recipe, writer, job.speed, job.made_by(number))
                for number, writer in enumerate(writers)
            ]


def _absolute(recipe: CacheRecipe, sink: Sink) -> CacheRecipe:
    """The recipe with paths that mean the same in every working folder."""
    if recipe.part is not None:
        raise UsageError(
            "--on and --part share a dump in two ways", hint="Leave --part out: --tasks divides it"
        )
    if recipe.out is None:
        recipe = recipe.model_copy(update={"out": str(next_free("cache"))})
        sink.message(f"labels go to {recipe.out}")

    def path(name: str) -> str:
        return str(Path(name).absolute()) if Path(name).exists() else name

    maps = [name if name == BY_NAME else path(name) for name in recipe.class_map or []]
    return recipe.model_copy(
        update={
            "out": str(real_path(str(recipe.out))),
            "teachers": [path(name) for name in recipe.teachers or []],
            "class_map": maps or recipe.class_map,
            "data": None if recipe.data is None else locate(recipe.data),
            "unlabelled": None if recipe.unlabelled is None else locate(recipe.unlabelled),
        }
    )


def _order(recipe: CacheRecipe, session: Session, placement: Placement) -> Order:
    threads = threads_of(recipe)
    settings: dict[str, Any] = {"device": session.device(recipe.device), "threads": threads}
    if recipe.workers is None:
        # As many processes as a worker has processors, and not as its machine has.
        settings["workers"] = threads
    return Order(recipe=recipe, settings=settings, staging=placement.staging)


def _begun(session: Session, order: Order, request: StopRequest, *, overwrite: bool) -> Begun:
    """What the first worker says is to be made."""
    answers: list[Answer] = []

    def look(running: Sequence[Any]) -> None:
        if request.signal_number is not None:
            raise StoppedError("stopped before the first view", signal_number=request.signal_number)

    task = Begin(overwrite=overwrite)
    session.run(order.opens, [task], done=lambda _, answer: answers.append(answer), look=look)
    begun: Begun = value_of(answers[0])
    return begun


@contextmanager
def _writers(
    recipe: CacheRecipe, folders: Sequence[Path], begun: Begun, *, overwrite: bool
) -> Iterator[list[CacheWriter]]:
    """The caches, locked, with their plans, recipes and what was left out of the data."""
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(one_writer(folder, root=Path(str(recipe.out))))
        for folder in folders if overwrite else ():
            clear_cache(folder)
        writers = [
            CacheWriter(folder, plan) for folder, plan in zip(folders, begun.plans, strict=True)
        ]
        for folder, text in zip(folders, begun.recipes, strict=True):
            write_text(folder / "recipe.yaml", text)
            keep_lines(folder, begun.skipped)
        yield writers


class _Job:
    """The tasks of a dump, and what has become of them.

    Args:
        writers: The caches.
        place: Where workers leave files, if that is not in the caches.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        request: Whether a signal asks to stop.
    """

    def __init__(
        self,
        writers: Sequence[CacheWriter],
        place: Place | None,
        sink: Sink,
        progress: Count,
        request: StopRequest,
    ) -> None:
        self.writers, self.place, self.sink, self.request = writers, place, sink, request
        self.progress, self.shards = progress, writers[0].plan.shards()
        self.digests = tuple(writer.shards.digest for writer in writers)
        self.total = sum(shard.rows for shard in self.shards)
        self.done = self.made = 0
        self.speed: float | None = None
        self.files = Counter[tuple[int, WorkerId]]()

    def made_by(self, number: int) -> dict[WorkerId, int]:
        """Number of shards in a teacher's cache by the worker that made them."""
        return {worker: n for (teacher, worker), n in self.files.items() if teacher == number}

    def run(self, session: Session, order: Order, placement: Placement) -> None:
        """Has what is missing made."""
        missing = [set(writer.missing()) for writer in self.writers]
        wanted = [
            (shard, numbers)
            for shard in self.shards
            if (numbers := tuple(n for n, keys in enumerate(missing) if shard in keys))
        ]
        left = sum(shard.rows for shard, _ in wanted)
        self.done = self.total - left
        count = placement.task_count(len(wanted))
        tasks = [*self._beside(), *self._divided(wanted, count)]
        if tasks:
            for writer in self.writers:
                # Workers do not touch it.
                writer.reopen()
            started = time.perf_counter()
            session.run(order.opens, tasks, done=self._done, look=self._look)
            for writer in self.writers:
                # Of workers that were killed while they wrote.
                remove_temporaries(writer.folder)
            self.speed = left / max(time.perf_counter() - started, 1e-9) if left else None

    def _beside(self) -> list[Make]:
        """The task of evaluation rows and sample ids, where they are missing."""
        evaluation = tuple(n for n, writer in enumerate(self.writers) if not writer.has_eval)
        ids = tuple(n for n, writer in enumerate(self.writers) if not writer.has_ids)
        make = Make(digests=self.digests, evaluation=evaluation, ids=ids)
        return [make] if make.files else []

    def _divided(
        self, wanted: Sequence[tuple[ShardKey, tuple[int, ...]]], count: int
    ) -> list[Make]:
        return [
            Make(digests=self.digests, shards=tuple(wanted[start:stop]))
            for start, stop in runs(len(wanted), count)
        ]

    def _look(self, running: Sequence[Make]) -> None:
        """Shows what is done of the tasks that run, and ends the job where that is asked for."""
        there = 0 if self.place is not None else sum(map(self._rows_there, running))
        self.progress(self.done + there, self.total)
        if (number := self.request.signal_number) is not None:
            out = (
                self.writers[0].folder if len(self.writers) == 1 else self.writers[0].folder.parent
            )
            raise stopped(self.done + there, self.total, out, number)

    def _rows_there(self, task: Make) -> int:
        folders = [writer.folder for writer in self.writers]
        return sum(
            shard.rows
            for shard, wanted in task.shards
            if all((folders[number] / shard.file).is_file() for number in wanted)
        )

    def _done(self, task: Make, answer: Answer) -> None:
        stored: Stored = value_of(answer)
        if stored.plans:
            raise self._other_plan(stored.plans, answer)
        for line in stored.messages:
            self.sink.message(line)
        for (number, file), digest in stored.files.items():
            if self.place is not None:
                self.writers[number].store(file, collected(self.place, number, file, digest))
                self.place.remove(staged(number, file))
        for number, file in task.files:
            if not (self.writers[number].folder / file).is_file():
                raise ArtifactError(
                    f"{answer.worker.host} has stored {file}, which is not in "
                    f"{self.writers[number].folder} here",
                    hint="Workers need the same disk, or --staging URL",
                )
            if file.startswith("view-"):
                self.files[number, answer.worker] += (number, file) in stored.files
        self.done += sum(shard.rows for shard, _ in task.shards)

    def _other_plan(self, plans: Sequence[Plan], answer: Answer) -> ArtifactError:
        """The error of a worker whose labels would be others."""
        differing = [
            text
            for writer, plan in zip(self.writers, plans, strict=True)
            for text in plan_differences(writer.plan, plan)
        ]
        return ArtifactError(
            f"{answer.worker.host} would make other labels ({'; '.join(dict.fromkeys(differing))})",
            hint="Workers need the same libraries, kind of processor and GPU",
        )
