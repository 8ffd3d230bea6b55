"""The student's forward of a batch, and of what it tells itself as its own teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.teachers.own import SelfTeacher
from distill_cli.types import Batch, StudentSignals


@dataclass(frozen=True, kw_only=True)
class StudentForward:
    """Signals of a student on batches.

    Attributes:
        network: The student.
        taps: Layers that objectives look at.
        stop: Whether the forward ends at the last of them.
        own: The student as its own teacher, which is told what it answered; None where it is none.
    """

    network: Network
    taps: Sequence[str] = ()
    stop: bool = False
    own: SelfTeacher | None = None

    def runs(self, part: Batch) -> tuple[int, ...]:
        """Samples of a forward, run by run: the student's own, then those that it answers as a teacher."""
        own = len(part.index_B)
        if self.own is None or part.teacher_TCHW is None:
            return (own,)
        return own, len(part.teacher_TCHW)

    def __call__(self, part: Batch) -> StudentSignals:
        """Logits and features of the images that it learns from."""
        images, runs = part.images_BCHW, self.runs(part)
        if len(runs) > 1:
            assert part.teacher_TCHW is not None, "a run of its own"
            images = torch.cat([images, part.teacher_TCHW])
        signals = signals_of(self.network, images, self.taps, stop=self.stop)
        if self.own is None:
            return signals
        logits = signals.logits_BK
        self.own.hear(logits if len(runs) == 1 else logits[runs[0] :])
        if len(runs) == 1:
            return signals
        features = {name: value[: runs[0]] for name, value in signals.features.items()}
        return StudentSignals(logits=logits[: runs[0]], features=features)
