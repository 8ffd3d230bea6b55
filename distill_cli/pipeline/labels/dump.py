"""Dumps soft labels: frozen teachers run once over the views of the train split."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from distill_cli.cache.manifest import Manifest
from distill_cli.cache.pixel_probe import PixelProbe
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.writer import CacheWriter
from distill_cli.data.views import ViewBatch
from distill_cli.evaluate import Collected, logits_of
from distill_cli.files import one_writer, real_path, write_text
from distill_cli.pipeline.entries import CARD
from distill_cli.pipeline.folders import CARD_MARK, clear_cache
from distill_cli.pipeline.inputs.cache_checks import probe_of
from distill_cli.pipeline.inputs.class_maps import BY_NAME, map_of
from distill_cli.pipeline.inputs.data import data_record, keep_skipped
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.labels.commits import Commits
from distill_cli.pipeline.labels.device_labels import DeviceLabels
from distill_cli.pipeline.labels.precision import precision_error
from distill_cli.pipeline.labels.prepare import PreparedDump, prepare_dump, stopped, unrecordable
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.report.cache_card import cache_card
from distill_cli.runtime import stop_signals
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Sink
from distill_cli.training.graphs import StepGraphs
from distill_cli.types import Count


@dataclass(frozen=True, kw_only=True)
class Dumped:
    """One cache, finished or a part of one.

    Attributes:
        folder: The cache folder.
        plan: The plan it is bound to.
        manifest: Its manifest; None where shards are left to other parts.
        shards: Number of shards committed in this folder.
        views_per_second: Speed of this call; None where nothing was left to do.
    """

    folder: Path
    plan: Plan
    manifest: Manifest | None
    shards: int
    views_per_second: float | None


def dump(
    recipe: CacheRecipe, *, sink: Sink, progress: Count, overwrite: bool = False
) -> list[Dumped]:
    """Stores the labels of every teacher on every view; goes on where an earlier call stopped.

    Args:
        recipe: Teachers, data, views.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        overwrite: Replace caches that are there, instead of going on.

    Raises:
        DistillError: The dump failed or was stopped; the exit code is that of the fault.
    """
    prepared = prepare_dump(recipe, sink=sink, overwrite=overwrite)
    with ExitStack() as locks:
        for folder in prepared.folders:
            locks.enter_context(one_writer(folder, root=Path(str(prepared.recipe.out))))
        for folder in prepared.folders if overwrite else ():
            clear_cache(folder)
        writers = [
            CacheWriter(folder, plan)
            for folder, plan in zip(prepared.folders, prepared.plans, strict=True)
        ]
        for folder, name in zip(prepared.folders, prepared.names, strict=True):
            write_text(folder / "recipe.yaml", to_yaml(_kept(prepared, name)))
            keep_skipped(folder, prepared.dataset)
        speed = _fill(prepared, writers, progress, sink)
        _add_files(prepared, writers, sink)
        return [_finished(prepared, writer, speed) for writer in writers]


def _kept(prepared: PreparedDump, teacher: str) -> CacheRecipe:
    """The cache's recipe.yaml: how it was made, and the record of the data that students adopt.

    A published cache names data and teacher without the folders of this machine.
    """
    recipe = prepared.recipe
    record = data_record(recipe, prepared.dataset, prepared.views.spec)
    source = str(real_path(teacher)) if Path(teacher).exists() else teacher
    if recipe.publish:
        source, record["data"] = public_name(source), public_name(str(recipe.data))
    return recipe.model_copy(
        update={
            **record,
            "teachers": [source],
            "class_map": _kept_map(prepared, teacher),
            "out": None,
            "part": None,
        }
    )


def _kept_map(prepared: PreparedDump, teacher: str) -> list[str] | None:
    """This teacher's class map as the one entry of a list; a file by its whole path."""
    maps = prepared.recipe.class_map
    if not maps:
        return None
    class_map = map_of(maps, prepared.names.index(teacher), len(prepared.names))
    if class_map == BY_NAME:
        return [class_map]
    return [Path(class_map).name if prepared.recipe.publish else str(real_path(class_map))]


def public_name(name: str) -> str:
    """Data or a teacher as a shared cache names it: a path by its last part."""
    located = Path(locate(name))
    return located.name if located.exists() else name


