"""The teacher gate: tests that a teacher is better than chance before anyone learns from it.

Shapes: N rows, K classes or labels.

A head that was never trained, a file of other weights or classes in another order give labels that
look like any others. Images with known classes reveal them.
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

# Held-out images that a live teacher is tested on: enough to tell 99 % from chance.
ROWS = 512
LEVEL = 0.01
# Permutations of the rows in the test of multi-label teachers: at `LEVEL` none may be as good.
PERMUTATIONS = 199
ROUNDING = 1e-12


class Judgement(Protocol):
    """A teacher's quality compared with guessing."""

    @property
    def conclusive(self) -> bool:
        """Whether there are enough images: a perfect teacher would pass."""

    @property
    def passed(self) -> bool:
        """Whether the teacher is better than guessing, one-sided, at the 1 % level."""

    def finding(self, image: str) -> str:
        """The teacher's quality in words; `image` is the noun for one image of the test."""

    def baseline(self) -> str:
        """The quality of guessing in words."""


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """A teacher's accuracy, compared with always naming the most frequent class.

    Attributes:
        correct: Number of right answers.
        rows: Number of labelled images in the test.
        majority: Share of the most frequent class among these images.
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
        """P(X ≥ correct), X ~ Binomial(rows, majority): the probability that guessing does as well."""
        from scipy.special import betainc

        if self.correct == 0:
            return 1.0
        return float(betainc(self.correct, self.rows - self.correct + 1, self.majority))

    @property
    def conclusive(self) -> bool:
        """Whether there are enough images: a perfect teacher would pass."""
        return self.majority**self.rows < LEVEL

    @property
    def passed(self) -> bool:
        """Whether the teacher is better than guessing, one-sided, at the 1 % level."""
        return self.p_value < LEVEL

    def finding(self, image: str) -> str:
        """The share of right answers."""
        return f"right on {100 * self.accuracy:.1f} % of {counted(self.rows, image)}"

    def baseline(self) -> str:
        """The share of the most frequent class."""
        return f"naming one class always is on {100 * self.majority:.1f} %"


@dataclass(frozen=True, kw_only=True)
class LabelVerdict:
    """A teacher's ranking of images for each label, compared with labels of permuted rows.

    Attributes:
        average_precision: Average precision, mean over labels.
        shuffled: Average precision against labels of permuted rows, mean over permutations.
        p_value: Share of the permutations, the identity included, that are as good.
        best_p_value: The p-value of a perfect teacher.
        rows: Number of images in the test.
    """

    average_precision: float
    shuffled: float
    p_value: float
    best_p_value: float
    rows: int

    @property
    def conclusive(self) -> bool:
        """Whether there are enough images: a perfect teacher would pass."""
        return self.best_p_value < LEVEL

    @property
    def passed(self) -> bool:
        """Whether the teacher is better than on shuffled rows, one-sided, at the 1 % level."""
        return self.p_value < LEVEL

    def finding(self, image: str) -> str:
        """The mean average precision."""
        return f"at an mAP of {100 * self.average_precision:.1f} % on {counted(self.rows, image)}"

    def baseline(self) -> str:
        """The mean average precision on shuffled rows."""
        return f"other images' labels give {100 * self.shuffled:.1f} %"


def judge_labels(logits_NK: Tensor, label_NK: Tensor) -> LabelVerdict:
    """The verdict on a teacher's answers where several labels may apply to an image.

    Args:
        logits_NK: The teacher's logits, on the CPU.
        label_NK: 1 for each label that applies.
    """
    applies_NK = label_NK > 0
    rows = len(applies_NK)
    orders = [permutation(0, Purpose.SPLIT, rows, number) for number in range(PERMUTATIONS)]
    precision, shuffled = _precisions(Rankings(logits_NK), applies_NK, orders)
    perfect, perfect_shuffled = _precisions(Rankings(applies_NK.double()), applies_NK, orders)
    return LabelVerdict(
        average_precision=precision,
        shuffled=sum(shuffled) / PERMUTATIONS,
        p_value=_p_value(precision, shuffled),
        best_p_value=_p_value(perfect, perfect_shuffled),
        rows=rows,
    )


def _precisions(
    rankings: Rankings, applies_NK: Tensor, orders: Sequence[Tensor]
) -> tuple[float, list[float]]:
    """The mean average precision on rows as they are, and in each of the orders."""
    shuffled = [rankings.mean_average_precision(applies_NK[order_N]) for order_N in orders]
    return rankings.mean_average_precision(applies_NK), shuffled


def _p_value(precision: float, shuffled: Sequence[float]) -> float:
    # Sums of the same numbers in another order differ by rounding.
    return (1 + sum(other >= precision - ROUNDING for other in shuffled)) / (1 + len(shuffled))


def judge(logits_NK: Tensor, target_N: Tensor) -> GateVerdict | None:
    """The verdict on a teacher's answers.

    Args:
        logits_NK: The teacher's logits, on the CPU.
        target_N: int64 class, −1 where unlabelled.

    Returns:
        None where nothing is labelled.
    """
    labelled_N = target_N >= 0
    target_N = target_N[labelled_N]
    if not len(target_N):
        return None
    return GateVerdict(
        correct=int((logits_NK[labelled_N].argmax(dim=-1) == target_N).sum()),
        rows=len(target_N),
        majority=float(torch.bincount(target_N).max()) / len(target_N),
    )


def sampled(key_N: Tensor, target_N: Tensor, label_NK: Tensor | None = None) -> Tensor:
    """int64 rows of the test: at most `ROWS` labelled ones, by a hash of their sample keys."""
    rows = (target_N >= 0).nonzero()[:, 0] if label_NK is None else torch.arange(len(label_NK))
    return rows[few_of(key_N[rows], ROWS)]
