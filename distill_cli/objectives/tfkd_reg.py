"""Teacher-free distillation from a virtual teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from distill_cli.losses.virtual import teacher_free
from distill_cli.objectives.base import About, Usual, on_hard_labels
from distill_cli.types import Batch, Progress, StudentSignals, TeacherSignals, Terms


@dataclass(frozen=True, kw_only=True)
class TeacherFreeRegularisation:
    """KL(p^d_T ‖ p_T), p^d a teacher that is right with `correct_prob` and knows nothing else.

    Attributes:
        correct_prob: Mass of the target, above 0.9; the others share the rest.
        temperature: T, at least 20 in the paper.
        form: `paper` softens the virtual teacher's probabilities as those of logits; `release`
            takes a softmax of the probabilities themselves, as the authors' code.
    """

    about: ClassVar[About] = About(
        name="tfkd-reg",
        summary="learn from a virtual teacher that is sure of the label",
        paper="Yuan et al. 2020, arXiv 1909.11723",
        usual=Usual(hard=0.9, own=0.1),
    )

    correct_prob: Annotated[float, Field(gt=0.9, lt=1)] = 0.99
    temperature: Annotated[float, Field(gt=0, le=1000)] = 20.0
    form: Literal["paper", "release"] = "paper"

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
        adapters: nn.Module | None,
    ) -> Terms:
        """Term `virtual`, over the labelled samples."""
        logits_BK = student.logits_BK
        return {
            "virtual": on_hard_labels(
                batch,
                lambda target_B: teacher_free(
                    logits_BK, target_B, self.correct_prob, self.temperature, self.form
                ),
            )
        }
