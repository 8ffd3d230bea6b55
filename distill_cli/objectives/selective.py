"""Selective softening: hard labels for samples that are learnt, soft ones for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.soft_targets import margin, selected
from distill_cli.objectives.base import ObjectiveInfo, Step, main_target, on_hard_labels
from distill_cli.objectives.hooks import ConditionalNeeds, SelectsSamples
from distill_cli.types import (
    UNLABELLED,
    Need,
    Terms,
)


@dataclass(frozen=True, kw_only=True)
class Selective(ConditionalNeeds, SelectsSamples):
    """CE on samples whose label is far ahead, g = p_y − max_{k≠y} p_k ≥ m; the others for the rest.

    It stands beside any soft label, which then is for the samples with g < m alone: those that the
    network is not sure of, and those that it takes for another class.

    Attributes:
        margin: m; −1 keeps every label hard, what is above 1 softens them all.
        by: Whose prediction p is: the network's own, held constant, or the teacher's.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="selective",
        summary="hard labels where the network is sure of them, the soft label elsewhere",
        paper="selective softening by margin; of this project",
        defaults="ours",
        needs=frozenset({Need.TEACHER}),
        rows="labelled",
        terms=frozenset({"kept"}),
    )

    margin: Annotated[float, Field(ge=-1, le=2)] = 0.5
    by: Literal["own", "teacher"] = "own"

    @property
    def needs(self) -> frozenset[Need]:
        """A teacher where it chooses."""
        return frozenset({Need.TEACHER} if self.by == "teacher" else ())

    def soft_samples(self, step: Step) -> Tensor:
        """The samples that get the soft label; what is unlabelled has no other."""
        taught = self.by == "teacher"
        logits_BK = step.teacher.log_probs(1.0) if taught else step.student.logits_BK
        target_B = main_target(step.batch)
        return selected(margin(logits_BK, target_B), self.margin) | (target_B == UNLABELLED)

    def __call__(self, step: Step) -> Terms:
        """Term `kept`, over the labelled samples; `compose` leaves it to the others."""
        logits_BK = step.student.logits_BK
        return {
            "kept": on_hard_labels(step.batch, lambda target_B: cross_entropy(logits_BK, target_B))
        }
