"""Runs frozen teachers once over the views of the train split and stores what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distill_cli import runtime
from distill_cli.cache.manifest import Manifest, Plan, ShardKey
from distill_cli.cache.writer import CacheWriter
from distill_cli.data.augment import check_names
from distill_cli.data.dataset import Dataset
from distill_cli.data.views import Made, Views
from distill_cli.errors import StoppedError, UsageError
from distill_cli.evaluate import Collected, logits_of
from distill_cli.files import one_writer, write_text
from distill_cli.pipeline.folders import (
    are_caches,
    check_cache_folders,
    clear_cache,
    expand_teachers,
    inherit,
    next_free,
)
from distill_cli.pipeline.inputs import (
    locate,
    open_data,
    open_teachers,
    view_spec,
    worker_count,
)
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Sink
from distill_cli.types import ViewSpec

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Dumped:
    """One finished cache.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
        views_per_second: Of this call; None where nothing was left to do.
    """

    folder: Path
    manifest: Manifest
    views_per_second: float | None


def dump(
    recipe: CacheRecipe, *, sink: Sink, progress: Progress, overwrite: bool = False
) -> list[Dumped]:
    """Stores the labels of every teacher on every view; goes on where an earlier call stopped.

    Args:
        recipe: Teachers, data, views.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        overwrite: Replace caches that are there, instead of going on.

    Raises:
        DistillError: With the exit code of what went wrong.
    """
    if not recipe.teachers:
        raise UsageError("which teachers? Give --teachers RUN[,RUN…]")
    names = expand_teachers(recipe.teachers)
    if any(are_caches(names)):
        raise UsageError("a cache cannot be dumped again", hint="Give the teacher's run folder")
    check_names(recipe.augment)
    recipe = inherit(recipe, names)
    out = Path(recipe.out) if recipe.out else next_free("cache")
    folders = teacher_folders(out, names)
    check_cache_folders(out, folders)
    here = runtime.decide(recipe.device, threads=recipe.threads, deterministic=recipe.deterministic)
    dataset = open_data(recipe, sink)
    members = open_teachers(names, dataset, here, recipe.teacher_precision)
    teachers = [member for member in members if isinstance(member, LiveTeacher)]
    spec = view_spec(recipe, dataset, None)
    views = Views(
        dataset.train, spec, here.device, workers=worker_count(recipe), rows=dataset.fit_rows
    )
    views.try_out()
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(one_writer(folder))
            if overwrite:
                clear_cache(folder)
        writers = [
            CacheWriter(folder, plan_of(recipe, dataset, spec, teacher))
            for folder, teacher in zip(folders, teachers, strict=True)
        ]
        for folder, name in zip(folders, names, strict=True):
            write_text(folder / "recipe.yaml", to_yaml(_kept(recipe, dataset, spec, name)))
        return _fill(writers, teachers, dataset, views, here, progress)


def teacher_folders(out: Path, names: Sequence[str]) -> list[Path]:
    """One folder for one teacher; a sub-folder each, named after them, for several."""
    if len(names) == 1:
        return [out]
    short = [
        Path(name).resolve().name if Path(name).exists() else Path(name).name for name in names
    ]
    return [
        out / (name if short.count(name) == 1 else f"{name}-{index + 1}")
        for index, name in enumerate(short)
    ]


def plan_of(recipe: CacheRecipe, dataset: Dataset, spec: ViewSpec, teacher: LiveTeacher) -> Plan:
    """What a cache is bound to."""
    return Plan(
        dataset=dataset.identity,
        view_spec=spec,
        views=recipe.views,
        teacher_fingerprint=teacher.fingerprint,
        architecture=teacher.architecture,
        codec=recipe.codec,
        precision=recipe.teacher_precision,
        teacher_batch=recipe.teacher_batch,
        shard_length=recipe.shard_length,
        versions=runtime.versions(),
        cpu_capability=runtime.cpu_capability(),
    )


def _kept(recipe: CacheRecipe, dataset: Dataset, spec: ViewSpec, teacher: str) -> CacheRecipe:
    """What the cache folder says of how it was made: the data's place, for students to inherit."""
    return recipe.model_copy(
        update={
            "data": locate(str(recipe.data)),
            "teachers": [teacher],
            "split_seed": dataset.identity.split_seed,
            "val_fraction": recipe.val_fraction or 0.1,
            "augment": list(spec.augment) or ["none"],
            "view_seed": spec.seed,
            "out": None,
        }
    )


