"""Binary cross-entropy: each label applies or not by itself. Shapes: B batch, K labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill_cli.objectives.base import ObjectiveInfo, Owns, Step
from distill_cli.types import UNLABELLED, Term, Terms


def binary_cross_entropy(logits_BK: Tensor, target_BK: Tensor, smoothing: float = 0.0) -> Tensor:
    """−Σ_k [t_k·log σ(z_k) + (1 − t_k)·log(1 − σ(z_k))], t = ε for a target of 0, 1 − ε for 1.

    Args:
        logits_BK: Student logits z.
        target_BK: 1 where a label applies, 0 where it does not, −1 where that is not known.
        smoothing: ε in [0, 0.5).

    Returns:
        loss_B in nats; 0 for a row of −1 alone, a sample without labels.
    """
    soft_BK = smoothing + (1 - 2 * smoothing) * target_BK.to(logits_BK.dtype)
    loss_BK = F.binary_cross_entropy_with_logits(logits_BK, soft_BK, reduction="none")
    return loss_BK.masked_fill(target_BK == UNLABELLED, 0).sum(dim=-1)


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
        rows="labelled",
        terms=frozenset({"bce"}),
    )

    epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    def __call__(self, step: Step) -> Terms:
        """Term `bce`, over the labelled samples."""
        assert step.batch.target_BK is not None, "the loader has a target for each label"
        loss_B = binary_cross_entropy(step.student.logits_BK, step.batch.target_BK, self.epsilon)
        return {"bce": Term(loss_B=loss_B, rows="labelled")}
