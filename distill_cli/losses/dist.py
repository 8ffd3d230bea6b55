"""Correlation of predictions instead of their match. Shapes: B batch, K classes.

DIST, Huang et al. 2022, arXiv 2205.10536. p = softmax(z/T) of the student, q the teacher's labels
at T; ρ is Pearson's correlation, taken as 0 where a side does not vary (a class that no sample of
the batch has any probability of, a batch of one).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.logit_standardisation import standardise


def inter_class(logits_BK: Tensor, teacher_log_probs_BK: Tensor, temperature: float) -> Tensor:
    """T²·(1 − ρ(p_b, q_b)), over the classes of each sample.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows.
        temperature: T > 0.

    Returns:
        loss_B, between 0 and 2·T².
    """
    probs_BK = F.softmax(logits_BK / temperature, dim=-1)
    correlation_B = _correlation(probs_BK, teacher_log_probs_BK.detach().exp())
    return (1 - correlation_B) * temperature**2


def intra_class(logits_BK: Tensor, teacher_log_probs_BK: Tensor, temperature: float) -> Tensor:
    """T²·(1 − mean_k ρ(p_·k, q_·k)), over the samples of each class.

    A relation of a batch: it has no value per sample, and needs more than one.

    Args:
        logits_BK: Student logits z.
        teacher_log_probs_BK: log q, already at T; no gradient flows.
        temperature: T > 0.

    Returns:
        A scalar between 0 and 2·T².
    """
    probs_BK = F.softmax(logits_BK / temperature, dim=-1)
    correlation_K = _correlation(probs_BK.T, teacher_log_probs_BK.detach().exp().T)
    return (1 - correlation_K.mean()) * temperature**2


def _correlation(rows_XY: Tensor, teacher_XY: Tensor) -> Tensor:
    """Pearson's correlation of each pair of rows: the mean product of their z-scores."""
    return (standardise(rows_XY) * standardise(teacher_XY)).mean(dim=-1)
