"""Consistency: student and teacher agree on a sample, whichever view of it each sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.kd import distillation
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step
from distill_cli.types import Need, Progress, Term, Terms


def squared_difference(logits_BK: Tensor, teacher_log_probs_BK: Tensor) -> Tensor:
    """mean_K (p − q)² of the student's p = softmax z and the teacher's q.

    Laine, Aila 2017, arXiv 1610.02242; Tarvainen, Valpola 2017, arXiv 1703.01780. A mean over classes,
    as in their code: a sum is K times as large.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q at temperature 1; no gradient flows.

    Returns:
        loss_B.
    """
    probs_BK = F.softmax(logits_BK, dim=-1)
    return (probs_BK - teacher_log_probs_BK.detach().exp()).square().mean(dim=-1)


def sigmoid_rise(progress: Progress, share: float) -> Tensor | float:
    """exp(−5·(1 − t)²), t from 0 to 1 over the first `share` of training; 1 from there on."""
    risen = progress.grown(share)
    if isinstance(risen, float):
        return math.exp(-5 * (1 - risen) ** 2)
    return torch.exp(-5 * (1 - risen).square()).float()


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """w(t)·mean_K (p − q)², q the teacher's probabilities; or w(t)·KL(q ‖ p).

    The mean is over classes and over all samples, labelled or not. w(t) = exp(−5·(1 − t)²) with t from
    0 to 1 over the first `ramp` of training. With the student's moving average as the teacher it is
    Mean Teacher, with the student itself the Π-model: each on a view of its own, for on one view a
    student agrees with itself. The authors' TensorFlow release weighs the mean squared difference by
    100 times the labelled share of the images: 8 for 4,000 labels of CIFAR-10. For ImageNet they have
    `kl` at weight 10.

    Attributes:
        form: `mse` or `kl`.
        ramp: Share of training over which it rises.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="consistency",
        summary="agree with the teacher on every image, each by a view of its own",
        paper="Laine, Aila 2017, arXiv 1610.02242; Tarvainen, Valpola 2017, arXiv 1703.01780",
        defaults="the authors' PyTorch release's for CIFAR-10, which rises over 5 of 180 epochs",
        needs=frozenset({Need.TEACHER}),
        default_weights=DefaultWeights(objective=100.0),
        terms=frozenset({"consistency"}),
    )

    form: Literal["mse", "kl"] = "mse"
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.03

    def __call__(self, step: Step) -> Terms:
        """Term `consistency`, over all samples, labelled or not."""
        logits_BK, log_q_BK = step.student.logits_BK, step.teacher.log_probs(1.0)
        loss_B = (
            squared_difference(logits_BK, log_q_BK)
            if self.form == "mse"
            else distillation(logits_BK, log_q_BK, 1.0)
        )
        return {"consistency": Term(loss_B=sigmoid_rise(step.progress, self.ramp) * loss_B)}
