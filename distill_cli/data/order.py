"""In which order samples are presented: a permutation a (seed, epoch), or every class alike.

Shapes: N rows; M copies of the data, each labelled by another teacher (1 otherwise); K classes; T
batches of B samples, of P classes each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, permutation

# What a draw of the balanced order is for: which classes, where in the batch, or which rows.
_CLASSES, _PLACES, _ROWS = 0, 1, 2
# Batches whose draws are hashed together: small tensors cost more to start than to hash.
TOGETHER = 64


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


def balanced_order(
    rows: Tensor, label_N: Tensor, seed: int, epoch: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """As many rows as whole batches of an epoch have, every class alike often in each batch.

    A batch shows P = min(K, B // 2) classes, each ⌊B/P⌋ times or once more: at least twice. Those
    that were shown least so far come first, so that over an epoch all are shown alike often (as
    nearly as whole batches can).

    Each class shows its rows in permutations of its own, one after the other: those of a rare
    class come back within an epoch, those of a common one take several epochs. An epoch begins
    where the one before it ended, give or take what a class is shown of in one batch.

    Args:
        rows: int64 (N).
        label_N: int64 class of each of them.
        seed: The run's.
        epoch: From 0.
        batch_size: B, from 4 to N.

    Returns:
        int64 rows, and how often each was shown before: 0, 1, …
    """
    steps = len(rows) // batch_size
    # Classes as they are numbered among those that there are, for the order of rows as well.
    _, class_N, count_K = label_N.unique(return_inverse=True, return_counts=True)
    row_of_class = rows[class_N.argsort(stable=True)].split(count_K.tolist())
    class_S = _balanced_classes(len(count_K), batch_size, steps, seed, epoch).flatten()
    shown_K = class_S.bincount(minlength=len(count_K))
    places = class_S.argsort(stable=True).split(shown_K.tolist())
    order_S, before_S = torch.empty_like(class_S), torch.empty_like(class_S)
    begin = epoch * (len(class_S) // len(count_K))
    for number, (own, place) in enumerate(zip(row_of_class, places, strict=True)):
        order_S[place], before_S[place] = _in_turn(own, begin, len(place), seed, number)
    return order_S, before_S


def _balanced_classes(classes: int, batch_size: int, steps: int, seed: int, epoch: int) -> Tensor:
    """The class of each sample of each batch of an epoch, (T, B)."""
    present = min(classes, batch_size // 2)
    each, over = divmod(batch_size, present)
    often_P = torch.full((present,), each) + (torch.arange(present) < over)
    shown_K = torch.zeros(classes, dtype=torch.int64)
    chosen = []
    for group_G in torch.arange(steps).split(TOGETHER):
        # The least shown first; where several are, as drawn.
        for tie_K in _shuffles(classes, group_G, seed, epoch, _CLASSES):
            chosen_P = tie_K[shown_K[tie_K].argsort(stable=True)[:present]]
            shown_K[chosen_P] += often_P
            chosen.append(chosen_P)
    class_TB = torch.stack(chosen).repeat_interleave(often_P, dim=1)
    # Shuffled: a batch may be cut into parts, none of which should be of few classes.
    return class_TB.gather(1, _shuffles(batch_size, torch.arange(steps), seed, epoch, _PLACES))


def _shuffles(n: int, step_T: Tensor, seed: int, epoch: int, what: int) -> Tensor:
    """A permutation of range(n) for each step, (T, n)."""
    keys = draw(seed, Purpose.ORDER, epoch, what, step_T[:, None], torch.arange(n))
    return keys.argsort(dim=1, stable=True)


def _in_turn(rows: Tensor, begin: int, count: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """`count` rows of one class from the place `begin` of its endless order on, and their rounds."""
    place = torch.arange(begin, begin + count)
    round_S = place // len(rows)
    first, last = begin // len(rows), (begin + max(count, 1) - 1) // len(rows)
    rounds = torch.arange(first, last + 1)
    keys = draw(
        seed, Purpose.ORDER, number, _ROWS, rounds[:, None], torch.arange(len(rows))[None, :]
    )
    order = rows[keys.argsort(dim=1, stable=True)]
    return order[round_S - first, place % len(rows)], round_S
