"""Training batches of one epoch, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, lcm

import torch
from torch import Tensor

from distill_cli.data.order import (
    balanced_order,
    block_order,
    epoch_order,
    paired_order,
    side_by_side,
)
from distill_cli.data.views import ViewBatch, Views
from distill_cli.types import UNLABELLED, Batch, Mixing, OrderName


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
        copies: Copies of the data, each for a teacher of its own: a block of as many epochs shows
            all of them in one order.
        target_NK: int8 labels of the whole train split where each class applies or not by itself:
            1, 0, or −1 throughout a row that is unlabelled.
        order_name: `balanced` shows every class alike often in each batch; of one copy, every row
            labelled and nothing mixed.
    """

    views: Views
    target_N: Tensor
    rows: Tensor
    batch_size: int
    seed: int
    stored_views: int | None = None
    copies: int = 1
    target_NK: Tensor | None = None
    order_name: OrderName = "shuffled"

    def __post_init__(self) -> None:
        known = self.target_N if self.target_NK is None else self.target_NK
        self.unlabelled = bool((known[self.rows] == UNLABELLED).any())

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.rows) // self.batch_size

    def view_of(self, epoch: int, copy: int = 0) -> int:
        """Epoch e shows view e of every sample; a cache's views are cycled through.

        Of several copies, a block of as many epochs shows each copy in a view of its own. Where
        cycling alone would show a copy the same few stored views for ever, it moves on by one after
        each round.
        """
        number, stored = epoch - epoch % self.copies + copy, self.stored_views
        if stored is None:
            return number
        rounds = number // lcm(self.copies, stored) if gcd(self.copies, stored) > 1 else 0
        return (number + rounds) % stored

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows in the order of an epoch, and the copy that each is of, int64.

        What is mixed with each other stands together.
        """
        rows, copy, _ = self._shown(epoch)
        return rows, copy

    def _shuffled(self, epoch: int) -> tuple[Tensor, Tensor]:
        if self.copies == 1:
            rows = self._single(epoch)
            return rows, torch.zeros_like(rows)
        mixer, width = self.views.mixer, 1
        copies = [self.rows] * self.copies
        if mixer is not None:
            width = 2
            pairs = [mixer.pairs(self.view_of(epoch, copy)) for copy in range(self.copies)]
            copies = [side_by_side(*pair) for pair in pairs]
        block, place = divmod(epoch, self.copies)
        rows, copy = block_order(copies, width, self.seed, block)
        part = slice(place * len(self.rows), (place + 1) * len(self.rows))
        return rows[part], copy[part]

    def _shown(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in the order of an epoch, the copy and the view of each, int64.

        In the balanced order a row may come back within an epoch, or only after several: its view
        is how often it was shown before, so that it never comes back as it was.
        """
        if self.order_name == "balanced":
            label_N = self.target_N[self.rows]
            rows, view = balanced_order(self.rows, label_N, self.seed, epoch, self.batch_size)
            stored = self.stored_views
            return rows, torch.zeros_like(rows), view if stored is None else view % stored
        rows, copy = self._shuffled(epoch)
        view_of_copy = torch.tensor([self.view_of(epoch, copy) for copy in range(self.copies)])
        return rows, copy, view_of_copy[copy]

    def _single(self, epoch: int) -> Tensor:
        if self.views.mixer is None:
            return epoch_order(self.rows, self.seed, epoch)
        return paired_order(*self.views.mixer.pairs(self.view_of(epoch)), self.seed, epoch)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from its step `first` on."""
        wanted = slice(first * self.batch_size, self.steps * self.batch_size)
        # Of the whole epoch at once: small tensors cost more to start than to fill.
        order, copy, view = (column[wanted] for column in self._shown(epoch))
        if not len(order):
            return
        columns = (
            order,
            view,
            copy,
            self.target_N[order].to(self.views.device),
        )
        parts = list(zip(*(column.split(self.batch_size) for column in columns), strict=True))
        made = self.views.stream([(index_B, view_B) for index_B, view_B, _, _ in parts])
        for step, ((index_B, view_B, copy_B, target_B), images) in enumerate(
            zip(parts, made, strict=True), start=first
        ):
            yield Batch(
                images_BCHW=images.images_BCHW,
                target_B=target_B,
                index_B=index_B,
                view_B=view_B,
                step=epoch * self.steps + step,
                epoch=epoch,
                copy_B=copy_B if self.copies > 1 else None,
                target_BK=self._labels(index_B, images),
                mixing=self._mixing(images),
                unlabelled=self.unlabelled,
            )

    def _labels(self, index_B: Tensor, made: ViewBatch) -> Tensor | None:
        """What applies of each class, mixed as the images are, fp32.

        A mixed image has a label where both of its halves have one.
        """
        if self.target_NK is None:
            return None
        target_BK = self.target_NK[index_B].float().to(self.views.device)
        if made.partner_B is None or made.share_B is None:
            return target_BK
        other_BK = self.target_NK[made.partner_B].float().to(self.views.device)
        share_B1 = made.share_B[:, None]
        mixed_BK = share_B1 * target_BK + (1 - share_B1) * other_BK
        return mixed_BK.masked_fill((target_BK < 0) | (other_BK < 0), UNLABELLED)

    def _mixing(self, made: ViewBatch) -> Mixing | None:
        if made.partner_B is None or made.share_B is None:
            return None
        target_B = self.target_N[made.partner_B].to(self.views.device)
        return Mixing(share_B=made.share_B, target_B=target_B)
