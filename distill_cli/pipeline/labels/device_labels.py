"""Labels of rows that lie on a GPU: views and teachers as one CUDA graph.

Shapes: B rows of a teacher batch, N rows of a shard, M teachers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill_cli.data.device_views import DeviceViews
from distill_cli.data.mixing import MixPlan
from distill_cli.data.views import Views
from distill_cli.evaluate import Collected
from distill_cli.teachers.cross_fit import FrozenTeacher
from distill_cli.training.graphs import StepGraphs


class DeviceLabels:
    """What teachers say of views that are made where they compute.

    Nothing is copied from the host between the batches of a shard, and nothing waits for the device:
    the rows of a batch are counted there from its first.

    Args:
        views: The views, of images that lie on the device.
        teachers: All teachers of a dump.
        batch: B.
        graphs: Records a batch and replays it; None to compute one operation at a time.
    """

    def __init__(
        self,
        views: Views,
        teachers: Sequence[FrozenTeacher],
        batch: int,
        graphs: StepGraphs | None = None,
    ) -> None:
        self.views, self.teachers, self.batch, device = views, tuple(teachers), batch, views.device
        self.made, self.graphs = DeviceViews(views), graphs
        self.number_B = torch.arange(batch, device=device)
        # Row of the batch that comes first, the last row of the shard, and the view: int64 scalars.
        self.first, self.last, self.view = torch.zeros(3, dtype=torch.int64, device=device).unbind()
        self.partner_B = torch.zeros_like(self.number_B)
        self._plan: MixPlan | None = None
        self._logits: dict[tuple[int, ...], list[Tensor]] = {}

    def of(self, rows: range, view: int, asked: Sequence[int]) -> list[Tensor]:
        """fp32 logits (N, K) on the device of consecutive rows in a view.

        The last batch is filled up with the last row.

        Args:
            rows: The rows.
            view: Number of the view.
            asked: Numbers of the teachers that are asked.
        """
        collected = [Collected() for _ in asked]
        self.last.fill_(rows.stop - 1)
        self.view.fill_(view)
        mixed = self._mixed(rows, view)
        for start in range(rows.start, rows.stop, self.batch):
            self.first.fill_(start)
            if mixed is not None:
                self._load_mixed(*mixed, (start - rows.start) // self.batch)
            for part, logits_BK in zip(collected, self._asked(tuple(asked)), strict=True):
                part.add(logits_BK[: rows.stop - start])
        return [part.rows_on_device() for part in collected]

    def _mixed(self, rows: range, view: int) -> tuple[Tensor, MixPlan] | None:
        """Partners and shares of whole batches of a shard, on the device; None where none is mixed."""
        if (mixer := self.views.mixer) is None:
            return None
        whole = -(-len(rows) // self.batch) * self.batch
        index_N = torch.arange(rows.start, rows.start + whole).clamp(max=rows.stop - 1)
        view_N = torch.full_like(index_N, view)
        partner_N = mixer.partners(index_N, view_N)
        sides = (self.views.spec.height, self.views.spec.width)
        plan = mixer.plan(index_N, partner_N, view_N, *sides)
        return partner_N.to(self.views.device), plan.to(self.views.device)

    def _load_mixed(self, partner_N: Tensor, plan: MixPlan, number: int) -> None:
        """Copies those of a batch to where the graph looks for them, within the device."""
        self.partner_B.copy_(partner_N.unflatten(0, (-1, self.batch))[number])
        part = plan.of_batch(number, self.batch)
        self._plan = part.written_to(self._plan, self.views.device)

    def _asked(self, asked: tuple[int, ...]) -> list[Tensor]:
        """The logits of the rows that are due, in memory that the next call writes again."""
        if self.graphs is None:
            self._ask(asked)
        else:
            # Teachers that go on from different shards are asked in groups: a recording each.
            self.graphs.take(lambda step: self._ask(asked), 0, hash(asked))
        return self._logits[asked]

    def _ask(self, asked: tuple[int, ...]) -> None:
        index_B = torch.minimum(self.first + self.number_B, self.last)
        view_B = self.view.expand(self.batch)
        if self._plan is None:
            images_BCHW = self.made.plain(index_B, view_B)
        else:
            images_BCHW = self.made.mixed(index_B, view_B, self.partner_B, self._plan)
        logits = [self.teachers[number].row_logits(images_BCHW, index_B) for number in asked]
        if asked not in self._logits:
            self._logits[asked] = [torch.empty_like(logits_BK) for logits_BK in logits]
        for kept_BK, logits_BK in zip(self._logits[asked], logits, strict=True):
            kept_BK.copy_(logits_BK)
