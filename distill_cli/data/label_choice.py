"""Which labels a run knows: those that a share or a number of each class allows, and those of a list.

Shapes: N rows of train, P images that the split holds out; K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_draws import Pool, Stream, ranked, share_of
from distill_cli.data.label_lists import Lists
from distill_cli.data.label_noise import Labels
from distill_cli.data.label_rules import LabelRules
from distill_cli.types import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The labels that a run sees.

    Attributes:
        rows: int64 rows of train to train on.
        allowed: Those of them whose label is known.
        val_rows: int64 places of the images that stay held out.
    """

    rows: Tensor
    allowed: Tensor
    val_rows: Tensor


def chosen(
    dataset: Dataset,
    given: Labels,
    held_rows: Tensor,
    lists: Lists,
    taken: Tensor,
    kept_K: Tensor,
    share: float,
    rules: LabelRules,
) -> Choice:
    """Which labels are known. Held-out images of a hidden label are trained on, unless there is a limit.

    Args:
        dataset: As it lies on disk, without the rows that a list leaves out.
        given: The labels, changed.
        held_rows: Rows of train that the split holds out.
        lists: What a list leaves out of them.
        taken: Rows to train on.
        kept_K: Classes that are trained on.
        share: Share of the rows of these classes that `taken` are.
        rules: How many labels are known.
    """
    # An image that is left out has no label to draw.
    held_given = replace(given, val_P=given.val_P.masked_fill(lists.out_P, UNLABELLED))
    pools = []
    for label, kept in enumerate(kept_K.tolist()):
        # As many labels of a class that is not trained on are held out as if it were.
        rows, in_play = (taken, 1.0) if kept else (dataset.fit_rows, share)
        pools.append(_pool(dataset, held_given, rows, label, (in_play, share), rules.seed))
    counts = [rules.per_class or 0] * len(pools)
    if rules.fraction is not None:
        counts = share_of([pool.in_play for pool in pools], rules.fraction)
    drawn = [pool.known(n, rules.val_fraction) for pool, n in zip(pools, counts, strict=True)]
    allowed, val_rows = (torch.cat(side).sort().values for side in zip(*drawn, strict=True))
    rows = taken
    if rules.limit is None and len(held_rows):
        unheld = absent_from(torch.arange(len(held_rows)), val_rows) & ~lists.out_P
        more = held_rows[unheld]
        rows = torch.cat([rows, of_kept_classes(more, dataset.train.label_N, kept_K)]).sort().values
    # Labels of classes that are not trained on fall away with their images.
    return Choice(rows=rows, allowed=taken[torch.isin(taken, allowed)], val_rows=val_rows)


def _pool(
    dataset: Dataset,
    given: Labels,
    rows: Tensor,
    label: int,
    shares: tuple[float, float],
    seed: int,
) -> Pool:
    """The rows of a class among some rows of train, and its held-out images.

    Args:
        dataset: As it lies on disk.
        given: The labels, changed.
        rows: Rows that labels of it are drawn from.
        label: The class.
        shares: How much each of these rows counts towards a share of the labels, and each held-out
            image, of which a limit takes none: as much as the part that it takes of the others.
        seed: Seed of the draw.
    """
    fit = rows[given.train_N[rows] == label]
    held = (given.val_P == label).nonzero()[:, 0]
    return Pool(
        fit=ranked(fit, dataset.train.key_N, seed, Stream.KNOWN),
        held=ranked(held, dataset.val.key_N, seed, Stream.KNOWN),
        in_play=round(shares[0] * len(fit) + shares[1] * len(held)),
    )


def with_list(choice: Choice, beside: Tensor, lists: Lists, kept_K: Tensor) -> Choice:
    """The choice as a list of labels has it: these are known, and a class that is left out stays so.

    Args:
        choice: The labels that are known without it.
        beside: Rows of images from a source beside the data, behind all others.
        lists: With the labels.
        kept_K: Classes that are trained on.
    """
    said_N = lists.label.train_N
    rows = of_kept_classes(torch.cat([choice.rows, beside]), said_N, kept_K)
    known = torch.isin(rows, choice.allowed) | (said_N[rows] != UNLABELLED)
    return replace(choice, rows=rows, allowed=rows[known])


def of_kept_classes(rows: Tensor, label_N: Tensor, kept_K: Tensor) -> Tensor:
    """The rows of the classes that are kept, and those without a label."""
    label_P = label_N[rows]
    return rows[(label_P == UNLABELLED) | kept_K[label_P.clamp(min=0)]]


def absent_from(rows: Tensor, others: Tensor) -> Tensor:
    """bool: the rows that are not among the others."""
    return ~torch.isin(rows, others)
