"""Cross-entropy on the hard label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.hard import UNLABELLED, cross_entropy
from distill_cli.objectives.base import Owns
from distill_cli.types import Batch, Need, Progress, StudentSignals, TeacherSignals, Term, Terms


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
        loss_B = cross_entropy(student.logits_BK, batch.target_B)
        return {"ce": Term(loss_B=loss_B, mask_B=batch.target_B != UNLABELLED)}
