"""Statistics that a dump takes while the logits are at hand. Shapes: N rows, K classes.

Each shard carries its own sums, so that the manifest needs no second look at the data. Sums over
rows are exactly rounded (`math.fsum`): they depend on no thread count and no order of reduction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.quality import TEMPERATURES, Calibration, TruncationError
from distill_cli.cache.rows import Codec, Rows, in_chunks
from distill_cli.metrics import confidence_bin
from distill_cli.types import ECE_BINS


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums over the views of a shard, or of several.

    Attributes:
        rows: Number of views.
        labelled: Number of views of samples with a label.
        correct: Number of right answers among the labelled views.
        nll_sum: Sum of the NLL over labelled views, nats.
        entropy_sum: Sum of the entropy at T = 1 over all views, nats.
        bin_views: Number of views by confidence: bin b is (b/15, (b+1)/15].
        bin_count: Number of labelled views by bin.
        bin_confidence: Sum of the confidences of labelled views by bin.
        bin_correct: Number of right answers among labelled views by bin.
        kl_sum: Sum of KL(full ‖ stored) at each of `TEMPERATURES`, nats.
        kl_max: Largest KL(full ‖ stored) at each of `TEMPERATURES`, nats.
    """

    rows: int
    labelled: int
    correct: int
    nll_sum: float
    entropy_sum: float
    bin_views: tuple[int, ...]
    bin_count: tuple[int, ...]
    bin_confidence: tuple[float, ...]
    bin_correct: tuple[int, ...]
    kl_sum: tuple[float, ...]
    kl_max: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The sums as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Statistics:
        """The inverse of `to_json`; missing or unknown keys raise TypeError."""
        fields: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
        }
        return cls(**fields)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / max(1, self.labelled)

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats."""
        return self.nll_sum / max(1, self.labelled)

    @property
    def ece(self) -> float:
        """Σ_b (n_b/N)·|accuracy_b − confidence_b| (Guo et al. 2017, eq. 5)."""
        pairs = zip(self.bin_correct, self.bin_confidence, strict=True)
        return math.fsum(abs(right - sure) for right, sure in pairs) / max(1, self.labelled)

    @property
    def entropy(self) -> float:
        """Mean entropy at T = 1, nats."""
        return self.entropy_sum / max(1, self.rows)

    @property
    def calibration(self) -> Calibration:
        """The teacher's confidence against its accuracy."""
        return Calibration(
            views=self.bin_views,
            labelled=self.bin_count,
            confidence=self.bin_confidence,
            correct=self.bin_correct,
        )

    @property
    def truncation_error(self) -> dict[int, TruncationError]:
        """The codec's loss by temperature."""
        return {
            temperature: TruncationError(mean_kl=total / max(1, self.rows), worst_kl=worst)
            for temperature, total, worst in zip(
                TEMPERATURES, self.kl_sum, self.kl_max, strict=True
            )
        }


def measure(logits_NK: Tensor, stored: Rows, codec: Codec, target_N: Tensor) -> Statistics:
    """The statistics of a shard, computed in fp64.

    Args:
        logits_NK: The teacher's logits, fp32, finite.
        stored: The same, encoded.
        codec: The codec.
        target_N: int64 class, −1 where unlabelled.
    """
    kl_TN = divergences(logits_NK, stored, codec, TEMPERATURES)
    nll_N, entropy_N, confidence_N, correct_N = _figures(logits_NK, target_N)
    labelled_N = target_N >= 0
    all_bin_N = confidence_bin(confidence_N)
    bin_N = all_bin_N.where(labelled_N, -1)
    bins = [bin_N == b for b in range(ECE_BINS)]
    return Statistics(
        rows=len(target_N),
        labelled=int(labelled_N.sum()),
        correct=int(correct_N.sum()),
        nll_sum=math.fsum(nll_N[labelled_N].tolist()),
        entropy_sum=math.fsum(entropy_N.tolist()),
        bin_views=tuple(torch.bincount(all_bin_N, minlength=ECE_BINS).tolist()),
        bin_count=tuple(int(mask_N.sum()) for mask_N in bins),
        bin_confidence=tuple(math.fsum(confidence_N[mask_N].tolist()) for mask_N in bins),
        bin_correct=tuple(int(correct_N[mask_N].sum()) for mask_N in bins),
        kl_sum=tuple(math.fsum(kl_N.tolist()) for kl_N in kl_TN),
        kl_max=tuple(float(kl_N.max()) for kl_N in kl_TN),
    )


def _figures(logits_NK: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per row, fp64: NLL (meaningless where unlabelled), entropy, confidence; and correctness."""
    parts = []
    for rows in in_chunks(logits_NK):
        logits_CK, target_C = logits_NK[rows], target_N[rows]
        log_probs_CK = F.log_softmax(logits_CK.double(), dim=-1)
        class_C1 = target_C.clamp(min=0)[:, None]
        entropy_C = -(log_probs_CK.exp() * log_probs_CK).sum(dim=-1)
        parts.append(
            (
                -log_probs_CK.gather(1, class_C1)[:, 0],
                entropy_C,
                log_probs_CK.amax(dim=-1).exp(),
                logits_CK.argmax(dim=-1) == target_C,
            )
        )
    nll_N, entropy_N, confidence_N, correct_N = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return nll_N, entropy_N, confidence_N, correct_N


def divergences(
    logits_NK: Tensor, stored: Rows, codec: Codec, temperatures: Sequence[float]
) -> list[Tensor]:
    """KL(full ‖ stored) per row, fp64, nats, one tensor for each temperature."""
    same_NK = codec.logits(stored)
    if same_NK is not None and torch.equal(logits_NK, same_NK):
        return [torch.zeros(len(logits_NK), dtype=torch.float64) for _ in temperatures]
    parts: list[list[Tensor]] = [[] for _ in temperatures]
    for chunk in in_chunks(logits_NK):
        full_CK = logits_NK[chunk]
        rows = {name: values[chunk] for name, values in stored.items()}
        for part, temperature in zip(parts, temperatures, strict=True):
            log_p_CK = F.log_softmax(full_CK.double() / temperature, dim=-1)
            log_q_CK = codec.log_probs(rows, temperature, torch.float64)
            # A KL of 1e-16 may round below 0.
            part.append((log_p_CK.exp() * (log_p_CK - log_q_CK)).sum(dim=-1).clamp(min=0))
    return [torch.cat(part) for part in parts]


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of several shards together."""
    return Statistics(
        rows=sum(part.rows for part in parts),
        labelled=sum(part.labelled for part in parts),
        correct=sum(part.correct for part in parts),
        nll_sum=math.fsum(part.nll_sum for part in parts),
        entropy_sum=math.fsum(part.entropy_sum for part in parts),
        bin_views=tuple(map(sum, zip(*(part.bin_views for part in parts), strict=True))),
        bin_count=tuple(map(sum, zip(*(part.bin_count for part in parts), strict=True))),
        bin_confidence=_columns(part.bin_confidence for part in parts),
        bin_correct=tuple(map(sum, zip(*(part.bin_correct for part in parts), strict=True))),
        kl_sum=_columns(part.kl_sum for part in parts),
        kl_max=tuple(map(max, zip(*(part.kl_max for part in parts), strict=True))),
    )


def _columns(rows: Any) -> tuple[float, ...]:
    return tuple(map(math.fsum, zip(*rows, strict=True)))
