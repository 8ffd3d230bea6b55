"""What the teachers of a dump say of its shards. Shapes: N rows of a shard, K classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from distill_cli.cache.plan import ShardKey
from distill_cli.data.views import ViewBatch
from distill_cli.evaluate import Collected
from distill_cli.pipeline.labels.device_labels import DeviceLabels
from distill_cli.pipeline.labels.prepare import PreparedDump, unrecordable
from distill_cli.teachers.cross_fit import FrozenTeacher
from distill_cli.training.events import Sink
from distill_cli.training.graphs import StepGraphs

# A function of a shard and teachers' numbers: fp32 logits (N, K) from each of these.
Label = Callable[[ShardKey, Sequence[int]], list[Tensor]]


class Labeller:
    """Asks the teachers of a dump.

    On a GPU with images there, views and teachers may be recorded as one graph, once.

    Args:
        prepared: The dump.
        sink: Is told where nothing can be recorded.
        quiet: Waits for the thread that commits.
    """

    def __init__(self, prepared: PreparedDump, sink: Sink, quiet: Callable[[], None]) -> None:
        self.prepared, self.batch = prepared, prepared.plans[0].teacher_batch
        if prepared.recipe.compile:
            for teacher in prepared.teachers:
                teacher.compile()
        self._on_device: DeviceLabels | None = None
        device, asked = prepared.runtime.device, prepared.recipe.graphs
        if device.type == "cuda" and unrecordable(prepared.views) is None:
            graphs = None
            if asked != "off":
                graphs = StepGraphs(device, must=asked == "on", tell=sink.message, quiet=quiet)
            self._on_device = DeviceLabels(prepared.views, prepared.teachers, self.batch, graphs)

    def over(self, shards: Sequence[ShardKey], missing: Collection[ShardKey]) -> Label:
        """A function that labels those of some shards that are missing; it is asked in their order."""
        if (on_device := self._on_device) is not None:
            return lambda shard, wanted: on_device.of(
                range(shard.start, shard.stop), shard.view, wanted
            )
        # Else the views of all missing shards are made ahead.
        made = streamed(self.prepared, [shard for shard in shards if shard in missing])

        def label(shard: ShardKey, wanted: Sequence[int]) -> list[Tensor]:
            asked = [self.prepared.teachers[number] for number in wanted]
            return shard_labels(shard, made, asked, self.batch)

        return label


def streamed(prepared: PreparedDump, shards: Sequence[ShardKey]) -> Iterator[ViewBatch]:
    """The views of the teacher batches of some shards, made ahead."""
    batch = prepared.plans[0].teacher_batch
    for view, group in groupby(shards, key=lambda shard: shard.view):
        rows = [
            index_B
            for shard in group
            for index_B in torch.arange(shard.start, shard.stop).split(batch)
        ]
        yield from prepared.views.stream(
            [(index_B, torch.full_like(index_B, view)) for index_B in rows]
        )


def shard_labels(
    shard: ShardKey,
    views: Iterator[ViewBatch],
    teachers: Sequence[FrozenTeacher],
    teacher_batch: int,
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
        index_B = torch.arange(start, start + teacher_batch).clamp(max=start + rows - 1)
        if padding:
            images_BCHW = torch.cat([images_BCHW, images_BCHW[-1:].expand(padding, -1, -1, -1)])
        for part, teacher in zip(parts, teachers, strict=True):
            part.add(teacher.row_logits(images_BCHW, index_B)[:rows])
    return [part.rows() for part in parts]
