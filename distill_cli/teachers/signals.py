"""Signals of teachers. Shapes: B batch, K classes, M teachers, P samples of one teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import Features, TeacherSignals


@dataclass(frozen=True)
class DenseSignals:
    """Logits of one teacher, fp32, and the outputs of its watched layers."""

    logits_BK: Tensor
    features: Features = field(default_factory=dict)

    def log_probs(self, temperature: float) -> Tensor:
        """log softmax(v/T), (B, K)."""
        return F.log_softmax(self.logits_BK / temperature, dim=-1)


@dataclass(frozen=True)
class FeatureSignals:
    """Outputs of layers only, where the forward stopped at the last of them."""

    features: Features
    logits_BK: None = None

    def log_probs(self, temperature: float) -> Tensor:
        """Not available: the forward stopped before the logits."""
        raise AssertionError("learning from labels needs the whole forward")


@dataclass(frozen=True)
class EnsembleSignals:
    """The weighted arithmetic mean of several teachers' probabilities; it has no logits.

    Fukuda et al., Interspeech 2017: q̄ = Σ_m w_m·softmax(v_m/T), Σ w = 1.

    Attributes:
        members: Signals of each teacher.
        weights: w_m, positive, summing to 1.
    """

    members: tuple[TeacherSignals, ...]
    weights: tuple[float, ...]
    logits_BK: None = None
    features: Features = field(default_factory=dict)

    def log_probs(self, temperature: float) -> Tensor:
        """log Σ_m w_m·q_m(T) as a log-sum-exp over teachers, (B, K)."""
        weighted_MBK = torch.stack(
            [
                member.log_probs(temperature) + math.log(weight)
                for member, weight in zip(self.members, self.weights, strict=True)
            ]
        )
        return torch.logsumexp(weighted_MBK, dim=0)


def mean_of_logits(members: Sequence[TeacherSignals], weights: Sequence[float]) -> DenseSignals:
    """The weighted mean of several teachers' logits: the geometric mean of their probabilities.

    Args:
        members: Signals of each teacher, with logits.
        weights: w_m, summing to 1.
    """
    logits = [member.logits_BK for member in members]
    weighted = [
        w * member_BK for w, member_BK in zip(weights, logits, strict=True) if member_BK is not None
    ]
    assert len(weighted) == len(weights), "what teachers offer is checked before the first step"
    return DenseSignals(torch.stack(weighted).sum(dim=0))


@dataclass(frozen=True)
class AssignedSignals:
    """Signals of a batch in which each sample is labelled by one of several teachers.

    Attributes:
        parts: Signals of each teacher, and int64 positions of its samples in the batch.
        samples: Number of samples of the batch.
    """

    parts: tuple[tuple[TeacherSignals, Tensor], ...]
    samples: int
    features: Features = field(default_factory=dict)

    @cached_property
    def logits_BK(self) -> Tensor | None:
        """Each sample's logits by its teacher; None where a teacher has none."""
        if any(signals.logits_BK is None for signals, _ in self.parts):
            return None
        return self._gathered(lambda signals: signals.logits_BK)

    def log_probs(self, temperature: float) -> Tensor:
        """Each sample's log-probabilities by its teacher, (B, K)."""
        return self._gathered(lambda signals: signals.log_probs(temperature))

    def _gathered(self, ask: Callable[[TeacherSignals], Tensor | None]) -> Tensor:
        together: Tensor | None = None
        for signals, position_P in self.parts:
            rows_PK = ask(signals)
            assert rows_PK is not None, "asked before"
            if together is None:
                together = rows_PK.new_empty(self.samples, rows_PK.shape[1])
            together[position_P.to(rows_PK.device)] = rows_PK
        assert together is not None, "a batch is not empty"
        return together
