"""Biases of classes that give each class its share of the answers. Shapes: N images, K classes, S of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# How far a mean mass may be from its share, and how near it is brought where it can be: where a bias
# moves few images, a bias of the right mass is still a hundred times as far from the right bias.
TOLERANCE, GOAL = 1e-6, 1e-10
SWEEPS, STEPS = 2000, 200


class NoBiasError(Exception):
    """No biases were found within the sweeps; the message has the mass that is furthest from its share."""


@dataclass(frozen=True, kw_only=True)
class MatchedBias:
    """Biases of the classes, and what they change.

    Attributes:
        bias_K: fp64, of sum 0.
        before_K: fp64 mean mass of each class without them.
        after_K: The same with them.
    """

    bias_K: Tensor
    before_K: Tensor
    after_K: Tensor


def mean_masses(logits_NK: Tensor) -> Tensor:
    """Mean probability of each class over the images, fp64 (K,)."""
    return F.softmax(logits_NK.double(), dim=-1).mean(dim=0)


def matched_bias(logits_NK: Tensor, prior_K: Tensor, chosen_S: Tensor) -> MatchedBias:
    """Biases of some classes under which the mean mass of each of them is its share.

    Hinton et al. 2015, arXiv 1503.02531, section 5, choose such a bias by errors on the test set; here
    no label is known. The biases minimise a convex function, Σ_n log Σ_k exp(z_nk + b_k)/N − Σ_s π_s·b_s,
    whose slopes are masses less shares. As each bias changes all masses, the classes have their turns
    one after the other, each the exact minimum along its own bias, until all masses are right at once.

    A bias that all classes share changes nothing, so the sum over all classes is set to 0: where some
    classes are not chosen, they have one bias in common.

    Args:
        logits_NK: Finite logits of images whose classes occur as often as the shares say, N > 0.
        prior_K: Share of each class, each above 0, of sum 1.
        chosen_S: int64 classes that get a bias of their own.

    Raises:
        NoBiasError: The masses are further than 1e-6 from their shares after 2,000 turns of each class.
    """
    logits_KN = logits_NK.double().T.contiguous()
    prior_K = prior_K.double() / prior_K.double().sum()
    others_K = torch.ones(len(prior_K), dtype=torch.bool)
    others_K[chosen_S] = False
    # Those whose logits stay as they are, as one: −∞ where there are none.
    fixed_N = logits_KN[others_K].logsumexp(dim=0)
    prior = prior_K[chosen_S].tolist()
    bias_S, moved_SN = torch.zeros(len(chosen_S), dtype=torch.float64), logits_KN[chosen_S]
    worst = math.inf
    for _ in range(SWEEPS):
        moved_SN = _one_turn_each(moved_SN, fixed_N, prior)
        bias_S = (moved_SN - logits_KN[chosen_S]).mean(dim=1)
        moved_SN = logits_KN[chosen_S] + bias_S[:, None]
        bias_K = torch.zeros_like(prior_K)
        bias_K[chosen_S] = bias_S
        after_K = mean_masses(logits_NK.double() + bias_K)
        worst = float((after_K - prior_K)[chosen_S].abs().max())
        if worst <= GOAL:
            break
    if not worst <= TOLERANCE:
        raise NoBiasError(f"a mass is still {worst:.1e} from its share")
    return MatchedBias(
        bias_K=bias_K - bias_K.mean(),
        before_K=mean_masses(logits_NK),
        after_K=after_K,
    )


def _one_turn_each(logits_SN: Tensor, fixed_N: Tensor, prior: list[float]) -> Tensor:
    """The logits after each class's turn, with the biases that earlier classes have just been given.

    The sum over a class's rivals is never made by subtraction, which would lose all digits where a class
    has nearly all of an image's mass: it is that of the classes before it, and that of those behind.
    """
    behind_SN = logits_SN.flip(0).logcumsumexp(dim=0).flip(0)
    before_N, moved = fixed_N, []
    for place, share in enumerate(prior):
        rivals_N = before_N
        if place + 1 < len(prior):
            rivals_N = torch.logaddexp(before_N, behind_SN[place + 1])
        moved_N = logits_SN[place] + _bias_of_one(logits_SN[place] - rivals_N, share)
        before_N = torch.logaddexp(before_N, moved_N)
        moved.append(moved_N)
    return torch.stack(moved)


def _bias_of_one(odds_N: Tensor, share: float) -> float:
    """The b at which the mean of σ(a_n + b) is a share: Newton's steps on its log-odds, within a bracket.

    Args:
        odds_N: Log-odds a of a class against all others.
        share: In (0, 1).
    """
    wanted = math.log(share) - math.log1p(-share)
    low, high = wanted - float(odds_N.max()), wanted - float(odds_N.min())
    bias = min(max(0.0, low), high)
    for _ in range(STEPS):
        probs_N = (odds_N + bias).sigmoid()
        mass = float(probs_N.mean())
        if abs(mass - share) <= GOAL / 100:
            break
        low, high = (bias, high) if mass < share else (low, bias)
        slope = float((probs_N * (-odds_N - bias).sigmoid()).mean())
        step = math.nan
        if 0 < mass < 1 and slope > 0:
            step = bias + (wanted - math.log(mass / (1 - mass))) * mass * (1 - mass) / slope
        bias = step if low < step < high else (low + high) / 2
    return bias
