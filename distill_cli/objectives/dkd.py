"""Decoupled knowledge distillation. Shapes: B batch, K classes, R = K − 1 other ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.other_classes import others
from distill_cli.objectives.base import ObjectiveInfo, Step, Temperature, main_target
from distill_cli.types import UNLABELLED, Need, Term, Terms


def decoupled(
    logits_BK: Tensor, teacher_log_probs_BK: Tensor, target_B: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD = T²·KL(b^q ‖ b^p) and NCKD = T²·KL(q̂ ‖ p̂), the two parts of distillation.

    Zhao et al. 2022, arXiv 2203.08679. b = (p_y, 1 − p_y) is the target class against
    the rest, p̂_k = p_k / (1 − p_y) the distribution over the R other classes; p = softmax(z/T) is
    the student's, q the teacher's. T²·KL(q ‖ p) = TCKD + (1 − q_y)·NCKD: distillation weighs what
    a teacher says of other classes down where it is sure of the target; the paper weighs the two
    by constants.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows. Where q is 0 on all other
            classes, q̂ is taken as uniform.
        target_B: Class index y; −1 where unlabelled.
        temperature: T > 0.

    Returns:
        tckd_B and nckd_B, in nats times T²; both 0 where unlabelled.
    """
    log_floor = torch.finfo(teacher_log_probs_BK.dtype).min
    binary_B2, rest_BR = _split(F.log_softmax(logits_BK / temperature, dim=-1), target_B)
    teacher_binary_B2, teacher_rest_BR = _split(
        # A probability of 0 counts 0·log 0 = 0, not NaN.
        teacher_log_probs_BK.detach().clamp(min=log_floor),
        target_B,
    )
    unlabelled_B = target_B == UNLABELLED
    tckd_B = _divergence(teacher_binary_B2, binary_B2).masked_fill(unlabelled_B, 0)
    nckd_B = _divergence(teacher_rest_BR, rest_BR).masked_fill(unlabelled_B, 0)
    return tckd_B * temperature**2, nckd_B * temperature**2


def _split(log_probs_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """(log p_y, log(1 − p_y)) as (B, 2), and log p̂ over the other classes as (B, R)."""
    log_others_BR = others(log_probs_BK, target_B)
    log_target_B1 = log_probs_BK.gather(-1, target_B.clamp(min=0)[:, None])
    # The others' sum is 1 − p_y without the cancellation at p_y ≈ 1.
    log_rest_B1 = log_others_BR.logsumexp(dim=-1, keepdim=True)
    binary_B2 = torch.cat([log_target_B1, log_rest_B1], dim=-1)
    return binary_B2, F.log_softmax(log_others_BR, dim=-1)


def _divergence(teacher_log_probs_BX: Tensor, log_probs_BX: Tensor) -> Tensor:
    """KL(q ‖ p) per row."""
    return F.kl_div(log_probs_BX, teacher_log_probs_BX, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True, kw_only=True)
class DecoupledDistillation:
    """T²·(α·TCKD + β·NCKD): of the target against the rest, and among the other classes.

    Plain KD is TCKD + (1 − q_y)·NCKD, which silences the second where the teacher is sure.

    Attributes:
        temperature: T.
        target: α, of the target against the rest.
        others: β, among the other classes.
        warmup: Share of training over which the term grows from 0 (the paper: 20 of 240 epochs).
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="dkd",
        summary="weigh the target class and the other classes of the teacher apart",
        paper="Zhao et al. 2022, arXiv 2203.08679",
        defaults="the authors' code's for CIFAR-100, of which β goes by the pair of networks. Their "
        "warm-up is 20 of 240 epochs and grows by the epoch, ours is the same share and grows "
        "by the step",
        needs=frozenset({Need.TEACHER}),
        rows="labelled",
        terms=frozenset({"tckd", "nckd"}),
    )

    temperature: Temperature = 4.0
    target: Annotated[float, Field(ge=0)] = 1.0
    others: Annotated[float, Field(ge=0)] = 8.0
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.083

    def __call__(self, step: Step) -> Terms:
        """Terms `tckd` and `nckd`, with their weights, over the labelled samples."""
        target_B = main_target(step.batch)
        log_probs_BK = step.teacher.log_probs(self.temperature)
        target_term_B, others_term_B = decoupled(
            step.student.logits_BK, log_probs_BK, target_B, self.temperature
        )
        grown = step.progress.grown(self.warmup)
        return {
            "tckd": Term(loss_B=grown * self.target * target_term_B, rows="labelled"),
            "nckd": Term(loss_B=grown * self.others * others_term_B, rows="labelled"),
        }
