"""DropMax: a softmax from which classes are dropped, at rates that are learnt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform32
from distill_cli.losses.dropmax import dropmax
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import TapsStudent
from distill_cli.types import (
    GATED_PARTS,
    Batch,
    Progress,
    Term,
    Terms,
)

LOGITS, PRIOR, POSTERIOR = GATED_PARTS


@dataclass(frozen=True, kw_only=True)
class DropMax(TapsStudent):
    """CE with each wrong class kept at a rate q, beside ρ that predicts q without the label.

    Three linear maps of the features: logits o, ρ = σ(h), q = σ(sg h + r), sg a constant. In
    training p_k ∝ (m_k + ε)·exp o_k with masks m_k = σ((sg h_k + r_k + logit u_k)/T), u uniform, and
    m_y = 1; L = −log p_y − log ρ_y + Σ_{k≠y} KL(q_k ‖ ρ_k) + Σ_k BCE(σ(r_k), δ_y) − Σ_k H(ρ_k).

    The network gets a classifier with gates of its own, in the place of one linear layer, and
    answers with o + log ρ. What is kept is a function of (seed, step, sample, class): the same after
    a restart. Of a mixed image, each label has its own posterior and its own bound; their losses are
    averaged by the shares.

    Attributes:
        mask_temperature: Of the relaxed masks; towards 0 a class is there or not.
        kl_weight: Of KL(q ‖ ρ), which teaches ρ.
        auxiliary_weight: Of the posterior's own cross-entropy, by which it finds the label.
        entropy_weight: Of −H(ρ), which keeps rates undecided where nothing speaks.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="dropmax",
        summary="drop wrong classes from the softmax at rates learnt per sample",
        paper="Lee et al. 2018, arXiv 1712.07834",
        defaults="the authors' code's: every weight 1, and the temperature of the masks",
        owns=frozenset({Owns.HARD_TARGET, Owns.PREDICTION}),
        head="gated",
        rows="labelled",
        terms=frozenset({"ce", "kl", "auxiliary", "entropy"}),
    )

    # Not `temperature`: --temperature is of what is learnt from a teacher.
    mask_temperature: Annotated[float, Field(gt=0, le=10)] = 0.1
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    auxiliary_weight: Annotated[float, Field(ge=0)] = 1.0
    entropy_weight: Annotated[float, Field(ge=0)] = 1.0

    @property
    def taps(self) -> tuple[str, ...]:
        """The three parts of the classifier."""
        return LOGITS, PRIOR, POSTERIOR

    def __call__(self, step: Step) -> Terms:
        """Terms `ce`, `kl`, `auxiliary` and `entropy`, with their weights, over the labelled."""
        logits_BK, prior_BK, posterior_BK = (
            step.student.features[name].flatten(1) for name in self.taps
        )
        uniform_BK = _uniform(logits_BK, step.batch, step.progress)

        # Once for each label of a mixed image, not once for each term.
        @cache
        def losses(target_B: Tensor) -> dict[str, Tensor]:
            parts = (logits_BK, prior_BK, posterior_BK, target_B, uniform_BK)
            return dropmax(*parts, self.mask_temperature)

        def term(name: str, weight: float) -> Term:
            return on_hard_labels(step.batch, lambda target_B: weight * losses(target_B)[name])

        return {
            "ce": term("ce", 1.0),
            "kl": term("kl", self.kl_weight),
            "auxiliary": term("auxiliary", self.auxiliary_weight),
            "entropy": term("entropy", self.entropy_weight),
        }


def _uniform(like_BK: Tensor, batch: Batch, progress: Progress) -> Tensor:
    """What the masks of this step are drawn from, (B, K) on the run's device."""
    class_K = torch.arange(like_BK.shape[1], device=like_BK.device)
    index_B1 = batch.index_B.to(like_BK.device, non_blocking=True)[:, None]
    return uniform32(draw(progress.seed, Purpose.GATE, progress.step, index_B1, class_K))
