"""Losses against labels that a teacher makes up. Shapes: B batch, K classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import one_hot, wide

# What USB adds to a mean prediction before its logarithm.
LEAST_SHARE = 1e-12


def pseudo_cross_entropy(
    logits_BK: Tensor, teacher_log_probs_BK: Tensor, accepted_B: Tensor, temperature: float | None
) -> Tensor:
    """CE(q̂, p) of the accepted samples, q̂ the teacher's likeliest class, or q sharpened.

    Lee 2013 (ICML workshop) and FixMatch (Sohn et al. 2020, arXiv 2001.07685) have the class.

    Args:
        logits_BK: Student logits.
        teacher_log_probs_BK: log q at temperature 1; no gradient flows.
        accepted_B: bool, the samples that learn.
        temperature: T of the soft label q̂ = softmax(log q / T); None for the class.

    Returns:
        loss_B in nats; 0 where not accepted.
    """
    log_q_BK = teacher_log_probs_BK.detach()
    if temperature is None:
        loss_B = F.cross_entropy(logits_BK, log_q_BK.argmax(dim=-1), reduction="none")
    else:
        soft_BK = F.softmax(log_q_BK / temperature, dim=-1)
        loss_B = -(soft_BK * F.log_softmax(logits_BK, dim=-1)).sum(dim=-1)
    return loss_B.where(accepted_B, 0.0)


def class_fairness(
    logits_BK: Tensor, accepted_B: Tensor, mean_K: Tensor, histogram_K: Tensor
) -> Tensor:
    """−H(norm(p̃/h̃), norm(p̄/h̄)) = Σ_k norm(p̃/h̃)_k · log norm(p̄/h̄)_k, norm(x) = x / Σ x.

    p̄ is the student's mean prediction on the accepted samples, h̄ the histogram of its classes there;
    p̃ and h̃ are moving averages of the teacher's. FreeMatch, Wang et al. 2023, arXiv 2205.07246,
    equations 9 to 12, with the 1e-12 and the rule for empty bins of the authors' code (USB): a class
    of h = 0 counts as 0.

    Args:
        logits_BK: Student logits.
        accepted_B: bool, the samples above the threshold.
        mean_K: p̃.
        histogram_K: h̃.

    Returns:
        A scalar, no larger than 0; 0 where nothing is accepted.
    """
    probs_BK = F.softmax(wide(logits_BK), dim=-1)
    weight_B1 = accepted_B[:, None].to(probs_BK.dtype)
    count = weight_B1.sum().clamp(min=1)
    class_BK = one_hot(probs_BK.argmax(dim=-1), probs_BK.shape[-1]).to(probs_BK.dtype)
    own_K = _balanced((probs_BK * weight_B1).sum(0) / count, (class_BK * weight_B1).sum(0) / count)
    loss: Tensor = (_balanced(mean_K, histogram_K) * (own_K + LEAST_SHARE).log()).sum()
    return loss.where(accepted_B.any(), 0.0)


def _balanced(mean_K: Tensor, histogram_K: Tensor) -> Tensor:
    """norm(p/h); 0 for a class of h = 0, and for all where there is none of another."""
    seen_K = histogram_K > 0
    ratio_K = torch.where(seen_K, mean_K / torch.where(seen_K, histogram_K, 1.0), 0.0)
    total = ratio_K.sum()
    return ratio_K / torch.where(total > 0, total, 1.0)
