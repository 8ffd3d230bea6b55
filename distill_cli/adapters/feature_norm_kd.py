"""The typical length of a frozen network's features. Shapes: B batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TypicalNorm(nn.Module):
    """√(mean ‖f‖²) over the first batch that it sees, and that value ever after."""

    norm: Tensor
    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm", torch.ones(()))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def forward(self, norm_B: Tensor) -> Tensor:
        """A scalar, without a gradient.

        Args:
            norm_B: ‖f‖ of each sample.
        """
        first = norm_B.detach().square().mean().sqrt()
        # Features of 0 have no length to go by; decided on the device, so that nothing waits.
        first = torch.where(first > 0, first, 1.0).to(self.norm.dtype)
        norm = torch.where(self.known, self.norm, first)
        # Written in place: a recorded step reads and writes this memory for ever.
        self.norm.copy_(norm)
        self.known.fill_(True)
        return norm
