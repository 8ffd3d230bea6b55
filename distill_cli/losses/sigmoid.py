"""Losses of independent labels, one sigmoid each. Shapes: B batch, K labels.

Summed over labels, as the losses over classes are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import UNLABELLED


def binary_cross_entropy(logits_BK: Tensor, target_BK: Tensor, smoothing: float = 0.0) -> Tensor:
    """−Σ_k [t_k·log σ(z_k) + (1 − t_k)·log(1 − σ(z_k))], t = ε for a target of 0, 1 − ε for 1.

    Args:
        logits_BK: Student logits z.
        target_BK: 1 where a label applies, 0 where it does not, −1 where that is not known.
        smoothing: ε in [0, 0.5).

    Returns:
        loss_B in nats; 0 for a row of −1 alone, a sample without labels.
    """
    soft_BK = smoothing + (1 - 2 * smoothing) * target_BK.to(logits_BK.dtype)
    loss_BK = F.binary_cross_entropy_with_logits(logits_BK, soft_BK, reduction="none")
    return loss_BK.masked_fill(target_BK == UNLABELLED, 0).sum(dim=-1)


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
