"""Relational knowledge distillation: distances and angles between samples.

Shapes: B batch, D values. Features may come in 16 bits from under autocast: they are widened first,
for squares of them overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


def relational_distance(feat_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean_ij l(ψ_ij(T), ψ_ij(S)), ψ_ij = ‖x_i − x_j‖₂ / μ, μ the mean distance over i ≠ j.

    RKD-D, Park et al. 2019, arXiv 1904.05068; l is the smooth L1 (Huber's, δ = 1), the
    mean is over all B·B pairs, as in the authors' code. Rows that coincide count in μ, in the paper
    and in that code, where they are 1e-6 apart. Memory grows with B²·D.

    Args:
        feat_BD: The student's embeddings.
        teacher_BD: The teacher's; D may differ; no gradient flows.

    Returns:
        A scalar.
    """
    return F.smooth_l1_loss(_distances(feat_BD), _distances(teacher_BD.detach()))


def relational_angle(feat_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean_ijk l(cos_ijk(T), cos_ijk(S)), the angle at x_i between x_j and x_k.

    RKD-A, Park et al. 2019, arXiv 1904.05068; l is the smooth L1 (Huber's, δ = 1), the
    mean is over all B·B·B triplets; the cosine is 0 where a corner meets x_i. Memory grows with
    B²·D + B³.

    Args:
        feat_BD: The student's embeddings.
        teacher_BD: The teacher's; D may differ; no gradient flows.

    Returns:
        A scalar.
    """
    return F.smooth_l1_loss(_cosines(feat_BD), _cosines(teacher_BD.detach()))


def _differences(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """x_j − x_i as (B, B, D), and its norms (B, B).

    Not by ‖x‖² + ‖y‖² − 2xy, which cancels where rows are close.
    """
    difference_BBD = x_BD[None, :, :] - x_BD[:, None, :]
    # The norm's gradient at 0 is defined, as 0; a root of a sum of squares has none.
    return difference_BBD, torch.linalg.vector_norm(difference_BBD, dim=-1)


def _distances(x_BD: Tensor) -> Tensor:
    """Pairwise distances over their mean, of rows with others; all 0 where all rows coincide."""
    _, distance_BB = _differences(wide(x_BD))
    rows = len(x_BD)
    mean = distance_BB.sum() / max(1, rows * (rows - 1))
    return distance_BB / torch.where(mean > 0, mean, 1.0)


def _cosines(x_BD: Tensor) -> Tensor:
    """cos of the angle at row i between rows j and k, (B, B, B)."""
    wide_BD = wide(x_BD)
    difference_BBD, distance_BB = _differences(wide_BD)
    # Rows apart by their rounding have no direction; over their distance, its gradient explodes.
    rounding = 16 * torch.finfo(wide_BD.dtype).eps * wide_BD.detach().abs().amax()
    apart_BB = distance_BB > rounding
    unit_BBD = difference_BBD / torch.where(apart_BB, distance_BB, 1.0)[..., None]
    return unit_BBD @ unit_BBD.mT


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
