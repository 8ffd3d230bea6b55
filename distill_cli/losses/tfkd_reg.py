"""A teacher made by hand: distillation as regularisation. Shapes: B batch, K classes."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.types import UNLABELLED

Form = Literal["paper", "release"]


def virtual_log_probs(
    target_B: Tensor,
    classes: int,
    correct_prob: float,
    temperature: float,
    form: Form = "paper",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """log p^d_T of a teacher with p^d = a on the target and (1 − a)/(K − 1) on each other class.

    Tf-KD reg, Yuan et al. 2020, arXiv 1909.11723: p^d_T = softmax(log p^d / T). The
    released code has softmax(p^d / T), probabilities in the place of logits: nearly uniform.

    Args:
        target_B: Class index y; −1 where unlabelled (the row then is one of some class).
        classes: K > 1.
        correct_prob: a; in the paper above 0.9.
        temperature: T > 0.
        form: The paper's, or the released code's.
        dtype: Of the result.

    Returns:
        log_probs_BK, finite: probabilities of 0 have the smallest logarithm that there is.
    """
    assert classes > 1, "one class leaves no others"
    assert 0 < correct_prob <= 1, "a is a probability"
    on, off = correct_prob, (1 - correct_prob) / (classes - 1)
    if form == "paper":
        on, off = math.log(on), math.log(off) if off > 0 else -math.inf
    on, off = on / temperature, off / temperature
    top = max(on, off)
    weight = math.exp(on - top) + (classes - 1) * math.exp(off - top)
    log_norm = top + math.log(weight)
    hard_BK = F.one_hot(target_B.clamp(min=0), classes).bool()
    log_probs_BK = torch.full(hard_BK.shape, off - log_norm, dtype=dtype, device=target_B.device)
    return log_probs_BK.masked_fill(hard_BK, on - log_norm).clamp(min=torch.finfo(dtype).min)


def teacher_free(
    logits_BK: Tensor,
    target_B: Tensor,
    correct_prob: float,
    temperature: float,
    form: Form = "paper",
) -> Tensor:
    """KL(p^d_T ‖ p_T), the student's p_T = softmax(z/T) against the teacher of `virtual_log_probs`.

    Tf-KD reg, Yuan et al. 2020, arXiv 1909.11723, which has no T² here. The released code does
    not temper the student: there p = softmax z.

    Args:
        logits_BK: Student logits z.
        target_B: Class index y; −1 where unlabelled.
        correct_prob: As for `virtual_log_probs`; at a = 1 and T = 1 this is cross-entropy.
        temperature: T > 0.
        form: The paper's, or the released code's.

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    wide_BK = wide(logits_BK)
    teacher_BK = virtual_log_probs(
        target_B, wide_BK.shape[-1], correct_prob, temperature, form, wide_BK.dtype
    )
    log_probs_BK = F.log_softmax(wide_BK / (temperature if form == "paper" else 1.0), dim=-1)
    divergence_BK = F.kl_div(log_probs_BK, teacher_BK, reduction="none", log_target=True)
    return divergence_BK.sum(dim=-1).masked_fill(target_B == UNLABELLED, 0)
