"""Similarity-preserving distillation: how samples resemble each other.

Shapes: B batch, C channels, H×W positions. Features may come in 16 bits from under autocast: they
are widened first, for squares of them overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


def similarity(feat_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """‖G_T − G_S‖²_F / B², G the rows of F·Fᵀ over ‖·‖₂, F the flattened features.

    Tung, Mori 2019, arXiv 1907.09682: samples alike to the teacher should be so to the
    student; neither channels nor sizes need agree.

    Args:
        feat_BCHW: The student's features.
        teacher_BCHW: The teacher's; no gradient flows.

    Returns:
        A scalar.
    """
    gram_BB, teacher_BB = (
        F.normalize(x_BD @ x_BD.T, dim=-1)
        for x_BD in (wide(feat_BCHW).flatten(1), wide(teacher_BCHW.detach()).flatten(1))
    )
    return (teacher_BB - gram_BB).square().mean()


@dataclass(frozen=True, kw_only=True)
class Similarity(PairsLayers):
    """‖G_T − G_S‖² / B², G the row-normalised similarities of a batch's samples.

    Attributes:
        pairs: Layers of student and teacher; none for the last maps.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="similarity",
        summary="find the samples alike that the teacher finds alike",
        paper="Tung, Mori 2019, arXiv 1907.09682",
        defaults="the weight is the authors'",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        default_weights=DefaultWeights(objective=3000.0),
        rule="last",
        coupled=True,
        terms=frozenset({"similarity"}),
    )

    pairs: tuple[Pair, ...] = ()

    def __call__(self, step: Step) -> Terms:
        """Term `similarity`, the sum over the pairs."""
        losses = [
            similarity(step.student.features[own], step.teacher.features[other])
            for own, other in self.pairs
        ]
        return {"similarity": Term(loss_B=sum(losses[1:], losses[0]), coupled=True)}
