"""Looks labels up in a finished cache. Shapes: B batch, N rows of a split, K classes.

Shards are mapped, not loaded: the operating system's page cache holds what is used, and several
processes share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distill_cli.cache.codec import Layout, codec, layout_fault
from distill_cli.cache.header import Header, read_header
from distill_cli.cache.manifest import EVAL, read_manifest
from distill_cli.cache.plan import SHARED, Plan, plan_differences
from distill_cli.cache.writer import sha256
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import DatasetIdentity

_REPAIR = "Rerun cache-soft-labels with the same options: only it is made again"


class CacheReader:
    """A finished cache.

    Opening reads the manifest only. A shard is checked against its sha256 when it is first
    touched, and mapped then.

    Args:
        folder: The cache.

    Raises:
        ArtifactError: It is no cache, not finished, malformed, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.plan: Plan = self.manifest.plan
        try:
            self._codec = codec(self.plan.codec)
        except UsageError as error:
            raise ArtifactError(f"cache {folder}: {error.message}", hint=error.hint) from None
        self._mapped: list[dict[str, Tensor] | None] = [None] * len(self.manifest.shards)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.plan.dataset.class_names

    @property
    def views(self) -> int:
        """Views stored of every row."""
        return self.plan.views

    @property
    def teacher_fingerprint(self) -> str:
        """Of the weights that spoke."""
        return self.plan.teacher_fingerprint

    @property
    def architecture(self) -> str:
        """The teacher's."""
        return self.plan.architecture

    def gather(self, index_B: Tensor, view_B: Tensor) -> Tensor:
        """logits_BK, fp32, on the CPU, of any rows and views in any order.

        Args:
            index_B: int64 row of the train split, on the CPU.
            view_B: int64 stored view of each, on the CPU; cycling is the caller's.

        Raises:
            ArtifactError: A shard that is touched for the first time is missing or damaged.
        """
        self._assert_stored(index_B, view_B)
        length = self.plan.shard_length
        shard_B = view_B * self.plan.shards_per_view + index_B // length
        first, last = (int(bound) for bound in shard_B.aminmax())
        if first == last:
            return self._codec.decode(self._rows(first, index_B % length))
        order_B = shard_B.argsort()
        touched, counts = torch.unique_consecutive(shard_B[order_B], return_counts=True)
        local = torch.split((index_B % length)[order_B], counts.tolist())
        parts = [self._rows(*pair) for pair in zip(touched.tolist(), local, strict=True)]
        sorted_BK = self._codec.decode(
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        )
        logits_BK = torch.empty_like(sorted_BK)
        logits_BK[order_B] = sorted_BK
        return logits_BK

    def _assert_stored(self, index_B: Tensor, view_B: Tensor) -> None:
        assert index_B.shape == view_B.shape
        assert len(index_B) > 0
        for name, value_B, bound in (
            ("row", index_B, self.plan.dataset.samples),
            ("view", view_B, self.plan.views),
        ):
            low, high = (int(value) for value in value_B.aminmax())
            assert low >= 0, f"{name} {low}"
            assert high < bound, f"{name} {high} of {bound}"

    def _rows(self, number: int, local_B: Tensor) -> dict[str, Tensor]:
        """Rows of one shard, copied out of the map."""
        tensors = self._mapped[number]
        if tensors is None:
            tensors = self._mapped[number] = self._open(number)
        return {name: tensor.index_select(0, local_B) for name, tensor in tensors.items()}

    def _open(self, number: int) -> dict[str, Tensor]:
        stored = self.manifest.shards[number]
        path = self.folder / stored.file
        self._check(path, stored.sha256)
        header = read_header(path)
        layout = self._codec.layout(stored.key.rows, len(self.class_names))
        fault = layout_fault(header, layout)
        if fault is not None:
            raise ArtifactError(f"shard {path} is not what the plan says: {fault}", hint=_REPAIR)
        return _map(path, header, layout)

    def _check(self, path: Path, expected: str) -> None:
        if not path.is_file():
            raise ArtifactError(
                f"{path} of the cache is missing",
                hint=_REPAIR,
            )
        try:
            found = sha256(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
        if found != expected:
            raise ArtifactError(
                f"{path} is truncated or was changed (sha256 {found[:12]}…, the manifest says "
                f"{expected[:12]}…)",
                hint=_REPAIR,
            )

    def eval_rows(self, split: str) -> tuple[Tensor, Tensor] | None:
        """What the teacher said of "val" or "test": fp32 logits_NK and int64 target_N.

        Returns:
            None where they are not stored.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        if self.manifest.eval_sha256 is None:
            return None
        path = self.folder / EVAL
        self._check(path, self.manifest.eval_sha256)
        if f"{split}.logits" not in read_header(path).spans:
            return None
        with safe_open(path, framework="pt") as tensors:
            logits_NK = torch.as_tensor(tensors.get_tensor(f"{split}.logits"))
            return logits_NK, torch.as_tensor(tensors.get_tensor(f"{split}.target"))

    def require_dataset(self, identity: DatasetIdentity) -> None:
        """Refuses a dataset on hand that is not the one cached.

        Raises:
            ArtifactError: With what differs.
        """
        differing = plan_differences(self.plan, replace(self.plan, dataset=identity))
        if differing:
            raise ArtifactError(
                f"cache {self.folder} was made of other data ({'; '.join(differing)})",
                hint="Give the data and split it was made of, or dump again",
            )


def _map(path: Path, header: Header, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a file, as views of its private map.

    `torch.from_file` and not `numpy.memmap`: it knows bfloat16, and keeps no file descriptor open,
    of which a cache of thousands of shards would need too many.
    """
    mapped = torch.from_file(str(path), shared=False, size=header.size, dtype=torch.uint8)
    return {
        name: mapped[header.spans[name].start : header.spans[name].stop].view(dtype).view(shape)
        for name, (dtype, shape) in layout.items()
    }


def require_same(readers: Sequence[CacheReader]) -> None:
    """Refuses caches that do not speak of the same views of the same rows.

    Raises:
        ArtifactError: With what differs in classes, view spec, split or dataset.
    """
    for other in readers[1:]:
        differing = plan_differences(readers[0].plan, other.plan, keys=SHARED)
        if differing:
            raise ArtifactError(
                f"caches {readers[0].folder} and {other.folder} differ ({'; '.join(differing)})",
                hint="Teachers are combined on the same views: dump them together",
            )
