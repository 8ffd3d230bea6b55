"""The table of objectives. A method is one file here, one line below and one test."""

from __future__ import annotations

from distill_cli.objectives.base import Objective
from distill_cli.objectives.ce import CrossEntropy
from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.objectives.label_smoothing import LabelSmoothing

OBJECTIVES: dict[str, type[Objective]] = {
    cls.name: cls for cls in (CrossEntropy, LabelSmoothing, KnowledgeDistillation)
}
