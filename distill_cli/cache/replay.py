"""Replays a cache: compares stored labels with the teacher's now. Shapes: B views, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.cache.statistics import divergences
from distill_cli.counters import Purpose, below, draw, few_of

# KL that kernels of another machine may add, nats.
SLACK = 1e-4
# Share of views that may differ by more: in a top-k row, two classes whose logits are equal but for
# rounding may change places at the end of the list.
RARE = 0.01
# Caches of up to so many views are sampled by ranking all hashes, larger ones by random draws.
PERMUTED = 1 << 20

# Maps rows and views (int64, on the CPU) to the live teacher's logits, fp32 (B, K) on the CPU.
Ask = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Stored labels compared with the teacher's present labels of the same views, at T = 1.

    The present labels are put through the codec too, so that even a coarse one hides no change.

    Attributes:
        views: Number of views compared.
        difference: The largest difference of a probability.
        worst_kl: The largest KL(present, through the codec ‖ stored), nats.
        differing: Number of views whose KL is more than rounding.
        codec_kl: The largest KL(present ‖ stored), nats, which includes the codec's loss.
        recorded_kl: The largest loss of the codec that the manifest records, nats.
    """

    views: int
    difference: float
    worst_kl: float
    differing: int
    codec_kl: float
    recorded_kl: float

    @property
    def agrees(self) -> bool:
        """Whether the labels are this teacher's, and the codec's loss is as recorded."""
        rare = int(RARE * self.views)
        return self.differing <= rare and self.codec_kl <= self.recorded_kl + SLACK


def replay(reader: CacheReader, ask: Ask, *, sample: int) -> Replay:
    """Asks the teacher again about views drawn at random, the same ones each time.

    Args:
        reader: The cache.
        ask: The live teacher.
        sample: Number of views to compare; all are compared if there are fewer.
    """
    plan = reader.plan
    stored = plan.views * plan.dataset.rows
    if stored <= max(PERMUTED, 2 * sample):
        drawn_B = few_of(torch.arange(stored), sample)
    else:
        drawn_B = below(draw(0, Purpose.ROWS, torch.arange(sample)), stored).unique()
    index_B, view_B = drawn_B % plan.dataset.rows, drawn_B // plan.dataset.rows
    live_BK = torch.cat(
        [
            ask(*part)
            for part in zip(
                index_B.split(plan.teacher_batch), view_B.split(plan.teacher_batch), strict=True
            )
        ]
    )
    codec, rows = reader.codec, reader.gather(index_B, view_B)
    stored_BK = codec.log_probs(rows, 1.0, torch.float64)
    now_BK = codec.log_probs(codec.encode(live_BK), 1.0, torch.float64)
    kl_B = (now_BK.exp() * (now_BK - stored_BK)).sum(dim=-1).clamp(min=0)
    return Replay(
        views=len(drawn_B),
        difference=float((now_BK.exp() - stored_BK.exp()).abs().max()),
        worst_kl=float(kl_B.max()),
        differing=int((kl_B > SLACK).sum()),
        codec_kl=float(divergences(live_BK, rows, codec, [1.0])[0].max()),
        recorded_kl=reader.manifest.truncation_error[1].worst_kl,
    )
