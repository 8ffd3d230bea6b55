"""Training batches of one epoch, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor

from distill_cli.data.order import (
    balanced_order,
    block_order,
    epoch_order,
    paired_order,
    read_order,
    side_by_side,
)
from distill_cli.data.several_views import SeveralViews, ViewPart
from distill_cli.data.streams import Streams
from distill_cli.data.views import ViewBatch, Views
from distill_cli.types import UNLABELLED, WHOLE, Batch, Mixing, OrderName, Share


@dataclass(frozen=True, kw_only=True)
class OtherViews:
    """Views of training rows beside those that the student learns from.

    Attributes:
        labelled: Of labelled samples, where they come in a stream of their own; None for the student's.
        teacher: What the teacher is shown; None where it sees what the student sees.
        asks_unlabelled: Whether it is asked of the stream of unlabelled samples alone.
    """

    labelled: Views | None = None
    teacher: Views | None = None
    asks_unlabelled: bool = False


@dataclass(kw_only=True)
class Loader:
    """Batches of views; the last incomplete batch of an epoch is dropped.

    Attributes:
        views: Views of the train split.
        target_N: int64 labels of the whole train split.
        rows: int64 rows to train on.
        batch_size: Global batch, at most the number of rows.
        seed: The run's seed, which decides the order.
        stored_views: Number of views in a cache, cycled through; None for endless fresh views.
        copies: Number of copies of the data, one for each teacher that labels a copy; a block of as
            many epochs shows all of them in one order.
        target_NK: int8 labels of the whole train split where each class applies or not by itself:
            1, 0, or −1 throughout an unlabelled row.
        order_name: `balanced` shows every class equally often in each batch; it needs one copy,
            labels of all rows and views without mixing.
        counts_labelled: Means over labelled images divide by the number in each batch, as up to
            0.4.0, rather than by the number that a batch has on average.
        share: What this rank sees of each batch.
        views_per_read: Number of views of an image that stand side by side; more than one needs one
            copy, the shuffled order and views without mixing.
        epochs: Epochs of the training, which end the last block of such views; None for no end.
        streams: The two streams of rows, labelled and not; None for one order of all. They need one copy,
            the shuffled order, single views and no mixing.
        others: Views beside `views`, which do not mix either.
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
    counts_labelled: bool = False
    share: Share = WHOLE
    views_per_read: int = 1
    epochs: int | None = None
    streams: Streams | None = None
    others: OtherViews = field(default_factory=OtherViews)

    def __post_init__(self) -> None:
        known = self.target_N[:, None] if self.target_NK is None else self.target_NK
        known_N = (known[self.rows] != UNLABELLED).any(dim=-1)
        self.unlabelled = not bool(known_N.all())
        self.labelled_share = None if self.counts_labelled else float(known_N.double().mean())
        if self.streams is not None:
            self.labelled_share = 1 - self.streams.count / self.batch_size
        self.several = self._several()

    def _several(self) -> SeveralViews:
        """The views of a batch, by the places of its samples where these decide."""
        others, unlabelled_U, labelled_L = self.others, None, None
        if self.streams is not None:
            unlabelled_B = self.share.of(self.streams.is_unlabelled_B)
            unlabelled_U, labelled_L = (
                which_B.nonzero()[:, 0] for which_B in (unlabelled_B, ~unlabelled_B)
            )
        student: tuple[ViewPart, ...] = (ViewPart(views=self.views),)
        if others.labelled is not None:
            assert labelled_L is not None, "labelled samples have a stream of their own"
            student = (
                ViewPart(views=others.labelled, place_P=labelled_L),
                ViewPart(views=self.views, place_P=unlabelled_U),
            )
        if others.teacher is None:
            return SeveralViews(student=student)
        asked_T = unlabelled_U if others.asks_unlabelled else None
        return SeveralViews(
            student=student, teacher=ViewPart(views=others.teacher, place_P=asked_T)
        )

    @property
    def asked_T(self) -> Tensor | None:
        """Places of the samples that the teacher is asked of, on the device; None for all."""
        teacher = self.several.teacher
        return None if teacher is None else teacher.place_on_device_P

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        if self.streams is not None:
            return self.streams.steps
        return len(self.rows) // self.batch_size

    def view_of(self, epoch: int, copy: int = 0) -> int:
        """The view that an epoch shows: view e in epoch e; a cache's views are cycled through.

        A block of as many epochs as there are copies shows each copy in another view. Where cycling
        alone would show a copy the same few stored views for ever, each round starts one view
        later.
        """
        number, stored = epoch - epoch % self.copies + copy, self.stored_views
        if stored is None:
            return number
        rounds = number // lcm(self.copies, stored) if gcd(self.copies, stored) > 1 else 0
        return (number + rounds) % stored

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows in the order of an epoch, and the copy that each row belongs to, int64.

        Rows that are mixed with each other stand together.
        """
        rows, copy, _ = self.shown(epoch)
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
        block, part = divmod(epoch, self.copies)
        rows, copy = block_order(copies, width, self.seed, block)
        rows_of_epoch = slice(part * len(self.rows), (part + 1) * len(self.rows))
        return rows[rows_of_epoch], copy[rows_of_epoch]

    def shown(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in the order of an epoch, with the copy and the view of each, int64.

        In the balanced order a row may come back within an epoch, or only after several. Its view
        is the number of times it was shown before, so that it never comes back the same.
        """
        stored = self.stored_views
        if self.streams is not None:
            rows, view = self.streams.shown(epoch)
            return rows, torch.zeros_like(rows), view if stored is None else view % stored
        if self.views_per_read > 1:
            rows, view = read_order(self.rows, self.views_per_read, self.seed, epoch, self.epochs)
            return rows, torch.zeros_like(rows), view if stored is None else view % stored
        if self.order_name == "balanced":
            label_N = self.target_N[self.rows]
            rows, view = balanced_order(self.rows, label_N, self.seed, epoch, self.batch_size)
            return rows, torch.zeros_like(rows), view if stored is None else view % stored
        rows, copy = self._shuffled(epoch)
        view_of_copy = torch.tensor([self.view_of(epoch, copy) for copy in range(self.copies)])
        return rows, copy, view_of_copy[copy]

    @property
    def is_plain(self) -> bool:
        """Whether an epoch is one permutation of the rows in one view."""
        single = self.copies == self.views_per_read == 1 and self.streams is None
        return single and self.order_name == "shuffled" and self.views.mixer is None

    def _single(self, epoch: int) -> Tensor:
        if self.views.mixer is None:
            return epoch_order(self.rows, self.seed, epoch)
        return paired_order(*self.views.mixer.pairs(self.view_of(epoch)), self.seed, epoch)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from its step `first` on."""
        span = slice(first * self.batch_size, self.steps * self.batch_size)
        # The whole epoch at once: small tensors cost more to start than to fill.
        order, copy, view = (column[span] for column in self.shown(epoch))
        if not len(order):
            return
        columns = (
            order,
            view,
            copy,
            self.target_N[order].to(self.views.device),
        )
        parts = list(zip(*(column.split(self.batch_size) for column in columns), strict=True))
        of = self.share.of
        made = self.several.stream([(of(index_B), of(view_B)) for index_B, view_B, _, _ in parts])
        for step, ((index_B, view_B, copy_B, target_B), images) in enumerate(
            zip(parts, made, strict=True), start=first
        ):
            partner_B, share_B = self._partners(index_B, view_B, images)
            batch = Batch(
                images_BCHW=images.images_BCHW,
                target_B=target_B,
                index_B=index_B,
                view_B=view_B,
                step=epoch * self.steps + step,
                epoch=epoch,
                copy_B=copy_B if self.copies > 1 else None,
                target_BK=self._labels(index_B, partner_B, share_B),
                mixing=self._mixing(partner_B, share_B),
                teacher_TCHW=images.teacher_TCHW,
                **self.of_every_batch,
            )
            yield batch.shared(self.share)

    @property
    def of_every_batch(self) -> dict[str, Any]:
        """The fields that all batches have alike."""
        return {
            "unlabelled": self.unlabelled,
            "labelled_share": self.labelled_share,
            "streams": self.streams is not None,
            "asked_T": self.asked_T,
        }

    def _partners(
        self, index_B: Tensor, view_B: Tensor, made: ViewBatch
    ) -> tuple[Tensor | None, Tensor | None]:
        """Partners of all images of a batch and the images' shares, of which a rank makes some."""
        mixer, spec = self.views.mixer, self.views.spec
        if mixer is None or self.share.is_all:
            return made.partner_B, made.share_B
        partner_B = mixer.partners(index_B, view_B)
        plan = mixer.plan(index_B, partner_B, view_B, spec.height, spec.width)
        return partner_B, plan.share_B.to(self.views.device)

    def _labels(
        self, index_B: Tensor, partner_B: Tensor | None, share_B: Tensor | None
    ) -> Tensor | None:
        """Multi-label targets, mixed as the images are, fp32; None where one class applies."""
        if self.target_NK is None:
            return None
        target_BK = self.target_NK[index_B].float().to(self.views.device)
        if partner_B is None or share_B is None:
            return target_BK
        other_BK = self.target_NK[partner_B].float().to(self.views.device)
        return mixed_labels(target_BK, other_BK, share_B)

    def _mixing(self, partner_B: Tensor | None, share_B: Tensor | None) -> Mixing | None:
        if partner_B is None or share_B is None:
            return None
        target_B = self.target_N[partner_B].to(self.views.device)
        return Mixing(share_B=share_B, target_B=target_B)


def mixed_labels(target_BK: Tensor, other_BK: Tensor, share_B: Tensor) -> Tensor:
    """Multi-label targets of mixed images; they are there where both halves have some.

    Args:
        target_BK: Of the images, −1 throughout an unlabelled row.
        other_BK: Of their partners.
        share_B: Share of the image's own content.
    """
    share_B1 = share_B[:, None]
    mixed_BK = share_B1 * target_BK + (1 - share_B1) * other_BK
    return mixed_BK.masked_fill((target_BK < 0) | (other_BK < 0), UNLABELLED)
