"""The classes beside the target. Shapes: B batch, K classes, R = K − 1 other ones."""

from __future__ import annotations

import torch
from torch import Tensor


def others(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """The values of all classes but the target, in the order of classes.

    Args:
        logits_BK: Logits, or any values by class.
        target_B: Class index y; −1 where unlabelled (class 0 is then left out).

    Returns:
        logits_BR.
    """
    rank_R = torch.arange(logits_BK.shape[-1] - 1, device=target_B.device)
    # Class indices without the target's: those from the target on move up by one.
    column_BR = rank_R + (rank_R >= target_B.clamp(min=0)[:, None])
    return logits_BK.gather(-1, column_BR)
