"""Cross-entropy on the hard label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.hard import cross_entropy
from distill_cli.objectives.base import Owns, on_hard_labels
from distill_cli.types import Batch, Need, Progress, StudentSignals, TeacherSignals, Terms


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """CE(δ_y, softmax z)."""

    name: ClassVar[str] = "ce"
    summary: ClassVar[str] = "cross-entropy on the hard label"
    paper: ClassVar[str] = "—"
    needs: ClassVar[frozenset[Need]] = frozenset()
    owns: ClassVar[frozenset[Owns]] = frozenset({Owns.HARD_TARGET})

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
    ) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK = student.logits_BK
        return {"ce": on_hard_labels(batch, lambda target_B: cross_entropy(logits_BK, target_B))}
