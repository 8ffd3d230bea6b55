"""Commits labels to caches beside the teachers' work."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from distill_cli.cache.plan import ShardKey


class Writer(Protocol):
    """Stores shards: a cache in the making, or what makes single shards of one."""

    def commit(self, shard: ShardKey, logits_NK: Tensor, target_N: Tensor) -> None:
        """Stores one shard."""


class Commits:
    """Commits one shard at a time, in a thread of its own where the teachers compute elsewhere.

    Rounding, measuring, hashing and the disk's flush run during the next shard's forward; not on the
    CPU, whose threads the forward needs: two teams of them get in each other's way.

    Args:
        device: Device of the teachers.
    """

    def __init__(self, device: torch.device) -> None:
        self._background = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Commits:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for what is under way; its error is the caller's, who waited, or has one already."""
        if self._background is not None:
            self._background.shutdown()

    def wait(self) -> None:
        """Until nothing is under way.

        Raises:
            DistillError: The commit failed.
        """
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def begin(
        self,
        writers: Sequence[Writer],
        shard: ShardKey,
        labels: Sequence[Tensor],
        target_N: Tensor,
    ) -> None:
        """Commits each teacher's logits of a shard to its own cache, after the shard before."""
        self.wait()
        if self._background is None:
            _commit(writers, shard, labels, target_N)
        else:
            self._under_way = self._background.submit(_commit, writers, shard, labels, target_N)


def _commit(
    writers: Sequence[Writer], shard: ShardKey, labels: Sequence[Tensor], target_N: Tensor
) -> None:
    for writer, logits_NK in zip(writers, labels, strict=True):
        writer.commit(shard, logits_NK.cpu(), target_N)
