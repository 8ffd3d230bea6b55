"""What a dump will cost, and when it has paid for itself: `cache-soft-labels --dry-run`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.cache.codec import bytes_per_row, codec
from distill_cli.cache.folder import PLAN
from distill_cli.cache.pixel_probe import VIEWS
from distill_cli.cache.plan import ShardKey
from distill_cli.cache.shards import Shards
from distill_cli.data.noise import noise_like
from distill_cli.data.views import ViewBatch, Views
from distill_cli.pipeline.labels.prepare import PreparedDump
from distill_cli.recipe.parsing import parse_share
from distill_cli.teachers.live import LiveTeacher

# Seconds that each probe may take, after one batch to warm up; and its batches at most.
PROBE_SECONDS, PROBE_BATCHES = 2.0, 8
# Of a shard's header with its statistics, and of its line in the manifest.
HEADER_BYTES, LINE_BYTES = 1_700, 180


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a dump will cost.

    Attributes:
        views: To be stored, of all teachers together.
        bytes: On disk, the evaluation rows included.
        bytes_per_view: Without the evaluation rows.
        views_per_second: Of the shared pass: each view made once and shown to every teacher.
        seconds: Of what is left to do.
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

    A view costs v to make and f to ask the teachers of. The dump costs V·N·(v + f), once; a
    student with live teachers pays f for each of its n images in each epoch, and makes its views
    either way. So the dump has paid for itself after V·N·(v + f)/(n·f) epochs. What is committed
    already is not made again.

    Args:
        prepared: Opened for a dry run: without pixels and weights.
        overwrite: All of it is made again nevertheless.
    """
    plan = prepared.plans[0]
    samples, count = plan.dataset.samples, plan.teacher_batch
    noise = noise_like(prepared.dataset, count)
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
    stored, evaluation = _bytes(prepared)
    whole = plan.views * samples * (view_seconds + teacher_seconds)
    return Estimate(
        views=rows * len(prepared.plans),
        bytes=stored + evaluation,
        bytes_per_view=stored / (rows * len(prepared.plans)),
        views_per_second=1 / (view_seconds + teacher_seconds),
        seconds=_left(prepared, overwrite) * (view_seconds + teacher_seconds),
        break_even_epochs=whole / (len(prepared.dataset.fit_rows) * teacher_seconds),
    )


def _left(prepared: PreparedDump, overwrite: bool) -> int:
    """Rows that are still to be made, by one teacher at least."""
    left: set[ShardKey] = set()
    for folder, plan in zip(prepared.folders, prepared.plans, strict=True):
        if (folder / PLAN).is_file() and not overwrite:
            left.update(Shards(folder, plan).missing(prepared.shards))
        else:
            left.update(prepared.shards)
    return sum(shard.rows for shard in left)


def _first_view(stream: Iterator[ViewBatch], workers: int, count: int) -> tuple[Tensor, float]:
    """A batch of views, and seconds a view over a few batches.

    Over all of them, with the start: workers are ahead, and single batches would seem to cost
    nothing.
    """
    start, taken = time.perf_counter(), 0
    elapsed, least = 0.0, min(workers + 1, PROBE_BATCHES)
    while taken < PROBE_BATCHES and (taken < least or elapsed < PROBE_SECONDS):
        made = next(stream)
        made.images_BCHW[0, 0, 0, 0].item()  # a GPU only says that it began
        taken, elapsed = taken + 1, time.perf_counter() - start
    return made.images_BCHW, elapsed / (taken * count)


def _seconds(teacher: LiveTeacher, images_BCHW: Tensor) -> float:
    """The median time of a teacher's forward over a few calls, after one to warm up."""
    teacher.logits(images_BCHW).cpu()
    taken: list[float] = []
    while len(taken) < PROBE_BATCHES - 1 and sum(taken) < PROBE_SECONDS:
        start = time.perf_counter()
        teacher.logits(images_BCHW).cpu()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _bytes(prepared: PreparedDump) -> tuple[int, int]:
    """Of shards, plans and manifests; and of evaluation rows."""
    stored = evaluation = 0
    for plan in prepared.plans:
        how = codec(plan.codec, len(plan.dataset.class_names))
        text = len(json.dumps(plan.to_json(), ensure_ascii=False).encode())
        stored += sum(shard.rows for shard in prepared.shards) * bytes_per_row(how)
        stored += len(prepared.shards) * (HEADER_BYTES + LINE_BYTES) + 2 * text
        if prepared.recipe.part is not None and parse_share(prepared.recipe.part)[0] > 1:
            continue
        labels = len(prepared.dataset.val.label_N) + len(prepared.dataset.test.label_N)
        evaluation += labels * (4 * len(plan.dataset.class_names) + 8)
        spec = plan.view_spec
        evaluation += VIEWS * spec.channels * spec.height * spec.width
    return stored, evaluation
