"""In which order samples are presented: a permutation a (seed, epoch)."""

from __future__ import annotations

from torch import Tensor

from distill_cli.counters import Purpose, permutation


def epoch_order(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """The rows in the order of this epoch, a pure function of its arguments."""
    return rows[permutation(seed, Purpose.ORDER, len(rows), epoch)]
