"""Local dimension of features, and labels that follow it. Shapes: B batch, K classes, D values.

D2L, Ma et al. 2018, arXiv 1806.02612: while a network learns what labels have in common, its
features take up fewer dimensions; when it begins to learn wrong labels by heart, more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.losses.numerics import one_hot, wide
from distill_cli.types import UNLABELLED


def local_dimension(feature_BD: Tensor, k: int = 20) -> Tensor:
    """LID(x) = −[(1/k)·Σ_{i≤k} log(r_i/r_k)]⁻¹, r_1 ≤ … ≤ r_k the distances to x's neighbours.

    Neighbours are sought within the batch. A row equal to x is x once more, not a
    neighbour of it.

    Args:
        feature_BD: Features of the last layer but one; no gradient flows. Memory grows with B².
        k: Neighbours, at least 2; fewer where the batch has no more.

    Returns:
        lid_B: 0, which is no estimate, where x has fewer than two neighbours, and where all of
        them are equally far.
    """
    assert k > 1, "one neighbour tells no dimension"
    feature_BD = wide(feature_BD.detach())
    # Not by ‖x‖² + ‖y‖² − 2xy, which cancels where rows are close.
    distance_BB = torch.cdist(feature_BD, feature_BD, compute_mode="donot_use_mm_for_euclid_dist")
    distance_BB = distance_BB.fill_diagonal_(torch.inf)
    distance_BB = torch.where(distance_BB > 0, distance_BB, torch.inf)
    nearest = min(k, len(feature_BD))
    radius_Bk = distance_BB.topk(nearest, dim=-1, largest=False).values
    found_Bk = radius_Bk.isfinite()
    neighbours_B = found_Bk.sum(dim=-1)
    farthest_B1 = torch.where(found_Bk, radius_Bk, 0.0).amax(dim=-1, keepdim=True)
    # log a − log b: the quotient of two very small distances may be inexact.
    log_ratio_Bk = torch.where(found_Bk, radius_Bk.log() - farthest_B1.log(), 0.0)
    mean_B = log_ratio_Bk.sum(dim=-1) / neighbours_B.clamp(min=1)
    # Radii that differ by rounding alone say as little as equal ones.
    apart_B = (neighbours_B > 1) & (mean_B < -torch.finfo(mean_B.dtype).eps * k)
    return torch.where(apart_B, -1 / torch.where(apart_B, mean_B, -1.0), 0.0)


def adapted_targets(target_B: Tensor, logits_BK: Tensor, alpha: float | Tensor) -> Tensor:
    """α·δ_y + (1 − α)·onehot(argmax_k z_k): the given label and the network's own answer.

    Args:
        target_B: Class index y, which may be wrong; −1 where unlabelled.
        logits_BK: The network's logits z; no gradient flows.
        alpha: α in [0, 1], a number or a scalar; 1 trusts the label.

    Returns:
        target_BK; rows of 0 where unlabelled.
    """
    classes, dtype = logits_BK.shape[-1], wide(logits_BK).dtype
    given_BK = one_hot(target_B.clamp(min=0), classes).to(dtype)
    answer_BK = one_hot(logits_BK.detach().argmax(dim=-1), classes).to(dtype)
    mixed_BK = alpha * given_BK + (1 - alpha) * answer_BK
    return mixed_BK.masked_fill((target_B == UNLABELLED)[:, None], 0)
