"""Cached teachers: labels that were stored before."""

from __future__ import annotations

import torch

from distill_cli.cache.reader import CacheReader
from distill_cli.data.known_labels import digest_of
from distill_cli.data.split_images import Images
from distill_cli.ranks import ALONE, Ranks
from distill_cli.teachers.tables import StoredSignals, Table, numbers
from distill_cli.types import Batch, Need


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
        # Where the rows of batches that lie on the device are found; else they are read from disk.
        self.table: Table | None = None
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

    def part_of_val(self, labels: str, rows: torch.Tensor) -> torch.Tensor | None:
        """Their rows for some of the held-out images; None where they are not stored.

        Args:
            labels: `digest_of` the labels of all images that the split holds out.
            rows: int64 places among them.
        """
        stored = self.reader.eval_rows("val")
        if stored is None or digest_of(stored[1].long()) != labels:
            return None
        return stored[0][rows]

    @property
    def kind(self) -> tuple[str, int, int]:
        """Codec, rows and views: caches that agree in them can lie beside each other."""
        plan = self.reader.plan
        return self.reader.codec.name, plan.dataset.rows, plan.views

    def signals(self, batch: Batch) -> StoredSignals:
        """The stored signals of the batch's views."""
        if self.table is not None:
            return self.table.signals(numbers(self.reader, batch.index_B, batch.view_B, 0))
        rows = self.reader.gather(batch.index_B.cpu(), batch.view_B.cpu())
        if self.device.type == "cuda":
            # A copy from page-locked memory overlaps with the student's forward.
            rows = {name: values.pin_memory() for name, values in rows.items()}
        rows = {name: values.to(self.device, non_blocking=True) for name, values in rows.items()}
        return StoredSignals(self.reader.codec, rows)
