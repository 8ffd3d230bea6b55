"""Moving centres of classes. Shapes: K classes, D values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingCentres(nn.Module):
    """c_k ← m·c_k + (1 − m)·mean of the batch's samples of class k, for the classes in it.

    A class that was not seen before takes the batch's mean. Gradients flow through the batch's
    share (1 − m) of what it answers, and never into the memory.

    Args:
        classes: K.
        values: D, features or logits.
        momentum: m.
    """

    centre_KD: Tensor
    seen_K: Tensor

    def __init__(self, classes: int, values: int, momentum: float) -> None:
        super().__init__()
        self.register_buffer("centre_KD", torch.zeros(classes, values))
        self.register_buffer("seen_K", torch.zeros(classes, dtype=torch.bool))
        self.momentum = momentum

    def forward(self, mean_KD: Tensor, present_K: Tensor) -> tuple[Tensor, Tensor]:
        """The centres after this batch, and which classes have one.

        Args:
            mean_KD: Means of the batch's samples, class by class.
            present_K: bool, the classes that it has samples of.
        """
        # A copy, for the gradient of this batch needs it when the memory has moved on.
        seen_K = self.seen_K.clone()
        kept_KD = self.momentum * self.centre_KD
        moved_KD = torch.where(seen_K[:, None], kept_KD + (1 - self.momentum) * mean_KD, mean_KD)
        now_KD = torch.where(present_K[:, None], moved_KD, self.centre_KD)
        now_K = seen_K | present_K
        # Written in place: a recorded step reads and writes this memory for ever.
        self.centre_KD.copy_(now_KD.detach())
        self.seen_K.copy_(now_K)
        return now_KD, now_K
