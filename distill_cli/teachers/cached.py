"""Cached teachers: labels that were stored before."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.cache.rows import Codec, Rows
from distill_cli.data.split_images import Images
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
        self.offers = frozenset({Need.LOGITS}) if reader.codec.dense else frozenset[Need]()

    def split_logits(self, split: str, images: Images) -> torch.Tensor | None:
        """fp32 logits (N, K) of a whole split, `val` or `test`; None where they are not stored.

        Nor are they used unless the images' labels equal the stored ones: rows must not be mispaired.
        """
        rows = self.reader.eval_rows(split)
        if rows is None or not torch.equal(rows[1], images.label_N):
            return None
        return rows[0]

    def signals(self, batch: Batch) -> StoredSignals:
        """The stored signals of the batch's views."""
        rows = self.reader.gather(batch.index_B, batch.view_B)
        if self.device.type == "cuda":
            # A copy from page-locked memory overlaps with the student's forward.
            rows = {name: values.pin_memory() for name, values in rows.items()}
        rows = {name: values.to(self.device, non_blocking=True) for name, values in rows.items()}
        return StoredSignals(self.reader.codec, rows)
