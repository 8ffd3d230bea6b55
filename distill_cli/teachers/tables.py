"""Rows of caches on the device: all of them, or those of the batch that is due.

Rows of one cache, or of several of one kind beside each other, have one number each: that of the cache,
then the view, then the sample. Shapes: B batch, N rows of all views of all caches.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.cache.rows import Codec, Layout, Rows
from distill_cli.types import Features

# Batches whose rows are gathered before they are due.
AHEAD = 4
# Bytes: tensors of one buffer begin at multiples of the largest type.
ALIGNED = 8


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


class Table(Protocol):
    """Rows on the device, which are looked up by their numbers."""

    def signals(self, number_B: Tensor) -> StoredSignals:
        """The signals of rows by their numbers, int64 (B) on the device."""


def numbers(reader: CacheReader, index_B: Tensor, view_B: Tensor, cache_B: Tensor | int) -> Tensor:
    """Numbers of rows, int64 (B), where their places lie.

    Args:
        reader: Any of the caches.
        index_B: int64 row of the train split.
        view_B: int64 stored view.
        cache_B: int64 number of the cache.
    """
    return (cache_B * reader.plan.views + view_B) * reader.plan.dataset.rows + index_B


class ResidentRows:
    """Every row of some caches, on the device.

    Args:
        readers: Caches of one kind.
        device: The device.
    """

    def __init__(self, readers: Sequence[CacheReader], device: torch.device) -> None:
        self.codec, plan = readers[0].codec, readers[0].plan
        index_S, views = torch.arange(plan.dataset.rows), range(plan.views)
        layout = _indexable_layout(self.codec, len(readers) * plan.views * len(index_S))
        self.rows = {
            name: torch.empty(shape, dtype=dtype, device=device)
            for name, (dtype, shape) in layout.items()
        }
        for number, (reader, view) in enumerate(product(readers, views)):
            part = slice(number * len(index_S), (number + 1) * len(index_S))
            for name, values in reader.gather(index_S, torch.full_like(index_S, view)).items():
                self.rows[name][part] = _indexable(values).to(device)
        if device.type == "cuda":
            # Runs beside this one read them on streams of their own.
            torch.cuda.current_stream(device).synchronize()

    def signals(self, number_B: Tensor) -> StoredSignals:
        """The signals of rows by their numbers, int64 (B) on the device."""
        return _looked_up(self.codec, self.rows, number_B)


# Rows on devices, which runs of several seeds share while any of them looks at them.
_PRESENT: WeakValueDictionary[Hashable, ResidentRows] = WeakValueDictionary()


def _key(readers: Sequence[CacheReader], device: torch.device) -> Hashable:
    """Equal for caches of the same contents, whichever process or folder they come from."""
    contents = [
        (reader.plan.digest, *(shard.sha256 for shard in reader.manifest.shards))
        for reader in readers
    ]
    return str(device), tuple(contents)


def resident(readers: Sequence[CacheReader], device: torch.device) -> ResidentRows:
    """The rows of some caches on a device: one copy for all that look there."""
    key = _key(readers, device)
    present = _PRESENT.get(key)
    if present is None:
        present = _PRESENT[key] = ResidentRows(readers, device)
    return present


def bytes_to_come(readers: Sequence[CacheReader], device: torch.device) -> int:
    """Bytes that the rows of some caches take on a device; 0 where they lie there already."""
    if _key(readers, device) in _PRESENT:
        return 0
    plan = readers[0].plan
    layout = _indexable_layout(readers[0].codec, plan.views * plan.dataset.rows)
    return len(readers) * sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())


class _Buffer:
    """Tensors that lie behind each other, so that one copy moves all of them.

    Args:
        layout: Their types and shapes, by name.
        device: Where they lie.
        pinned: Whether in page-locked memory, from which a device copies beside its work.
    """

    def __init__(self, layout: Layout, device: torch.device, *, pinned: bool = False) -> None:
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in layout.values()]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNED) * ALIGNED)
        self.flat = torch.zeros(starts[-1], dtype=torch.uint8, device=device, pin_memory=pinned)
        self.tensors = {
            name: self.flat[start : start + size].view(dtype).view(shape)
            for start, size, (name, (dtype, shape)) in zip(
                starts[:-1], sizes, layout.items(), strict=True
            )
        }
        # The last copy from here, which must be over before it is written again.
        self.copied: torch.cuda.Event | None = None

    def copy_to(self, other: _Buffer) -> None:
        """Copies everything; from page-locked memory without waiting."""
        other.flat.copy_(self.flat, non_blocking=True)
        if other.flat.is_cuda:
            self.copied = self.copied or torch.cuda.Event()
            self.copied.record()

    def wait(self) -> None:
        """Until it may be written."""
        if self.copied is not None:
            self.copied.synchronize()


class StreamedRows:
    """The rows of one batch in memory on the device that stays where it is.

    They lie there in the order of their numbers, among which the numbers of a batch, or of any part
    of it, are found again.

    Args:
        readers: Caches of one kind.
        batch: B.
        device: The device.
    """

    NUMBER = "number"

    def __init__(self, readers: Sequence[CacheReader], batch: int, device: torch.device) -> None:
        self.readers, self.codec = readers, readers[0].codec
        layout = {self.NUMBER: (torch.int64, (batch,)), **_indexable_layout(self.codec, batch)}
        on_host, pinned = torch.device("cpu"), device.type == "cuda"
        self._ahead = [_Buffer(layout, on_host, pinned=pinned) for _ in range(AHEAD)]
        self._due = _Buffer(layout, device)

    def gather(self, slot: int, index_B: Tensor, view_B: Tensor, cache_B: Tensor | None) -> None:
        """Reads the rows of a batch into a buffer of the host, once the last copy from there is over.

        Args:
            slot: Number of the buffer.
            index_B: int64 row of the train split, on the CPU.
            view_B: int64 stored view, on the CPU.
            cache_B: int64 cache that labels each, on the CPU; None where there is one.

        Raises:
            ArtifactError: A shard that is touched for the first time is missing or damaged.
        """
        if cache_B is None:
            cache_B = torch.zeros_like(index_B)
        number_B, order_B = numbers(self.readers[0], index_B, view_B, cache_B).sort()
        index_B, view_B, cache_B = index_B[order_B], view_B[order_B], cache_B[order_B]
        buffer = self._ahead[slot]
        buffer.wait()
        buffer.tensors[self.NUMBER].copy_(number_B)
        start = 0
        for reader, count in zip(
            self.readers, cache_B.bincount(minlength=len(self.readers)).tolist(), strict=True
        ):
            part = slice(start, start + count)
            start += count
            if count:
                for name, values in reader.gather(index_B[part], view_B[part]).items():
                    buffer.tensors[name][part] = _indexable(values)

    def load(self, slot: int) -> None:
        """Copies what was gathered to the device, for the batch that is due."""
        self._ahead[slot].copy_to(self._due)

    def signals(self, number_B: Tensor) -> StoredSignals:
        """The signals of rows of the batch by their numbers, int64 on the device."""
        place_B = torch.searchsorted(self._due.tensors[self.NUMBER], number_B)
        rows = {name: rows for name, rows in self._due.tensors.items() if name != self.NUMBER}
        return _looked_up(self.codec, rows, place_B)


def _looked_up(codec: Codec, rows: Rows, place_B: Tensor) -> StoredSignals:
    return StoredSignals(
        codec, {name: values.index_select(0, place_B) for name, values in rows.items()}
    )


def _indexable(rows: Tensor) -> Tensor:
    """Not in a type that has no kernels on GPUs: ids of up to 65,536 classes are uint16."""
    return rows.int() if rows.dtype == torch.uint16 else rows


def _indexable_layout(codec: Codec, rows: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {
        name: (torch.int32 if dtype == torch.uint16 else dtype, shape)
        for name, (dtype, shape) in codec.layout(rows).items()
    }
