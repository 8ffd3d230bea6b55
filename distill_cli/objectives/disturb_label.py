"""DisturbLabel: wrong labels on purpose, other ones in every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.disturb_label import disturbed
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.types import Terms


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
        terms=frozenset({"ce"}),
    )

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples; metrics are on the labels as they are."""
        logits_BK = step.student.logits_BK
        words = (step.progress.step, step.batch.index_B[:, None], torch.arange(2))
        uniform_B2 = uniform(draw(step.progress.seed, Purpose.LABEL, *words))
        # Metal has no fp64.
        uniform_B2 = uniform_B2.float().to(logits_BK.device)

        def loss(target_B: Tensor) -> Tensor:
            drawn_B = disturbed(target_B, logits_BK.shape[1], self.alpha, uniform_B2)
            return cross_entropy(logits_BK, drawn_B)

        return {"ce": on_hard_labels(step.batch, loss)}
