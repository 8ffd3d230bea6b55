"""Distillation in two parts, target class and other classes. Shapes: B batch, K classes, J = K − 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import UNLABELLED


def decoupled(
    logits_BK: Tensor, teacher_log_probs_BK: Tensor, target_B: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD = T²·KL(b^q ‖ b^p) and NCKD = T²·KL(q̂ ‖ p̂), the two parts of distillation.

    Zhao et al. 2022, arXiv 2203.08679. b = (p_y, 1 − p_y) is the target class against
    the rest, p̂_k = p_k / (1 − p_y) the distribution over the J other classes; p = softmax(z/T) is
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
    target_B1 = target_B.clamp(min=0)[:, None]
    rank_J = torch.arange(logits_BK.shape[-1] - 1, device=target_B.device)
    # Class indices without the target's: those from the target on move up by one.
    others_BJ = rank_J + (rank_J >= target_B1)
    binary_B2, rest_BJ = _split(
        F.log_softmax(logits_BK / temperature, dim=-1), target_B1, others_BJ
    )
    teacher_binary_B2, teacher_rest_BJ = _split(
        # A probability of 0 counts 0·log 0 = 0, not NaN.
        teacher_log_probs_BK.detach().clamp(min=log_floor),
        target_B1,
        others_BJ,
    )
    unlabelled_B = target_B == UNLABELLED
    tckd_B = _divergence(teacher_binary_B2, binary_B2).masked_fill(unlabelled_B, 0)
    nckd_B = _divergence(teacher_rest_BJ, rest_BJ).masked_fill(unlabelled_B, 0)
    return tckd_B * temperature**2, nckd_B * temperature**2


def _split(log_probs_BK: Tensor, target_B1: Tensor, others_BJ: Tensor) -> tuple[Tensor, Tensor]:
    """(log p_y, log(1 − p_y)) as (B, 2), and log p̂ over the other classes as (B, J)."""
    log_others_BJ = log_probs_BK.gather(-1, others_BJ)
    # The others' sum is 1 − p_y without the cancellation at p_y ≈ 1.
    log_rest_B1 = log_others_BJ.logsumexp(dim=-1, keepdim=True)
    binary_B2 = torch.cat([log_probs_BK.gather(-1, target_B1), log_rest_B1], dim=-1)
    return binary_B2, F.log_softmax(log_others_BJ, dim=-1)


def _divergence(teacher_log_probs_BX: Tensor, log_probs_BX: Tensor) -> Tensor:
    """KL(q ‖ p) per row."""
    return F.kl_div(log_probs_BX, teacher_log_probs_BX, reduction="none", log_target=True).sum(-1)
