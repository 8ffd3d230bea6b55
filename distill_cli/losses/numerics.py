"""Preparation of inputs that several losses share. Shapes: X rows, D values."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least fp32: what comes from under autocast may be in 16 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def one_hot(target_B: Tensor, classes: int) -> Tensor:
    """δ_y as bool (B, K); no class where unlabelled.

    `F.one_hot` looks at the indices before it answers, and so waits for the device.

    Args:
        target_B: Class index y; −1 where unlabelled.
        classes: K.
    """
    return target_B[:, None] == torch.arange(classes, device=target_B.device)


def directions(rows_XD: Tensor) -> Tensor:
    """x / ‖x‖₂ of each row, so that products are cosines; 0 where a row is 0, its gradient too."""
    norm_X1 = torch.linalg.vector_norm(rows_XD, dim=-1, keepdim=True)
    # A row of next to nothing has no direction; over its norm, its gradient explodes.
    apart_X1 = norm_X1 > 1e-12
    return torch.where(apart_X1, rows_XD / torch.where(apart_X1, norm_X1, 1.0), 0.0)
