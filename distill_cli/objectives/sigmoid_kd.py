"""Knowledge distillation of independent labels: the teacher's softened sigmoids.

Shapes: B batch, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


def sigmoid_distillation(
    logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float
) -> Tensor:
    """T²·Σ_k KL(σ(v_k/T) ‖ σ(z_k/T)): the binary cross-entropy less the teacher's entropy.

    Hinton, Vinyals, Dean 2014, arXiv 1503.02531, section 2, with a label for a class: on logits
    (0, z) of two classes, the softmax's divergence is this one.

    Args:
        logits_BK: Student logits z.
        teacher_logits_BK: Teacher logits v; no gradient flows.
        temperature: T > 0.

    Returns:
        loss_B in nats times T².
    """
    student_BK = logits_BK / temperature
    teacher_BK = teacher_logits_BK.detach() / temperature
    # Difference by difference: entropy and cross-entropy would cancel near a match.
    on_BK = teacher_BK.sigmoid() * (F.logsigmoid(teacher_BK) - F.logsigmoid(student_BK))
    off_BK = (-teacher_BK).sigmoid() * (F.logsigmoid(-teacher_BK) - F.logsigmoid(-student_BK))
    return (on_BK + off_BK).sum(dim=-1) * temperature**2


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
