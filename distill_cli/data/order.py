"""Orders of presentation: a permutation for each (seed, epoch), or classes balanced in each batch.

Shapes: N rows; M copies of the data, each labelled by another teacher (1 otherwise); K classes; T
batches of B samples, of P classes each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, permutation

# Streams of draws of the balanced order: the classes, the positions in the batch, the rows.
_CLASSES, _POSITIONS, _ROWS = 0, 1, 2
# Batches whose draws are hashed together: small tensors cost more to start than to hash.
TOGETHER = 64


def epoch_order(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """The rows in the order of this epoch, where they lie, a pure function of its arguments."""
    return rows[permutation(seed, Purpose.ORDER, len(rows), epoch, device=rows.device)]


def paired_order(first: Tensor, second: Tensor, seed: int, epoch: int) -> Tensor:
    """Rows that are mixed with each other, side by side; the seed permutes the pairs.

    Args:
        first: int64, one row of each pair.
        second: int64, its partner; a row that pairs with itself stands once, and last.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
    """
    rows, whole = side_by_side(first, second), int((first != second).sum())
    order = permutation(seed, Purpose.ORDER, whole, epoch)
    return torch.cat([rows[: 2 * whole].view(-1, 2)[order].flatten(), rows[2 * whole :]])


def side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """The rows of pairs, each next to its partner; a row without one stands once, and last."""
    whole = int((first != second).sum())
    pairs = torch.stack([first[:whole], second[:whole]], dim=1).flatten()
    return torch.cat([pairs, first[whole:]])


def read_order(
    rows: Tensor, views_per_read: int, seed: int, epoch: int, epochs: int | None = None
) -> tuple[Tensor, Tensor]:
    """The rows of an epoch where views that are made of one read stand side by side.

    A block of as many epochs shows the views that these would show one by one, in one order: every
    row once in each view. The last block of a training is as short as its epochs are.

    Args:
        rows: int64 (N).
        views_per_read: Epochs of a block, and views of each row that stand side by side.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
        epochs: Epochs of the training; None where it goes on for ever.

    Returns:
        int64 rows (N), and the view of each.
    """
    block, part = divmod(epoch, views_per_read)
    first = block * views_per_read
    width = views_per_read if epochs is None else min(views_per_read, epochs - first)
    order = rows[permutation(seed, Purpose.ORDER, len(rows), block)]
    position_N = torch.arange(part * len(rows), (part + 1) * len(rows))
    return order[position_N // width], first + position_N % width


def block_order(copies: list[Tensor], width: int, seed: int, block: int) -> tuple[Tensor, Tensor]:
    """All copies of the data in one order, which the epochs of a block share between them.

    Args:
        copies: int64 rows of each copy; the rows of a pair stand side by side.
        width: 2 where pairs stay together, else 1.
        seed: The run's seed.
        block: Number of the block of M epochs, from 0.

    Returns:
        int64 rows, and the copy of each row; rows without a partner stand last.
    """
    paired = [len(rows) - len(rows) % width for rows in copies]
    rows = torch.cat([copy_rows[:stop] for copy_rows, stop in zip(copies, paired, strict=True)])
    copy = torch.cat([torch.full((stop,), m) for m, stop in enumerate(paired)])
    order = permutation(seed, Purpose.ORDER, len(rows) // width, block)
    alone = [copy_rows[stop:] for copy_rows, stop in zip(copies, paired, strict=True)]
    numbers = [torch.full((len(copy_rows),), m) for m, copy_rows in enumerate(alone)]
    return (
        torch.cat([rows.view(-1, width)[order].flatten(), *alone]),
        torch.cat([copy.view(-1, width)[order].flatten(), *numbers]),
    )


def balanced_order(
    rows: Tensor, label_N: Tensor, seed: int, epoch: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """The rows of the whole batches of an epoch, with every class equally often in each batch.

    A batch shows P = min(K, B // 2) classes, each ⌊B/P⌋ times or once more: at least twice. The
    classes that were shown least so far come first, so that over an epoch all are shown equally
    often (as nearly as whole batches can).

    Each class shows its rows in consecutive permutations. The rows of a rare class come back within
    an epoch, those of a common one take several epochs. An epoch begins where the one before it
    ended, give or take a class's samples of one batch.

    Args:
        rows: int64 (N).
        label_N: int64 class of each row.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
        batch_size: B, from 4 to N.

    Returns:
        int64 rows, and the number of times that each was shown before: 0, 1, …
    """
    steps = len(rows) // batch_size
    # Classes are numbered among those present, for the order of rows as well.
    _, class_N, count_K = label_N.unique(return_inverse=True, return_counts=True)
    row_of_class = rows[class_N.argsort(stable=True)].split(count_K.tolist())
    class_S = _balanced_classes(len(count_K), batch_size, steps, seed, epoch).flatten()
    shown_K = class_S.bincount(minlength=len(count_K))
    positions_of_class = class_S.argsort(stable=True).split(shown_K.tolist())
    order_S, before_S = torch.empty_like(class_S), torch.empty_like(class_S)
    begin = epoch * (len(class_S) // len(count_K))
    for number, (class_rows, positions_P) in enumerate(
        zip(row_of_class, positions_of_class, strict=True)
    ):
        order_S[positions_P], before_S[positions_P] = in_turn(
            class_rows, begin, len(positions_P), seed, number
        )
    return order_S, before_S


def _balanced_classes(classes: int, batch_size: int, steps: int, seed: int, epoch: int) -> Tensor:
    """The class of each sample of each batch of an epoch, (T, B)."""
    present = min(classes, batch_size // 2)
    times, over = divmod(batch_size, present)
    often_P = torch.full((present,), times) + (torch.arange(present) < over)
    shown_K = torch.zeros(classes, dtype=torch.int64)
    chosen = []
    for group_G in torch.arange(steps).split(TOGETHER):
        # The least shown classes come first; ties are broken by the draw.
        for tie_K in _shuffles(classes, group_G, seed, epoch, _CLASSES):
            chosen_P = tie_K[shown_K[tie_K].argsort(stable=True)[:present]]
            shown_K[chosen_P] += often_P
            chosen.append(chosen_P)
    class_TB = torch.stack(chosen).repeat_interleave(often_P, dim=1)
    # Shuffled, since a batch may be cut into parts, and none should have few classes.
    return class_TB.gather(1, _shuffles(batch_size, torch.arange(steps), seed, epoch, _POSITIONS))


def _shuffles(n: int, step_T: Tensor, seed: int, epoch: int, stream: int) -> Tensor:
    """A permutation of range(n) for each step, (T, n)."""
    keys = draw(seed, Purpose.ORDER, epoch, stream, step_T[:, None], torch.arange(n))
    return keys.argsort(dim=1, stable=True)


def in_turn(rows: Tensor, begin: int, count: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """`count` rows of an endless order of permutations, from position `begin` on, and their rounds.

    Args:
        rows: int64 (N), of a class, or of a stream.
        begin: Position of the first one.
        count: How many.
        seed: The run's seed.
        number: Number of the class or stream: no two have the same permutations.
    """
    position_S = torch.arange(begin, begin + count)
    round_S = position_S // len(rows)
    first, last = begin // len(rows), (begin + max(count, 1) - 1) // len(rows)
    rounds = torch.arange(first, last + 1)
    keys = draw(
        seed, Purpose.ORDER, number, _ROWS, rounds[:, None], torch.arange(len(rows))[None, :]
    )
    order = rows[keys.argsort(dim=1, stable=True)]
    return order[round_S - first, position_S % len(rows)], round_S
