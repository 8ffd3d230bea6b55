"""Distillation at a temperature of each sample's own. Shapes: B batch, K classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.losses.soft_targets import soft_cross_entropy

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
