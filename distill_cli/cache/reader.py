"""Looks labels up in a finished cache. Shapes: B batch, N rows of a split, K classes.

Shards are mapped, not loaded: the operating system's page cache holds the parts in use, and several
processes share it. Rows are gathered by NumPy, whose small calls cost a fifth of torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_cli.cache.codec import codec_of, layout_fault
from distill_cli.cache.eval_rows import read_evaluation
from distill_cli.cache.folder import EVAL, IDS
from distill_cli.cache.manifest import as_read, read_manifest
from distill_cli.cache.pixel_probe import PixelProbe
from distill_cli.cache.plan import SHARED, Plan
from distill_cli.cache.plan_diff import NO_TEST, WITH_TEST, data_differences, plan_differences
from distill_cli.cache.rows import Codec, Layout
from distill_cli.cache.safetensors_header import Header, read_header
from distill_cli.cache.sample_ids import read_ids
from distill_cli.cache.statistics import divergences
from distill_cli.counters import few_of
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import sha256
from distill_cli.types import DatasetIdentity

Array = npt.NDArray[Any]

# Evaluation rows that a codec's error at some temperature is measured on.
ERROR_ROWS = 4096


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
            self.codec: Codec = codec_of(self.plan)
        except UsageError as error:
            raise ArtifactError(f"cache {folder}: {error.message}", hint=error.hint) from None
        self._layout = self.codec.layout(1)
        self._mapped: list[list[Array] | None] = [None] * len(self.manifest.shards)

    @property
    def _repair(self) -> str:
        return f"Rerun {self.plan.maker} with the same options: only it is made again"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.plan.dataset.class_names

    @property
    def views(self) -> int:
        """Number of views stored of every row."""
        return self.plan.views

    @property
    def teacher_fingerprint(self) -> str:
        """Fingerprint of the teacher."""
        return self.plan.teacher_fingerprint

    @property
    def architecture(self) -> str:
        """The teacher's architecture."""
        return self.plan.architecture

    def gather(self, index_B: Tensor, view_B: Tensor) -> dict[str, Tensor]:
        """The stored rows of any samples and views in any order, on the CPU, for `codec` to decode.

        Args:
            index_B: int64 row of the train split, on the CPU.
            view_B: int64 stored view of each row, on the CPU; cycling is the caller's.

        Raises:
            ArtifactError: A shard that is touched for the first time is missing or damaged.
        """
        index, view = index_B.numpy(), view_B.numpy()
        self._assert_stored(index, view)
        number_B, offset_B = np.divmod(index, self.plan.shard_length)
        number_B += view * self.plan.shards_per_view
        # Shard by shard, and then back into the order of the batch.
        order_B = number_B.argsort(kind="stable")
        number_B, offset_B = number_B[order_B], offset_B[order_B]
        cuts = (np.flatnonzero(number_B[1:] != number_B[:-1]) + 1).tolist()
        parts = [
            [rows.take(offset_B[start:stop], 0) for rows in self._shard(int(number_B[start]))]
            for start, stop in zip([0, *cuts], [*cuts, len(order_B)], strict=True)
        ]
        if not cuts:
            return self._as_tensors(parts[0])
        back_B = np.empty_like(order_B)
        back_B[order_B] = np.arange(len(order_B))
        return self._as_tensors(
            [np.concatenate(columns).take(back_B, 0) for columns in zip(*parts, strict=True)]
        )

    def _as_tensors(self, arrays: list[Array]) -> dict[str, Tensor]:
        """The same memory, under the codec's names and types."""
        return {
            name: torch.from_numpy(array).view(dtype)
            for (name, (dtype, _)), array in zip(self._layout.items(), arrays, strict=True)
        }

    def _assert_stored(self, index_B: Array, view_B: Array) -> None:
        assert index_B.shape == view_B.shape
        assert len(index_B) > 0
        for value_B, bound in ((index_B, self.plan.dataset.rows), (view_B, self.plan.views)):
            # Negative numbers are the largest when read as unsigned.
            unsigned_B: Array = value_B.view(np.uint64)
            highest = int(unsigned_B.max())
            assert highest < bound, f"{value_B.min()} to {value_B.max()} of {bound}"

    def _shard(self, number: int) -> list[Array]:
        """The rows of a shard, mapped; its hash is checked the first time."""
        mapped = self._mapped[number]
        if mapped is None:
            mapped = self._mapped[number] = self._open(number)
        return mapped

    def _open(self, number: int) -> list[Array]:
        stored = self.manifest.shards[number]
        path = self.folder / stored.file
        self._check(path, stored.sha256)
        header = read_header(path)
        layout = self.codec.layout(stored.key.rows)
        fault = layout_fault(header, layout)
        if fault is None:
            mapped = _map(path, header, layout)
            # Anyone may have written it: its hash only proves that nobody changed it since.
            fault = self.codec.fault(self._as_tensors(mapped))
        if fault is not None:
            raise ArtifactError(
                f"shard {path} is not what the plan says: {fault}", hint=self._repair
            )
        return mapped

    def _check(self, path: Path, expected: str) -> None:
        if not path.is_file():
            raise ArtifactError(
                f"{path} of the cache is missing",
                hint=self._repair,
            )
        try:
            actual = sha256(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
        if actual != expected:
            raise ArtifactError(
                f"{path} is truncated or was changed (sha256 {actual[:12]}…, the manifest says "
                f"{expected[:12]}…)",
                hint=self._repair,
            )

    def eval_rows(self, split: str) -> tuple[Tensor, Tensor] | None:
        """The teacher's fp32 logits_NK and the int64 target_N of "val" or "test".

        Returns:
            None where they are not stored.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        tensors = self._eval_tensors
        if f"{split}.logits" not in tensors:
            return None
        return tensors[f"{split}.logits"], tensors[f"{split}.target"]

    @property
    def probe(self) -> PixelProbe | None:
        """A few of its views; None where none are stored.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        tensors = self._eval_tensors
        if "probe.images" not in tensors:
            return None
        return PixelProbe(
            index_P=tensors["probe.index"],
            view_P=tensors["probe.view"],
            images_PCHW=tensors["probe.images"],
        )

    @cached_property
    def _eval_tensors(self) -> dict[str, Tensor]:
        """The tensors of eval.safetensors, which are few; none where there is no such file."""
        if self.manifest.eval_sha256 is None:
            return {}
        path = self.folder / EVAL
        self._check(path, self.manifest.eval_sha256)
        try:
            return read_evaluation(path, self.plan)
        except ArtifactError as error:
            raise ArtifactError(error.message, hint=self._repair) from None

    def sample_ids(self) -> list[str] | None:
        """The sample id of every row; None where they are not stored.

        Raises:
            ArtifactError: The file is missing or damaged, or names other samples.
        """
        if self.manifest.ids_sha256 is None:
            return None
        self._check(self.folder / IDS, self.manifest.ids_sha256)
        return read_ids(self.folder / IDS, self.plan)

    def error_at(self, temperature: float) -> tuple[float, float] | None:
        """The codec's loss at any temperature: mean and worst KL(full ‖ stored), nats.

        It is measured on up to `ERROR_ROWS` evaluation rows, which are stored in full, chosen by a
        hash. None where there are none.
        """
        splits = (self.eval_rows(split) for split in ("val", "test"))
        rows = [
            split_rows for split_rows in splits if split_rows is not None and len(split_rows[0])
        ]
        if not rows:
            return None
        logits_NK = torch.cat([logits_NK for logits_NK, _ in rows])
        logits_NK = logits_NK[few_of(torch.arange(len(logits_NK)), ERROR_ROWS)]
        stored = self.codec.encode(logits_NK)
        kl_N = divergences(logits_NK, stored, self.codec, [temperature])[0]
        return float(kl_N.mean()), float(kl_N.max())

    def require_dataset(self, identity: DatasetIdentity, *, transductive: bool = False) -> None:
        """Refuses a dataset on hand that is not the one cached; if `transductive`, with its test images.

        Raises:
            ArtifactError: Data or split differ; the message says how.
        """
        present = as_read(replace(self.plan, dataset=identity), self.plan)
        differing = data_differences(self.plan, present, transductive=transductive)
        if differing:
            hint = "Give the data and split it was made of, or dump again"
            raise ArtifactError(
                f"cache {self.folder} was made of other data: {'; '.join(differing)}",
                hint=WITH_TEST if differing == [NO_TEST] else hint,
            )


def _stored_as(dtype: torch.dtype) -> str:
    """NumPy's unsigned type of the same size, since NumPy has no bfloat16."""
    return f"u{dtype.itemsize}"


def _map(path: Path, header: Header, layout: Layout) -> list[Array]:
    """The tensors of a file, as views of its private map.

    `torch.from_file` keeps no file descriptor open, as `numpy.memmap` does: a cache of thousands of
    shards would need too many.
    """
    mapped = torch.from_file(str(path), shared=False, size=header.size, dtype=torch.uint8).numpy()
    return [
        mapped[header.spans[name].start : header.spans[name].stop]
        .view(_stored_as(dtype))
        .reshape(shape)
        for name, (dtype, shape) in layout.items()
    ]


def require_same(readers: Sequence[CacheReader]) -> None:
    """Refuses caches that do not label the same views of the same rows.

    Raises:
        ArtifactError: Classes, view spec, split or dataset differ; the message says how.
    """
    for other in readers[1:]:
        differing = plan_differences(readers[0].plan, other.plan, keys=SHARED)
        if differing:
            raise ArtifactError(
                f"caches {readers[0].folder} and {other.folder} differ ({'; '.join(differing)})",
                hint="Teachers are combined on the same views: dump them together",
            )
