"""Grouped label smoothing: classes that are alike share some mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from distill_cli.adapters.target_matrix import TargetMatrix
from distill_cli.losses.soft_targets import grouped_targets, soft_cross_entropy
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import HasAdapter
from distill_cli.types import (
    UNLABELLED,
    Need,
    Terms,
)


@dataclass(frozen=True, kw_only=True)
class GroupedSmoothing(HasAdapter):
    """CE(q, softmax z) with q = (1 − ε₁ − ε₂)·δ_y + ε₁/K + ε₂·ρ_y, ρ_y uniform over y's group.

    ρ may be any K×K matrix of rows of sum 1 in the groups' place.

    Attributes:
        epsilon: ε₁, the mass on all classes.
        group_epsilon: ε₂, the mass on the classes of the group, the target among them.
        exclude_target: Leave the target out of its group's mass.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="grouped-smoothing",
        summary="hard label with some mass on the classes of its group",
        paper="Xu, Rui, Li, Gu 2020, ECCV (anisotropic label smoothing)",
        defaults="ours: the mass that label smoothing has, half of it each",
        needs=frozenset({Need.GROUPS}),
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.05
    group_epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.05
    exclude_target: bool = False

    def __post_init__(self) -> None:
        if self.epsilon + self.group_epsilon > 1:
            raise ValueError(
                f"epsilon and group_epsilon are shares of one label, and {self.epsilon:g} + "
                f"{self.group_epsilon:g} is more"
            )

    def adapters(self, context: AdapterContext) -> nn.Module:
        """The matrix of targets."""
        rule_KK = torch.eye(context.classes) if context.rule_KK is None else context.rule_KK
        return TargetMatrix(
            grouped_targets(
                rule_KK,
                self.epsilon,
                self.group_epsilon,
                exclude_target=self.exclude_target,
            )
        )

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        targets, logits_BK = step.adapter(TargetMatrix), step.student.logits_BK

        def loss(target_B: torch.Tensor) -> torch.Tensor:
            loss_B = soft_cross_entropy(logits_BK, targets(target_B))
            return loss_B * (target_B != UNLABELLED)

        return {"ce": on_hard_labels(step.batch, loss)}
