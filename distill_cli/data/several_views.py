"""The views of a batch where not all of its samples are shown alike, or the teacher sees others.

Shapes: B samples of a rank's batch, of which P are shown in one kind of views, and T to the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distill_cli.data.views import Request, ViewBatch, Views


@dataclass(frozen=True, kw_only=True)
class ViewPart:
    """Samples of every batch that are shown in views of one kind.

    Attributes:
        views: The views.
        place_P: int64 places in a rank's batch, ascending, on the CPU; None for all of it.
    """

    views: Views
    place_P: Tensor | None = None

    @cached_property
    def place_on_device_P(self) -> Tensor | None:
        """The places where the views are made."""
        return None if self.place_P is None else self.place_P.to(self.views.device)

    def of(self, column_B: Tensor) -> Tensor:
        """The part's entries of a column of the batch, which may lie on either side."""
        if self.place_P is None:
            return column_B
        # By type: a device may be named without its number, and no tensor's is.
        on_host = column_B.device.type == self.place_P.device.type
        place_P = self.place_P if on_host else self.place_on_device_P
        assert place_P is not None, "one lies where the other does"
        return column_B.index_select(0, place_P)


@dataclass(frozen=True, kw_only=True)
class SeveralViews:
    """The views of a batch: the student's, and the teacher's where it is shown something else.

    Attributes:
        student: The parts that make up the batch.
        teacher: What the teacher alone is shown; None where it sees what the student sees.
    """

    student: tuple[ViewPart, ...]
    teacher: ViewPart | None = None

    @property
    def parts(self) -> tuple[ViewPart, ...]:
        """All of them, the teacher's last."""
        return self.student if self.teacher is None else (*self.student, self.teacher)

    @property
    def is_plain(self) -> bool:
        """Whether all samples are shown alike, to both."""
        return len(self.parts) == 1

    @cached_property
    def _back_B(self) -> Tensor:
        """Where each sample of the batch stands behind the samples of the parts before its own."""
        places = [part.place_P for part in self.student if part.place_P is not None]
        return torch.cat(places).argsort().to(self.student[0].views.device)

    def joined(self, made: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The images of the batch (B, C, H, W), and the teacher's own (T, …), from those of all parts."""
        first, count = made[0], len(self.student)
        if count > 1:
            first = torch.cat(list(made[:count])).index_select(0, self._back_B)
        return first, None if self.teacher is None else made[-1]

    def stream(self, requests: Sequence[Request]) -> Iterator[ViewBatch]:
        """The views of many batches, in order; the next ones are prepared meanwhile.

        Args:
            requests: int64 rows of the split and the view of each, on the CPU.
        """
        if self.is_plain:
            yield from self.student[0].views.stream(requests)
            return
        streams = [
            part.views.stream([(part.of(index_B), part.of(view_B)) for index_B, view_B in requests])
            for part in self.parts
        ]
        for made in zip(*streams, strict=True):
            images_BCHW, teacher_TCHW = self.joined([part.images_BCHW for part in made])
            yield ViewBatch(images_BCHW=images_BCHW, teacher_TCHW=teacher_TCHW)
