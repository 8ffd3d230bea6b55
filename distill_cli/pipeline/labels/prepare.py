"""Prepares a dump: opens and checks all it needs, before its first byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill_cli.cache.codec import codec
from distill_cli.cache.plan import FORMAT_VERSION, Plan, ShardKey
from distill_cli.cache.writer import continued
from distill_cli.data.augment import check_names
from distill_cli.data.dataset import Dataset
from distill_cli.data.views import Views
from distill_cli.errors import StoppedError, UsageError, counted
from distill_cli.files import real_path
from distill_cli.pipeline.entries import RUN_ENTRIES
from distill_cli.pipeline.folders import (
    check_cache_folders,
    check_finished,
    next_free,
)
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts, once
from distill_cli.pipeline.inputs.data import open_data, open_views, view_spec
from distill_cli.pipeline.inputs.data_rules import read_as_begun
from distill_cli.pipeline.inputs.framing import as_begun
from distill_cli.pipeline.inputs.places import check_places
from distill_cli.pipeline.inputs.teacher_checks import check_knowledge, check_targets
from distill_cli.pipeline.inputs.teacher_folders import are_caches, expand_teachers, with_data
from distill_cli.pipeline.labels.forward import TeacherForward, begun_plan, forward_of
from distill_cli.pipeline.labels.frozen_teachers import check_views, open_frozen
from distill_cli.recipe.parsing import Part
from distill_cli.recipe.schema import CacheRecipe, ImportRecipe
from distill_cli.runtime import Runtime, cpu_capability, decide, device_name, versions
from distill_cli.teachers.cross_fit import CrossFit, FrozenTeacher
from distill_cli.training.events import Sink
from distill_cli.training.graphs import check_wanted
from distill_cli.types import ViewSpec

# A shard's labels are held in memory until they are committed: 256 MB of logits at most.
SHARD_ROWS, SHARDS_A_VIEW, SHARD_LOGITS = 8192, 16, 1 << 26


@dataclass(frozen=True, kw_only=True)
class PreparedDump:
    """A dump, opened and checked; nothing is written yet.

    Attributes:
        recipe: The recipe, with the data options it adopts from the teachers' recipes.
        names: Names of the teachers.
        folders: The cache folder of each teacher.
        plans: The plan of each cache.
        shards: Shards that this call is to make: all of them, or those of a part.
        runtime: Device and threads of the teachers.
        dataset: The dataset whose train split is labelled.
        teachers: The teacher of each cache.
        views: The views that the teachers are shown.
    """

    recipe: CacheRecipe
    names: list[str]
    folders: list[Path]
    plans: list[Plan]
    shards: list[ShardKey]
    runtime: Runtime
    dataset: Dataset
    teachers: list[FrozenTeacher]
    views: Views


def prepare_dump(
    recipe: CacheRecipe,
    *,
    sink: Sink,
    overwrite: bool = False,
    runs: Artifacts = ON_DISK,
    measured: bool = False,
) -> PreparedDump:
    """Opens data and teachers and checks all that can be checked before the first byte is written.

    Args:
        recipe: Teachers, data, views.
        sink: Shows messages.
        overwrite: Caches that are there will be replaced.
        runs: Reader of the teachers' folders; in a dry run no image is decoded and no teacher asked.
        measured: Whether another worker has measured the teachers.

    Raises:
        DistillError: The dump cannot be made; the exit code is that of the fault.
    """
    names = _names(recipe, overwrite=overwrite)
    check_names(recipe.augment)
    out = Path(recipe.out) if recipe.out else next_free("cache")
    folders = teacher_folders(out, names)
    check_cache_folders(out, folders, trains=recipe.cross_fit is not None)
    if not overwrite:
        recipe = as_begun(read_as_begun(recipe, folders[0]), folders)
    recipe = with_data(recipe, names)
    check_places(recipe, folders, names)
    runtime = runtime_of(recipe)
    runs = replace(runs, tell=once(sink.message))
    dataset = runtime.ranks.first_on_machine(lambda: open_data(recipe, sink, glance=runs.dry))
    spec = view_spec(recipe, dataset, None)
    begun = None if overwrite else begun_plan(folders)
    forward = forward_of(recipe, spec, runtime, begun)
    check_views(recipe, spec)
    networks, members, teachers = open_frozen(
        recipe, names, out, dataset, runtime, forward.precision, runs
    )
    if dataset.multi_label:
        check_targets(networks, members, "sigmoid", force=recipe.force)
    if not measured:
        check_knowledge(
            networks, members, dataset, runtime.device, sink, force=recipe.force, runs=runs
        )
    views = open_views(recipe, dataset, spec, runtime.device)
    check_wanted(recipe.graphs, runtime.device, unrecordable(views))
    if recipe.codec.startswith("topk") and any(t.targets == "sigmoid" for t in teachers):
        raise UsageError(
            f"--codec {recipe.codec} keeps likeliest classes, and these labels apply each by itself",
            hint="fp16 keeps all of their logits",
        )
    plans = [plan_of(recipe, dataset, spec, teacher, runtime, forward) for teacher in teachers]
    if not overwrite:
        plans = [continued(folder, plan) for folder, plan in zip(folders, plans, strict=True)]
    shards = len(plans[0].shards())
    if recipe.part is not None and recipe.part.parts > shards:
        raise UsageError(
            f"--part {recipe.part}: the cache has {counted(shards, 'shard')} only",
            hint="Fewer parts, or a smaller shard_length in all of them",
        )
    say_plan(recipe, out, plans[0], sink)
    return PreparedDump(
        recipe=recipe.model_copy(update={"out": str(out), **forward.recorded}),
        names=names,
        folders=folders,
        plans=plans,
        shards=shards_of(plans[0], recipe.part),
        runtime=runtime,
        dataset=dataset,
        teachers=teachers,
        views=views,
    )


def _names(recipe: CacheRecipe, *, overwrite: bool) -> list[str]:
    """The teachers that a recipe names, by folders.

    Raises:
        UsageError: It names none, or a cache, or parts that cannot be.
    """
    if not recipe.teachers:
        raise UsageError("which teachers? Give --teachers RUN[,RUN…]")
    if overwrite and recipe.part is not None:
        raise UsageError(
            "--overwrite would delete other parts in the folder too",
            hint="Give the part a folder of its own, or remove the old one",
        )
    if recipe.part is not None and recipe.publish:
        raise UsageError(
            "a part is not published",
            hint="Merge the parts; then this command, without --part and with --out set to what "
            "was merged, writes the card and nothing else",
        )
    names = expand_teachers(recipe.teachers)
    check_finished(names, None)
    if any(are_caches(names)):
        raise UsageError("a cache cannot be dumped again", hint="Give the teacher's run folder")
    return names


def unrecordable(views: Views) -> str | None:
    """Why the labels of views cannot be recorded; None where they can."""
    if views.by_workers:
        return "these views are made by worker processes, image by image"
    return None


def say_plan(recipe: CacheRecipe | ImportRecipe, out: Path, plan: Plan, sink: Sink) -> None:
    """Says what the recipe left open: the folder, the codec where a sparse one saves nothing, and
    the format where the dump was begun in an earlier one.
    """
    if recipe.out is None:
        sink.message(f"labels go to {out}")
    if plan.codec != recipe.codec:
        sink.message(
            f"{recipe.codec} would keep all of {len(plan.dataset.class_names)} classes: "
            f"stored as {plan.codec}"
        )
    if plan.format_version < FORMAT_VERSION:
        sink.message(
            f"{out} was begun in format {plan.format_version} and goes on in it: without sample ids, "
            f"and with top-k rows as they were; --overwrite begins in format {FORMAT_VERSION}"
        )


def stopped(done: int, total: int, out: Path | str | None, signal_number: int) -> StoppedError:
    """The error of a dump or an import that a signal ended after `done` of `total` views."""
    return StoppedError(
        f"stopped after {done:,} of {counted(total, 'view')}",
        signal_number=signal_number,
        hint=f"The same command with --out {out} goes on from here",
    )


def shards_of(plan: Plan, part: Part | None) -> list[ShardKey]:
    """The shards of a part: consecutive ones, as many as any other part has to within one."""
    shards = plan.shards()
    number, count = part or (1, 1)
    return shards[len(shards) * (number - 1) // count : len(shards) * number // count]


def teacher_folders(out: Path, names: Sequence[str]) -> list[Path]:
    """The folder itself for one teacher; for several, sub-folders that are named after them."""
    if len(names) == 1:
        return [out]
    folders: list[Path] = []
    for name in names:
        short, number = _short(name), 2
        while (folder := out / short) in folders:
            short, number = f"{_short(name)}-{number}", number + 1
        folders.append(folder)
    return folders


def _short(name: str) -> str:
    """A teacher's short name: the folder's, but of RUN/model the run's, since all end in `model`."""
    path = real_path(name) if Path(name).exists() else Path(name)
    return path.parent.name if path.name in RUN_ENTRIES else path.name


