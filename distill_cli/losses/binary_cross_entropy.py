"""Cross-entropy of independent labels, one sigmoid each, summed over labels. Shapes: B batch, K labels."""

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
