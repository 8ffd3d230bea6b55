"""Knowledge distillation: the teacher's softened probabilities as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from distill_cli.losses.soft import distillation
from distill_cli.objectives.base import Owns
from distill_cli.types import Batch, Need, Progress, StudentSignals, TeacherSignals, Term, Terms


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation:
    """T²·KL(q_T ‖ p_T); the hard term is an objective of its own beside it.

    Attributes:
        temperature: T, softens teacher and student alike.
    """

    name: ClassVar[str] = "kd"
    summary: ClassVar[str] = "match the teacher's softened probabilities"
    paper: ClassVar[str] = "Hinton, Vinyals, Dean 2014, arXiv 1503.02531"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER})
    owns: ClassVar[frozenset[Owns]] = frozenset()

    temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
    ) -> Terms:
        """Term `kd`, over all samples, labelled or not."""
        assert teacher is not None, "compose checks needs before the first step"
        log_probs_BK = teacher.log_probs(self.temperature)
        return {"kd": Term(loss_B=distillation(student.logits_BK, log_probs_BK, self.temperature))}
