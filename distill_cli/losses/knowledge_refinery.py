"""Learnt labels for the other classes. Shapes: B batch, K classes, R = K − 1 residual ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.types import UNLABELLED


def others(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """The logits of all classes but the target, in the order of classes.

    Args:
        logits_BK: Logits.
        target_B: Class index y; −1 where unlabelled (class 0 is then left out).

    Returns:
        logits_BR.
    """
    rank_R = torch.arange(logits_BK.shape[-1] - 1, device=target_B.device)
    # Class indices without the target's: those from the target on move up by one.
    column_BR = rank_R + (rank_R >= target_B.clamp(min=0)[:, None])
    return logits_BK.gather(-1, column_BR)


def refine(
    logits_BK: Tensor, residual_KR: Tensor, target_B: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """KL(p ‖ sg q) for the student and KL(q ‖ sg p) for the labels, over the other classes only.

    Knowledge Refinery, Ding et al. 2021, "Knowledge refinery: learning from decoupled label".
    p = softmax of `others`, q = softmax S_y, sg a constant.

    Args:
        logits_BK: Student logits z.
        residual_KR: S, the learnt logits of residual labels, row y those of class y; all 0, their
            start, is uniform labels.
        target_B: Class index y; −1 where unlabelled.
        reverse: Both in the other direction: KL(sg q ‖ p) and KL(sg p ‖ q).

    Returns:
        student_B, from which gradients reach z alone, and matrix_B, from which they reach S
        alone, in nats; both 0 where unlabelled.
    """
    log_probs_BR = F.log_softmax(others(wide(logits_BK), target_B), dim=-1)
    log_labels_BR = F.log_softmax(wide(residual_KR)[target_B.clamp(min=0)], dim=-1)
    student, matrix = (
        (log_probs_BR, log_labels_BR.detach()),
        (log_labels_BR, log_probs_BR.detach()),
    )
    unlabelled_B = target_B == UNLABELLED
    student_B, matrix_B = (
        _divergence(*(pair[::-1] if reverse else pair)).masked_fill(unlabelled_B, 0)
        for pair in (student, matrix)
    )
    return student_B, matrix_B


def _divergence(log_probs_BR: Tensor, other_log_probs_BR: Tensor) -> Tensor:
    """KL of each row, with gradients to both sides."""
    return (log_probs_BR.exp() * (log_probs_BR - other_log_probs_BR)).sum(dim=-1)
