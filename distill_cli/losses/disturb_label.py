"""Labels redrawn at random. Shapes: B batch, K classes."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.types import UNLABELLED


def disturbed(target_B: Tensor, classes: int, alpha: float, uniform_B2: Tensor) -> Tensor:
    """The label y with probability 1 − α, otherwise one of all K classes, y included.

    DisturbLabel, Xie et al. 2016, arXiv 1605.00055. A label becomes wrong with probability
    α·(K − 1)/K; in expectation, cross-entropy on the draw is label smoothing with ε = α.

    Args:
        target_B: Class index y; −1 where unlabelled.
        classes: K.
        alpha: α in [0, 1].
        uniform_B2: Two independent draws from [0, 1) for each sample: whether, and
            which. In fp32 or wider, for 16 bits do not reach every class.

    Returns:
        target_B; −1 where unlabelled.
    """
    whether_B, which_B = wide(uniform_B2).unbind(dim=-1)
    # A draw next to 1 rounds up to K.
    drawn_B = (which_B * classes).floor().to(target_B.dtype).clamp(max=classes - 1)
    redraw_B = (whether_B < alpha) & (target_B != UNLABELLED)
    return torch.where(redraw_B, drawn_B, target_B)
