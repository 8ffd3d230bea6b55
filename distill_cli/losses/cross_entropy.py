"""Losses against hard labels. Shapes: B batch, K classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import UNLABELLED


def cross_entropy(logits_BK: Tensor, target_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against q = (1 − ε)·onehot(y) + ε/K, the target included in the spread.

    Szegedy et al. 2016, arXiv 1512.00567, section 7; ε = 0 is plain cross-entropy.

    Args:
        logits_BK: Student logits.
        target_B: Class index; −1 where unlabelled.
        smoothing: ε in [0, 1).

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    return F.cross_entropy(
        logits_BK, target_B, reduction="none", ignore_index=UNLABELLED, label_smoothing=smoothing
    )
