"""Distillation from a stronger teacher: correlations in place of divergences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.dist import inter_class, intra_class
from distill_cli.objectives.base import ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class Dist:
    """T²·[β·(1 − ρ over each sample's classes) + γ·(1 − ρ over each class's samples)], ρ Pearson's.

    Attributes:
        temperature: T.
        inter: β, between the classes of a sample.
        intra: γ, between the samples of a batch, class by class.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="dist",
        summary="correlate with the teacher over classes, and over samples",
        paper="Huang et al. 2022, arXiv 2205.10536",
        defaults="the authors' for CIFAR-100; on ImageNet they have T = 1 and the same weights",
        needs=frozenset({Need.TEACHER}),
        coupled=True,
        terms=frozenset({"inter", "intra"}),
    )

    temperature: Temperature = 4.0
    inter: Annotated[float, Field(ge=0)] = 2.0
    intra: Annotated[float, Field(ge=0)] = 2.0

    def __call__(self, step: Step) -> Terms:
        """Terms `inter`, per sample, and `intra`, of the batch, with their weights."""
        log_probs_BK = step.teacher.log_probs(self.temperature)
        pair = (step.student.logits_BK, log_probs_BK, self.temperature)
        return {
            "inter": Term(loss_B=self.inter * inter_class(*pair)),
            "intra": Term(loss_B=self.intra * intra_class(*pair), coupled=True),
        }
