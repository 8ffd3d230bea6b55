"""Pairs of classes that are alike, read off a matrix of shares. Shapes: K classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Pairs that a sentence names.
NAMED_PAIRS = 5


def likest(relation_KK: Tensor, count: int) -> list[tuple[int, int, float]]:
    """The pairs of different classes that put the largest shares on each other.

    Args:
        relation_KK: Shares, row y those of class y's label, or of its residual, on each class.
        count: Pairs at most.

    Returns:
        (first class, second class, mean of their shares on each other), the largest first.
    """
    both_KK = (relation_KK + relation_KK.T).double().cpu() / 2
    first_P, second_P = torch.triu_indices(len(both_KK), len(both_KK), offset=1)
    share_P = both_KK[first_P, second_P]
    order = share_P.argsort(descending=True, stable=True)[:count]
    pairs = zip(first_P[order].tolist(), second_P[order].tolist(), strict=True)
    return [(*pair, share) for pair, share in zip(pairs, share_P[order].tolist(), strict=True)]


def in_words(relation_KK: Tensor, class_names: Sequence[str]) -> str:
    """The likest pairs, as `4–9 (61 %), 3–5 (48 %)`."""
    return ", ".join(
        f"{class_names[first]}–{class_names[second]} ({100 * share:.0f} %)"
        for first, second, share in likest(relation_KK, NAMED_PAIRS)
    )
