"""Labels of rows that lie on a GPU: views and teachers as one CUDA graph.

Shapes: B rows of a teacher batch, N rows of a shard, M teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distill_cli.data.device_views import DeviceViews
from distill_cli.data.mixing import MixPlan
from distill_cli.data.views import Views
from distill_cli.evaluate import Collected
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.graphs import StepGraphs


class DeviceLabels:
    """What teachers say of views that are made where they compute.

    Args:
        views: The views, of images that lie on the device.
        teachers: All teachers of a dump.
        batch: B.
        tell: Shows a person a line.
        quiet: Waits for other threads that use the device.
    """

    def __init__(
        self,
        views: Views,
        teachers: Sequence[LiveTeacher],
        batch: int,
        tell: Callable[[str], None] = lambda text: None,
        quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self.views, self.teachers, self.batch, device = views, tuple(teachers), batch, views.device
        self.made = DeviceViews(views)
        self.index_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.view_B, self.partner_B = torch.zeros_like(self.index_B), torch.zeros_like(self.index_B)
        self.graphs: StepGraphs | None = None
        if device.type == "cuda":
            self.graphs = StepGraphs(device, must=False, tell=tell, quiet=quiet)
        self._plan: MixPlan | None = None
        self._logits: dict[tuple[int, ...], list[Tensor]] = {}

    def of(self, rows: range, view: int, asked: Sequence[int]) -> list[Tensor]:
        """fp32 logits (N, K) on the device of consecutive rows in a view.

        Args:
            rows: The rows.
            view: Number of the view.
            asked: Numbers of the teachers that are asked.
        """
        collected = [Collected() for _ in asked]
        for start in range(rows.start, rows.stop, self.batch):
            count = min(self.batch, rows.stop - start)
            self._load(torch.arange(start, start + self.batch).clamp(max=rows.stop - 1), view)
            for part, logits_BK in zip(collected, self._asked(tuple(asked)), strict=True):
                part.add(logits_BK[:count])
        return [part.rows_on_device() for part in collected]

    def _load(self, index_B: Tensor, view: int) -> None:
        """Writes rows, view and partners to where the graph looks for them."""
        view_B = torch.full_like(index_B, view)
        if (mixer := self.views.mixer) is not None:
            partner_B = mixer.partners(index_B, view_B)
            sides = (self.views.spec.height, self.views.spec.width)
            plan = mixer.plan(index_B, partner_B, view_B, *sides)
            self.partner_B.copy_(partner_B)
            self._plan = plan.written_to(self._plan, self.views.device)
        self.index_B.copy_(index_B)
        self.view_B.copy_(view_B)

    def _asked(self, asked: tuple[int, ...]) -> list[Tensor]:
        """The logits of the rows that are loaded, in memory that the next call writes again."""
        if self.graphs is None:
            self._ask(asked)
        else:
            # Teachers that go on from different shards are asked in groups: a recording each.
            self.graphs.take(lambda step: self._ask(asked), 0, hash(asked))
        return self._logits[asked]

    def _ask(self, asked: tuple[int, ...]) -> None:
        if self._plan is None:
            images_BCHW = self.made.plain(self.index_B, self.view_B)
        else:
            images_BCHW = self.made.mixed(self.index_B, self.view_B, self.partner_B, self._plan)
        logits = [self.teachers[number].logits(images_BCHW) for number in asked]
        if asked not in self._logits:
            self._logits[asked] = [torch.empty_like(logits_BK) for logits_BK in logits]
        for kept_BK, logits_BK in zip(self._logits[asked], logits, strict=True):
            kept_BK.copy_(logits_BK)
