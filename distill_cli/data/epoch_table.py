"""An epoch on the device: what each of its steps sees, looked up by a counter that lies there too.

Nothing comes from the host inside an epoch, but images that workers read, so that the making of a
batch can be recorded once and replayed. Shapes: T steps of an epoch, B batch, N rows of the split.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distill_cli.data.device_views import DeviceViews
from distill_cli.data.loader import Loader, mixed_labels
from distill_cli.data.mixing import MixPlan
from distill_cli.data.order import epoch_order
from distill_cli.types import Batch, Mixing

# Columns of whole numbers that a sample has.
INDEX, VIEW, COPY, PARTNER = range(4)


class EpochTable:
    """Batches of one epoch after the other, in memory that stays where it is.

    Args:
        loader: The batches; the same as its own `epoch` makes, to the bit.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader, self.device = loader, loader.views.device
        self.views, self.mixer = loader.views, loader.views.mixer
        self.made = DeviceViews(loader.views)
        self.steps, self.batch_size = loader.steps, loader.batch_size
        shape = (self.steps, 4, self.batch_size)
        self.column_T4B = torch.zeros(shape, dtype=torch.int64, device=self.device)
        # The step of the epoch that is due, and the number of all steps before it.
        self.counter_2 = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rows = loader.rows.to(self.device)
        self.target_N = loader.target_N.to(self.device)
        self.target_NK = None if loader.target_NK is None else loader.target_NK.to(self.device)
        self._mixed: MixPlan | None = None
        # Rows and views of the epoch on the host, for what is read there: images, or labels.
        self.on_host = False
        self.host_T4B = torch.zeros(0)

    @property
    def by_host(self) -> bool:
        """Whether images are read, or changed one by one, by the host."""
        return self.views.by_workers

    @property
    def beside(self) -> bool:
        """Whether partners stand next to their images in every batch."""
        share = self.loader.share
        return self.batch_size // (share.parts * share.ranks) % 2 == 0 and self.loader.copies == 1

    def load(self, epoch: int, first: int) -> None:
        """Writes the order of an epoch, and sets the counter to its step `first`."""
        self.counter_2[0].fill_(first)
        self.counter_2[1].fill_(epoch * self.steps + first)
        self.epoch.fill_(epoch)
        if self.loader.is_plain and not (self.by_host or self.on_host):
            self._load_plain(epoch)
        else:
            self._load_columns(epoch)

    def _load_plain(self, epoch: int) -> None:
        """An order that is sorted on the device: on the host it takes as long as a small network."""
        rows = epoch_order(self.rows, self.loader.seed, epoch)[: self.steps * self.batch_size]
        rows_TB = rows.view(self.steps, self.batch_size)
        self.column_T4B[:, INDEX].copy_(rows_TB)
        self.column_T4B[:, PARTNER].copy_(rows_TB)
        self.column_T4B[:, VIEW].fill_(self.loader.view_of(epoch))

    def _load_columns(self, epoch: int) -> None:
        rows, copy, view = (
            column[: self.steps * self.batch_size] for column in self.loader.shown(epoch)
        )
        partner = rows
        if self.mixer is not None:
            partner = self.mixer.partners(rows, view)
            sides = (self.views.spec.height, self.views.spec.width)
            plan = self.mixer.plan(rows, partner, view, *sides)
            self._mixed = plan.written_to(self._mixed, self.device)
        columns = torch.stack([rows, view, copy, partner])
        self.host_T4B = columns.view(4, self.steps, self.batch_size).transpose(0, 1).contiguous()
        self.column_T4B.copy_(self.host_T4B)

    def pictures(self, first: int) -> Iterator[Tensor]:
        """What the host makes of the images of each step from `first` on, uint8 on the CPU."""
        requests = []
        for column_4B in self.host_T4B[first:]:
            index_B, view_B, _, partner_B = map(self.loader.share.of, column_4B)
            if self.mixer is not None and not self.beside:
                index_B, view_B = torch.cat([index_B, partner_B]), torch.cat([view_B, view_B])
            requests.append((index_B, view_B))
        return self.views.pictures(requests)

    def batch(self, step: int, pictures_BCHW: Tensor | None = None) -> Batch:
        """The batch that is due, made of tensors on the device alone.

        Args:
            step: Number of all steps before it, which the host knows as well.
            pictures_BCHW: What the host made of its images, on the device; None where they lie
                there.
        """
        at_1 = self.counter_2[:1]
        index_B, view_B, copy_B, partner_B = self.column_T4B.index_select(0, at_1)[0].unbind()
        mixing, target_BK = None, None
        if self.target_NK is not None:
            target_BK = self.target_NK.index_select(0, index_B).float()
        share = self.loader.share
        own = share.of(index_B), share.of(view_B)
        if self._mixed is None:
            images_BCHW = self.made.plain(*own, pictures_BCHW)
        else:
            plan = self._mixed.of_step(at_1, self.batch_size)
            images_BCHW = self.made.mixed(
                *own, share.of(partner_B), plan.of(share), pictures_BCHW, beside=self.beside
            )
            other_B = self.target_N.index_select(0, partner_B)
            mixing = Mixing(share_B=plan.share_B, target_B=other_B)
            if self.target_NK is not None and target_BK is not None:
                other_BK = self.target_NK.index_select(0, partner_B).float()
                target_BK = mixed_labels(target_BK, other_BK, plan.share_B)
        batch = Batch(
            images_BCHW=images_BCHW,
            target_B=self.target_N.index_select(0, index_B),
            index_B=index_B,
            view_B=view_B,
            step=step,
            epoch=self.epoch,
            copy_B=copy_B if self.loader.copies > 1 else None,
            target_BK=target_BK,
            mixing=mixing,
            unlabelled=self.loader.unlabelled,
            labelled_share=self.loader.labelled_share,
        )
        return batch.shared(share)

    def advance(self) -> None:
        """Counts the step that was taken."""
        self.counter_2.add_(1)
