"""In which order samples are presented: a permutation a (seed, epoch).

Shapes: N rows; M copies of the data, each labelled by another teacher (1 otherwise).
"""

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
    rows, whole = side_by_side(first, second), int((first != second).sum())
    order = permutation(seed, Purpose.ORDER, whole, epoch)
    return torch.cat([rows[: 2 * whole].view(-1, 2)[order].flatten(), rows[2 * whole :]])


def side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """The rows of pairs, each next to its partner; one that has none stands once, and last."""
    whole = int((first != second).sum())
    pairs = torch.stack([first[:whole], second[:whole]], dim=1).flatten()
    return torch.cat([pairs, first[whole:]])


def block_order(copies: list[Tensor], width: int, seed: int, block: int) -> tuple[Tensor, Tensor]:
    """All copies of the data in one order, which the epochs of a block share between them.

    Args:
        copies: int64 rows of each copy; of paired ones, a pair stands side by side.
        width: 2 where pairs stay together, else 1.
        seed: The run's.
        block: From 0; of M epochs.

    Returns:
        int64 rows, and the copy that each is of; rows that have no pair stand last.
    """
    paired = [len(rows) - len(rows) % width for rows in copies]
    rows = torch.cat([each[:stop] for each, stop in zip(copies, paired, strict=True)])
    copy = torch.cat([torch.full((stop,), m) for m, stop in enumerate(paired)])
    order = permutation(seed, Purpose.ORDER, len(rows) // width, block)
    alone = [each[stop:] for each, stop in zip(copies, paired, strict=True)]
    numbers = [torch.full((len(each),), m) for m, each in enumerate(alone)]
    return (
        torch.cat([rows.view(-1, width)[order].flatten(), *alone]),
        torch.cat([copy.view(-1, width)[order].flatten(), *numbers]),
    )
