"""Logit standardisation: distillation of z-scores. Shapes: B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.kd import distillation
from distill_cli.losses.standardise import standardise
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


def standardised_distillation(
    logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float, unbiased: bool = False
) -> Tensor:
    """T²·KL(q ‖ p) with p = softmax(Z(z)/T) and q = softmax(Z(v)/T), Z the z-score over classes.

    Sun et al. 2024, arXiv 2403.01427. The student is free to choose the scale and offset of its
    logits; only their relations are distilled.

    Args:
        logits_BK: Student logits z.
        teacher_logits_BK: Teacher logits v, not probabilities; no gradient flows.
        temperature: T > 0.
        unbiased: As for `standardise`, for both networks.

    Returns:
        loss_B in nats times T².
    """
    teacher_BK = standardise(teacher_logits_BK.detach(), unbiased=unbiased)
    return distillation(
        standardise(logits_BK, unbiased=unbiased),
        F.log_softmax(teacher_BK / temperature, dim=-1),
        temperature,
    )


@dataclass(frozen=True, kw_only=True)
class LogitStandardisation:
    """T²·KL between softened z-scores of both networks' logits; only their shape is matched.

    With few classes a z-score says little: expect less there.

    Attributes:
        temperature: T, of the z-scores.
        form: `paper` divides by the population's standard deviation, `release` by the unbiased
            one, as the authors' code.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="logit-standardisation",
        summary="match the shape of the teacher's logits, whatever their mean and spread",
        paper="Sun et al. 2024, arXiv 2403.01427",
        defaults="weights and T are the authors' for CIFAR-100",
        needs=frozenset({Need.TEACHER, Need.LOGITS}),
        default_weights=DefaultWeights(ce=0.1, objective=9.0),
        terms=frozenset({"standardised"}),
    )

    temperature: Temperature = 2.0
    form: Literal["paper", "release"] = "paper"

    def __call__(self, step: Step) -> Terms:
        """Term `standardised`."""
        loss_B = standardised_distillation(
            step.student.logits_BK,
            step.teacher_logits_BK,
            self.temperature,
            unbiased=self.form == "release",
        )
        return {"standardised": Term(loss_B=loss_B)}
