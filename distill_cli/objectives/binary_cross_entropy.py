"""Binary cross-entropy: each label applies or not by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.binary_cross_entropy import binary_cross_entropy
from distill_cli.objectives.base import ObjectiveInfo, Owns, Step
from distill_cli.types import Term, Terms


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy:
    """Σ_k BCE(t_k, σ(z_k)), summed over labels, with t_k = ε for a target of 0 and 1 − ε for 1.

    Attributes:
        epsilon: ε, how far smoothed targets are from 0 and 1.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="bce",
        summary="binary cross-entropy on each label, summed over labels",
        paper="—; smoothed: Szegedy et al. 2016, arXiv 1512.00567, for each label",
        defaults="ε = 0 is the plain loss; label smoothing has 0.1 here too",
        owns=frozenset({Owns.HARD_TARGET}),
        targets=frozenset({"sigmoid"}),
        terms=frozenset({"bce"}),
    )

    epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    def __call__(self, step: Step) -> Terms:
        """Term `bce`, over the labelled samples."""
        assert step.batch.target_BK is not None, "the loader has a target for each label"
        loss_B = binary_cross_entropy(step.student.logits_BK, step.batch.target_BK, self.epsilon)
        return {"bce": Term(loss_B=loss_B, labelled_only=True)}
