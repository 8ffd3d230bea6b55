"""A dump as tasks that workers on several machines do. A worker writes whole files and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from distill_cli.cache.folder import EVAL, IDS, PLAN
from distill_cli.cache.places import Place, place_of
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.shard_writer import ShardWriter
from distill_cli.cache.shards import Shards
from distill_cli.errors import ArtifactError
from distill_cli.files import below, write_bytes
from distill_cli.pipeline.inputs.data import skipped_lines
from distill_cli.pipeline.labels.beside import recipe_beside, write_evaluation
from distill_cli.pipeline.labels.commits import Commits
from distill_cli.pipeline.labels.labeller import Labeller
from distill_cli.pipeline.labels.prepare import PreparedDump, prepare_dump
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.training.events import Silent


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The task to open everything and say what is to be made.

    Attributes:
        overwrite: Caches that are there will be replaced.
    """

    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is to be made.

    Attributes:
        recipe: The recipe, with the data options it adopts from the teachers' recipes.
        plans: The plan of each cache.
        recipes: The recipe.yaml of each cache.
        skipped: What was left out of the data, a line each.
        messages: Lines for a person.
    """

    recipe: CacheRecipe
    plans: tuple[Plan, ...]
    recipes: tuple[str, ...]
    skipped: str
    messages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Make:
    """The task to make files.

    Attributes:
        digests: Of the plans that the files are for.
        shards: Shards, in order, each with the numbers of the teachers whose cache lacks it.
        evaluation: Numbers of the teachers whose evaluation rows are to be made.
        ids: Numbers of those whose sample ids are.
    """

    digests: tuple[str, ...]
    shards: tuple[tuple[ShardKey, tuple[int, ...]], ...] = ()
    evaluation: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()

    @property
    def files(self) -> list[tuple[int, str]]:
        """The files, by the teacher's number."""
        shards = [(number, shard.file) for shard, wanted in self.shards for number in wanted]
        beside = ((EVAL, self.evaluation), (IDS, self.ids))
        return [*shards, *((number, file) for file, wanted in beside for number in wanted)]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a task has stored.

    Attributes:
        files: sha256 of each file that it stored itself, by the teacher's number and the path.
        plans: The plans that this worker would dump under, where they are others: it stored nothing.
        messages: Lines for a person.
    """

    files: Mapping[tuple[int, str], str]
    plans: tuple[Plan, ...] = ()
    messages: tuple[str, ...] = ()


class Collecting(Silent):
    """Keeps lines for a person who is elsewhere."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        """Keeps the line."""
        self.lines.append(text)

    def taken(self) -> tuple[str, ...]:
        """The lines since the last call."""
        lines, self.lines = tuple(self.lines), []
        return lines


@dataclass(frozen=True, kw_only=True)
class Order:
    """What workers are told once.

    Attributes:
        recipe: The recipe, its paths absolute.
        settings: Device, threads and processes of a worker, in place of the recipe's.
        staging: Address of the place that files go to; None for the caches' own folders.
    """

    recipe: CacheRecipe
    settings: Mapping[str, Any]
    staging: str | None = None

    @property
    def opens(self) -> Callable[[], DumpWorker]:
        """Makes a worker, in its own process."""
        return partial(DumpWorker, self)


class DumpWorker:
    """Does tasks of a dump; data and teachers are opened when the first comes."""

    def __init__(self, order: Order) -> None:
        self.order, self.sink = order, Collecting()
        self.place = None if order.staging is None else place_of(order.staging)
        self.stored: dict[tuple[int, str], str] = {}
        self.shards: list[Shards] | None = None
        self._prepared: PreparedDump | None = None

    def __call__(self, task: Begin | Make) -> Begun | Stored:
        """Does a task."""
        return self._begun(task) if isinstance(task, Begin) else self._make(task)

    def _open(self, *, measured: bool, overwrite: bool = False) -> PreparedDump:
        if self._prepared is None:
            recipe = self.order.recipe.model_copy(update=dict(self.order.settings))
            self._prepared = prepare_dump(
                recipe, sink=self.sink, overwrite=overwrite, measured=measured
            )
            self.commits = Commits(self._prepared.runtime.device)
            self.labeller = Labeller(self._prepared, self.sink, self.commits.wait)
            self.writers = [
                ShardWriter(plan, partial(self._store, number))
                for number, plan in enumerate(self._prepared.plans)
            ]
            self.digests = tuple(writer.digest for writer in self.writers)
        return self._prepared

    def _begun(self, task: Begin) -> Begun:
        prepared = self._open(measured=False, overwrite=task.overwrite)
        asked = {key: getattr(self.order.recipe, key) for key in self.order.settings}
        return Begun(
            recipe=prepared.recipe,
            plans=tuple(prepared.plans),
            recipes=tuple(to_yaml(recipe_beside(prepared, n, asked)) for n in prepared.names),
            skipped=skipped_lines(prepared.dataset),
            messages=self.sink.taken(),
        )

    def _make(self, task: Make) -> Stored:
        if self.place is None:
            self._check_shared()
        prepared = self._open(measured=True)
        if self.digests != task.digests:
            return Stored(files={}, plans=tuple(prepared.plans))
        self.stored = {}
        with ExitStack() as stack:
            if self.place is None:
                stack.enter_context(below(Path(str(prepared.recipe.out))))
            for number in task.ids:
                self.writers[number].write_ids(prepared.dataset.train.sample_ids)
            wanted = {number: self.writers[number] for number in task.evaluation}
            write_evaluation(prepared, wanted, self.sink)
            self._label(prepared, self._left(prepared, task))
        return Stored(files=self.stored, messages=self.sink.taken())

    def _check_shared(self) -> None:
        """Refuses to write into a folder of this machine that the caller does not see."""
        out = Path(str(self.order.recipe.out))
        if not (out / PLAN).exists() and not any(out.glob(f"*/{PLAN}")):
            raise ArtifactError(
                f"{out} is not the folder that the dump was begun in: {PLAN} is missing here",
                hint="Workers need the same disk, or --staging URL",
            )

    def _left(self, prepared: PreparedDump, task: Make) -> dict[ShardKey, tuple[int, ...]]:
        """The shards of a task that are to be made: a worker that died may have made some of them."""
        if self.place is not None:
            return dict(task.shards)
        if self.shards is None:
            # Once: it looks at every file of the cache, for links.
            folders = zip(prepared.folders, prepared.plans, strict=True)
            self.shards = [Shards(folder, plan) for folder, plan in folders]
        shards = self.shards
        left = {
            key: tuple(number for number in wanted if not shards[number].holds(key))
            for key, wanted in task.shards
        }
        return {key: wanted for key, wanted in left.items() if wanted}

    def _label(self, prepared: PreparedDump, left: Mapping[ShardKey, tuple[int, ...]]) -> None:
        label = self.labeller.over(list(left), left.keys())
        for shard, wanted in left.items():
            labels = label(shard, wanted)
            target_N = prepared.dataset.train.label_N[shard.start : shard.stop]
            writers = [self.writers[number] for number in wanted]
            self.commits.begin(writers, shard, labels, target_N)
        self.commits.wait()

    def _store(self, number: int, file: str, content: bytes) -> None:
        assert self._prepared is not None
        if self.place is None:
            write_bytes(self._prepared.folders[number] / file, content)
        else:
            self.place.store(staged(number, file), content)
        self.stored[number, file] = sha256(content).hexdigest()


def staged(number: int, file: str) -> str:
    """Where the file of a teacher's cache lies in the staging place."""
    return f"teacher-{number}/{file}"


def collected(place: Place, number: int, file: str, digest: str) -> bytes:
    """A file from the staging place.

    Raises:
        ArtifactError: It is not what the worker stored.
    """
    content = place.content(staged(number, file))
    if content is None or sha256(content).hexdigest() != digest:
        fault = "is missing" if content is None else "has other bytes than the worker wrote"
        raise ArtifactError(
            f"{place.address(staged(number, file))} {fault}",
            hint="Does another job use this --staging? Run the same command again",
        )
    return content
