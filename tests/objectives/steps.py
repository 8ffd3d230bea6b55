"""Steps, as compositions make them of signals and a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill_cli.objectives.base import Step
from distill_cli.types import Batch, Mixing, Progress, StudentSignals, TeacherSignals


def batch_of(
    target_B: Tensor, *, index_B: Tensor | None = None, mixing: Mixing | None = None, step: int = 0
) -> Batch:
    """A batch of empty images with these labels.

    Args:
        target_B: Class of each, −1 where unlabelled.
        index_B: Rows in the dataset; those from 0 on by default.
        mixing: Partners of mixed images; None where none is mixed.
        step: Step of training.
    """
    index_B = torch.arange(len(target_B)) if index_B is None else index_B
    return Batch(
        images_BCHW=torch.zeros(len(target_B), 1, 2, 2),
        target_B=target_B,
        index_B=index_B,
        view_B=torch.zeros_like(index_B),
        step=step,
        mixing=mixing,
    )


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
