"""Estimates of a dump's cost and of when it pays for itself: `cache-soft-labels --dry-run`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.cache.codec import bytes_per_row, codec_of
from distill_cli.cache.folder import PLAN
from distill_cli.cache.pixel_probe import VIEWS
from distill_cli.cache.plan import ShardKey
from distill_cli.cache.sample_ids import front_coded
from distill_cli.cache.shards import Shards
from distill_cli.data.noise import drawn_rows, noise_like
from distill_cli.data.views import ViewBatch, Views
from distill_cli.pipeline.labels.prepare import PreparedDump
from distill_cli.teachers.cross_fit import FrozenTeacher

# Longest time of each probe in seconds, after one batch to warm up; and its largest batch count.
PROBE_SECONDS, PROBE_BATCHES = 2.0, 8
# Bytes of a shard's header with its statistics, and of its line in the manifest.
HEADER_BYTES, LINE_BYTES = 1_700, 180


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a dump.

    Attributes:
        views: Number of views to be stored, over all teachers.
        bytes: Size on disk, evaluation rows and sample ids included.
        bytes_per_view: Size of one view, without those.
        views_per_second: Speed of the pass that makes each view once and shows it to every teacher.
        seconds: Time for the shards that are missing.
        break_even_epochs: Student epochs after which the dump has cost less than live teachers
            would have.
    """

    views: int
    bytes: int
    bytes_per_view: float
    views_per_second: float
    seconds: float
    break_even_epochs: float


def estimate(prepared: PreparedDump, *, overwrite: bool = False) -> Estimate:
    """Measures a few batches of views of noise and of each teacher, and does the arithmetic.

    Making a view costs v, and the teachers' labels of it f. The dump costs V·N·(v + f), once; a
    student with live teachers pays f for each of its n images in each epoch, and makes its views
    either way. So the dump has paid for itself after V·N·(v + f)/(n·f) epochs. Committed shards are
    not made again.

    Args:
        prepared: The dump, opened for a dry run: without pixels and weights.
        overwrite: Make committed shards again nevertheless.
    """
    plan = prepared.plans[0]
    samples, count = plan.dataset.rows, plan.teacher_batch
    noise = noise_like(prepared.dataset, drawn_rows(prepared.dataset, count))
    views = Views(
        noise.train,
        prepared.views.spec,
        prepared.runtime.device,
        workers=prepared.views.workers,
        rows=noise.fit_rows,
    )
    index_B = torch.arange(count) % len(noise.fit_rows)
    batches = [(index_B, torch.full_like(index_B, number)) for number in range(PROBE_BATCHES)]
    images_BCHW, view_seconds = _first_view(views.stream(batches), views.workers, count)
    teacher_seconds = sum(_seconds(teacher, images_BCHW) / count for teacher in prepared.teachers)
    rows = sum(shard.rows for shard in prepared.shards)
    stored, beside = _bytes(prepared)
    left = sum(shard.rows for shard in missing_shards(prepared, overwrite))
    whole = plan.views * samples * (view_seconds + teacher_seconds)
    return Estimate(
        views=rows * len(prepared.plans),
        bytes=stored + beside,
        bytes_per_view=stored / (rows * len(prepared.plans)),
        views_per_second=1 / (view_seconds + teacher_seconds),
        seconds=left * (view_seconds + teacher_seconds),
        break_even_epochs=whole / (len(prepared.dataset.fit_rows) * teacher_seconds),
    )


def missing_shards(prepared: PreparedDump, overwrite: bool = False) -> set[ShardKey]:
    """The shards that at least one teacher has yet to label."""
    left: set[ShardKey] = set()
    for folder, plan in zip(prepared.folders, prepared.plans, strict=True):
        if (folder / PLAN).is_file() and not overwrite:
            left.update(Shards(folder, plan).missing(prepared.shards))
        else:
            left.update(prepared.shards)
    return left


def _first_view(stream: Iterator[ViewBatch], workers: int, count: int) -> tuple[Tensor, float]:
    """A batch of views, and the mean seconds for a view over a few batches, with the start.

    Workers prepare batches ahead, so that single batches would seem to cost nothing.
    """
    start, taken = time.perf_counter(), 0
    elapsed, least = 0.0, min(workers + 1, PROBE_BATCHES)
    while taken < PROBE_BATCHES and (taken < least or elapsed < PROBE_SECONDS):
        made = next(stream)
        made.images_BCHW[0, 0, 0, 0].item()  # a GPU only says that it began
        taken, elapsed = taken + 1, time.perf_counter() - start
    return made.images_BCHW, elapsed / (taken * count)


def _seconds(teacher: FrozenTeacher, images_BCHW: Tensor) -> float:
    """The median time of a teacher's forward over a few calls, after one call to warm up."""
    teacher.logits(images_BCHW).cpu()
    taken: list[float] = []
    while len(taken) < PROBE_BATCHES - 1 and sum(taken) < PROBE_SECONDS:
        start = time.perf_counter()
        teacher.logits(images_BCHW).cpu()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _bytes(prepared: PreparedDump) -> tuple[int, int]:
    """Bytes of shards, plans and manifests; and bytes of evaluation rows and sample ids."""
    stored = beside = 0
    for plan in prepared.plans:
        row_bytes = bytes_per_row(codec_of(plan))
        text = len(json.dumps(plan.to_json(), ensure_ascii=False).encode())
        stored += sum(shard.rows for shard in prepared.shards) * row_bytes
        stored += len(prepared.shards) * (HEADER_BYTES + LINE_BYTES) + 2 * text
        if prepared.recipe.part is not None and prepared.recipe.part.number > 1:
            continue
        labels = len(prepared.dataset.val.label_N) + len(prepared.dataset.test.label_N)
        beside += labels * (4 * len(plan.dataset.class_names) + 8)
        spec = plan.view_spec
        beside += VIEWS * spec.channels * spec.height * spec.width
        if plan.sample_ids:
            tensors = front_coded(prepared.dataset.train.sample_ids).values()
            beside += HEADER_BYTES // 4 + sum(len(tensor) for tensor in tensors)
    return stored, beside
