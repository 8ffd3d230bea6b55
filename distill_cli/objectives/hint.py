"""Hints: a layer of the student predicts a layer of the teacher.

Shapes: B batch, C channels, H×W positions. Features may come in 16 bits from under autocast: they
are widened first, for squares of them overflow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.regressor import Regressor
from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import AdapterContext, DefaultWeights, ObjectiveInfo, Pair, Step
from distill_cli.objectives.hooks import HasAdapter, PairsLayers, ResolvesDefaults, WholeBatch
from distill_cli.types import Need, Term, Terms

# Share of the gradient that a student without layers that normalise gets: one mean squared error in
# the place of a hundred.
WITHOUT_NORM = 0.01


def hint(feat_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """½·mean_CHW (r − t)², the guided layer's output r against the hint t.

    Romero et al. 2015, arXiv 1412.6550, eq. 3, where it is the sum over C, H, W; the mean makes
    the learning rate independent of the layer's size.

    Args:
        feat_BCHW: The student's features, after the regressor.
        teacher_BCHW: The teacher's, of the same shape; no gradient flows.

    Returns:
        loss_B.
    """
    assert feat_BCHW.shape == teacher_BCHW.shape, "a regressor maps features to the hint's shape"
    difference_BCHW = wide(feat_BCHW) - wide(teacher_BCHW.detach())
    return difference_BCHW.square().flatten(1).mean(dim=-1) / 2


@dataclass(frozen=True, kw_only=True)
class Hint(PairsLayers, WholeBatch, ResolvesDefaults, HasAdapter):
    """½‖u_h(x) − r(v_g(x))‖² a value of the hint layer u_h; r is a learnt regressor.

    Alone it is stage 1 of FitNets (`distill hint-init`), with the regressor of the paper. Beside
    labels it trains jointly, which several public benchmarks call FitNet too, on networks that have
    batch norm throughout and with one in the regressor, which sees the batch as a whole. In a
    student without any layer that normalises, their weight drives layers to lengths at which nothing
    else is learnt, and units to 0: there the regressor learns at that weight, the student at a
    hundredth of it.

    Attributes:
        normalised: Batch norm in the regressor.
        gradient_scale: Of the gradient that the student gets through the regressor. Left out, it is
            1 where the student has layers that normalise, else 0.01.
        pairs: Guided layer of the student and hint layer of the teacher; none for the
            middle ones.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="hint",
        summary="predict a middle layer of the teacher from one of the student",
        paper="Romero et al. 2015, arXiv 1412.6550",
        defaults="weight and batch norm are public benchmarks' of joint hints (100 mean squared errors), "
        "the ½ and the rest of the regressor the paper's. A hundredth of the gradient, to "
        "students that do not normalise, is ours",
        needs=frozenset({Need.TEACHER, Need.FEATURES}),
        targets=frozenset({"softmax", "sigmoid"}),
        default_weights=DefaultWeights(objective=200.0),
        rule="middle",
        terms=frozenset({"hint"}),
    )

    normalised: bool = True
    gradient_scale: Annotated[float, Field(gt=0, le=1)] | None = None
    pairs: tuple[Pair, ...] = ()

    @property
    def whole_batch(self) -> bool:
        """Where the regressor normalises by the batch."""
        return self.normalised

    def resolved(self, context: AdapterContext) -> Hint:
        """With the share of the gradient that suits the student."""
        if self.gradient_scale is not None:
            return self
        return replace(self, gradient_scale=1.0 if context.normalised else WITHOUT_NORM)

    def adapters(self, context: AdapterContext) -> nn.Module:
        """A regressor for each pair."""
        scale = self.resolved(context).gradient_scale
        assert scale is not None, "resolved"
        made = []
        for guided, hinted in self.pairs:
            student, teacher = context.student[guided], context.teacher[hinted]
            made.append(
                Regressor(
                    student.size,
                    teacher.size,
                    rectified=teacher.rectified,
                    normalised=self.normalised,
                    gradient_scale=scale,
                )
            )
        return nn.ModuleList(made)

    def __call__(self, step: Step) -> Terms:
        """Term `hint`, the sum over the pairs."""
        losses = [
            hint(regressor(step.student.features[guided]), step.teacher.features[hinted])
            for regressor, (guided, hinted) in zip(
                step.adapter(nn.ModuleList), self.pairs, strict=True
            )
        ]
        return {"hint": Term(loss_B=sum(losses[1:], losses[0]))}
