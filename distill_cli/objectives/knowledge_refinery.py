"""Knowledge Refinery: the residual mass of a label, learnt beside the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.knowledge_refinery import ResidualMatrix
from distill_cli.losses.knowledge_refinery import refine
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Step, on_hard_labels
from distill_cli.objectives.hooks import HasAdapter
from distill_cli.types import Terms


@dataclass(frozen=True, kw_only=True)
class KnowledgeRefinery(HasAdapter):
    """KL(p_res ‖ q_res): p_res over the other classes, q_res the residual label S_y, learnt too.

    The student learns with S fixed, and S from α·KL(q_res ‖ p_res) with the student fixed.

    Attributes:
        rate: Of S's own optimiser, for the mean over the samples of one class.
        reverse: Turn both divergences round.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="knowledge-refinery",
        summary="learn which classes are confused beside the network, and teach it",
        paper="Ding et al. 2021, AAAI (Knowledge Refinery)",
        defaults="weight and rate are ours",
        terms=frozenset({"residual", "matrix"}),
    )

    rate: Annotated[float, Field(gt=0)] = 0.1
    reverse: bool = False

    def adapters(self, context: AdapterContext) -> nn.Module:
        """S."""
        return ResidualMatrix(context.classes, self.rate)

    def __call__(self, step: Step) -> Terms:
        """Terms `residual`, of the student, and `matrix`, of S, over the labelled samples."""
        logits_BK, residual_KR = step.student.logits_BK, step.adapter(ResidualMatrix).residual_KR

        def both(target_B: Tensor) -> tuple[Tensor, Tensor]:
            return refine(logits_BK, residual_KR, target_B, reverse=self.reverse)

        return {
            "residual": on_hard_labels(step.batch, lambda target_B: both(target_B)[0]),
            "matrix": on_hard_labels(step.batch, lambda target_B: both(target_B)[1]),
        }
