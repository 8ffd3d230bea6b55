"""Figures of merit of logits against labels: accuracy, NLL, calibration, agreement.

Shapes: N rows, K classes or labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.types import ECE_BINS, UNLABELLED, Targets


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of merit of a classifier on one split.

    Attributes:
        samples: Number of labelled samples.
        errors: Number of wrong answers; where several labels may apply, a right answer has all of
            them right.
        top1: Share of right answers.
        nll: Mean negative log-likelihood, nats; with sigmoid targets summed over labels.
        ece: Expected calibration error, 15 bins, as a share; with sigmoid targets that of the
            answers yes or no to each label.
        map: Mean average precision over the labels that apply to any sample, 0 where none does;
            None with softmax targets.
        f1: F1 over all samples and labels together (micro), predicted from a probability of 1/2 on;
            None with softmax targets.
        macro_f1: Mean of each label's F1, 0 for a label that neither applies nor is predicted; None
            with softmax targets.
    """

    samples: int
    errors: int
    top1: float
    nll: float
    ece: float
    map: float | None = None
    f1: float | None = None
    macro_f1: float | None = None


def confidence_bin(confidence_N: Tensor) -> Tensor:
    """The bin b of each confidence, among 15 equal bins (b/15, (b + 1)/15], int64."""
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


def measure_as(
    targets: Targets, logits_NK: Tensor, target_N: Tensor, target_NK: Tensor | None = None
) -> Metrics:
    """The metrics of fp32 logits over the labelled samples.

    Args:
        targets: Kind of the logits.
        logits_NK: Logits on the CPU.
        target_N: int64 class, −1 where unlabelled.
        target_NK: 1 for each label that applies, where several may; None where one class applies.
    """
    if targets == "softmax":
        assert target_NK is None, "one class applies"
        return measure(logits_NK, target_N)
    if target_NK is not None:
        right_N = ((logits_NK > 0) == (target_NK > 0)).all(dim=-1)
        return _measure_labels(logits_NK, target_NK, right_N)
    known_N = target_N != UNLABELLED
    logits_NK, target_N = logits_NK[known_N], target_N[known_N]
    right_N = logits_NK.argmax(dim=-1) == target_N
    return _measure_labels(logits_NK, one_vs_all(target_N, logits_NK.shape[1]), right_N)


