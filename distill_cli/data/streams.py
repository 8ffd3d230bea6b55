"""Labelled and unlabelled rows as two streams, of which every batch has the same numbers.

Shapes: B batch, U unlabelled samples of it, N rows of a stream, T steps of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distill_cli.data.order import epoch_order, in_turn
from distill_cli.errors import counted

# The number of labelled rows among the orders of classes, which are numbered from 0; unlabelled ones have
# the plain order.
_LABELLED = -1


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The rows of an epoch: one pass over the unlabelled ones, while the labelled ones go round.

    Attributes:
        labelled: int64 rows that have a label.
        unlabelled: int64 rows that have none.
        batch_size: B.
        count: U, from 1 to B − 1.
        seed: The run's seed.
    """

    labelled: Tensor
    unlabelled: Tensor
    batch_size: int
    count: int
    seed: int

    @property
    def steps(self) -> int:
        """T: whole batches of an epoch."""
        return len(self.unlabelled) // self.count

    @property
    def text(self) -> str:
        """The composition of a batch and an epoch, in words."""
        known = self.batch_size - self.count
        return (
            f"each batch: {known:,} labelled images (of {len(self.labelled):,}) and {self.count:,} unlabelled "
            f"ones (of {len(self.unlabelled):,}); an epoch is {counted(self.steps, 'step')}"
        )

    @cached_property
    def is_unlabelled_B(self) -> Tensor:
        """bool (B,): the places of unlabelled samples in every batch, as evenly spread as may be.

        So every part of a batch that is accumulated, and every rank's share, has as many as the others,
        if their number divides U.
        """
        place = torch.arange(self.batch_size + 1) * self.count // self.batch_size
        return place.diff() > 0

    def shown(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The rows of an epoch's batches, and the view of each, int64 (T·B).

        An unlabelled row is shown once, in the view of the epoch's number. The view of a labelled row
        is the number of times it was shown before, so that it never comes back the same.
        """
        steps, known = self.steps, self.batch_size - self.count
        rows = torch.empty(steps, self.batch_size, dtype=torch.int64)
        view = torch.full_like(rows, epoch)
        unlabelled_B = self.is_unlabelled_B
        order = epoch_order(self.unlabelled, self.seed, epoch)[: steps * self.count]
        rows[:, unlabelled_B] = order.view(steps, self.count)
        begin = epoch * steps * known
        taken, times = in_turn(self.labelled, begin, steps * known, self.seed, _LABELLED)
        rows[:, ~unlabelled_B] = taken.view(steps, known)
        view[:, ~unlabelled_B] = times.view(steps, known)
        return rows.flatten(), view.flatten()
