"""Distillation from a stronger teacher: correlations in place of divergences.

Shapes: B batch, K classes. p = softmax(z/T) of the student, q the teacher's labels at T; ρ is
Pearson's correlation, taken as 0 where a side does not vary (a class that no sample of the batch has
any probability of, a batch of one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.standardise import standardise
from distill_cli.objectives.base import ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


def inter_class(logits_BK: Tensor, teacher_log_probs_BK: Tensor, temperature: float) -> Tensor:
    """T²·(1 − ρ(p_b, q_b)), over the classes of each sample.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows.
        temperature: T > 0.

    Returns:
        loss_B, between 0 and 2·T².
    """
    probs_BK = F.softmax(logits_BK / temperature, dim=-1)
    correlation_B = _correlation(probs_BK, teacher_log_probs_BK.detach().exp())
    return (1 - correlation_B) * temperature**2


def intra_class(logits_BK: Tensor, teacher_log_probs_BK: Tensor, temperature: float) -> Tensor:
    """T²·(1 − mean_k ρ(p_·k, q_·k)), over the samples of each class.

    A relation of a batch: it has no value per sample, and needs more than one.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows.
        temperature: T > 0.

    Returns:
        A scalar between 0 and 2·T².
    """
    probs_BK = F.softmax(logits_BK / temperature, dim=-1)
    correlation_K = _correlation(probs_BK.T, teacher_log_probs_BK.detach().exp().T)
    return (1 - correlation_K.mean()) * temperature**2


def _correlation(rows_XY: Tensor, teacher_XY: Tensor) -> Tensor:
    """Pearson's correlation of each pair of rows: the mean product of their z-scores."""
    return (standardise(rows_XY) * standardise(teacher_XY)).mean(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Dist:
    """T²·[β·(1 − ρ over each sample's classes) + γ·(1 − ρ over each class's samples)], ρ Pearson's.

    Attributes:
        temperature: T.
        inter: β, between the classes of a sample.
        intra: γ, between the samples of a batch, class by class.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="dist",
        summary="correlate with the teacher over classes, and over samples",
        paper="Huang et al. 2022, arXiv 2205.10536",
        defaults="the authors' for CIFAR-100; on ImageNet they have T = 1 and the same weights",
        needs=frozenset({Need.TEACHER}),
        coupled=True,
        terms=frozenset({"inter", "intra"}),
    )

    temperature: Temperature = 4.0
    inter: Annotated[float, Field(ge=0)] = 2.0
    intra: Annotated[float, Field(ge=0)] = 2.0

    def __call__(self, step: Step) -> Terms:
        """Terms `inter`, per sample, and `intra`, of the batch, with their weights."""
        log_probs_BK = step.teacher.log_probs(self.temperature)
        pair = (step.student.logits_BK, log_probs_BK, self.temperature)
        return {
            "inter": Term(loss_B=self.inter * inter_class(*pair)),
            "intra": Term(loss_B=self.intra * intra_class(*pair), coupled=True),
        }
