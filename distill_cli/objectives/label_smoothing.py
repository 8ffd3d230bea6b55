"""Uniform label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.types import Terms


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """CE(q, softmax z) with q = (1 − ε)·δ_y + ε/K.

    Attributes:
        epsilon: ε, the mass spread over all classes, the target included.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="label-smoothing",
        summary="hard label with a little mass on every class",
        paper="Szegedy et al. 2016, arXiv 1512.00567",
        defaults="ε is the authors'",
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK, epsilon = step.student.logits_BK, self.epsilon
        return {
            "ce": on_hard_labels(
                step.batch, lambda target_B: cross_entropy(logits_BK, target_B, epsilon)
            )
        }
