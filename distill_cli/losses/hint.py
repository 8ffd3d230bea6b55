"""The loss of hints: a layer against a teacher's. Shapes: B batch, C channels, H×W positions.

Features may come in 16 bits from under autocast: they are widened first, for squares of them
overflow.
"""

from __future__ import annotations

from torch import Tensor

from distill_cli.losses.numerics import wide


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
    difference_BCHW = wide(feat_BCHW) - wide(teacher_BCHW.detach())
    return difference_BCHW.square().flatten(1).mean(dim=-1) / 2
