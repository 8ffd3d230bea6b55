"""Normalised knowledge distillation. Shapes: B batch, K classes, R = K − 1 other ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.losses.other_classes import others
from distill_cli.objectives.base import ObjectiveInfo, Step, Temperature, main_target
from distill_cli.types import UNLABELLED, Need, Term, Terms


def soft_target(logits_BK: Tensor, teacher_log_probs_BK: Tensor, target_B: Tensor) -> Tensor:
    """−q_y·log p_y, cross-entropy weighed by how sure the teacher is of the label.

    NKD, Yang et al. 2023, arXiv 2303.13005. p = softmax z is the student's, q the teacher's, both
    at T = 1.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, at T = 1; no gradient flows.
        target_B: Class index y; −1 where unlabelled.

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    column_B1 = target_B.clamp(min=0)[:, None]
    log_prob_B = F.log_softmax(wide(logits_BK), dim=-1).gather(-1, column_B1)[:, 0]
    sure_B = teacher_log_probs_BK.detach().gather(-1, column_B1)[:, 0].exp()
    return (-sure_B * log_prob_B).masked_fill(target_B == UNLABELLED, 0)


def normalised_others(
    logits_BK: Tensor, teacher_log_probs_BK: Tensor, target_B: Tensor, temperature: float
) -> Tensor:
    """T²·CE(q̂, p̂), x̂_k = x_k / (1 − x_y) the distribution over the R other classes.

    NKD, Yang et al. 2023, arXiv 2303.13005; p = softmax(z/T) is the student's, q the teacher's. This
    is DKD's NCKD, T²·KL(q̂ ‖ p̂), plus T²·H(q̂), which the student cannot change: the gradients are
    equal, and at a perfect match the entropy remains.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows. Where q is 0 on all other
            classes, q̂ is taken as uniform.
        target_B: Class index y; −1 where unlabelled.
        temperature: T > 0.

    Returns:
        loss_B in nats times T²; 0 where unlabelled, and where there is one other class only.
    """
    log_probs_BR = F.log_softmax(others(wide(logits_BK), target_B) / temperature, dim=-1)
    # Normalised by a softmax over the others' logarithms, without a division by 1 − q_y ≈ 0.
    log_floor = torch.finfo(teacher_log_probs_BK.dtype).min
    teacher_BR = others(teacher_log_probs_BK.detach().clamp(min=log_floor), target_B).softmax(-1)
    loss_B = -(teacher_BR * log_probs_BR).sum(dim=-1) * temperature**2
    return loss_B.masked_fill(target_B == UNLABELLED, 0)


@dataclass(frozen=True, kw_only=True)
class NormalisedDistillation:
    """−α·q_y·log p_y + γ·T²·CE(q̂_T, p̂_T), where x̂ is x over the classes beside the label, of sum 1.

    CE(q, p) is −q_y·log p_y − Σ_{k≠y} q_k·log p_k; in its second part the two sides have different
    sums, and a student cannot match its teacher there. The first term has no temperature. The
    second is the cross-entropy as printed: its gradient is that of T²·KL(q̂ ‖ p̂), the `nckd` of
    `dkd`, and its smallest value is the entropy of q̂, times T².

    One version of the authors' code masks no class in the second term, so that the label counts as
    one of the others; the paper, other versions and this form leave it out. The label of a mixed
    image is the class of its larger share, there and here.

    Attributes:
        temperature: T (the paper's λ), softens teacher and student in the second term alone.
        target: α, of the label.
        others: γ, among the other classes; ImageNet has 1.5 at T = 1.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="nkd",
        summary="weigh the label by the teacher's certainty, and match the other classes as a whole",
        paper="Yang et al. 2023, arXiv 2303.13005",
        defaults="the authors' code's for ResNet-18 after ResNet-34 on CIFAR-100; for ImageNet it has "
        "T = 1 and γ = 1.5. α is 1 in both, where it is no parameter",
        needs=frozenset({Need.TEACHER}),
        rows="labelled",
        terms=frozenset({"nkd_target", "nkd_others"}),
    )

    temperature: Temperature = 3.0
    target: Annotated[float, Field(ge=0)] = 1.0
    others: Annotated[float, Field(ge=0)] = 3.5

    def __call__(self, step: Step) -> Terms:
        """Terms `nkd_target` and `nkd_others`, with their weights, over the labelled samples."""
        logits_BK, target_B = step.student.logits_BK, main_target(step.batch)
        target_term_B = soft_target(logits_BK, step.teacher.log_probs(1.0), target_B)
        others_term_B = normalised_others(
            logits_BK, step.teacher.log_probs(self.temperature), target_B, self.temperature
        )
        return {
            "nkd_target": Term(loss_B=self.target * target_term_B, rows="labelled"),
            "nkd_others": Term(loss_B=self.others * others_term_B, rows="labelled"),
        }
