"""A batch of views and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from distill_cli.types.share import Share

if TYPE_CHECKING:
    from torch import Tensor

# The target of a sample that has no label.
UNLABELLED = -1
# The samples that a term, or an objective, is of.
Rows = Literal["all", "labelled", "unlabelled"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The partners of mixed images: image_i = share_i·own + (1 − share_i)·partner.

    Attributes:
        share_B: Share of the image's own content, in [0, 1], fp32, on the run's device.
        target_B: int64 class of the partner, −1 where unlabelled, on the run's device.
    """

    share_B: Tensor
    target_B: Tensor

    def take(self, rows: slice | Tensor) -> Mixing:
        """The same for some of the batch's samples."""
        return Mixing(share_B=self.share_B[rows], target_B=self.target_B[rows])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of views.

    Attributes:
        images_BCHW: Float in [0, 1], un-normalised, on the run's device.
        target_B: int64 class index, −1 where unlabelled, on the run's device.
        index_B: int64 row of the train split (sorted by sample id), on the CPU or the run's device.
        view_B: int64 view of each sample, beside `index_B`.
        step: Global step from 0: what draws per batch are hashed from.
        epoch: From 0: what draws per sample are hashed from; an int64 scalar where steps are counted
            on a device.
        copy_B: int64 copy of the data that each sample is of, beside `index_B`: which teacher labels
            it where every teacher labels a copy of its own; None where there is one copy.
        target_BK: Multi-label targets: 1 for each label that applies, mixed where images are,
            fp32, on the run's device; None where a sample has one class.
        mixing: The other half of mixed images; None where images are not mixed.
        whole: The effective batch that this is a part of; None where it is whole itself.
        of_all: The same samples with those of the other ranks, in the order of one process, without
            images; None where there is one rank.
        unlabelled: Whether any sample may be without a label: if none can, none is looked for.
        labelled_share: Share of the run's images that have a label, by which each labelled one weighs
            the same in every batch; None to count those of each batch, as up to 0.4.0.
        teacher_TCHW: What the teacher is shown in place of `images_BCHW`; None where it is shown the same.
        asked_T: int64 places in the batch of the samples in `teacher_TCHW`, on the run's device; None
            where they are all of it.
        streams: Whether labelled and unlabelled samples come from streams of their own, as many of
            either in every batch.
    """

    images_BCHW: Tensor
    target_B: Tensor
    index_B: Tensor
    view_B: Tensor
    step: int
    epoch: int | Tensor = 0
    copy_B: Tensor | None = None
    target_BK: Tensor | None = None
    mixing: Mixing | None = None
    whole: Batch | None = None
    of_all: Batch | None = None
    unlabelled: bool = True
    labelled_share: float | None = None
    streams: bool = False
    teacher_TCHW: Tensor | None = None
    asked_T: Tensor | None = None

    @property
    def samples(self) -> int:
        """Samples of the effective batch: what a mean over it divides by."""
        return len((self.whole or self).index_B)

    @property
    def labelled(self) -> Tensor | float:
        """Labelled samples of the effective batch, expected or counted: what their mean divides by."""
        if not self.unlabelled:
            return self.samples
        if self.labelled_share is not None:
            return self.samples * self.labelled_share or 1.0
        return ((self.whole or self).target_B != UNLABELLED).sum().clamp(min=1)

    def count_of(self, rows: Rows) -> Tensor | float:
        """Samples of the effective batch, expected or counted, that the mean over `rows` divides by."""
        if rows == "all":
            return self.samples
        if rows == "labelled":
            return self.labelled
        if not self.unlabelled:
            # None is there: whatever divides their sum, which is 0, will do.
            return 1.0
        if self.labelled_share is not None:
            return self.samples * (1.0 - self.labelled_share) or 1.0
        return ((self.whole or self).target_B == UNLABELLED).sum().clamp(min=1)

    def share_of(self, rows: Rows) -> float:
        """The share of the images that the mean over `rows` counts for beside a mean over all.

        A mean times its share is its sum over all samples: each moves the weights as much as in a batch
        of such ones alone. The mean of two or three at the rate of whole batches ruined networks. Where
        every batch has as many of either kind, either mean stands by itself.
        """
        if rows == "all" or self.streams or self.labelled_share is None:
            return 1.0
        return self.labelled_share if rows == "labelled" else 1.0 - self.labelled_share

    @property
    def known_B(self) -> Tensor:
        """bool (B,): the samples that have a label, whatever kind of targets there are."""
        if self.target_BK is None:
            return self.target_B != UNLABELLED
        return (self.target_BK != UNLABELLED).any(dim=-1)

    @property
    def for_teacher(self) -> Tensor:
        """The images that the teacher is shown: all that it is asked of."""
        return self.images_BCHW if self.teacher_TCHW is None else self.teacher_TCHW

    def spread(self, value_TK: Tensor) -> Tensor:
        """A teacher's answers to the samples that it is asked of, as rows of all samples; 0 for the others."""
        if self.asked_T is None:
            return value_TK
        shape = (len(self.index_B), *value_TK.shape[1:])
        return value_TK.new_zeros(shape).index_copy(0, self.asked_T, value_TK)

    def take(self, rows: slice | Tensor) -> Batch:
        """Some of its samples; means stay the whole's.

        Args:
            rows: A slice, or int64 places on any device.
        """
        assert self.asked_T is None, "who is asked of each sample by itself is shown all"
        beside = rows if isinstance(rows, slice) else rows.to(self.index_B.device)
        there = rows if isinstance(rows, slice) else rows.to(self.target_B.device)
        return Batch(
            images_BCHW=self.images_BCHW[there],
            target_B=self.target_B[there],
            index_B=self.index_B[beside],
            view_B=self.view_B[beside],
            step=self.step,
            epoch=self.epoch,
            copy_B=None if self.copy_B is None else self.copy_B[beside],
            target_BK=None if self.target_BK is None else self.target_BK[there],
            mixing=self.mixing and self.mixing.take(there),
            whole=self.whole or self,
            unlabelled=self.unlabelled,
            labelled_share=self.labelled_share,
            streams=self.streams,
            teacher_TCHW=None if self.teacher_TCHW is None else self.teacher_TCHW[there],
        )

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in at most `parts` runs of samples, for accumulation; means stay the whole's."""
        if parts == 1:
            yield self
            return
        size = -(-len(self.index_B) // parts)
        others = [None] * parts if self.of_all is None else self.of_all.split(parts)
        starts = range(0, len(self.index_B), size)
        whole = replace(self, teacher_TCHW=None, asked_T=None) if self.asked_T is not None else self
        for number, (start, of_all) in enumerate(zip(starts, others, strict=False)):
            part = replace(whole.take(slice(start, start + size)), of_all=of_all)
            yield self._asked(part, number, start, parts)

    def _asked(self, part: Batch, number: int, start: int, parts: int) -> Batch:
        """A part with what the teacher is shown of some of its samples, as many in each part."""
        if self.asked_T is None or self.teacher_TCHW is None:
            return part
        count = len(self.asked_T) // parts
        own = slice(number * count, (number + 1) * count)
        return replace(
            part,
            whole=self,
            teacher_TCHW=self.teacher_TCHW[own],
            asked_T=self.asked_T[own] - start,
        )

    def shared(self, share: Share) -> Batch:
        """The rank's share of the samples, beside all of them; itself where one rank sees everything.

        Args:
            share: The rank's; the images are of its share already, the student's and the teacher's.
        """
        if share.is_all:
            return self
        mixing = self.mixing
        return replace(
            self,
            target_B=share.of(self.target_B),
            index_B=share.of(self.index_B),
            view_B=share.of(self.view_B),
            copy_B=None if self.copy_B is None else share.of(self.copy_B),
            target_BK=None if self.target_BK is None else share.of(self.target_BK),
            mixing=mixing
            and Mixing(share_B=share.of(mixing.share_B), target_B=share.of(mixing.target_B)),
            of_all=replace(self, images_BCHW=self.images_BCHW[:0], teacher_TCHW=None, asked_T=None),
        )
