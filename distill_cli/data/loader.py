"""Training batches of one epoch, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.order import epoch_order, paired_order
from distill_cli.data.views import Made, Views
from distill_cli.types import UNLABELLED, Batch, Mixing


@dataclass(kw_only=True)
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

    def __post_init__(self) -> None:
        self.unlabelled = bool((self.target_N[self.rows] == UNLABELLED).any())

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
        if not len(order):
            return
        # Of the whole epoch at once: small tensors cost more to start than to fill.
        views = torch.full_like(order, self.view_of(epoch))
        columns = (order, views, self.target_N[order].to(self.views.device))
        parts = list(zip(*(column.split(self.batch_size) for column in columns), strict=True))
        made = self.views.stream([(index_B, view_B) for index_B, view_B, _ in parts])
        for step, ((index_B, view_B, target_B), images) in enumerate(
            zip(parts, made, strict=True), start=first
        ):
            yield Batch(
                images_BCHW=images.images_BCHW,
                target_B=target_B,
                index_B=index_B,
                view_B=view_B,
                step=epoch * self.steps + step,
                mixing=self._mixing(images),
                unlabelled=self.unlabelled,
            )

    def _mixing(self, made: Made) -> Mixing | None:
        if made.partner_B is None or made.share_B is None:
            return None
        target_B = self.target_N[made.partner_B].to(self.views.device)
        return Mixing(share_B=made.share_B, target_B=target_B)
