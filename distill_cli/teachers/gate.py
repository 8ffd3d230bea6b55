"""Whether a teacher knows anything: measured before anyone learns from it.

Shapes: N rows, K classes or labels.

A head that was never trained, a file of other weights or classes in another order give labels that
look like any others. One look at images with known classes tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distill_cli.counters import Purpose, few_of, permutation
from distill_cli.errors import counted
from distill_cli.metrics import Rankings

# Held-out images that a live teacher is asked of: enough to tell 99 % from chance.
ROWS = 512
LEVEL = 0.01
# Of the rows, that several labels are compared under: at the level above, none may be as good.
PERMUTATIONS = 199
ROUNDING = 1e-12


class Judgement(Protocol):
    """What a teacher knows, beside what one that does not look would."""

    @property
    def conclusive(self) -> bool:
        """Whether there are images enough to tell: a perfect teacher would pass."""

    @property
    def passed(self) -> bool:
        """Better than guessing, one-sided, at the 1 % level."""

    def said(self, image: str) -> str:
        """How good it is, in words; `image` is the noun for one that it was asked of."""

    def guessing(self) -> str:
        """How good guessing is, in words."""


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

    def said(self, image: str) -> str:
        """The share of right answers."""
        return f"right on {100 * self.accuracy:.1f} % of {counted(self.rows, image)}"

    def guessing(self) -> str:
        """The share of the most frequent class."""
        return f"naming one class always is on {100 * self.majority:.1f} %"


@dataclass(frozen=True, kw_only=True)
class LabelVerdict:
    """How well a teacher ranks images for each label, beside how it ranks other images' labels.

    Attributes:
        average_precision: Mean over labels.
        shuffled: The same against labels of permuted rows: mean over permutations.
        p_value: Share of the permutations, this order included, that are as good.
        best_p_value: What a perfect teacher's would be.
        rows: Images that it was asked of.
    """

    average_precision: float
    shuffled: float
    p_value: float
    best_p_value: float
    rows: int

    @property
    def conclusive(self) -> bool:
        """Whether there are images enough to tell: a perfect teacher would pass."""
        return self.best_p_value < LEVEL

    @property
    def passed(self) -> bool:
        """Better than on shuffled rows, one-sided, at the 1 % level."""
        return self.p_value < LEVEL

    def said(self, image: str) -> str:
        """The mean average precision."""
        return f"at an mAP of {100 * self.average_precision:.1f} % on {counted(self.rows, image)}"

    def guessing(self) -> str:
        """The mean average precision on shuffled rows."""
        return f"other images' labels give {100 * self.shuffled:.1f} %"


def judge_labels(logits_NK: Tensor, label_NK: Tensor) -> LabelVerdict:
    """The verdict on a teacher's answers where several labels may apply to an image.

    Args:
        logits_NK: What it said, on the CPU.
        label_NK: 1 for each label that applies.
    """
    applies_NK = label_NK > 0
    rows = len(applies_NK)
    orders = [permutation(0, Purpose.SPLIT, rows, number) for number in range(PERMUTATIONS)]
    found, others = _against(Rankings(logits_NK), applies_NK, orders)
    best, worse = _against(Rankings(applies_NK.double()), applies_NK, orders)
    return LabelVerdict(
        average_precision=found,
        shuffled=sum(others) / PERMUTATIONS,
        p_value=_as_good(found, others),
        best_p_value=_as_good(best, worse),
        rows=rows,
    )


def _against(
    rankings: Rankings, applies_NK: Tensor, orders: Sequence[Tensor]
) -> tuple[float, list[float]]:
    """The mean average precision on rows as they are, and in each of the orders."""
    others = [rankings.mean_average_precision(applies_NK[order_N]) for order_N in orders]
    return rankings.mean_average_precision(applies_NK), others


def _as_good(found: float, others: Sequence[float]) -> float:
    # Sums of the same numbers in another order differ by rounding.
    return (1 + sum(other >= found - ROUNDING for other in others)) / (1 + len(others))


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


def sampled(key_N: Tensor, target_N: Tensor, label_NK: Tensor | None = None) -> Tensor:
    """int64 rows to ask of: at most `ROWS` of the labelled ones, by a hash of their sample keys."""
    rows = (target_N >= 0).nonzero()[:, 0] if label_NK is None else torch.arange(len(label_NK))
    return rows[few_of(key_N[rows], ROWS)]
