"""What teachers say. Shapes: B batch, K classes, M teachers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import TeacherSignals


@dataclass(frozen=True)
class DenseSignals:
    """Logits of one teacher, fp32."""

    logits_BK: Tensor

    def log_probs(self, temperature: float) -> Tensor:
        """log softmax(v/T), (B, K)."""
        return F.log_softmax(self.logits_BK / temperature, dim=-1)


@dataclass(frozen=True)
class EnsembleSignals:
    """The weighted arithmetic mean of several teachers' probabilities; it has no logits.

    Fukuda et al., Interspeech 2017: q̄ = Σ_m w_m·softmax(v_m/T), Σ w = 1.

    Attributes:
        members: One entry a teacher.
        weights: w_m, positive, summing to 1.
    """

    members: tuple[TeacherSignals, ...]
    weights: tuple[float, ...]
    logits_BK: None = None

    def log_probs(self, temperature: float) -> Tensor:
        """log Σ_m w_m·q_m(T) as a log-sum-exp over teachers, (B, K)."""
        weighted_MBK = torch.stack(
            [
                member.log_probs(temperature) + math.log(weight)
                for member, weight in zip(self.members, self.weights, strict=True)
            ]
        )
        return torch.logsumexp(weighted_MBK, dim=0)
