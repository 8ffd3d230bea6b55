"""Teacher-free distillation from a virtual teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distill_cli.losses.tfkd_reg import teacher_free
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, on_hard_labels
from distill_cli.types import Terms


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