def in_groups(logits_NK: Tensor, target_N: Tensor, group_K: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of groups of classes: a group's probability is the sum of its classes'.

    Args:
        logits_NK: Logits of one softmax.
        target_N: int64 class, −1 where unlabelled.
        group_K: int64 group of each class, from 0.

    Returns:
        fp64 log-probabilities (N, groups), and int64 groups (N,), −1 where unlabelled.
    """
    log_probs_NK = F.log_softmax(logits_NK.double(), dim=-1)
    columns = [
        log_probs_NK[:, group_K == group].logsumexp(dim=-1) for group in group_K.unique().tolist()
    ]
    group_N = group_K[target_N.clamp(min=0)]
    return torch.stack(columns, dim=-1), group_N.where(target_N != UNLABELLED, UNLABELLED)


def one_vs_all(target_N: Tensor, classes: int) -> Tensor:
    """int8 (N, K): 1 for the class, 0 for the others; −1 throughout an unlabelled row."""
    hot_NK = target_N[:, None] == torch.arange(classes, device=target_N.device)
    return hot_NK.to(torch.int8).masked_fill(target_N[:, None] == UNLABELLED, UNLABELLED)


def _measure_labels(logits_NK: Tensor, target_NK: Tensor, right_N: Tensor) -> Metrics:
    """The metrics of independent labels; `right_N` marks the samples with a right answer."""
    samples, correct = len(logits_NK), int(right_N.sum())
    logits_NK, applies_NK = logits_NK.double(), target_NK > 0
    loss_NK = F.binary_cross_entropy_with_logits(logits_NK, applies_NK.double(), reduction="none")
    predicted_NK = logits_NK > 0
    sure_NK = logits_NK.abs().sigmoid()
    hit_K = (predicted_NK & applies_NK).sum(dim=0)
    both_K = predicted_NK.sum(dim=0) + applies_NK.sum(dim=0)
    f1_K = 2 * hit_K.double() / both_K.clamp(min=1)
    return Metrics(
        samples=samples,
        errors=samples - correct,
        top1=correct / max(1, samples),
        nll=float(loss_NK.sum()) / max(1, samples),
        ece=expected_calibration_error(sure_NK.flatten(), (predicted_NK == applies_NK).flatten()),
        map=mean_average_precision(logits_NK, applies_NK),
        f1=2 * int(hit_K.sum()) / max(1, int(both_K.sum())),
        macro_f1=float(f1_K.mean()),
    )


class Rankings:
    """Each label's samples ranked by falling logit, for average precision.

    A sample's precision is that of all samples with at least its logit, so that the order of equal
    logits does not matter.
    """

    def __init__(self, logits_NK: Tensor) -> None:
        sorted_NK, self.order_NK = logits_NK.double().sort(dim=0, descending=True)
        # For each rank, the last rank with the same logit.
        falling_KN = (-sorted_NK).T.contiguous()
        self.last_NK = torch.searchsorted(falling_KN, falling_KN, right=True).T - 1

    def mean_average_precision(self, applies_NK: Tensor) -> float:
        """Mean of each label's average precision, over the labels that apply to any sample."""
        applies_NK = applies_NK.gather(0, self.order_NK).double()
        above_NK = applies_NK.cumsum(dim=0).gather(0, self.last_NK)
        precision_NK = above_NK / (self.last_NK + 1)
        positives_K = applies_NK.sum(dim=0)
        average_K = (precision_NK * applies_NK).sum(dim=0) / positives_K.clamp(min=1)
        used_K = positives_K > 0
        return float(average_K[used_K].mean()) if bool(used_K.any()) else 0.0


def mean_average_precision(logits_NK: Tensor, applies_NK: Tensor) -> float:
    """Mean over labels of the mean precision at each sample that the label applies to.

    Args:
        logits_NK: Logits or other scores.
        applies_NK: Whether a label applies; a label that applies to no sample is left out.

    Returns:
        In [0, 1]; 0 where no label applies to any sample.
    """
    return Rankings(logits_NK).mean_average_precision(applies_NK)


def agreement(logits_NK: Tensor, teacher_log_probs_NK: Tensor) -> tuple[float, float]:
    """Share of samples with the teacher's class, and mean KL(teacher ‖ student) at T = 1, nats."""
    log_probs_NK = F.log_softmax(logits_NK.double(), dim=-1)
    teacher_NK = teacher_log_probs_NK.double()
    same = (log_probs_NK.argmax(dim=-1) == teacher_NK.argmax(dim=-1)).double().mean()
    divergence = F.kl_div(log_probs_NK, teacher_NK, reduction="batchmean", log_target=True)
    return float(same), float(divergence)


# Twice the gain in log-likelihood from which T = 1 is rejected, one parameter at the 1 % level: the
# 0.99 quantile of χ² with one degree of freedom, a squared normal variable.
GAIN = NormalDist().inv_cdf(0.995) ** 2


@dataclass(frozen=True, kw_only=True)
class FittedTemperature:
    """The temperature that held-out labels give.

    Attributes:
        value: The divisor of the logits; 1 where no temperature is fitted.
        why_not: The reason why none is fitted, in words; None where one is.
    """

    value: float
    why_not: str | None = None


def fit_temperature(logits_NK: Tensor, target_N: Tensor) -> FittedTemperature:
    """Temperature scaling: the likeliest T where the labels reject T = 1, else none.

    Guo et al. 2017, arXiv 1706.04599, section 4.2, fit T by maximum likelihood. Where T = 1 is
    right, the fit costs other images χ²/2N nats: more than 0.01 in every sixth fit to a hundred
    images. So T = 1 stands unless a likelihood-ratio test rejects it at the 1 % level.

    Args:
        logits_NK: Logits of held-out images, on the CPU.
        target_N: int64 class, −1 where unlabelled; one label at least.
    """
    labelled_N = target_N >= 0
    logits_NK, target_N = logits_NK[labelled_N].double(), target_N[labelled_N]
    # Logits relative to the target's, which becomes 0: means are then sums without cancellation.
    gap_NK = logits_NK - logits_NK.gather(-1, target_N[:, None])
    # Tested first: where all logits are equal, no image is wrong, and none is right either.
    if float(gap_NK.mean()) >= 0:
        return FittedTemperature(value=1.0, why_not="the logits are no guide to held-out labels")
    if not bool((gap_NK > 0).any()):
        return FittedTemperature(value=1.0, why_not="every held-out image is right")
    beta = _likeliest(gap_NK)
    # The NLL is the mean of log Σ exp(β·gap).
    nll_1, nll_T = (float((b * gap_NK).logsumexp(dim=-1).sum()) for b in (1.0, beta))
    if 2 * (nll_1 - nll_T) < GAIN:
        why_not = f"{len(target_N):,} held-out images do not tell {1 / beta:.2f} from 1"
        return FittedTemperature(value=1.0, why_not=why_not)
    return FittedTemperature(value=1 / beta)


def _likeliest(gap_NK: Tensor) -> float:
    """The β = 1/T that minimises the NLL of softmax(βz) over the rows and one extra row.

    The NLL is convex in β, with slope Σ(E_p z − z_y) and curvature Σ Var_p z. It falls for ever
    where no answer is wrong, and nearly so where the wrong ones are wrong by a hair. The extra row,
    labelled as the network at β = 1 expects (a mean over all rows), has no weight among hundreds
    and keeps such a β near the others. Newton's steps change β by a factor of 8 at most; the
    bracket is halved where a step leaves it.

    Args:
        gap_NK: Logits minus the target's, fp64; some are positive, their mean is not.
    """
    more = 1 / len(gap_NK)
    expected = float((F.softmax(gap_NK, dim=-1) * gap_NK).sum()) * more
    low, high, beta = 0.0, math.inf, 1.0
    for _ in range(1000):
        probs_NK = F.softmax(beta * gap_NK, dim=-1)
        mean_N1 = (probs_NK * gap_NK).sum(dim=-1, keepdim=True)
        slope = (1 + more) * float(mean_N1.sum()) - expected
        curvature = (1 + more) * float((probs_NK * (gap_NK - mean_N1).square()).sum())
        low, high = (beta, high) if slope < 0 else (low, beta)
        newton = -slope / curvature if curvature > 0 else math.copysign(math.inf, -slope)
        if abs(newton) <= 1e-9 * beta:
            break
        step = min(max(beta + newton, beta / 8), beta * 8)
        beta = step if low < step < high else (low * high) ** 0.5
    return beta


def label_agreement(logits_NK: Tensor, teacher_NK: Tensor) -> tuple[float, float]:
    """Share of equal yes and no, and mean Σ_k KL(teacher ‖ student) at T = 1, nats.

    Args:
        logits_NK: Logits of the student.
        teacher_NK: Logits of the teacher.
    """
    logits_NK, teacher_NK = logits_NK.double(), teacher_NK.double()
    same = ((logits_NK > 0) == (teacher_NK > 0)).double().mean()
    on_NK = teacher_NK.sigmoid() * (F.logsigmoid(teacher_NK) - F.logsigmoid(logits_NK))
    off_NK = (-teacher_NK).sigmoid() * (F.logsigmoid(-teacher_NK) - F.logsigmoid(-logits_NK))
    return float(same), float((on_NK + off_NK).sum(dim=-1).mean())
