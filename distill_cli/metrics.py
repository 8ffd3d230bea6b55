"""Figures of merit of logits against labels: accuracy, NLL, calibration, agreement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import ECE_BINS


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good a classifier is on one split.

    Attributes:
        samples: Labelled samples.
        errors: Wrong answers.
        top1: Share of right answers.
        nll: Mean negative log-likelihood, nats.
        ece: Expected calibration error, 15 bins, as a share.
    """

    samples: int
    errors: int
    top1: float
    nll: float
    ece: float


def confidence_bin(confidence_N: Tensor) -> Tensor:
    """Which of the 15 equal bins (b/15, (b + 1)/15] each confidence lies in, int64."""
    return (confidence_N * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1


def expected_calibration_error(confidence_N: Tensor, correct_N: Tensor) -> float:
    """Σ_b (n_b/N)·|accuracy_b − confidence_b| over 15 equal bins (Guo et al. 2017, eq. 5)."""
    gap_N = correct_N.double() - confidence_N.double()
    gaps = torch.zeros(ECE_BINS, dtype=torch.float64)
    gaps.index_add_(0, confidence_bin(confidence_N).cpu(), gap_N.cpu())
    return float(gaps.abs().sum() / max(1, len(confidence_N)))


def measure(logits_NK: Tensor, target_N: Tensor) -> Metrics:
    """The metrics of fp32 logits over the labelled samples (target ≥ 0)."""
    labelled_N = target_N >= 0
    logits_NK, target_N = logits_NK[labelled_N].double(), target_N[labelled_N]
    samples = len(target_N)
    log_probs_NK = F.log_softmax(logits_NK, dim=-1)
    correct_N = logits_NK.argmax(dim=-1) == target_N
    correct = int(correct_N.sum())
    nll = float(F.nll_loss(log_probs_NK, target_N, reduction="sum")) / max(1, samples)
    confidence_N = log_probs_NK.amax(dim=-1).exp()
    return Metrics(
        samples=samples,
        errors=samples - correct,
        top1=correct / max(1, samples),
        nll=nll,
        ece=expected_calibration_error(confidence_N, correct_N),
    )


def agreement(logits_NK: Tensor, teacher_log_probs_NK: Tensor) -> tuple[float, float]:
    """Share of samples with the teacher's class, and mean KL(teacher ‖ student) at T = 1, nats."""
    log_probs_NK = F.log_softmax(logits_NK.double(), dim=-1)
    teacher_NK = teacher_log_probs_NK.double()
    same = (log_probs_NK.argmax(dim=-1) == teacher_NK.argmax(dim=-1)).double().mean()
    divergence = F.kl_div(log_probs_NK, teacher_NK, reduction="batchmean", log_target=True)
    return float(same), float(divergence)


# The range in which a temperature is sought: beyond it, logits are as good as uniform or one-hot.
TEMPERATURES = (0.05, 20.0)


def fit_temperature(logits_NK: Tensor, target_N: Tensor) -> float:
    """The T that minimises the mean NLL of softmax(z/T), over the labelled samples (target ≥ 0).

    Temperature scaling, Guo et al. 2017, arXiv 1706.04599, section 4.2; to be fitted on held-out
    data. The NLL is convex in β = 1/T, with slope mean(E_p z − z_y) and curvature mean(Var_p z):
    Newton's steps, halving the bracket wherever one leaves it.

    Returns:
        T within TEMPERATURES; 1 where no T is better than another.
    """
    labelled_N = target_N >= 0
    logits_NK, target_N = logits_NK[labelled_N].double(), target_N[labelled_N]
    if len(target_N) == 0:
        return 1.0
    # Over the target's logit, whose own is 0: the slope is their mean, without cancellation.
    gap_NK = logits_NK - logits_NK.gather(-1, target_N[:, None])

    def slope(beta: float) -> tuple[float, float]:
        """The slope and the curvature at β."""
        probs_NK = F.softmax(beta * gap_NK, dim=-1)
        mean_N1 = (probs_NK * gap_NK).sum(dim=-1, keepdim=True)
        variance_N = (probs_NK * (gap_NK - mean_N1).square()).sum(dim=-1)
        return float(mean_N1.mean()), float(variance_N.mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    first, last = slope(low)[0], slope(high)[0]
    if first == last == 0:
        return 1.0
    if first >= 0:
        return TEMPERATURES[1]
    if last <= 0:
        return TEMPERATURES[0]
    beta = 1.0
    for _ in range(100):
        first, curvature = slope(beta)
        low, high = (beta, high) if first < 0 else (low, beta)
        step = beta - first / curvature if curvature > 0 else low
        step = step if low < step < high else (low * high) ** 0.5
        if abs(step - beta) <= 1e-12 * beta:
            break
        beta = step
    return 1 / beta
