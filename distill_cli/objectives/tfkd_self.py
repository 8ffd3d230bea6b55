"""Teacher-free distillation from a trained copy of the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.kd import distillation
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class TeacherFreeSelf:
    """T²·KL(q_T ‖ p_T), q of a copy of the student that was trained on hard labels.

    `distill teacher train --objective tfkd-self` trains the copy first; `distill student` takes a
    run as the copy.

    Attributes:
        temperature: T.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="tfkd-self",
        summary="learn from a trained copy of the same network",
        paper="Yuan et al. 2020, arXiv 1909.11723",
        defaults="ours, kd's weights with T = 20: the authors' differ by network. Their release averages "
        "the KL over classes too; in terms of this one, it has on CIFAR-100 0.05 · "
        "cross-entropy + 0.475 at T = 6 for ResNet-18, + 0.0095 at T = 20 for MobileNetV2",
        needs=frozenset({Need.TEACHER}),
        default_weights=DefaultWeights(ce=0.1, objective=0.9),
        terms=frozenset({"self"}),
    )

    temperature: Annotated[float, Field(gt=0, le=1000)] = 20.0

    def __call__(self, step: Step) -> Terms:
        """Term `self`, over all samples, labelled or not."""
        log_probs_BK = step.teacher.log_probs(self.temperature)
        loss_B = distillation(step.student.logits_BK, log_probs_BK, self.temperature)
        return {"self": Term(loss_B=loss_B)}
