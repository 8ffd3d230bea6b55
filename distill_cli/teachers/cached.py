"""A teacher whose labels were stored before."""

from __future__ import annotations

import torch

from distill_cli.cache.reader import CacheReader
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch


class CachedTeacher:
    """Looks labels up by (row, view): the views must be the ones that were cached.

    Args:
        reader: An open cache.
        device: Where the student computes.
    """

    def __init__(self, reader: CacheReader, device: torch.device) -> None:
        self.reader = reader
        self.device = device
        self.class_names = reader.class_names
        self.fingerprint = reader.teacher_fingerprint
        self.architecture = reader.architecture

    def stored(self, split: str, target_N: torch.Tensor) -> torch.Tensor | None:
        """Its logits (N, K) on the `val` or `test` rows; None where those are not stored.

        The labels that were stored with them must be these, so that rows are not mispaired.
        """
        rows = self.reader.eval_rows(split)
        if rows is None or not torch.equal(rows[1], target_N):
            return None
        return rows[0]

    def signals(self, batch: Batch) -> DenseSignals:
        """The stored logits of the batch's views."""
        logits_BK = self.reader.gather(batch.index_B, batch.view_B)
        if self.device.type == "cuda":
            # From page-locked memory the copy overlaps with the student's forward.
            logits_BK = logits_BK.pin_memory()
        return DenseSignals(logits_BK.to(self.device, non_blocking=True))
