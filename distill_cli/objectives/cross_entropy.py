"""Cross-entropy on the hard label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.types import Terms


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """CE(δ_y, softmax z)."""

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="ce",
        summary="cross-entropy on the hard label",
        paper="—",
        defaults="there are none",
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK = step.student.logits_BK
        return {
            "ce": on_hard_labels(step.batch, lambda target_B: cross_entropy(logits_BK, target_B))
        }
