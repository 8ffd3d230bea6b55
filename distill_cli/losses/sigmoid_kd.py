"""Losses of independent labels, one sigmoid each. Shapes: B batch, K labels.

Summed over labels, as the losses over classes are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
