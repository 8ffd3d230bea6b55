"""Whether a teacher knows anything: measured before anyone learns from it. Shapes: N rows, K classes.

A head that was never trained, a file of other weights or classes in another order give labels that
look like any others. One look at images with known classes tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Held-out images that a live teacher is asked of: enough to tell 99 % from chance.
ROWS = 512
LEVEL = 0.01


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a teacher got right, beside what naming the most frequent class always would.

    Attributes:
        correct: Right answers.
        rows: Labelled images that it was asked of.
        majority: Share of the most frequent class among them.
    """

    correct: int
    rows: int
    majority: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.rows

    @property
    def p_value(self) -> float:
        """P(X ≥ correct), X ~ Binomial(rows, majority): how often guessing does as well."""
        from scipy.special import betainc

        if self.correct == 0:
            return 1.0
        return float(betainc(self.correct, self.rows - self.correct + 1, self.majority))

    @property
    def conclusive(self) -> bool:
        """Whether there are images enough to tell: a perfect teacher would pass."""
        return self.majority**self.rows < LEVEL

    @property
    def passed(self) -> bool:
        """Better than guessing, one-sided, at the 1 % level."""
        return self.p_value < LEVEL


def judge(logits_NK: Tensor, target_N: Tensor) -> Verdict | None:
    """The verdict on a teacher's answers.

    Args:
        logits_NK: What it said, on the CPU.
        target_N: int64 class, −1 where unlabelled.

    Returns:
        None where nothing is labelled.
    """
    labelled_N = target_N >= 0
    target_N = target_N[labelled_N]
    if not len(target_N):
        return None
    return Verdict(
        correct=int((logits_NK[labelled_N].argmax(dim=-1) == target_N).sum()),
        rows=len(target_N),
        majority=float(torch.bincount(target_N).max()) / len(target_N),
    )


def sampled(target_N: Tensor) -> Tensor:
    """int64 rows to ask of: labelled ones, evenly spaced, at most `ROWS`."""
    rows = (target_N >= 0).nonzero()[:, 0]
    return rows[:: max(1, -(-len(rows) // ROWS))]
