"""What an objective is: a frozen dataclass of hyper-parameters that maps signals to named terms."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Protocol

from distill_cli.types import Batch, Need, Progress, StudentSignals, TeacherSignals, Terms


class Owns(StrEnum):
    """What only one objective of a composition may hold."""

    HARD_TARGET = "the hard label"


class Objective(Protocol):
    """`(student, teacher, batch, progress) → terms`; its fields are its hyper-parameters.

    Attributes:
        name: Its name in recipes and in `distill methods`.
        summary: One line on what it does.
        paper: Where it comes from.
        needs: What it asks for beyond student logits.
        owns: What no other objective of a composition may own too.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    owns: ClassVar[frozenset[Owns]]

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
    ) -> Terms:
        """Unweighted terms, per sample; `compose` weights, masks and averages them."""
