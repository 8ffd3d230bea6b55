"""Where the rows of a teacher's caches lie: on the device, or on disk, read ahead of the steps.

Shapes: B batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from typing import NamedTuple

import torch
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.teachers.mixture import Assigned, Owner, owners
from distill_cli.teachers.tables import AHEAD, StreamedRows, bytes_to_come, resident
from distill_cli.types import Teacher


class Wanted(NamedTuple):
    """What a step will look up.

    Attributes:
        step: Its number.
        epoch: Its epoch.
        index_B: int64 rows of the train split, on the CPU.
        view_B: int64 stored view of each, on the CPU.
        copy_B: int64 copy of the data that each sample is of, on the CPU.
    """

    step: int
    epoch: int
    index_B: Tensor
    view_B: Tensor
    copy_B: Tensor


class LabelsAhead:
    """Has a teacher's caches lie on its device where they fit; streams the others.

    Args:
        teacher: The run's; None where it has none.
        batch: B.
        device: Device of the steps.
        room: Bytes of the device's memory that caches may take.
    """

    def __init__(
        self, teacher: Teacher | None, batch: int, device: torch.device, room: float
    ) -> None:
        self.teacher = teacher
        self.streams: dict[Owner, StreamedRows] = {}
        self.streamed_bytes = 0
        for owner in owners(teacher):
            readers = _readers(owner)
            size = bytes_to_come(readers, device)
            if size <= room:
                owner.table = resident(readers, device)
                room -= size
            else:
                self.streamed_bytes += size
                owner.table = self.streams[owner] = StreamedRows(readers, batch, device)

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[None]:
        """Has the rows of one step after the other on the device, each time it is asked.

        A thread gathers those of the next steps meanwhile, each into a buffer of its own.

        Args:
            wanted: What the steps look up, in order.

        Raises:
            ArtifactError: A shard that is touched for the first time is missing or damaged.
        """
        left, slots = iter(wanted), cycle(range(AHEAD))
        under_way: deque[tuple[int, list[StreamedRows], Future[None]]] = deque()

        def begin(count: int) -> None:
            for one in islice(left, count):
                asked = [owner for owner in owners(self.teacher, one.step) if owner in self.streams]
                slot = next(slots)
                future = pool.submit(self._gather, slot, one, asked)
                under_way.append((slot, [self.streams[owner] for owner in asked], future))

        with ThreadPoolExecutor(1, "labels ahead") as pool:
            begin(AHEAD)
            while under_way:
                slot, streams, future = under_way.popleft()
                future.result()
                for stream in streams:
                    stream.load(slot)
                # Into the buffer that was copied just now.
                begin(1)
                yield

    def _gather(self, slot: int, wanted: Wanted, asked: list[Owner]) -> None:
        for owner in asked:
            cache_B = None
            if isinstance(owner, Assigned):
                cache_B = owner.members_of(wanted.epoch, wanted.index_B, wanted.copy_B)
            self.streams[owner].gather(slot, wanted.index_B, wanted.view_B, cache_B)


def _readers(owner: Owner) -> list[CacheReader]:
    caches = owner.caches if isinstance(owner, Assigned) else [owner]
    return [cache.reader for cache in caches]
