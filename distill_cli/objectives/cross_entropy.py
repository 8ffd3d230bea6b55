"""Cross-entropy on the hard label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.base import About, Owns, on_hard_labels
from distill_cli.types import Batch, Progress, StudentSignals, TeacherSignals, Terms


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """CE(δ_y, softmax z)."""

    about: ClassVar[About] = About(
        name="ce",
        summary="cross-entropy on the hard label",
        paper="—",
        defaults="there are none",
        owns=frozenset({Owns.HARD_TARGET}),
    )

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
        adapters: nn.Module | None,
    ) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK = student.logits_BK
        return {"ce": on_hard_labels(batch, lambda target_B: cross_entropy(logits_BK, target_B))}
