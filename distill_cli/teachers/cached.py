"""Cached teachers: labels that were stored before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_cli.cache.codec import bytes_per_row
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.rows import Codec, Rows
from distill_cli.data.split_images import Images
from distill_cli.ranks import ALONE, Ranks
from distill_cli.types import Batch, Features, Need


@dataclass(frozen=True)
class StoredSignals:
    """Rows of a cache as stored; probabilities are rebuilt at the temperature that is asked for."""

    codec: Codec
    rows: Rows
    features: Features = field(default_factory=dict)

    @property
    def logits_BK(self) -> Tensor | None:
        """fp32 logits; None where the codec keeps less than all of them."""
        return self.codec.logits(self.rows)

    def log_probs(self, temperature: float) -> Tensor:
        """log softmax(v/T), (B, K), fp32."""
        return self.codec.log_probs(self.rows, temperature)


class CachedTeacher:
    """Looks labels up by (row, view): the views must be the ones that were cached.

    Args:
        reader: An open cache.
        device: Device of the student.
    """

    def __init__(self, reader: CacheReader, device: torch.device) -> None:
        self.reader = reader
        self.device = device
        self.class_names = reader.class_names
        self.fingerprint = reader.teacher_fingerprint
        self.architecture = reader.architecture
        self.targets = reader.plan.targets
        self.rows: Rows | None = None
        self.offers = frozenset({Need.LOGITS}) if reader.codec.dense else frozenset[Need]()

    def split_logits(
        self, split: str, images: Images, *, ranks: Ranks = ALONE
    ) -> torch.Tensor | None:
        """fp32 logits (N, K) of a whole split, `val` or `test`; None where they are not stored.

        Nor are they used unless the images' labels equal the stored ones: rows must not be mispaired.
        Every one of the ranks looks them up.
        """
        rows = self.reader.eval_rows(split)
        if rows is None or not torch.equal(rows[1], images.label_N):
            return None
        return rows[0]

    @property
    def bytes(self) -> int:
        """Size of all rows of all views."""
        plan = self.reader.plan
        return bytes_per_row(self.reader.codec) * plan.dataset.samples * plan.views

    @property
    def kind(self) -> tuple[str, int, int]:
        """Codec, rows and views: caches that agree in them can lie beside each other."""
        plan = self.reader.plan
        return self.reader.codec.name, plan.dataset.samples, plan.views

    def reside(self) -> None:
        """Copies every row of every view to the device, where batches that lie there find theirs."""
        if self.rows is not None:
            return
        index_N = torch.arange(self.reader.plan.dataset.samples)
        views = [
            self.reader.gather(index_N, torch.full_like(index_N, view))
            for view in range(self.reader.views)
        ]
        self.rows = {
            name: _indexable(torch.cat([rows[name] for rows in views]).to(self.device))
            for name in views[0]
        }

    def _resident(self, batch: Batch, rows: Rows) -> StoredSignals:
        row_B = batch.view_B * self.reader.plan.dataset.samples + batch.index_B
        return looked_up(self.reader.codec, rows, row_B.to(self.device))

    def signals(self, batch: Batch) -> StoredSignals:
        """The stored signals of the batch's views."""
        if self.rows is not None:
            return self._resident(batch, self.rows)
        rows = self.reader.gather(batch.index_B.cpu(), batch.view_B.cpu())
        if self.device.type == "cuda":
            # A copy from page-locked memory overlaps with the student's forward.
            rows = {name: values.pin_memory() for name, values in rows.items()}
        rows = {name: values.to(self.device, non_blocking=True) for name, values in rows.items()}
        return StoredSignals(self.reader.codec, rows)


class StackedCaches:
    """Caches of one codec, rows and views, beside each other on the device.

    Args:
        members: The caches, all of them resident.
    """

    def __init__(self, members: Sequence[CachedTeacher]) -> None:
        self.codec = members[0].reader.codec
        _, self.samples, self.views = members[0].kind
        resident = [member.rows for member in members if member.rows is not None]
        assert len(resident) == len(members), "they lie on the device"
        self.rows = {name: torch.cat([rows[name] for rows in resident]) for name in resident[0]}
        # Each has its part of them in the place of its own, which would be kept twice.
        length = self.views * self.samples
        for number, member in enumerate(members):
            part = slice(number * length, (number + 1) * length)
            member.rows = {name: values[part] for name, values in self.rows.items()}

    def signals(self, member_B: Tensor, batch: Batch) -> StoredSignals:
        """The stored signals of each sample by the member that is assigned to it, int64 (B)."""
        row_B = (member_B * self.views + batch.view_B) * self.samples + batch.index_B
        return looked_up(self.codec, self.rows, row_B)


def looked_up(codec: Codec, rows: Rows, row_B: Tensor) -> StoredSignals:
    """The signals of some rows of tables that lie where `row_B` does."""
    return StoredSignals(
        codec, {name: values.index_select(0, row_B) for name, values in rows.items()}
    )


def _indexable(rows: Tensor) -> Tensor:
    """Not in a type that has no kernels on GPUs: ids of up to 65,536 classes are uint16."""
    return rows.int() if rows.dtype == torch.uint16 else rows
