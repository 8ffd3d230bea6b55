"""Losses against soft labels. Shapes: B batch, K classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation(logits_BK: Tensor, teacher_log_probs_BK: Tensor, temperature: float) -> Tensor:
    """T²·KL(q ‖ p), with p = softmax(z/T) of the student and q the teacher's labels at T.

    Hinton, Vinyals, Dean 2014, arXiv 1503.02531, section 2. The gradient is T·(p − q), as of
    T²·CE(q, p); the KL also reaches 0 at a perfect match. Summed over classes, so that the mean
    over the batch is PyTorch's "batchmean" (a mean over B·K is smaller by a factor of K).

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows.
        temperature: T > 0.

    Returns:
        loss_B in nats times T².
    """
    log_probs_BK = F.log_softmax(logits_BK / temperature, dim=-1)
    divergence_BK = F.kl_div(
        log_probs_BK, teacher_log_probs_BK.detach(), reduction="none", log_target=True
    )
    return divergence_BK.sum(dim=-1) * temperature**2
