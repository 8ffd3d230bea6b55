"""Knowledge distillation of independent labels: the teacher's softened sigmoids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.sigmoid_kd import sigmoid_distillation
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class SigmoidDistillation:
    """T²·Σ_k KL(Ber(σ(v_k/T)) ‖ Ber(σ(z_k/T))), summed over labels.

    Attributes:
        temperature: T, softens teacher and student alike.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="sigmoid-kd",
        summary="match the teacher's softened probability of each label, summed over labels",
        paper="Hinton, Vinyals, Dean 2014, arXiv 1503.02531, of two classes a label",
        defaults="ours, after kd's",
        needs=frozenset({Need.TEACHER, Need.LOGITS}),
        default_weights=DefaultWeights(ce=0.1, objective=0.9),
        targets=frozenset({"sigmoid"}),
        terms=frozenset({"sigmoid_kd"}),
    )

    temperature: Temperature = 4.0

    def __call__(self, step: Step) -> Terms:
        """Term `sigmoid_kd`, over all samples, labelled or not."""
        loss_B = sigmoid_distillation(
            step.student.logits_BK, step.teacher_logits_BK, self.temperature
        )
        return {"sigmoid_kd": Term(loss_B=loss_B)}
