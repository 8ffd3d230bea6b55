"""Steps, as compositions make them of signals and a batch."""

from __future__ import annotations

from torch import nn

from distill_cli.objectives.base import Step
from distill_cli.types import Batch, Progress, StudentSignals, TeacherSignals


def step_of(
    student: StudentSignals,
    teacher: TeacherSignals | None,
    batch: Batch,
    progress: Progress,
    adapter: nn.Module | None = None,
) -> Step:
    """What an objective is called with.

    Args:
        student: Signals of the student.
        teacher: Signals of the teacher; None where none is asked.
        batch: The images and their labels.
        progress: Where training stands.
        adapter: The objective's own.
    """
    return Step(
        student=student,
        batch=batch,
        progress=progress,
        teacher_signals=teacher,
        own_adapter=adapter,
    )
