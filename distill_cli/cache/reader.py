"""Looks labels up by (row, view) in memory-mapped shards. B batch, N rows, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill_cli.cache.codec import codec
from distill_cli.cache.layout import read_header
from distill_cli.cache.manifest import EVAL, ShardKey, read_manifest
from distill_cli.errors import ArtifactError
from distill_cli.types import DatasetIdentity, differences

# safetensors' names → how the bytes are mapped, and what torch makes of them. numpy has no
# bfloat16, so its bits are mapped as integers.
TYPES: dict[str, tuple[str, torch.dtype]] = {
    "F32": ("<f4", torch.float32),
    "F16": ("<f2", torch.float16),
    "BF16": ("<i2", torch.bfloat16),
}


class CacheReader:
    """An open cache. Opening reads the manifest only; shards are mapped when first touched.

    Args:
        folder: The cache.

    Raises:
        ArtifactError: It is unfinished, malformed or points out of its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.plan = self.manifest.plan
        self.codec = codec(self.plan.codec)
        self._shards: dict[tuple[int, int], dict[str, Tensor]] = {}
        self._hashes = {(key.view, key.number): (key, h) for key, h in self.manifest.hashes.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.plan.dataset.class_names

    @property
    def teacher_fingerprint(self) -> str:
        """Of the teacher that was asked."""
        return self.plan.teacher_fingerprint

    @property
    def architecture(self) -> str:
        """Of the teacher that was asked."""
        return self.plan.architecture

    def gather(self, index_B: Tensor, view_B: Tensor) -> Tensor:
        """fp32 logits (B, K) of these rows in these views, on the CPU.

        Args:
            index_B: int64 rows.
            view_B: int64 views, below the number stored.

        Raises:
            ArtifactError: A shard that is touched for the first time is missing or damaged.
        """
        shard_B = view_B * self._per_view + torch.div(
            index_B, self.plan.shard_length, rounding_mode="floor"
        )
        row_B = index_B % self.plan.shard_length
        touched = sorted(set(shard_B.tolist()))
        if len(touched) == 1:
            return self._decode(touched[0], row_B)
        out_BK = torch.empty(len(index_B), len(self.class_names))
        for number in touched:
            chosen_B = shard_B == number
            out_BK[chosen_B] = self._decode(number, row_B[chosen_B])
        return out_BK

    @property
    def _per_view(self) -> int:
        return -(-self.plan.dataset.samples // self.plan.shard_length)

    def _decode(self, number: int, row_B: Tensor) -> Tensor:
        tensors = self._shard(*divmod(number, self._per_view))
        return self.codec.decode({name: stored[row_B] for name, stored in tensors.items()})

    def _shard(self, view: int, number: int) -> dict[str, Tensor]:
        if (view, number) not in self._shards:
            assert (view, number) in self._hashes, f"view {view} is not stored"
            key, expected = self._hashes[view, number]
            self._shards[view, number] = self._map(key, expected)
        return self._shards[view, number]

    def _map(self, key: ShardKey, expected: str) -> dict[str, Tensor]:
        """Checks a shard's hash, once, and maps its tensors."""
        path = self.folder / key.file
        header = read_header(path)
        if sha256(path.read_bytes()).hexdigest() != expected:
            raise ArtifactError(
                f"shard {path} is damaged: its sha256 is not the manifest's",
                hint="Remove it and run the same cache-soft-labels command again",
            )
        tensors = {}
        for name, place in header.places.items():
            if place.dtype not in TYPES or place.shape[0] != key.stop - key.start:
                raise ArtifactError(f"shard {path} does not hold what its plan says")
            mapped, dtype = TYPES[place.dtype]
            # Copy-on-write: torch has no read-only tensors, and nothing here writes.
            rows = np.memmap(path, mapped, "c", offset=place.offset, shape=place.shape)
            tensors[name] = torch.from_numpy(rows).view(dtype)
        return tensors

    def eval_logits(self, split: str) -> Tensor | None:
        """fp32 logits (N, K) of the `val` or `test` rows; None where they are not stored.

        Raises:
            ArtifactError: The file is damaged.
        """
        path = self.folder / EVAL
        if not path.is_file():
            return None
        try:
            return load_file(path).get(f"{split}.logits")
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} is damaged: {error}") from None

    def require_dataset(self, identity: DatasetIdentity) -> None:
        """Refuses data other than those that were cached, and says what differs.

        Raises:
            ArtifactError: They differ.
        """
        differing = differences(self.plan.dataset, identity)
        if differing:
            raise ArtifactError(
                f"cache {self.folder} was made of other data ({'; '.join(differing)})",
                hint="Dump the labels again, or give the data the cache was made of",
            )


def require_same(readers: Sequence[CacheReader]) -> None:
    """Refuses caches that do not show the same views of the same data.

    Raises:
        ArtifactError: Two differ; the message says in what.
    """
    for reader in readers[1:]:
        first = readers[0]
        differing = [
            *differences(first.plan.dataset, reader.plan.dataset),
            *differences(first.plan.view_spec, reader.plan.view_spec),
        ]
        if first.plan.views != reader.plan.views:
            differing.append(f"views: expected {first.plan.views}, found {reader.plan.views}")
        if differing:
            raise ArtifactError(
                f"caches {first.folder} and {reader.folder} do not go together "
                f"({'; '.join(differing)})"
            )
