"""DisturbLabel: wrong labels on purpose, other ones in every batch. Shapes: B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.types import UNLABELLED, Terms


def disturbed(target_B: Tensor, classes: int, alpha: float, uniform_B2: Tensor) -> Tensor:
    """The label y with probability 1 − α, otherwise one of all K classes, y included.

    DisturbLabel, Xie et al. 2016, arXiv 1605.00055. A label becomes wrong with probability
    α·(K − 1)/K; in expectation, cross-entropy on the draw is label smoothing with ε = α.

    Args:
        target_B: Class index y; −1 where unlabelled.
        classes: K.
        alpha: α in [0, 1].
        uniform_B2: Two independent draws from [0, 1) for each sample: whether, and
            which. In fp32 or wider, for 16 bits do not reach every class.

    Returns:
        target_B; −1 where unlabelled.
    """
    whether_B, which_B = wide(uniform_B2).unbind(dim=-1)
    # A draw next to 1 rounds up to K.
    drawn_B = (which_B * classes).floor().to(target_B.dtype).clamp(max=classes - 1)
    redraw_B = (whether_B < alpha) & (target_B != UNLABELLED)
    return torch.where(redraw_B, drawn_B, target_B)


@dataclass(frozen=True, kw_only=True)
class DisturbLabel:
    """CE on labels of which a share α is redrawn uniformly over all classes, at every step.

    A function of (seed, step, sample): the same after a restart. In expectation label smoothing
    with ε = α.

    Attributes:
        alpha: α, the share that is redrawn; α(K − 1)/K of the labels are wrong.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="disturb-label",
        summary="redraw some labels at random in every batch",
        paper="Xie et al. 2016, arXiv 1605.00055",
        defaults="α is the lower end of the authors' range, 0.1 to 0.2",
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples; metrics are on the labels as they are."""
        logits_BK = step.student.logits_BK
        index_B = step.batch.index_B
        which_2 = torch.arange(2, device=index_B.device)
        words = (step.progress.step, index_B[:, None], which_2)
        uniform_B2 = uniform(draw(step.progress.seed, Purpose.LABEL, *words))
        # Metal has no fp64.
        uniform_B2 = uniform_B2.float().to(logits_BK.device)

        def loss(target_B: Tensor) -> Tensor:
            drawn_B = disturbed(target_B, logits_BK.shape[1], self.alpha, uniform_B2)
            return cross_entropy(logits_BK, drawn_B)

        return {"ce": on_hard_labels(step.batch, loss)}
