"""z-scores, of logits and of any rows. Shapes: B batch, K classes."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows no longer than it, in smallest numbers of their type, have no gradient that it can hold.
_SMALLEST_SIZE = 1e8


def standardise(logits_BK: Tensor, *, unbiased: bool = False) -> Tensor:
    """The z-score of each row, (v − mean_k v) / sd_k v.

    Sun et al. 2024, arXiv 2403.01427. Variation is measured against the row's own size, so that a
    row of 1e-20 is as good as any; one that does not vary beyond rounding is centred only: its z-scores
    are 0 and its gradient stays bounded, instead of 1/sd.

    Args:
        logits_BK: Logits, or any rows.
        unbiased: Variance over K − 1, as in the released code, instead of over K, as in the paper.

    Returns:
        Rows of mean 0 and standard deviation 1.
    """
    limits = torch.finfo(logits_BK.dtype)
    centred_BK = logits_BK - logits_BK.mean(dim=-1, keepdim=True)
    size_B1 = logits_BK.detach().abs().amax(dim=-1, keepdim=True)
    # Scaled before it is squared: squares of small numbers leave the range of fp32.
    scale_B1 = torch.where(size_B1 > _SMALLEST_SIZE * limits.tiny, size_B1, 1.0)
    columns = logits_BK.shape[-1]
    # max(1, …): a row of one has no K − 1 to divide by, and no variance either.
    divisor = max(1, columns - 1) if unbiased else columns
    variance_B1 = (centred_BK / scale_B1).square().sum(dim=-1, keepdim=True) / divisor
    varies_B1 = variance_B1 > (16 * limits.eps) ** 2
    # The choices come before the divisions and the root, whose gradient at 0 is infinite.
    scaled_BK = centred_BK / torch.where(varies_B1, scale_B1, 1.0)
    return scaled_BK / torch.where(varies_B1, variance_B1, 1.0).sqrt()
