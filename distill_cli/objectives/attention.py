"""Attention transfer: where a layer is active. Shapes: B batch, C channels, H×W positions.

Features may come in 16 bits from under autocast: they are widened first, for squares of them
overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


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


def _energy(feat_BCHW: Tensor) -> Tensor:
    """mean_C F², (B, H, W)."""
    return wide(feat_BCHW).square().mean(dim=1)


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


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(PairsLayers):
    """mean_P (A_S − A_T)², A = vec(mean_C F²)/‖vec(mean_C F²)‖₂: where a layer F is active, P places.

    Channels may differ. Where maps differ in size, the larger is averaged over windows down to the
    smaller, in each dimension, before it is normalised; the paper pairs maps of one size. Pairs are
    summed. Its released code has this form; the paper has the norm of the difference.

    Attributes:
        pairs: Layers of student and teacher; none for the last of each resolution.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="attention",
        summary="look where the teacher looks",
        paper="Zagoruyko, Komodakis 2017, arXiv 1612.03928",
        defaults="weight and form are the authors' code's",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        default_weights=DefaultWeights(objective=1000.0),
        rule="stages",
        terms=frozenset({"attention"}),
    )

    pairs: tuple[Pair, ...] = ()

    def __call__(self, step: Step) -> Terms:
        """Term `attention`, the sum over the pairs."""
        losses = [
            attention(step.student.features[own], step.teacher.features[other])
            for own, other in self.pairs
        ]
        return {"attention": Term(loss_B=sum(losses[1:], losses[0]))}
