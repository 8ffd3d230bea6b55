"""Training batches of one epoch, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.order import epoch_order
from distill_cli.data.views import Views
from distill_cli.types import Batch


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Batches of views; the last incomplete batch of an epoch is dropped.

    Attributes:
        views: Makes the images.
        target_N: int64 labels of the whole train split.
        rows: int64 rows to train on.
        batch_size: Global batch, at most the number of rows.
        seed: The run's seed, which decides the order.
        stored_views: Views a cache holds, cycled through; None for endless fresh ones.
    """

    views: Views
    target_N: Tensor
    rows: Tensor
    batch_size: int
    seed: int
    stored_views: int | None = None

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.rows) // self.batch_size

    def view_of(self, epoch: int) -> int:
        """Epoch e shows view e of every sample; a cache's views are cycled through."""
        return epoch if self.stored_views is None else epoch % self.stored_views

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from its step `first` on."""
        order = epoch_order(self.rows, self.seed, epoch)
        for step in range(first, self.steps):
            index_B = order[step * self.batch_size : (step + 1) * self.batch_size]
            view_B = torch.full_like(index_B, self.view_of(epoch))
            yield Batch(
                images_BCHW=self.views.batch(index_B, view_B),
                target_B=self.target_N[index_B].to(self.views.device),
                index_B=index_B,
                view_B=view_B,
                step=epoch * self.steps + step,
            )
