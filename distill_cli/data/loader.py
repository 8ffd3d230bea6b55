"""Training batches of one epoch, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.order import epoch_order, paired_order
from distill_cli.data.views import Made, Views
from distill_cli.types import Batch, Mixing


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

    def order(self, epoch: int) -> Tensor:
        """int64 rows in the order of an epoch; what is mixed with each other stands together."""
        if self.views.mixer is None:
            return epoch_order(self.rows, self.seed, epoch)
        return paired_order(*self.views.mixer.pairs(self.view_of(epoch)), self.seed, epoch)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from its step `first` on."""
        order = self.order(epoch)[first * self.batch_size : self.steps * self.batch_size]
        view = self.view_of(epoch)
        parts = order.split(self.batch_size) if len(order) else ()
        requests = [(index_B, torch.full_like(index_B, view)) for index_B in parts]
        made = zip(requests, self.views.stream(requests), strict=True)
        for step, ((index_B, view_B), views) in enumerate(made, start=first):
            yield Batch(
                images_BCHW=views.images_BCHW,
                target_B=self._targets(index_B),
                index_B=index_B,
                view_B=view_B,
                step=epoch * self.steps + step,
                mixing=self._mixing(views),
            )

    def _targets(self, index_B: Tensor) -> Tensor:
        return self.target_N[index_B].to(self.views.device, non_blocking=True)

    def _mixing(self, views: Made) -> Mixing | None:
        if views.partner_B is None or views.share_B is None:
            return None
        return Mixing(share_B=views.share_B, target_B=self._targets(views.partner_B))
