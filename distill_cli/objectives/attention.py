"""Attention transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.attention import attention
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(PairsLayers):
    """mean_P (A_S − A_T)², A = vec(mean_C F²)/‖vec(mean_C F²)‖₂: where a layer F is active, P places.

    Channels may differ. Where maps differ in size, the larger is averaged over windows down to the
    smaller, in each dimension, before it is normalised; the paper pairs maps of one size. Pairs are
    summed. Its released code has this form; the paper has the norm of the difference.

    Attributes:
        pairs: Layers of student and teacher; none for the last of each resolution.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="attention",
        summary="look where the teacher looks",
        paper="Zagoruyko, Komodakis 2017, arXiv 1612.03928",
        defaults="weight and form are the authors' code's",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        default_weights=DefaultWeights(objective=1000.0),
        rule="stages",
        terms=frozenset({"attention"}),
    )

    pairs: tuple[Pair, ...] = ()

    def __call__(self, step: Step) -> Terms:
        """Term `attention`, the sum over the pairs."""
        losses = [
            attention(step.student.features[own], step.teacher.features[other])
            for own, other in self.pairs
        ]
        return {"attention": Term(loss_B=sum(losses[1:], losses[0]))}
