"""Relational knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.rkd import relational_angle, relational_distance
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class RelationalDistillation(PairsLayers):
    """Huber losses between both networks' pairwise distances and angles of a batch.

    Attributes:
        pairs: Layers of student and teacher; "auto" for what enters the classifiers.
        distance: Weight of the distances, which are divided by their mean over all pairs of samples.
        angle: Weight of the angles of all triplets.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="rkd",
        summary="keep the distances and angles between samples",
        paper="Park et al. 2019, arXiv 1904.05068",
        defaults="the weights are the authors' for classification. Their script adds KD at T = 4 (as "
        "`rkd,kd`) and scales the features of each sample to length 1 first; here they are as "
        "they are, as in public benchmarks",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        default_weights=DefaultWeights(),
        rule="penultimate",
        coupled=True,
        terms=frozenset({"rkd_distance", "rkd_angle"}),
    )

    pairs: tuple[Pair, ...] = ()
    distance: Annotated[float, Field(ge=0)] = 25.0
    angle: Annotated[float, Field(ge=0)] = 50.0

    def __call__(self, step: Step) -> Terms:
        """Terms `rkd_distance` and `rkd_angle`, with their weights, sums over the pairs."""
        both = [
            (step.student.features[own].flatten(1), step.teacher.features[other].flatten(1))
            for own, other in self.pairs
        ]
        distances = [relational_distance(own_BD, other_BD) for own_BD, other_BD in both]
        angles = [relational_angle(own_BD, other_BD) for own_BD, other_BD in both]
        return {
            "rkd_distance": Term(
                loss_B=self.distance * sum(distances[1:], distances[0]), coupled=True
            ),
            "rkd_angle": Term(loss_B=self.angle * sum(angles[1:], angles[0]), coupled=True),
        }
