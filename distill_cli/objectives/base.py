"""What an objective is: a frozen dataclass of hyper-parameters that maps signals to named terms."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, Protocol

from torch import Tensor

from distill_cli.types import (
    UNLABELLED,
    Batch,
    Need,
    Progress,
    StudentSignals,
    TeacherSignals,
    Term,
    Terms,
)


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


def on_hard_labels(batch: Batch, loss: Callable[[Tensor], Tensor]) -> Term:
    """A loss against the hard label; against both labels by their shares where images are mixed.

    A loss that is linear in its target, as cross-entropy is, then equals that against the mixed
    label λ·onehot(y) + (1 − λ)·onehot(y′) (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        batch: The images and their labels.
        loss: From class indices to a loss per sample, 0 where the index is −1 (unlabelled).
    """
    loss_B = loss(batch.target_B)
    if batch.mixing is not None:
        share_B = batch.mixing.share_B
        loss_B = share_B * loss_B + (1 - share_B) * loss(batch.mixing.target_B)
        loss_B = loss_B * (batch.target_B != UNLABELLED)
    return Term(loss_B=loss_B, labelled_only=True)
