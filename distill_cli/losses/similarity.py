"""Similarity-preserving distillation: how samples resemble each other. Shapes: B batch, C channels, H×W positions.

Features may come in 16 bits from under autocast: they are widened first, for squares of them
overflow.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide


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
        for x_BD in (wide(feat_BCHW).flatten(1), wide(teacher_BCHW.detach()).flatten(1))
    )
    return (teacher_BB - gram_BB).square().mean()
