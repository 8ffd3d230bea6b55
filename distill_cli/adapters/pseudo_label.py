"""Memory of a teacher's answers on samples without a label. Shapes: B batch, K classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill_cli.adapters.hooks import HasSummary
from distill_cli.losses.numerics import one_hot


class AnswerMemory(nn.Module, HasSummary):
    """Moving averages of a teacher's certainty, mean prediction and histogram of classes.

    x ← m·x + (1 − m)·(mean over the samples without a label), from 1/K on; FreeMatch, Wang et al.
    2023, arXiv 2205.07246. A batch without such samples leaves them as they are.

    Args:
        classes: K.
        momentum: m.
        thresholds: Whether thresholds are made of them.
    """

    certainty: Tensor
    mean_K: Tensor
    histogram_K: Tensor

    def __init__(self, classes: int, momentum: float, *, thresholds: bool) -> None:
        super().__init__()
        self.momentum, self.thresholds = momentum, thresholds
        self.register_buffer("certainty", torch.full((), 1 / classes))
        for name in ("mean_K", "histogram_K"):
            self.register_buffer(name, torch.full((classes,), 1 / classes))

    @torch.no_grad()
    def update(self, probs_BK: Tensor, unlabelled_B: Tensor) -> None:
        """Takes note of a batch, in place: a recorded step reads and writes this memory for ever.

        Args:
            probs_BK: q of all samples.
            unlabelled_B: bool, those that are noted.
        """
        weight_B1 = unlabelled_B[:, None].to(self.mean_K.dtype)
        count = weight_B1.sum()
        probs_BK = probs_BK.to(self.mean_K.dtype)
        most_B, class_B = probs_BK.max(dim=-1)
        class_BK = one_hot(class_B, len(self.mean_K)).to(self.mean_K.dtype)
        step = (count > 0).to(self.mean_K.dtype) * (1 - self.momentum)
        for memory, values_BX in (
            (self.certainty, most_B[:, None]),
            (self.mean_K, probs_BK),
            (self.histogram_K, class_BK),
        ):
            mean_X = (values_BX * weight_B1).sum(dim=0) / count.clamp(min=1)
            memory.lerp_(mean_X.view_as(memory), step)

    def threshold_K(self) -> Tensor:
        """τ·p̃_c / max p̃ of each class, τ the moving certainty."""
        return self.certainty * self.mean_K / self.mean_K.max()

    def summary(self, class_names: Sequence[str]) -> list[str]:
        """Where the thresholds ended."""
        if not self.thresholds:
            return []
        threshold_K = self.threshold_K()
        least, most = int(threshold_K.argmin()), int(threshold_K.argmax())
        return [
            f"thresholds ended between {float(threshold_K[least]):.2f} ({class_names[least]}) and "
            f"{float(threshold_K[most]):.2f} ({class_names[most]})"
        ]
