"""Optimisers of adapters that learn on their own."""

from __future__ import annotations

import torch
from torch import nn


def by_class(rows: nn.Module, classes: int, rate: float) -> torch.optim.Optimizer:
    """Plain SGD, without momentum or decay, for parameters with a row a class.

    Each row learns from its own class's samples, a K-th of those that the loss is the mean of.

    Args:
        rows: Module that holds them.
        classes: K.
        rate: Learning rate for the mean over the samples of one class.
    """
    # On a GPU the fused one, whose step a gradient scaler need not wait for.
    fused = any(parameter.is_cuda for parameter in rows.parameters())
    return torch.optim.SGD(rows.parameters(), lr=rate * classes, fused=fused or None)
