"""Knowledge distillation: the teacher's softened probabilities as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_cli.losses.kd import distillation
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo, Step, Temperature
from distill_cli.types import Need, Term, Terms


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation:
    """T²·KL(q_T ‖ p_T); the hard term is an objective of its own beside it.

    Attributes:
        temperature: T, softens teacher and student alike.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="kd",
        summary="match the teacher's softened probabilities",
        paper="Hinton, Vinyals, Dean 2014, arXiv 1503.02531",
        defaults="public benchmarks' on CIFAR-100, weights and T alike; the paper names none for all: T "
        "= 20 on MNIST, and a soft weight far above the hard one's",
        needs=frozenset({Need.TEACHER}),
        default_weights=DefaultWeights(ce=0.1, objective=0.9),
        terms=frozenset({"kd"}),
    )

    temperature: Temperature = 4.0

    def __call__(self, step: Step) -> Terms:
        """Term `kd`, over all samples, labelled or not."""
        log_probs_BK = step.teacher.log_probs(self.temperature)
        loss_B = distillation(step.student.logits_BK, log_probs_BK, self.temperature)
        return {"kd": Term(loss_B=loss_B)}
