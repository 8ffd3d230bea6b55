"""Forward correction: the labels are those of a noisy channel, and its probabilities are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.adapters.class_facts import NoiseMatrix
from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import HasAdapter
from distill_cli.types import UNLABELLED, Need, Terms


def forward_cross_entropy(logits_BK: Tensor, target_B: Tensor, log_noise_KK: Tensor) -> Tensor:
    """−log Σ_i p_i·M_{i,ỹ} = −logsumexp_i(log p_i + log M_{i,ỹ}), ỹ the label that was seen.

    Patrini et al. 2017, arXiv 1609.03683, theorem 2. M = I is cross-entropy.

    Args:
        logits_BK: Student logits.
        target_B: ỹ; −1 where unlabelled.
        log_noise_KK: log M, row i the class and column ỹ the label; no column of −∞ alone that is a
            label.

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    log_seen_BK = log_noise_KK.T[target_B.clamp(min=0)]
    log_seen_BK = log_seen_BK.masked_fill((target_B == UNLABELLED)[:, None], 0)
    loss_B = -torch.logsumexp(F.log_softmax(wide(logits_BK), dim=-1) + log_seen_BK, dim=-1)
    return loss_B.masked_fill(target_B == UNLABELLED, 0)


@dataclass(frozen=True, kw_only=True)
class Forward(HasAdapter):
    """−log Σ_i p_i·M_{i,ỹ}, M_{i,ỹ} the probability that an image of class i is labelled ỹ.

    The network learns p, the class; what is evaluated and saved is p, not pM. M is given
    (`--noise-matrix FILE`), from outside or by `distill noise estimate RUN`.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="forward",
        summary="hard labels through a known matrix of wrong ones",
        paper="Patrini et al. 2017, arXiv 1609.03683",
        defaults="there are none",
        needs=frozenset({Need.NOISE}),
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    def adapters(self, context: AdapterContext) -> nn.Module:
        """The matrix; labels are right where nothing says otherwise."""
        right_KK = torch.eye(context.classes)
        return NoiseMatrix(right_KK if context.noise_KK is None else context.noise_KK)

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK, log_noise_KK = step.student.logits_BK, step.adapter(NoiseMatrix).log_noise_KK
        return {
            "ce": on_hard_labels(
                step.batch,
                lambda target_B: forward_cross_entropy(logits_BK, target_B, log_noise_KK),
            )
        }