def shard_rows(samples: int, classes: int, batch: int) -> int:
    """The default length of a shard, in whole teacher batches where one fits.

    A batch of a reader touches every shard of a view: sixteen are cheap, hundreds are not.
    """
    length = max(SHARD_ROWS, batch * -(-samples // (SHARDS_A_VIEW * batch)))
    return min(length, batch * max(1, SHARD_LOGITS // (batch * classes)))


def plan_of(
    recipe: CacheRecipe,
    dataset: Dataset,
    spec: ViewSpec,
    teacher: FrozenTeacher,
    runtime: Runtime,
    forward: TeacherForward,
) -> Plan:
    """The plan that a cache is bound to."""
    length = recipe.shard_length or shard_rows(
        dataset.identity.rows, len(dataset.class_names), forward.batch
    )
    return Plan(
        dataset=dataset.identity,
        view_spec=spec,
        views=recipe.views,
        teacher_fingerprint=teacher.fingerprint,
        architecture=teacher.architecture,
        codec=codec(recipe.codec, len(dataset.class_names)).name,
        precision=forward.precision,
        device=device_name(runtime.device),
        teacher_batch=forward.batch,
        shard_length=length,
        versions=versions(),
        cpu_capability=cpu_capability(),
        targets=teacher.targets,
        cross_fit=teacher.fingerprints if isinstance(teacher, CrossFit) else (),
        sample_ids=recipe.sample_ids,
    )


def runtime_of(recipe: CacheRecipe) -> Runtime:
    """Device, threads and determinism that a recipe means on this machine."""
    return decide(recipe.device, threads=recipe.threads, deterministic=recipe.deterministic)
