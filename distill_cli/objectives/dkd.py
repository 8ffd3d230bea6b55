"""Decoupled knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.dkd import decoupled
from distill_cli.objectives.base import ObjectiveInfo, Step, Temperature, main_target
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class DecoupledDistillation:
    """T²·(α·TCKD + β·NCKD): of the target against the rest, and among the other classes.

    Plain KD is TCKD + (1 − q_y)·NCKD, which silences the second where the teacher is sure.

    Attributes:
        temperature: T.
        target: α, of the target against the rest.
        others: β, among the other classes.
        warmup: Share of training over which the term grows from 0 (the paper: 20 of 240 epochs).
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="dkd",
        summary="weigh the target class and the other classes of the teacher apart",
        paper="Zhao et al. 2022, arXiv 2203.08679",
        defaults="the authors' code's for CIFAR-100, of which β goes by the pair of networks. Their "
        "warm-up is 20 of 240 epochs and grows by the epoch, ours is the same share and grows "
        "by the step",
        needs=frozenset({Need.TEACHER}),
        terms=frozenset({"tckd", "nckd"}),
    )

    temperature: Temperature = 4.0
    target: Annotated[float, Field(ge=0)] = 1.0
    others: Annotated[float, Field(ge=0)] = 8.0
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.083

    def __call__(self, step: Step) -> Terms:
        """Terms `tckd` and `nckd`, with their weights, over the labelled samples."""
        target_B = main_target(step.batch)
        log_probs_BK = step.teacher.log_probs(self.temperature)
        target_term_B, others_term_B = decoupled(
            step.student.logits_BK, log_probs_BK, target_B, self.temperature
        )
        grown = 1.0 if self.warmup == 0 else min(1.0, step.progress.fraction / self.warmup)
        return {
            "tckd": Term(loss_B=grown * self.target * target_term_B, labelled_only=True),
            "nckd": Term(loss_B=grown * self.others * others_term_B, labelled_only=True),
        }
