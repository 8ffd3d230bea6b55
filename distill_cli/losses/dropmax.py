"""Softmax with classes dropped at random, at rates learnt per sample. Shapes: B batch, K classes.

DropMax, Lee et al. 2018, arXiv 1712.07834. A classifier has three linear heads: logits o, and two
of gates. ρ = σ(prior) is the probability that a class stays; the posterior, which knows the label
in training, is q = σ(sg(prior) + posterior), sg a constant.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import one_hot, wide
from distill_cli.types import UNLABELLED

# Share of a class that is left when it is dropped, so that the softmax exists if all others are.
EPSILON = 1e-20


def posterior_gate(prior_BK: Tensor, posterior_BK: Tensor) -> Tensor:
    """The logit of q, sg(prior) + posterior: the prior does not learn from it."""
    return prior_BK.detach() + posterior_BK


def relaxed_gate(gate_BK: Tensor, uniform_BK: Tensor, temperature: float = 0.1) -> Tensor:
    """The logit of a relaxed Bernoulli mask, (gate + log(u/(1 − u)))/T.

    Args:
        gate_BK: Logits of the probabilities of 1.
        uniform_BK: Independent draws u from [0, 1].
        temperature: T > 0; towards 0, the mask is 0 or 1.

    Returns:
        gate_BK; its σ is the mask.
    """
    # Ends of the range are moved inwards by rounding: their logits are infinite.
    eps = torch.finfo(gate_BK.dtype).eps
    return (gate_BK + torch.logit(uniform_BK.to(gate_BK.dtype), eps=eps)) / temperature


def dropmax(
    logits_BK: Tensor,
    prior_BK: Tensor,
    posterior_BK: Tensor,
    target_B: Tensor,
    uniform_BK: Tensor,
    temperature: float = 0.1,
    eps: float = EPSILON,
) -> dict[str, Tensor]:
    """The four terms of the loss; their sum is the paper's.

    ce = −log p_y with p_k ∝ (m_k + ε)·exp o_k, m the relaxed mask of q, m_y = 1.
    kl = −log ρ_y + Σ_{k≠y} KL(Ber q_k ‖ Ber ρ_k).
    auxiliary = Σ_k BCE(σ(posterior_k), δ_y).
    entropy = −Σ_k H(ρ_k), to be made small: rates stay undecided where nothing speaks.

    Args:
        logits_BK: Logits o.
        prior_BK: Logits of ρ.
        posterior_BK: What the label adds to them for q.
        target_B: Class index y; −1 where unlabelled.
        uniform_BK: Independent draws from [0, 1) for the mask.
        temperature: Of the mask.
        eps: ε > 0.

    Returns:
        loss_B of each term, in nats; 0 where unlabelled.
    """
    logits_BK, prior_BK, posterior_BK = wide(logits_BK), wide(prior_BK), wide(posterior_BK)
    hard_BK = one_hot(target_B.clamp(min=0), logits_BK.shape[-1])
    gate_BK = posterior_gate(prior_BK, posterior_BK)

    log_mask_BK = _log_kept(relaxed_gate(gate_BK, uniform_BK, temperature), eps)
    kept_BK = logits_BK + log_mask_BK.masked_fill(hard_BK, math.log1p(eps))
    terms = {
        "ce": F.cross_entropy(kept_BK, target_B.clamp(min=0), reduction="none"),
        "kl": torch.where(
            hard_BK, -F.logsigmoid(prior_BK), _bernoulli_divergence(gate_BK, prior_BK)
        ).sum(dim=-1),
        "auxiliary": F.binary_cross_entropy_with_logits(
            posterior_BK, hard_BK.to(posterior_BK.dtype), reduction="none"
        ).sum(dim=-1),
        "entropy": _negative_entropy(prior_BK).sum(dim=-1),
    }
    unlabelled_B = target_B == UNLABELLED
    return {name: loss_B.masked_fill(unlabelled_B, 0) for name, loss_B in terms.items()}


def dropmax_inference(logits_BK: Tensor, prior_BK: Tensor, eps: float = EPSILON) -> Tensor:
    """o + log(ρ + ε): at test, each class by the probability that it stays.

    Args:
        logits_BK: Logits o.
        prior_BK: Logits of ρ.
        eps: ε > 0.

    Returns:
        logits_BK, whose softmax is the prediction.
    """
    return wide(logits_BK) + _log_kept(wide(prior_BK), eps)


def _log_kept(gate_BK: Tensor, eps: float) -> Tensor:
    """log(σ(gate) + ε), in logarithms all the way: σ leaves the range of fp32."""
    log_eps = gate_BK.new_full((), math.log(eps))
    return torch.logaddexp(F.logsigmoid(gate_BK), log_eps)


def _bernoulli_divergence(gate_BK: Tensor, other_BK: Tensor) -> Tensor:
    """KL(Ber σ(gate) ‖ Ber σ(other))."""
    on_BK = gate_BK.sigmoid() * (F.logsigmoid(gate_BK) - F.logsigmoid(other_BK))
    off_BK = (-gate_BK).sigmoid() * (F.logsigmoid(-gate_BK) - F.logsigmoid(-other_BK))
    return on_BK + off_BK


def _negative_entropy(gate_BK: Tensor) -> Tensor:
    """ρ·log ρ + (1 − ρ)·log(1 − ρ), ρ = σ(gate)."""
    on_BK = gate_BK.sigmoid() * F.logsigmoid(gate_BK)
    return on_BK + (-gate_BK).sigmoid() * F.logsigmoid(-gate_BK)
