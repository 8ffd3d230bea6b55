"""Soft labels that need no teacher, and their loss. Shapes: B batch, K classes, D values.

Row y of a `target_KK` is the label of class y: `target_KK[target_B]` labels a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import directions, wide
from distill_cli.types import UNLABELLED


def soft_cross_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """CE(q, p) = −Σ_k q_k·log p_k, p = softmax z.

    Szegedy et al. 2016, arXiv 1512.00567, section 7; on one-hot labels cross-entropy to the bit.

    Args:
        logits_BK: Student logits z.
        target_BK: Labels q, each row of sum 1, or of 0 alone where unlabelled; no gradient flows.

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    log_probs_BK = F.log_softmax(wide(logits_BK), dim=-1)
    return -(target_BK.detach().to(log_probs_BK.dtype) * log_probs_BK).sum(dim=-1)


def group_relation(group_K: Tensor) -> Tensor:
    """ρ_y, uniform over the classes A(y) of y's group, y among them.

    Args:
        group_K: Which group each class is in, int64.

    Returns:
        rule_KK in fp64, each row of sum 1.
    """
    alike_KK = (group_K[:, None] == group_K[None, :]).double()
    return alike_KK / alike_KK.sum(dim=-1, keepdim=True)


def grouped_targets(
    rule_KK: Tensor, epsilon: float, group_epsilon: float, exclude_target: bool = False
) -> Tensor:
    """(1 − ε₁ − ε₂)·δ_y + ε₁/K + ε₂·ρ_y.

    Anisotropic label smoothing, Xu et al. 2020, "Feature normalized knowledge distillation for
    image classification"; ε₂ = 0 is label smoothing. A class alone in its group is its own ρ_y.

    Args:
        rule_KK: ρ, each row of sum 1: of groups as `group_relation` has it, or any other.
        epsilon: ε₁, spread over all classes, y included.
        group_epsilon: ε₂, spread as ρ says; ε₁ + ε₂ is at most 1.
        exclude_target: Leave y out of ρ_y.

    Returns:
        target_KK in fp64, each row of sum 1.
    """
    assert epsilon >= 0, "a share is not negative"
    assert group_epsilon >= 0, "a share is not negative"
    assert epsilon + group_epsilon <= 1, "no more than everything can be spread"
    classes = len(rule_KK)
    hard_KK = torch.eye(classes, dtype=torch.float64, device=rule_KK.device)
    rule_KK = rule_KK.double()
    if exclude_target:
        rule_KK = rule_KK * (1 - hard_KK)
        rest_K1 = rule_KK.sum(dim=-1, keepdim=True)
        rule_KK = torch.where(rest_K1 > 0, rule_KK / rest_K1.where(rest_K1 > 0, 1.0), hard_KK)
    return (1 - epsilon - group_epsilon) * hard_KK + epsilon / classes + group_epsilon * rule_KK


def class_relation(feature_KD: Tensor, temperature: float) -> Tensor:
    """softmax_j(cos(c_i, c_j)/T): how much each class looks like each other one.

    A class is the most like itself: T → 0 gives hard labels, T → ∞ uniform ones.

    Args:
        feature_KD: A feature c of each class, such as the centroid of its samples.
        temperature: T > 0.

    Returns:
        target_KK, each row of sum 1.
    """
    unit_KD = directions(wide(feature_KD))
    return F.softmax(unit_KD @ unit_KD.mT / temperature, dim=-1)


def mixed_targets(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Σ_i w_i·q_i of several labels for the same samples.

    Args:
        parts: Weights w_i ≥ 0 that sum to 1, each with its target_BK.

    Returns:
        target_BK.
    """
    weights = [weight for weight, _ in parts]
    assert min(weights) >= 0, "a share is not negative"
    assert math.isclose(math.fsum(weights), 1, abs_tol=1e-6), "the shares make up one label"
    total_BK = parts[0][0] * wide(parts[0][1])
    for weight, target_BK in parts[1:]:
        total_BK = total_BK + weight * wide(target_BK)
    return total_BK


def margin(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """p_y − max_{k≠y} p_k: how far ahead the label is, below 0 where it is not the answer.

    Args:
        logits_BK: Logits of any network; no gradient flows.
        target_B: Class index y; −1 where unlabelled.

    Returns:
        gap_B between −1 and 1; −1 where unlabelled.
    """
    probs_BK = F.softmax(wide(logits_BK.detach()), dim=-1)
    target_B1 = target_B.clamp(min=0)[:, None]
    others_BK = probs_BK.scatter(-1, target_B1, 0.0)
    gap_B = probs_BK.gather(-1, target_B1)[:, 0] - others_BK.amax(dim=-1)
    return gap_B.masked_fill(target_B == UNLABELLED, -1.0)


def selected(gap_B: Tensor, margin: float) -> Tensor:
    """Which samples get the soft label: those whose label is less than `margin` ahead.

    Args:
        gap_B: As `margin` gives it.
        margin: From −1, which selects none, to above 1, which selects all.

    Returns:
        soft_B, bool.
    """
    return gap_B < margin
