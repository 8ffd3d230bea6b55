"""Similarity-preserving distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.similarity import similarity
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


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