def _fill(
    prepared: PreparedDump, writers: Sequence[CacheWriter], progress: Count, sink: Sink
) -> float | None:
    """Makes the missing shards; returns views a second, or None where none was missing."""
    total = sum(shard.rows for shard in prepared.shards)
    missing = [set(writer.missing(prepared.shards)) for writer in writers]
    started, done, made = time.perf_counter(), 0, 0
    with stop_signals() as request, Commits(prepared.runtime.device) as commits:
        label = _labeller(prepared, set().union(*missing), sink, commits.wait)
        for shard in prepared.shards:
            wanted = [index for index, keys in enumerate(missing) if shard in keys]
            if wanted:
                labels = label(shard, wanted)
                target_N = prepared.dataset.train.label_N[shard.start : shard.stop]
                commits.begin([writers[index] for index in wanted], shard, labels, target_N)
                made += shard.rows
            done += shard.rows
            progress(done, total)
            if request.signal_number is not None:
                break
        commits.wait()
        if request.signal_number is not None:
            raise stopped(done, total, prepared.recipe.out, request.signal_number)
    return made / max(time.perf_counter() - started, 1e-9) if made else None


def _add_files(prepared: PreparedDump, writers: Sequence[CacheWriter], sink: Sink) -> None:
    """Stores the teachers' logits of held-out and test images, and the rows' sample ids.

    Of several parts, the first brings them.
    """
    if prepared.recipe.part is not None and prepared.recipe.part.number > 1:
        return
    probe: PixelProbe | None = None
    for writer, teacher in zip(writers, prepared.teachers, strict=True):
        if not writer.has_ids:
            writer.write_ids(prepared.dataset.train.sample_ids)
        if writer.has_eval:
            continue
        if probe is None:
            probe = probe_of(prepared.plans[0], prepared.views)
        splits = {
            name: (
                logits_of(teacher.logits, images.iter_plain(), prepared.runtime.device),
                images.label_N,
            )
            for name, images in (("val", prepared.dataset.val), ("test", prepared.dataset.test))
        }
        lost = precision_error(teacher, prepared.dataset.val, splits["val"][0], sink)
        writer.write_eval(splits, probe, lost)


def _finished(prepared: PreparedDump, writer: CacheWriter, speed: float | None) -> Dumped:
    """The cache with its manifest, which is written if no shard is left to other parts."""
    left = [] if prepared.recipe.part is None else writer.missing()
    whole = not left and writer.has_eval and writer.has_ids
    manifest = writer.finish() if whole else None
    if manifest is not None and prepared.recipe.publish:
        data = public_name(str(prepared.recipe.data))
        card = cache_card(manifest.to_json(), data=data, licence=prepared.recipe.licence)
        write_text(writer.folder / CARD, f"{card}\n{CARD_MARK}\n")
    return Dumped(
        folder=writer.folder,
        plan=writer.plan,
        manifest=manifest,
        shards=len(writer.plan.shards()) - len(left),
        views_per_second=speed,
    )


def _labeller(
    prepared: PreparedDump, missing: Collection[ShardKey], sink: Sink, quiet: Callable[[], None]
) -> Callable[[ShardKey, Sequence[int]], list[Tensor]]:
    """A function of a missing shard and teachers' numbers: fp32 logits (N, K) from each of these.

    On a GPU with images there, views and teachers may be recorded as one graph. Elsewhere the views of all
    missing shards are made ahead, and the function must be asked for these in order.

    Args:
        prepared: The dump.
        missing: The shards that the function will be asked for.
        sink: Is told where nothing can be recorded.
        quiet: Waits for the thread that commits.
    """
    batch = prepared.plans[0].teacher_batch
    if prepared.recipe.compile:
        for teacher in prepared.teachers:
            teacher.compile()
    device, wanted_graphs = prepared.runtime.device, prepared.recipe.graphs
    if device.type == "cuda" and unrecordable(prepared.views) is None:
        graphs = None
        if wanted_graphs != "off":
            must = wanted_graphs == "on"
            graphs = StepGraphs(device, must=must, tell=sink.message, quiet=quiet)
        on_device = DeviceLabels(prepared.views, prepared.teachers, batch, graphs)
        return lambda shard, wanted: on_device.of(
            range(shard.start, shard.stop), shard.view, wanted
        )
    made = streamed(prepared, missing)

    def label(shard: ShardKey, wanted: Sequence[int]) -> list[Tensor]:
        asked = [prepared.teachers[number] for number in wanted]
        return shard_labels(shard, made, asked, batch)

    return label


def streamed(prepared: PreparedDump, missing: Collection[ShardKey]) -> Iterator[ViewBatch]:
    """The views of the teacher batches of all missing shards, made ahead."""
    batch = prepared.plans[0].teacher_batch
    for view, group in groupby(prepared.shards, key=lambda shard: shard.view):
        rows = [
            index_B
            for shard in group
            if shard in missing
            for index_B in torch.arange(shard.start, shard.stop).split(batch)
        ]
        yield from prepared.views.stream(
            [(index_B, torch.full_like(index_B, view)) for index_B in rows]
        )


def shard_labels(
    shard: ShardKey, views: Iterator[ViewBatch], teachers: Sequence[LiveTeacher], teacher_batch: int
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
