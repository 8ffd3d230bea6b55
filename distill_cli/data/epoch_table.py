"""An epoch on the device: what each of its steps sees, looked up by a counter that lies there too.

Nothing comes from the host inside an epoch, but images that workers read, so that the making of a
batch can be recorded once and replayed. Shapes: T steps of an epoch, B batch, N rows of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from distill_cli.data.device_views import DeviceViews
from distill_cli.data.loader import Loader, mixed_labels
from distill_cli.data.mixing import MixPlan
from distill_cli.data.order import epoch_order
from distill_cli.types import Batch, Mixing

# Columns of whole numbers that a sample has.
INDEX, VIEW, COPY, PARTNER = range(4)
# Numbers that are drawn for a whole epoch at once, 64 MB: a small network's step would spend half of its
# kernels on them. Where an epoch draws more, its images are so many that each step draws its own.
DRAWN_AHEAD = 1 << 23


class DrawsAhead:
    """The numbers that the views of an epoch are drawn by, hashed at once, in memory that stays.

    Args:
        made: The views.
        steps: T.
        samples: Views of a step.
    """

    def __init__(self, made: DeviceViews, steps: int, samples: int) -> None:
        self.made = made
        shape = (steps, samples, made.views.columns[-1])
        self.uniform_TBD = torch.zeros(shape, dtype=torch.float64, device=made.device)

    @classmethod
    def where_worth_it(cls, made: DeviceViews, steps: int, samples: int) -> DrawsAhead | None:
        """None where nothing is drawn, or too much."""
        count = steps * samples * made.views.columns[-1]
        return cls(made, steps, samples) if made.changes and 0 < count <= DRAWN_AHEAD else None

    def load(self, index_TB: Tensor, view_TB: Tensor) -> None:
        """Draws the numbers of an epoch's rows and views."""
        drawn = self.made.draws(index_TB.flatten(), view_TB.flatten())
        assert drawn is not None, "worth it"
        self.uniform_TBD.copy_(drawn.view_as(self.uniform_TBD))

    def of_step(self, at_1: Tensor) -> Tensor:
        """The numbers (B, D) of the step of this number; an int64 (1) on the device."""
        return self.uniform_TBD.index_select(0, at_1)[0]


class EpochTable:
    """Batches of one epoch after the other, in memory that stays where it is.

    Args:
        loader: The batches; the same as its own `epoch` makes, to the bit.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader, self.device = loader, loader.views.device
        self.views, self.mixer = loader.views, loader.views.mixer
        self.parts = loader.several.parts
        self.made = [DeviceViews(part.views) for part in self.parts]
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
        samples = self.batch_size // loader.share.ranks
        counts = [samples if part.place_P is None else len(part.place_P) for part in self.parts]
        self._draws = [
            DrawsAhead.where_worth_it(made, self.steps, count)
            for made, count in zip(self.made, counts, strict=True)
        ]
        if self.mixer is not None and not self.beside:
            # Views of partners are drawn too.
            self._draws = [None]
        # Rows and views of the epoch on the host, for what is read there: images, or labels.
        self.on_host = False
        self.host_T4B = torch.zeros(0)

    @property
    def by_host(self) -> bool:
        """Whether images are read, or changed one by one, by the host."""
        return any(self.by_host_of)

    @property
    def by_host_of(self) -> tuple[bool, ...]:
        """The same of each part of a batch that is shown in views of its own."""
        return tuple(part.views.by_workers for part in self.parts)

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
        self._load_draws()

    def _load_draws(self) -> None:
        of = self.loader.share.of
        for part, draws in zip(self.parts, self._draws, strict=True):
            if draws is not None:
                columns = self.column_T4B[:, INDEX], self.column_T4B[:, VIEW]
                # Columns of a batch lie in rows here: the samples are chosen along the first side.
                draws.load(*(part.of(of(column_TB.T)).T for column_TB in columns))

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

    def pictures(self, first: int) -> list[Iterator[Tensor] | None]:
        """What the host makes of the images of each step from `first` on, uint8 on the CPU.

        Of each part of the batch that is shown in views of its own; None of one whose images lie on the
        device.
        """
        requests = []
        for column_4B in self.host_T4B[first:]:
            index_B, view_B, _, partner_B = map(self.loader.share.of, column_4B)
            if self.mixer is not None and not self.beside:
                index_B, view_B = torch.cat([index_B, partner_B]), torch.cat([view_B, view_B])
            requests.append((index_B, view_B))
        return [
            part.views.pictures(
                [(part.of(index_B), part.of(view_B)) for index_B, view_B in requests]
            )
            if part.views.by_workers
            else None
            for part in self.parts
        ]

    def _images(
        self, at_1: Tensor, column_4B: Tensor, pictures: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """The images of a step that are not mixed, and the teacher's own."""
        of, shown = self.loader.share.of, []
        for part, made, draws, given in zip(
            self.parts, self.made, self._draws, pictures, strict=True
        ):
            index_P, view_P = part.of(of(column_4B[INDEX])), part.of(of(column_4B[VIEW]))
            uniform_PD = None if draws is None else draws.of_step(at_1)
            shown.append(made.plain(index_P, view_P, given, uniform_PD))
        return self.loader.several.joined(shown)

    def batch(self, step: int, pictures: Sequence[Tensor | None] | None = None) -> Batch:
        """The batch that is due, made of tensors on the device alone.

        Args:
            step: Number of all steps before it, which the host knows as well.
            pictures: What the host made of the images of each part, on the device; None where they
                lie there.
        """
        pictures = [None] * len(self.parts) if pictures is None else pictures
        at_1 = self.counter_2[:1]
        column_4B = self.column_T4B.index_select(0, at_1)[0]
        index_B, view_B, copy_B, partner_B = column_4B.unbind()
        mixing, target_BK, teacher_TCHW = None, None, None
        if self.target_NK is not None:
            target_BK = self.target_NK.index_select(0, index_B).float()
        share = self.loader.share
        if self._mixed is None:
            images_BCHW, teacher_TCHW = self._images(at_1, column_4B, pictures)
        else:
            plan, draws = self._mixed.of_step(at_1, self.batch_size), self._draws[0]
            images_BCHW = self.made[0].mixed(
                share.of(index_B),
                share.of(view_B),
                share.of(partner_B),
                plan.of(share),
                pictures[0],
                None if draws is None else draws.of_step(at_1),
                beside=self.beside,
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
            teacher_TCHW=teacher_TCHW,
            **self.loader.of_every_batch,
        )
        return batch.shared(share)

    def advance(self) -> None:
        """Counts the step that was taken."""
        self.counter_2.add_(1)
