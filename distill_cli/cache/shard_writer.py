"""Serialises shards and the files beside them, byte-deterministically. Shapes: N rows, K classes.

Where the bytes go is the caller's: a cache's own folder, one that several machines share, or a place
behind an address. Nothing of the cache but the file in question is looked at or changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from distill_cli.cache.codec import codec_of
from distill_cli.cache.figures import PRECISION_ERROR
from distill_cli.cache.folder import EVAL, IDS
from distill_cli.cache.pixel_probe import PixelProbe
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.quality import TruncationError
from distill_cli.cache.rows import first_bad_row
from distill_cli.cache.safetensors_header import METADATA
from distill_cli.cache.sample_ids import front_coded
from distill_cli.cache.shards import HASH, as_text, shard_identity
from distill_cli.cache.statistics import measure
from distill_cli.errors import ArtifactError

# Called with the path of a file inside the cache folder and its content, to be stored whole or not.
Store = Callable[[str, bytes], None]


class ShardWriter:
    """Makes the files of a plan.

    Args:
        plan: The plan.
        store: Stores a file, atomically.

    Raises:
        UsageError: The plan's codec does not exist.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self._store = plan, store
        self.codec, self.digest = codec_of(plan), plan.digest

    def commit(self, shard: ShardKey, logits_NK: Tensor, target_N: Tensor) -> None:
        """Stores one shard with its statistics.

        Args:
            shard: A shard of the plan.
            logits_NK: The teacher's logits of its rows, fp32, on the CPU.
            target_N: int64 class of each row, −1 where unlabelled, on the CPU.

        Raises:
            ArtifactError: A logit is NaN or infinite: nothing is stored.
        """
        assert logits_NK.shape == (shard.rows, len(self.plan.dataset.class_names))
        assert logits_NK.dtype == torch.float32
        assert target_N.shape == (shard.rows,)
        _refuse_bad(logits_NK, first_row=shard.start, what=f"view {shard.view}")
        encoded = self.codec.encode(logits_NK)
        statistics = measure(logits_NK, encoded, self.codec, target_N)
        metadata = {**shard_identity(self.digest, shard), "statistics": statistics.to_json()}
        self._write(shard.file, encoded, metadata)

    def write_eval(
        self,
        splits: Mapping[str, tuple[Tensor, Tensor]],
        probe: PixelProbe | None = None,
        precision_error: TruncationError | None = None,
    ) -> None:
        """Stores the teacher's labels of evaluation rows: dense fp32, unaugmented.

        Args:
            splits: logits_NK, fp32, and target_N, int64, on the CPU, by "val" and "test".
            probe: A few views that readers compare theirs with.
            precision_error: What the teacher's arithmetic costs on some of the rows; None in fp32.

        Raises:
            ArtifactError: A logit is NaN or infinite.
        """
        tensors = {}
        for split, (logits_NK, target_N) in splits.items():
            assert logits_NK.dtype == torch.float32
            assert len(logits_NK) == len(target_N)
            _refuse_bad(logits_NK, first_row=0, what=f"the {split} split")
            tensors[f"{split}.logits"] = logits_NK.contiguous()
            tensors[f"{split}.target"] = target_N.long().contiguous()
        if probe is not None:
            tensors |= probe.tensors()
        lost = {} if precision_error is None else {PRECISION_ERROR: asdict(precision_error)}
        self._write(EVAL, tensors, {"plan": self.digest, **lost})

    def write_ids(self, sample_ids: Sequence[str]) -> None:
        """Stores the sample ids of the rows."""
        assert len(sample_ids) == self.plan.dataset.rows
        self._write(IDS, front_coded(sample_ids), {"plan": self.digest})

    def _write(self, file: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Hands a safetensors file to the store.

        It is serialised in memory and written by us: safetensors' own writer reports a full disk as
        its own error, without errno, and leaves the torn file.
        """
        plain = save(tensors)
        data = memoryview(plain)[8 + int.from_bytes(plain[:8], "little") :]
        hashed = hashlib.sha256(as_text(metadata).encode())
        hashed.update(data)
        text = as_text({**metadata, HASH: hashed.hexdigest()})
        self._store(file, save(tensors, metadata={METADATA: text}))


def _refuse_bad(logits_NK: Tensor, *, first_row: int, what: str) -> None:
    bad = first_bad_row(logits_NK)
    if bad is not None:
        raise ArtifactError(
            f"the teacher said NaN or infinity of row {first_row + bad} of {what}",
            hint="Nothing of it was stored: check the teacher's weights and its input",
        )
