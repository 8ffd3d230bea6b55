"""Statistics that a dump takes while the logits are at hand. Shapes: N rows, K classes.

Sums over rows are exactly rounded (`math.fsum`): they depend on no thread count and no order of
reduction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.quality import TEMPERATURES
from distill_cli.cache.rows import Codec, Rows, in_chunks
from distill_cli.cache.sums import Statistics
from distill_cli.metrics import confidence_bin
from distill_cli.types import ECE_BINS


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
    bin_count = _by_bin(all_bin_N[labelled_N])
    # Those of the first bin, then those of the second, …
    order_N = all_bin_N[labelled_N].argsort(stable=True)
    sure = confidence_N[labelled_N][order_N].split(bin_count)
    return Statistics(
        rows=len(target_N),
        labelled=int(labelled_N.sum()),
        correct=int(correct_N.sum()),
        nll_sum=math.fsum(nll_N[labelled_N].tolist()),
        entropy_sum=math.fsum(entropy_N.tolist()),
        bin_views=tuple(_by_bin(all_bin_N)),
        bin_count=tuple(bin_count),
        bin_confidence=tuple(math.fsum(part_N.tolist()) for part_N in sure),
        bin_correct=tuple(_by_bin(all_bin_N[correct_N])),
        kl_sum=tuple(math.fsum(kl_N.tolist()) for kl_N in kl_TN),
        kl_max=tuple(float(kl_N.max()) for kl_N in kl_TN),
    )


def _by_bin(bin_N: Tensor) -> list[int]:
    """The number of rows of each bin."""
    return torch.bincount(bin_N, minlength=ECE_BINS).tolist()


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
        full_CK = logits_NK[chunk].double()
        rows = {name: values[chunk] for name, values in stored.items()}
        for part, temperature in zip(parts, temperatures, strict=True):
            log_p_CK = F.log_softmax(full_CK / temperature, dim=-1)
            log_q_CK = codec.log_probs(rows, temperature, torch.float64)
            # A KL of 1e-16 may round below 0.
            part.append((log_p_CK.exp() * (log_p_CK - log_q_CK)).sum(dim=-1).clamp(min=0))
    return [torch.cat(part) for part in parts]
