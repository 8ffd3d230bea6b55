"""In which order a run shows its samples, and what an order asks of data, views and teachers."""

from __future__ import annotations

from typing import TypeVar

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, DistillError, UsageError
from distill_cli.objectives.compose import Composition
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.teachers.mixture import Relabelled
from distill_cli.types import UNLABELLED, Teacher, ViewSpec

R = TypeVar("R", bound=TrainRecipe)

# Two classes, each twice: fewer have no two samples of a class, or no two classes.
SMALLEST_BATCH = 4


def ordered(
    recipe: R, composed: Composition, dataset: Dataset, spec: ViewSpec, teacher: Teacher | None
) -> R:
    """The recipe with the order that it asks for, or else its objectives.

    Args:
        recipe: Of any training verb.
        composed: Its objectives, of which at most one order is wanted.
        dataset: What is shown.
        spec: Its views.
        teacher: All of them as one.

    Raises:
        UsageError: The balanced order contradicts another option.
        ArtifactError: The data cannot be balanced.
    """
    if not isinstance(recipe, LabelledRecipe):
        return recipe
    wanted = next(iter(composed.orders.items()), None)
    order = recipe.order or (wanted[1] if wanted else "shuffled")
    if order == "balanced":
        # Who did not ask for it is told where it comes from, and the way out.
        who = "order: balanced" if recipe.order or not wanted else f"objective '{wanted[0]}'"
        _check_options(recipe, who, spec, teacher, len(dataset.fit_rows))
        _check_data(who, dataset)
    return recipe.model_copy(update={"order": order})


def _refusal(kind: type[DistillError], who: str, reason: str, hint: str) -> DistillError:
    said = who if who.startswith("order") else f"{who} wants batches of all classes alike"
    return kind(f"{said}: {reason}", hint=f"{hint}, or choose --order shuffled")


def _check_options(
    recipe: LabelledRecipe, who: str, spec: ViewSpec, teacher: Teacher | None, rows: int
) -> None:
    mixing = [step for step in spec.augment if step.split(":")[0] in ("mixup", "cutmix")]
    if mixing:
        raise _refusal(
            UsageError,
            who,
            f"{mixing[0].split(':')[0]} mixes pairs that lie at random over the classes",
            "Leave it out of --augment (or take a cache without it)",
        )
    if isinstance(teacher, Relabelled):
        raise _refusal(
            UsageError,
            who,
            "--mode relabel shuffles copies of the data, one for each teacher",
            "Choose another --mode",
        )
    batch_size = min(recipe.batch_size, rows)
    if batch_size < SMALLEST_BATCH:
        raise _refusal(
            UsageError,
            who,
            f"a batch of {batch_size} has no two samples of two classes",
            f"Choose a --batch-size of at least {SMALLEST_BATCH}",
        )


def _check_data(who: str, dataset: Dataset) -> None:
    if dataset.several:
        raise _refusal(
            ArtifactError, who, "several labels may apply to an image", "Give one label an image"
        )
    label_N = dataset.train.label_N[dataset.fit_rows]
    if unlabelled := int((label_N == UNLABELLED).sum()):
        raise _refusal(
            ArtifactError,
            who,
            f"{unlabelled} of {len(label_N)} training images have no label",
            "Leave them out",
        )
    count_K = torch.bincount(label_N, minlength=len(dataset.class_names))
    if bool((count_K == 0).any()):
        missing = dataset.class_names[int(count_K.argmin())]
        raise _refusal(
            ArtifactError,
            who,
            f"class '{missing}' has no image to train on that is not held out",
            "Give it one more",
        )
