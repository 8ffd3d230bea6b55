"""Losses between inner features. Shapes: B batch, C channels, H, W; P = H·W positions; D values.

Features may come in 16 bits from under autocast: they are widened first, for squares of them
overflow. A scalar is a relation of the whole batch, without a value per sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hint(feat_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """½·mean_CHW (r − t)², the guided layer's output r against the hint t.

    Romero et al. 2015, arXiv 1412.6550, eq. 3, where it is the sum over C, H, W; the mean makes
    the learning rate independent of the layer's size.

    Args:
        feat_BCHW: The student's features, after the regressor.
        teacher_BCHW: The teacher's, of the same shape; no gradient flows.

    Returns:
        loss_B.
    """
    assert feat_BCHW.shape == teacher_BCHW.shape, "a regressor maps features to the hint's shape"
    difference_BCHW = _wide(feat_BCHW) - _wide(teacher_BCHW.detach())
    return difference_BCHW.square().flatten(1).mean(dim=-1) / 2


def attention_map(feat_BCHW: Tensor) -> Tensor:
    """vec(mean_C F²) / ‖vec(mean_C F²)‖₂: where a layer is active. 0 where it is not at all.

    Zagoruyko, Komodakis 2017, arXiv 1612.03928.

    Args:
        feat_BCHW: Features.

    Returns:
        map_BP of norm 1.
    """
    return F.normalize(_energy(feat_BCHW).flatten(1), dim=-1)


def attention(feat_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """mean_P (A_S − A_T)² of the normalised attention maps A.

    Zagoruyko, Komodakis 2017, arXiv 1612.03928, in the released code's form; the paper has
    the norm of the difference instead. Channels may differ; where sizes do, the larger map is
    averaged over windows down to the smaller, in each dimension.

    Args:
        feat_BCHW: The student's features.
        teacher_BCHW: The teacher's; no gradient flows.

    Returns:
        loss_B.
    """
    energy_BHW, teacher_BHW = _energy(feat_BCHW), _energy(teacher_BCHW.detach())
    height = min(energy_BHW.shape[-2], teacher_BHW.shape[-2])
    width = min(energy_BHW.shape[-1], teacher_BHW.shape[-1])
    map_BP, teacher_BP = (
        F.normalize(_pooled(x_BHW, height, width).flatten(1), dim=-1)
        for x_BHW in (energy_BHW, teacher_BHW)
    )
    return (map_BP - teacher_BP).square().mean(dim=-1)


def similarity(feat_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """‖G_T − G_S‖²_F / B², G the rows of F·Fᵀ over ‖·‖₂, F the flattened features.

    Tung, Mori 2019, arXiv 1907.09682: samples alike to the teacher should be so to the
    student; neither channels nor sizes need agree.

    Args:
        feat_BCHW: The student's features.
        teacher_BCHW: The teacher's; no gradient flows.

    Returns:
        A scalar.
    """
    gram_BB, teacher_BB = (
        F.normalize(x_BD @ x_BD.T, dim=-1)
        for x_BD in (_wide(feat_BCHW).flatten(1), _wide(teacher_BCHW.detach()).flatten(1))
    )
    return (teacher_BB - gram_BB).square().mean()


def relational_distance(feat_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean_ij l(ψ_ij(T), ψ_ij(S)), ψ_ij = ‖x_i − x_j‖₂ / μ, μ the mean distance over i ≠ j.

    RKD-D, Park et al. 2019, arXiv 1904.05068; l is the smooth L1 (Huber's, δ = 1), the
    mean is over all B·B pairs, as in the authors' code. Rows that coincide count in μ, in the paper
    and in that code, where they are 1e-6 apart. Memory grows with B²·D.

    Args:
        feat_BD: The student's embeddings.
        teacher_BD: The teacher's; D may differ; no gradient flows.

    Returns:
        A scalar.
    """
    return F.smooth_l1_loss(_distances(feat_BD), _distances(teacher_BD.detach()))


def relational_angle(feat_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean_ijk l(cos_ijk(T), cos_ijk(S)), the angle at x_i between x_j and x_k.

    RKD-A, Park et al. 2019, arXiv 1904.05068; l is the smooth L1 (Huber's, δ = 1), the
    mean is over all B·B·B triplets; the cosine is 0 where a corner meets x_i. Memory grows with
    B²·D + B³.

    Args:
        feat_BD: The student's embeddings.
        teacher_BD: The teacher's; D may differ; no gradient flows.

    Returns:
        A scalar.
    """
    return F.smooth_l1_loss(_cosines(feat_BD), _cosines(teacher_BD.detach()))


def _wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _energy(feat_BCHW: Tensor) -> Tensor:
    """mean_C F², (B, H, W)."""
    return _wide(feat_BCHW).square().mean(dim=1)


def _pooled(map_BHW: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling as two products: PyTorch's own has no deterministic gradient."""
    rows_hH = _windows(map_BHW, map_BHW.shape[-2], height)
    columns_wW = _windows(map_BHW, map_BHW.shape[-1], width)
    return rows_hH @ map_BHW @ columns_wW.T


def _windows(like: Tensor, size: int, windows: int) -> Tensor:
    """Weights (windows, size) that average [⌊i·size/windows⌋, ⌈(i + 1)·size/windows⌉)."""
    window_w1 = torch.arange(windows, device=like.device)[:, None]
    place_s = torch.arange(size, device=like.device)
    # place < ⌈a/b⌉ is place·b < a, and place ≥ ⌊a/b⌋ is (place + 1)·b > a.
    inside_ws = (place_s * windows < (window_w1 + 1) * size) & (
        (place_s + 1) * windows > window_w1 * size
    )
    weights_ws = inside_ws.to(like.dtype)
    return weights_ws / weights_ws.sum(dim=-1, keepdim=True)


def _differences(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """x_j − x_i as (B, B, D), and its norms (B, B).

    Not by ‖x‖² + ‖y‖² − 2xy, which cancels where rows are close.
    """
    difference_BBD = x_BD[None, :, :] - x_BD[:, None, :]
    # The norm's gradient at 0 is defined, as 0; a root of a sum of squares has none.
    return difference_BBD, torch.linalg.vector_norm(difference_BBD, dim=-1)


def _distances(x_BD: Tensor) -> Tensor:
    """Pairwise distances over their mean, of rows with others; all 0 where all rows coincide."""
    _, distance_BB = _differences(_wide(x_BD))
    rows = len(x_BD)
    mean = distance_BB.sum() / max(1, rows * (rows - 1))
    return distance_BB / torch.where(mean > 0, mean, 1.0)


def _cosines(x_BD: Tensor) -> Tensor:
    """cos of the angle at row i between rows j and k, (B, B, B)."""
    wide_BD = _wide(x_BD)
    difference_BBD, distance_BB = _differences(wide_BD)
    # Rows apart by their rounding have no direction; over their distance, its gradient explodes.
    rounding = 16 * torch.finfo(wide_BD.dtype).eps * wide_BD.detach().abs().amax()
    apart_BB = distance_BB > rounding
    unit_BBD = difference_BBD / torch.where(apart_BB, distance_BB, 1.0)[..., None]
    return unit_BBD @ unit_BBD.mT
