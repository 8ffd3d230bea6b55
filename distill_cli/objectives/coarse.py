"""Coarse labels: of a group of classes one is right, and nothing says which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from distill_cli.adapters.class_facts import ClassGroups
from distill_cli.losses.numerics import wide
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import HasAdapter
from distill_cli.types import UNLABELLED, Need, Terms


def coarse_cross_entropy(logits_BK: Tensor, target_B: Tensor, group_K: Tensor) -> Tensor:
    """−log Σ_{k ∈ group(y)} p_k, the cross-entropy of groups whose probability is their classes' sum.

    Groups of one class make it cross-entropy, one group of all 0.

    Args:
        logits_BK: Student logits.
        target_B: Any class of the group that is right; −1 where unlabelled.
        group_K: int64 group of each class.

    Returns:
        loss_B in nats; 0 where unlabelled.
    """
    wide_BK = wide(logits_BK)
    # Below 0, so that the difference of two logarithms has the rounding of neither's size.
    below_BK = wide_BK - wide_BK.detach().amax(dim=-1, keepdim=True)
    outside_BK = group_K != group_K[target_B.clamp(min=0)][:, None]
    inside_B = torch.logsumexp(below_BK.masked_fill(outside_BK, -torch.inf), dim=-1)
    loss_B = torch.logsumexp(below_BK, dim=-1) - inside_B
    return loss_B.masked_fill(target_B == UNLABELLED, 0)


@dataclass(frozen=True, kw_only=True)
class Coarse(HasAdapter):
    """−log Σ_{k ∈ c} p_k, c the group of classes that the label names.

    The network still answers with single classes; within a group nothing tells them apart but what
    else it learns from, as a teacher or images with a fine label.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="coarse",
        summary="hard labels that name a group of classes, not the class",
        paper="The likelihood of a partial label, as Cour, Sapp, Taskar 2011, JMLR 12",
        defaults="there are none",
        needs=frozenset({Need.HIERARCHY}),
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    def adapters(self, context: AdapterContext) -> nn.Module:
        """The groups; each class its own where nothing says otherwise."""
        alone_K = torch.arange(context.classes)
        return ClassGroups(alone_K if context.group_K is None else context.group_K)

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK, group_K = step.student.logits_BK, step.adapter(ClassGroups).group_K
        return {
            "ce": on_hard_labels(
                step.batch, lambda target_B: coarse_cross_entropy(logits_BK, target_B, group_K)
            )
        }
