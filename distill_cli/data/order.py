"""In which order samples are presented: a permutation a (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.counters import Purpose, permutation


def epoch_order(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """The rows in the order of this epoch, a pure function of its arguments."""
    return rows[permutation(seed, Purpose.ORDER, len(rows), epoch)]


def paired_order(first: Tensor, second: Tensor, seed: int, epoch: int) -> Tensor:
    """Rows that are mixed with each other, side by side; the seed permutes the pairs.

    Args:
        first: int64, one row of each pair.
        second: int64, its partner; a row that pairs with itself stands once, and last.
        seed: The run's.
        epoch: From 0.
    """
    whole = int((first != second).sum())
    order = permutation(seed, Purpose.ORDER, whole, epoch)
    pairs = torch.stack([first[:whole], second[:whole]], dim=1)[order].flatten()
    return torch.cat([pairs, first[whole:]])
