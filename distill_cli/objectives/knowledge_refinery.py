"""Knowledge Refinery: the residual mass of a label, learnt beside the network.

Shapes: B batch, K classes, R = K − 1 residual ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.knowledge_refinery import ResidualMatrix
from distill_cli.losses.numerics import wide
from distill_cli.losses.other_classes import others
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Step, on_hard_labels
from distill_cli.objectives.hooks import HasAdapter
from distill_cli.types import UNLABELLED, Terms


def refine(
    logits_BK: Tensor, residual_KR: Tensor, target_B: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """KL(p ‖ sg q) for the student and KL(q ‖ sg p) for the labels, over the other classes only.

    Knowledge Refinery, Ding et al. 2021, "Knowledge refinery: learning from decoupled label".
    p = softmax of `others`, q = softmax S_y, sg a constant.

    Args:
        logits_BK: Student logits z.
        residual_KR: S, the learnt logits of residual labels, row y those of class y; all 0, their
            start, is uniform labels.
        target_B: Class index y; −1 where unlabelled.
        reverse: Both in the other direction: KL(sg q ‖ p) and KL(sg p ‖ q).

    Returns:
        student_B, from which gradients reach z alone, and matrix_B, from which they reach S
        alone, in nats; both 0 where unlabelled.
    """
    log_probs_BR = F.log_softmax(others(wide(logits_BK), target_B), dim=-1)
    log_labels_BR = F.log_softmax(wide(residual_KR)[target_B.clamp(min=0)], dim=-1)
    student, matrix = (
        (log_probs_BR, log_labels_BR.detach()),
        (log_labels_BR, log_probs_BR.detach()),
    )
    unlabelled_B = target_B == UNLABELLED
    student_B, matrix_B = (
        _divergence(*(pair[::-1] if reverse else pair)).masked_fill(unlabelled_B, 0)
        for pair in (student, matrix)
    )
    return student_B, matrix_B


def _divergence(log_probs_BR: Tensor, other_log_probs_BR: Tensor) -> Tensor:
    """KL of each row, with gradients to both sides."""
    return (log_probs_BR.exp() * (log_probs_BR - other_log_probs_BR)).sum(dim=-1)


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
        rows="labelled",
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
