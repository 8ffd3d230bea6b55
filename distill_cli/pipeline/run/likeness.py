"""How like its teachers a student answers, once training is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill_cli.data.split_images import Images
from distill_cli.metrics import agreement, label_agreement
from distill_cli.pipeline.inputs.own_teachers import own_among
from distill_cli.pipeline.inputs.teacher_checks import stored_held_out
from distill_cli.pipeline.inputs.teacher_data import shown_to_teachers
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals, mean_of_logits
from distill_cli.training.events import Sink

Split = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A student beside its teachers on a split.

    Attributes:
        agreement: Share of images with the teachers' class, of sigmoid targets of pairs of image and
            label; None where it is not known.
        divergence: Mean KL(teachers ‖ student) at T = 1, nats; likewise.
    """

    agreement: float | None = None
    divergence: float | None = None


def is_compared(prepared: PreparedRun) -> bool:
    """Whether there are teachers apart from the student itself."""
    return isinstance(prepared.recipe, StudentRecipe) and not own_among(prepared.teacher)


def compared(prepared: PreparedRun, split: Split, logits_NK: Tensor, sink: Sink) -> Likeness:
    """The student's answers to all images of a split beside its teachers'.

    Args:
        prepared: The run.
        split: The held-out images, or those of test.
        logits_NK: The student's answers.
        sink: Is told why there is no comparison, of test.
    """
    if not isinstance(prepared.recipe, StudentRecipe) or not is_compared(prepared):
        return Likeness()
    signals = _teacher_signals(prepared, split, sink)
    if signals is None:
        return Likeness()
    if prepared.network.targets == "softmax":
        same, divergence = agreement(logits_NK, _log_probs(prepared.recipe, signals))
    else:
        same, divergence = label_agreement(logits_NK, _label_logits(prepared.recipe, signals))
    return Likeness(agreement=same, divergence=divergence)


def _teacher_signals(prepared: PreparedRun, split: Split, sink: Sink) -> list[DenseSignals] | None:
    """Each teacher's logits on a split as it sees it; None where those of one are not known."""
    dataset, shown = prepared.dataset, prepared.teacher_data
    seen = shown_to_teachers(shown, dataset)
    images, own = (seen.test, dataset.test) if split == "test" else (seen.val, dataset.val)
    if shown is not None and len(images.label_N) < len(own.label_N):
        if split == "test":
            sink.message(
                "no comparison with the teachers: not every test image is in --teacher-data"
            )
        return None
    signals = []
    for member in prepared.members:
        logits_NK = _answers(member, prepared, split, images)
        if logits_NK is None:
            return None
        signals.append(DenseSignals(logits_NK))
    return signals


def _answers(member: Member, prepared: PreparedRun, split: Split, images: Images) -> Tensor | None:
    """A teacher's logits on the images of a split; None where they are not known."""
    if split == "val" and isinstance(member, CachedTeacher):
        return stored_held_out(member, prepared.dataset)
    return member.split_logits(split, images)


def _weighted(
    recipe: StudentRecipe, signals: Sequence[DenseSignals]
) -> tuple[tuple[DenseSignals, ...], tuple[float, ...]]:
    """The teachers of some weight, and their weights, scaled to sum 1.

    A random teacher is compared as its expectation, the weighted mean, and so are relabelled data.
    """
    shares = recipe.teacher_weights or [1.0] * len(signals)
    heard = [(s, w / sum(shares)) for s, w in zip(signals, shares, strict=True) if w > 0]
    return tuple(s for s, _ in heard), tuple(w for _, w in heard)


def _log_probs(recipe: StudentRecipe, signals: Sequence[DenseSignals]) -> Tensor:
    """log q of the teachers together at T = 1, (N, K)."""
    counted, weights = _weighted(recipe, signals)
    if recipe.ensemble_of == "logits":
        return mean_of_logits(counted, weights).log_probs(1.0)
    return EnsembleSignals(counted, weights).log_probs(1.0)


def _label_logits(recipe: StudentRecipe, signals: Sequence[DenseSignals]) -> Tensor:
    """Logits of the teachers together for each label by itself, (N, K)."""
    counted, weights = _weighted(recipe, signals)
    if recipe.ensemble_of == "logits" or len(counted) == 1:
        return mean_of_logits(counted, weights).logits_BK
    # A label's yes and no are two classes of logits z and 0.
    pairs = tuple(
        DenseSignals(torch.stack([teacher.logits_BK, torch.zeros_like(teacher.logits_BK)], dim=-1))
        for teacher in counted
    )
    log_probs_NK2 = EnsembleSignals(pairs, weights).log_probs(1.0)
    return log_probs_NK2[..., 0] - log_probs_NK2[..., 1]