def _fill(
    writers: Sequence[CacheWriter],
    teachers: Sequence[LiveTeacher],
    dataset: Dataset,
    views: Views,
    here: runtime.Runtime,
    progress: Progress,
) -> list[Dumped]:
    plan = writers[0].plan
    total = plan.views * plan.dataset.samples
    missing = [set(writer.missing()) for writer in writers]
    started, done, made = time.perf_counter(), 0, 0
    with runtime.stop_signals() as request:
        for shard, made_views in streamed(plan, views, set().union(*missing)):
            wanted = [index for index, keys in enumerate(missing) if shard in keys]
            if wanted:
                asked = [teachers[index] for index in wanted]
                labels = shard_labels(shard, made_views, asked, plan.teacher_batch)
                for index, logits_NK in zip(wanted, labels, strict=True):
                    target_N = dataset.train.label_N[shard.start : shard.stop]
                    writers[index].commit(shard, logits_NK, target_N)
                made += shard.stop - shard.start
            done += shard.stop - shard.start
            progress(done, total)
            if request.signal_number is not None:
                raise StoppedError(
                    f"stopped after {done} of {total} views",
                    signal_number=request.signal_number,
                    hint="The same command goes on from here",
                )
    speed = made / max(time.perf_counter() - started, 1e-9) if made else None
    finished = []
    for writer, teacher in zip(writers, teachers, strict=True):
        if not writer.has_eval:
            writer.write_eval(
                {
                    split: (
                        logits_of(teacher.logits, table.still(), here.device),
                        table.label_N,
                    )
                    for split, table in (("val", dataset.val), ("test", dataset.test))
                }
            )
        finished.append(
            Dumped(folder=writer.folder, manifest=writer.finish(), views_per_second=speed)
        )
    return finished


def streamed(
    plan: Plan, views: Views, missing: Collection[ShardKey]
) -> Iterator[tuple[ShardKey, Iterator[Made]]]:
    """Every shard, with the views of its teacher batches, which are prepared ahead if missing."""
    shards = plan.shards()
    for view in range(plan.views):
        here = [shard for shard in shards if shard.view == view]
        rows = [
            index_B
            for shard in here
            if shard in missing
            for index_B in torch.arange(shard.start, shard.stop).split(plan.teacher_batch)
        ]
        made = views.stream([(index_B, torch.full_like(index_B, view)) for index_B in rows])
        yield from ((shard, made) for shard in here)


def shard_labels(
    shard: ShardKey, views: Iterator[Made], teachers: Sequence[LiveTeacher], teacher_batch: int
) -> list[Tensor]:
    """fp32 logits (N, K) on the CPU of a shard's rows, from each teacher.

    The views are made once. Teacher batches have a fixed size and are aligned to the shard's
    first row, the last one padded with its last row: kernels round a row differently in a batch
    of another size, and a shard must not depend on where a killed dump went on.
    """
    parts = [Collected() for _ in teachers]
    for start in range(shard.start, shard.stop, teacher_batch):
        images_BCHW = next(views).images_BCHW
        rows = min(teacher_batch, shard.stop - start)
        padding = teacher_batch - rows
        if padding:
            images_BCHW = torch.cat([images_BCHW, images_BCHW[-1:].expand(padding, -1, -1, -1)])
        for part, teacher in zip(parts, teachers, strict=True):
            part.add(teacher.logits(images_BCHW)[:rows])
    return [part.rows() for part in parts]
