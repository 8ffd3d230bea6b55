"""Target distributions by class: a matrix that a person can look at."""

from __future__ import annotations

from torch import Tensor, nn

from distill_cli.adapters.hooks import HasClassRelations


class TargetMatrix(nn.Module, HasClassRelations):
    """The label of each class: row y is the distribution over classes for label y.

    Args:
        target_KK: Rows sum to 1.
    """

    target_KK: Tensor

    def __init__(self, target_KK: Tensor) -> None:
        super().__init__()
        self.register_buffer("target_KK", target_KK.float())

    def forward(self, target_B: Tensor) -> Tensor:
        """The rows (B, K) of some labels; any row where unlabelled (−1)."""
        return self.target_KK[target_B.clamp(min=0)]

    def relations(self) -> Tensor:
        """The matrix itself."""
        return self.target_KK
