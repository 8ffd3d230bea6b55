"""The residual labels of Knowledge Refinery, learnt beside the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.adapters.class_optimizer import by_class
from distill_cli.adapters.class_relations import in_words
from distill_cli.adapters.hooks import HasClassRelations, HasSummary, OwnOptimizer


class ResidualMatrix(nn.Module, OwnOptimizer, HasClassRelations, HasSummary):
    """S, K × (K − 1) logits: how each class's residual mass lies on the others.

    It starts at zero, which is uniform, and has an optimiser of its own, without momentum or decay
    (Ding et al. 2021).

    Args:
        classes: K.
        rate: Learning rate of its optimiser, for the mean over the samples of one class.
    """

    def __init__(self, classes: int, rate: float) -> None:
        super().__init__()
        self.residual_KR = nn.Parameter(torch.zeros(classes, classes - 1))
        self.rate, self.classes = rate, classes

    def optimizer(self) -> torch.optim.Optimizer:
        """Plain SGD of S alone."""
        return by_class(self, self.classes, self.rate)

    @torch.no_grad()
    def relations(self) -> Tensor:
        """The labels learnt, as a (K, K) matrix of shares of the residual mass; 0 on the diagonal."""
        share_KR = F.softmax(self.residual_KR.float(), dim=-1)
        classes = len(share_KR)
        whole_KK = torch.zeros(classes, classes, device=share_KR.device)
        others_KK = ~torch.eye(classes, dtype=torch.bool, device=share_KR.device)
        whole_KK[others_KK] = share_KR.flatten()
        return whole_KK

    def summary(self, class_names: Sequence[str]) -> list[str]:
        """The pairs of classes that are confused most."""
        return [
            "most of the mass beside the label lies between "
            f"{in_words(self.relations(), class_names)}"
        ]
