"""Feature-normalised distillation: each sample at a temperature of its features' length.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.feature_norm_kd import TypicalNorm
from distill_cli.losses.numerics import wide
from distill_cli.losses.soft_targets import soft_cross_entropy
from distill_cli.objectives.base import AdapterContext, DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import HasAdapter, PairsLayers, WholeBatch
from distill_cli.types import (
    BIAS,
    PENULTIMATE,
    Features,
    Need,
    Term,
    Terms,
)

# The published weight of the term beside cross-entropy, λ², and the τ of the released code.
LAMBDA_SQUARED, RELEASE_TAU = 9.0, 2.0
OF_CLASSIFIERS: tuple[Pair, ...] = ((BIAS, BIAS), (PENULTIMATE, PENULTIMATE))


Form = Literal["paper", "release"]


def normalised_distillation(
    logits_BK: Tensor,
    norm_B: Tensor,
    teacher_logits_BK: Tensor,
    teacher_norm_B: Tensor,
    tau: float,
    *,
    form: Form = "paper",
    bias_K: Tensor | None = None,
    teacher_bias_K: Tensor | None = None,
) -> Tensor:
    """CE(softmax(τ·v/‖f_T‖), softmax(τ·z/‖f_S‖)), f the features that W maps to logits.

    Xu et al. 2020, "Feature normalized knowledge distillation for image classification": each
    network's logits are tempered by the norm of its own features, for the norm holds the noise
    of a hard label. In the released code the norm is only clipped: the factor is
    min(‖f‖, τ)/‖f‖ in the place of τ/‖f‖, with τ = 2.

    Args:
        logits_BK: Student logits z.
        norm_B: ‖f_S‖₂ of the student's features; it learns, too.
        teacher_logits_BK: Teacher logits v; no gradient flows.
        teacher_norm_B: ‖f_T‖₂ of the teacher's features; no gradient flows.
        tau: τ > 0.
        form: The paper's, or the released code's.
        bias_K: Of the student's last layer, which is not scaled: z = W·f + b.
        teacher_bias_K: Of the teacher's; no gradient flows.

    Returns:
        loss_B in nats; the paper weighs it by λ², with λ²·τ²/mean ‖f‖² near 1.
    """
    teacher_BK = _scaled(teacher_logits_BK, teacher_norm_B, tau, form, teacher_bias_K).detach()
    return soft_cross_entropy(
        _scaled(logits_BK, norm_B, tau, form, bias_K), F.softmax(teacher_BK, dim=-1)
    )


def _scaled(
    logits_BK: Tensor, norm_B: Tensor, tau: float, form: Form, bias_K: Tensor | None
) -> Tensor:
    """The logits, had the features the length τ, or at most τ."""
    norm_B = wide(norm_B)
    if form == "release":
        divisor_B = norm_B.clamp(min=tau)
    else:
        # Features of 0 have logits of 0 (but for the bias), whatever they are divided by.
        divisor_B = torch.where(norm_B > 1e-12, norm_B, 1.0)
    factor_B1 = (tau / divisor_B)[:, None]
    if bias_K is None:
        return wide(logits_BK) * factor_B1
    return (wide(logits_BK) - wide(bias_K)) * factor_B1 + wide(bias_K)


@dataclass(frozen=True, kw_only=True)
class FeatureNormDistillation(PairsLayers, WholeBatch, HasAdapter):
    """CE(softmax(τ·v/‖f_T‖), softmax(τ·z/‖f_S‖)), f what enters each network's classifier.

    A sample's temperature is ‖f‖/τ. The student's length learns, too.

    Attributes:
        form: `paper` scales to the length τ; `release`, after the authors' code, shortens to τ what
            is longer, and leaves the classifiers' biases as they are.
        tau: τ. Left out, it is 2 in the `release` form; in the `paper` form such that
            λ²·τ²/mean ‖f_T‖² = 1 at the published weight λ² = 9, over the first batch: at a third
            of the teacher's typical length, the mean temperature is about 3.
        pairs: What enters the classifiers, and their biases; there is no choice.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="feature-norm-kd",
        summary="soften each sample by the length of its features",
        paper="Xu et al. 2020, ECCV (feature-normalised knowledge distillation)",
        defaults="the weight is the authors' code's, which has the release form at τ = 2; that the paper "
        "form is the default, and its rule for τ, are ours",
        needs=frozenset({Need.TEACHER, Need.LOGITS, Need.FEATURES}),
        default_weights=DefaultWeights(objective=LAMBDA_SQUARED),
        rule="classifier",
        terms=frozenset({"feature_norm_kd"}),
    )

    form: Form = "paper"
    tau: Annotated[float, Field(gt=0)] | None = None
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if self.pairs not in ((), OF_CLASSIFIERS):
            raise ValueError(
                "it looks at what enters the classifiers, no other layers. Leave pairs out"
            )
        if self.form == "release" and self.tau is None:
            # Spelt out, so that what records an objective records what it computes.
            object.__setattr__(self, "tau", RELEASE_TAU)

    @property
    def whole_batch(self) -> bool:
        """Where τ goes by the lengths in the first batch."""
        return self.tau is None

    def adapters(self, context: AdapterContext) -> nn.Module | None:
        """The teacher's typical length, where τ goes by it."""
        return TypicalNorm() if self.whole_batch else None

    def __call__(self, step: Step) -> Terms:
        """Term `feature_norm_kd`, over all samples, labelled or not."""
        student, teacher = step.student, step.teacher
        norm_B, other_B = _norm(student.features), _norm(teacher.features)
        tau = self.tau
        if self.whole_batch:
            # τ·z/‖f‖ = z/(‖f‖/τ).
            own_tau = step.adapter(TypicalNorm)(other_B) / LAMBDA_SQUARED**0.5
            norm_B, other_B, tau = norm_B / own_tau, other_B / own_tau, 1.0
        assert tau is not None, "else it goes by the teacher's length"
        biased = self.form == "release"
        loss_B = normalised_distillation(
            student.logits_BK,
            norm_B,
            step.teacher_logits_BK,
            other_B,
            tau,
            form=self.form,
            bias_K=student.features[BIAS].flatten(1) if biased else None,
            teacher_bias_K=teacher.features[BIAS].flatten(1) if biased else None,
        )
        return {"feature_norm_kd": Term(loss_B=loss_B)}


def _norm(features: Features) -> Tensor:
    """‖f‖₂ of each sample, (B)."""
    norm_B: Tensor = torch.linalg.vector_norm(features[PENULTIMATE].flatten(1), dim=-1)
    return norm_B
