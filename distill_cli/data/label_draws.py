"""Draws of labels as functions of sample keys: which are known, which are changed and into what.

Rows of a class are ranked by a hash of their keys, and the first of them are drawn: so a draw depends
neither on the order of rows nor on other classes, and a smaller one lies in a larger one.

Shapes: N rows of a split, K classes; P rows of a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw
from distill_cli.types import UNLABELLED

# Labels of a class from which on some of them are held out.
ENOUGH = 5


class Stream(IntEnum):
    """Draws that know nothing of each other: the first word after the purpose."""

    LIMIT = 0
    KNOWN = 1
    NOISY = 2
    OTHER = 3
    FOLD = 4
    QUERY = 5


def ranked(rows_P: Tensor, key_N: Tensor, seed: int, stream: Stream) -> Tensor:
    """The rows in the order of their draws.

    Args:
        rows_P: int64 rows, ascending.
        key_N: int64 sample key of every row of the split.
        seed: Seed of the draws.
        stream: Their purpose.
    """
    bits_P = draw(seed, Purpose.KNOWN, int(stream), key_N[rows_P])
    return rows_P[bits_P.argsort(stable=True)]


def allotted(count_K: Sequence[int], total: int) -> list[int]:
    """How many of each class a draw of `total` takes: in proportion, one of each class at least.

    By Webster's rule, which gives the next one to the class with the largest n/(s + ½), s being what
    it has: the sum is exact, and no class has less of a larger total. Where the total is below the
    number of classes, the first ones have one each.

    Args:
        count_K: Rows of each class.
        total: Rows to draw; at most as many as there are.
    """
    turns = []
    for count in count_K:
        turn_n = (torch.arange(count, dtype=torch.float64) + 0.5) / max(1, count)
        turn_n[:1] = 0
        turns.append(turn_n)
    class_N = torch.repeat_interleave(torch.arange(len(count_K)), torch.tensor(count_K))
    first_N = torch.cat(turns).argsort(stable=True)[:total]
    return torch.bincount(class_N[first_N], minlength=len(count_K)).tolist()


def share_of(count_K: Sequence[int], fraction: float) -> list[int]:
    """How many of each class are a share of all: as `allotted` has it, and one of each class at least.

    Where the share is less than one of each, it is one of each all the same.

    Args:
        count_K: Rows of each class.
        fraction: The share, in (0, 1].
    """
    classes = sum(count > 0 for count in count_K)
    return allotted(count_K, max(classes, round(fraction * sum(count_K))))


def held_of(known: int, fraction: float) -> int:
    """How many of the known labels of a class are held out: of fewer than five, none."""
    return max(1, round(known * fraction)) if known >= ENOUGH else 0


def part_of(rows_P: Tensor, label_N: Tensor, key_N: Tensor, total: int, seed: int) -> Tensor:
    """`total` of the rows, ascending, of every class in proportion; rows without a label are one more.

    Args:
        rows_P: int64 rows, ascending; more than `total`.
        label_N: int64 class of every row of the split.
        key_N: int64 sample keys.
        total: Rows to take.
        seed: Seed of the draw.
    """
    label_P = label_N[rows_P]
    groups = [rows_P[label_P == label] for label in label_P.unique().tolist()]
    counts = allotted([len(group) for group in groups], total)
    taken = [
        ranked(group, key_N, seed, Stream.LIMIT)[:count]
        for group, count in zip(groups, counts, strict=True)
    ]
    return torch.cat(taken).sort().values


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The rows of one class of which some labels are known.

    Attributes:
        fit: int64 rows of train to train on, in the order of their draws.
        held: int64 places among the held-out images, likewise.
        in_play: How many of them count towards a share of the labels.
    """

    fit: Tensor
    held: Tensor
    in_play: int

    def known(self, count: int, val_fraction: float) -> tuple[Tensor, Tensor]:
        """The rows and places of `count` labels: as many held out as `held_of` says, if there are.

        Where one side has too few rows, the other has more.
        """
        count = min(count, len(self.fit) + len(self.held))
        held = min(held_of(count, val_fraction), len(self.held))
        fit = min(count - held, len(self.fit))
        return self.fit[:fit], self.held[: count - fit]


def flipped_by(
    label_N: Tensor,
    key_N: Tensor,
    parts: Sequence[Tensor],
    rate: float,
    other: Callable[[int, int], list[int]],
    seed: int,
) -> Tensor:
    """Labels of which a share of every class is another one: round(rate · n) of its n rows, exactly.

    Args:
        label_N: int64 classes, −1 where unlabelled.
        key_N: int64 sample keys.
        parts: int64 rows of each part of the split, that has its share by itself.
        rate: The share, in (0, 1).
        other: Of a class and a number of rows, the classes that these have instead, in turn.
        seed: Seed of the draw.

    Returns:
        int64 (N,).
    """
    noisy_N = label_N.clone()
    for rows_P in parts:
        label_P = label_N[rows_P]
        for label in label_P[label_P != UNLABELLED].unique().tolist():
            of_class = ranked(rows_P[label_P == label], key_N, seed, Stream.NOISY)
            changed = of_class[: round(rate * len(of_class))]
            noisy_N[changed] = torch.tensor(other(label, len(changed)), dtype=torch.int64)
    return noisy_N


def any_other(classes: int, seed: int) -> Callable[[int, int], list[int]]:
    """The other classes in a seeded order, again and again: each as often as any but for one."""

    def other(label: int, count: int) -> list[int]:
        bits = draw(seed, Purpose.KNOWN, int(Stream.OTHER), label, torch.arange(classes))
        others = [one for one in bits.argsort(stable=True).tolist() if one != label]
        return [others[number % len(others)] for number in range(count)]

    return other


def the_next(classes: int) -> Callable[[int, int], list[int]]:
    """The next class; after the last one, the first."""
    return lambda label, count: [(label + 1) % classes] * count
