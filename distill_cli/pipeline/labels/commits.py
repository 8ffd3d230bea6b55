"""Commits labels to caches beside the teachers' work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from types import TracebackType

import torch
from torch import Tensor

from distill_cli.cache.plan import ShardKey
from distill_cli.cache.shard_writer import ShardWriter

# Threads that commit beside a GPU, each a shard at a time; as many shards, and one more, are held in
# memory.
THREADS = 3


class Commits:
    """Commits shards: where the teachers compute elsewhere, in threads, in any order.

    Rounding, measuring, hashing and the disk's flush run during the next shards' forwards; not on the
    CPU, whose threads the forward needs: two teams of them get in each other's way. So each thread
    computes by itself, without a team.

    Args:
        device: Device of the teachers.
    """

    def __init__(self, device: torch.device) -> None:
        self._background: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()
        self._fetch = Fetch(device)
        self.threads = max(1, min(THREADS, (os.cpu_count() or 1) - 1))
        if device.type != "cpu":
            self._background = _pool(self.threads)

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

    def wait(self, left: int = 0) -> None:
        """Until no more than so many shards are under way.

        Raises:
            DistillError: A commit failed.
        """
        while len(self._under_way) > left:
            self._under_way.popleft().result()

    def begin(
        self,
        writers: Sequence[ShardWriter],
        shard: ShardKey,
        labels: Sequence[Tensor],
        target_N: Tensor,
    ) -> None:
        """Commits each teacher's logits of a shard to its own cache."""
        if self._background is None:
            _commit(writers, shard, Fetched(labels), target_N)
            return
        self.wait(self.threads)
        fetched = self._fetch(labels)
        self._under_way.append(self._background.submit(_commit, writers, shard, fetched, target_N))


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute by themselves."""
    pool, whole, started = ThreadPoolExecutor(threads), torch.get_num_threads(), Barrier(threads)

    def alone() -> None:
        # The first question settles with how many a thread would compute; what is set then stays.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    for future in [pool.submit(alone) for _ in range(threads)]:
        future.result()
    # What was set holds for threads to come as well.
    torch.set_num_threads(whole)
    return pool


class Fetched:
    """Labels on their way to the host.

    Args:
        labels: Where they will lie.
        copied: The end of the copies; None where nothing is under way.
    """

    def __init__(self, labels: Sequence[Tensor], copied: torch.cuda.Event | None = None) -> None:
        self.labels, self.copied = labels, copied

    def wait(self) -> Sequence[Tensor]:
        """The labels, once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.labels


class Fetch:
    """Copies labels from a GPU on a stream of its own.

    On the stream of the teachers a copy would stand behind the next shard, which is launched by then,
    and the commits would never run beside a forward.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, labels: Sequence[Tensor]) -> Fetched:
        """Begins to copy labels that are computed on the current stream."""
        if self.stream is None:
            return Fetched(labels)
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        on_host = []
        with torch.cuda.stream(self.stream):
            for logits_NK in labels:
                on_host.append(torch.empty(logits_NK.shape, dtype=logits_NK.dtype, pin_memory=True))
                on_host[-1].copy_(logits_NK, non_blocking=True)
                logits_NK.record_stream(self.stream)
            copied = torch.cuda.Event()
            copied.record(self.stream)
        return Fetched(on_host, copied)


def _commit(
    writers: Sequence[ShardWriter], shard: ShardKey, fetched: Fetched, target_N: Tensor
) -> None:
    for writer, logits_NK in zip(writers, fetched.wait(), strict=True):
        writer.commit(shard, logits_NK.cpu(), target_N)
