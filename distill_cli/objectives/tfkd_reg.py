"""Teacher-free distillation from a virtual teacher. Shapes: B batch, K classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.numerics import one_hot, wide
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, on_hard_labels
from distill_cli.types import UNLABELLED, Terms

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
    hard_BK = one_hot(target_B.clamp(min=0), classes)
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


@dataclass(frozen=True, kw_only=True)
class TeacherFreeRegularisation:
    """KL(q ‖ p), q a virtual teacher that is right with `correct_prob` and knows nothing else.

    p^d has `correct_prob` on the label and the rest in equal shares on the other classes. The
    `release` form is the authors' code: q = softmax(p^d/T), probabilities in the place of logits,
    so that q is nearly uniform at T = 20, and p = softmax z, which T does not soften. The `paper`
    form is the equation as printed: q = softmax(log p^d/T) and p = softmax(z/T), without T²; at
    weight 0.1 and T = 20 it pulls with less than 1 % of cross-entropy's gradient (docs/pulls.md).

    Their code takes (1 − α)·CE + α·m·KL with KL's mean over samples and classes, K times smaller
    than the sum over classes here, so that α·m/K of theirs is the weight here. CIFAR-100: ResNet-18
    α 0.1, m 100, T 20, which are the defaults here, 0.1 beside 0.9 of cross-entropy; GoogLeNet
    α 0.1, m 50, T 40: 0.05 beside 0.9; MobileNetV2 (T 40) and ShuffleNetV2 (T 10) α 0.95, m 1:
    0.0095 beside 0.05.

    Attributes:
        correct_prob: Mass of the target, above 0.9; the others share the rest.
        temperature: T of the virtual teacher; in the `paper` form of the student too, and there at
            least 20.
        form: `release` or `paper`.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="tfkd-reg",
        summary="learn from a virtual teacher that is sure of the label",
        paper="Yuan et al. 2020, arXiv 1909.11723",
        defaults="the authors' code's for ResNet-18 on CIFAR-100",
        default_weights=DefaultWeights(ce=0.9, objective=0.1),
        rows="labelled",
        terms=frozenset({"virtual"}),
    )

    correct_prob: Annotated[float, Field(gt=0.9, lt=1)] = 0.99
    temperature: Annotated[float, Field(gt=0, le=1000)] = 20.0
    form: Literal["release", "paper"] = "release"

    def __call__(self, step: Step) -> Terms:
        """Term `virtual`, over the labelled samples."""
        logits_BK = step.student.logits_BK
        return {
            "virtual": on_hard_labels(
                step.batch,
                lambda target_B: teacher_free(
                    logits_BK, target_B, self.correct_prob, self.temperature, self.form
                ),
            )
        }
