"""Commits a cache shard by shard; killed at any moment, a rerun goes on. N rows, K classes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from distill_cli.cache.codec import Codec, codec
from distill_cli.cache.layout import read_header
from distill_cli.cache.manifest import (
    EVAL,
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    ShardKey,
    plan_differences,
    read_plan,
)
from distill_cli.errors import ArtifactError, InternalError
from distill_cli.files import remove_temporaries, write_atomically, write_json
from distill_cli.metrics import ECE_BINS, calibration_gaps

# Where the error of a lossy codec is measured.
TEMPERATURES = (1, 2, 4, 8, 20)


class CacheWriter:
    """Writes one cache folder.

    Args:
        folder: The cache; its lock is the caller's affair.
        plan: What it is bound to; committed first.

    Raises:
        ArtifactError: The folder was begun under another plan.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.codec: Codec = codec(plan.codec)
        if (folder / PLAN).exists():
            differing = plan_differences(plan, read_plan(folder))
            if differing:
                raise ArtifactError(
                    f"cache {folder} was begun under another plan ({'; '.join(differing)})",
                    hint="Repeat the first command to go on, or choose another --out",
                )
            remove_temporaries(folder)
        else:
            write_json(folder / PLAN, plan.to_json())

    def missing(self) -> list[ShardKey]:
        """Shards that are not committed yet, or are damaged."""
        return [key for key in self.plan.shards() if not self._is_intact(key)]

    def _is_intact(self, key: ShardKey) -> bool:
        """Whole as its header says, and its tensors hash to what its statistics say."""
        path = self.folder / key.file
        try:
            header = read_header(path)
        except ArtifactError:
            return False
        if header.statistics is None or header.statistics.get("rows") != key.stop - key.start:
            return False
        payload = sha256(path.read_bytes()[header.payload :]).hexdigest()
        return bool(header.statistics.get("payload_sha256") == payload)

    def commit(self, key: ShardKey, logits_NK: Tensor, target_N: Tensor) -> None:
        """Stores one shard with its statistics, atomically and to the same bytes every time.

        Args:
            key: Which rows of which view.
            logits_NK: fp32, on the CPU.
            target_N: int64 labels, −1 where unlabelled.

        Raises:
            ArtifactError: The teacher said NaN or infinity.
        """
        finite_N = logits_NK.isfinite().all(dim=1)
        if not bool(finite_N.all()):
            row = key.start + int((~finite_N).nonzero()[0])
            raise ArtifactError(
                f"the teacher's logits of row {row}, view {key.view}, are not finite",
                hint="This teacher has diverged: train it again",
            )
        stored = self.codec.encode(logits_NK)
        statistics = self._statistics(logits_NK, target_N, self.codec.decode(stored))
        # The payload's own hash tells a rerun which shards to trust, before there is a manifest.
        plain = save(stored)
        start = 8 + int.from_bytes(plain[:8], "little")
        statistics["payload_sha256"] = sha256(plain[start:]).hexdigest()
        # One metadata string: safetensors writes several keys in random order.
        metadata = {"statistics": json.dumps(statistics, sort_keys=True)}
        self._write(key.file, stored, metadata)

    def _write(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
        content = save(dict(tensors), metadata=metadata)
        write_atomically(self.folder / name, lambda path: path.write_bytes(content))

    def _statistics(
        self, logits_NK: Tensor, target_N: Tensor, decoded_NK: Tensor
    ) -> dict[str, Any]:
        """Sums that add up over shards, so that nothing needs a second forward."""
        full_NK = logits_NK.double()
        log_probs_NK = F.log_softmax(full_NK, dim=1)
        entropy = -(log_probs_NK.exp() * log_probs_NK).sum()
        labelled_N = target_N >= 0
        answers_NK, truth_N = log_probs_NK[labelled_N], target_N[labelled_N]
        correct_N = answers_NK.argmax(dim=1) == truth_N
        gaps = calibration_gaps(answers_NK.amax(dim=1).exp(), correct_N)
        divergence: dict[str, list[float]] = {}
        if not self.codec.exact:
            for temperature in TEMPERATURES:
                row_N = F.kl_div(
                    F.log_softmax(decoded_NK.double() / temperature, dim=1),
                    F.log_softmax(full_NK / temperature, dim=1),
                    reduction="none",
                    log_target=True,
                ).sum(dim=1)
                divergence[str(temperature)] = [float(row_N.sum()), float(row_N.max())]
        return {
            "rows": len(target_N),
            "labelled": int(labelled_N.sum()),
            "correct": int(correct_N.sum()),
            "nll_sum": float(F.nll_loss(answers_NK, truth_N, reduction="sum")),
            "ece_gaps": gaps.tolist(),
            "entropy_sum": float(entropy),
            "kl": divergence,
        }

    @property
    def has_eval(self) -> bool:
        """Whether the evaluation rows are stored."""
        return (self.folder / EVAL).exists()

    def write_eval(self, splits: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Stores dense fp32 logits and labels of `val` and `test`, without augmentation."""
        tensors = {}
        for split, (logits_NK, target_N) in splits.items():
            # Cloned: safetensors refuses tensors that share memory, as slices of one may.
            tensors[f"{split}.logits"] = logits_NK.clone(memory_format=torch.contiguous_format)
            tensors[f"{split}.target"] = target_N.clone(memory_format=torch.contiguous_format)
        self._write(EVAL, tensors, {"format": "pt"})

    def finish(self) -> Manifest:
        """Hashes the shards, adds up their statistics and commits manifest.json.

        Raises:
            InternalError: A shard is missing.
        """
        hashes: dict[ShardKey, str] = {}
        parts: list[dict[str, Any]] = []
        for key in self.plan.shards():
            path = self.folder / key.file
            if not path.exists():
                raise InternalError(f"shard {key.file} of {self.folder} is missing")
            hashes[key] = sha256(path.read_bytes()).hexdigest()
            statistics = read_header(path).statistics
            assert statistics is not None, "`missing` has looked"
            parts.append(statistics)
        manifest = Manifest(plan=self.plan, hashes=hashes, **_figures(parts))
        path = self.folder / MANIFEST
        write_json(path, manifest.to_json())
        return manifest


def _figures(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy, NLL, ECE, entropy and truncation error of all shards together."""
    rows = sum(part["rows"] for part in parts)
    labelled = max(1, sum(part["labelled"] for part in parts))
    gaps = [math.fsum(part["ece_gaps"][b] for part in parts) for b in range(ECE_BINS)]
    temperatures = parts[0]["kl"]
    return {
        "teacher_accuracy": sum(part["correct"] for part in parts) / labelled,
        "teacher_nll": math.fsum(part["nll_sum"] for part in parts) / labelled,
        "teacher_ece": math.fsum(abs(gap) for gap in gaps) / labelled,
        "entropy": math.fsum(part["entropy_sum"] for part in parts) / rows,
        "truncation_error": {
            t: {
                "mean_kl": math.fsum(part["kl"][t][0] for part in parts) / rows,
                "worst_kl": max(part["kl"][t][1] for part in parts),
            }
            for t in temperatures
        },
    }
