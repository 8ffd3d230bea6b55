"""The order in which a run shows its samples, and the reasons for which one is refused.

Options that contradict an order are refused before the data are opened (`check_order`), data and
views that do before the first byte is written (`ordered`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, DistillError, UsageError, counted
from distill_cli.objectives.compose import Composition
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.types import UNLABELLED, OrderName, ViewSpec

# Two classes, each twice: fewer have no two samples of a class, or no two classes.
SMALLEST_BATCH = 4


def order_of(
    recipe: TrainRecipe,
    mode: str | None,
    composed: Composition,
    dataset: Dataset,
    spec: ViewSpec,
    batch_size: int,
) -> OrderName | None:
    """The order of samples that the recipe asks for, or else its objectives; None without labels.

    Args:
        recipe: The recipe of any training verb.
        mode: How its teachers are joined; None where nobody teaches.
        composed: Its objectives, of which at most one order is wanted.
        dataset: What is shown.
        spec: Its views.
        batch_size: Images of a step.

    Raises:
        UsageError: The balanced order contradicts another option.
        ArtifactError: The data cannot be balanced.
    """
    if not isinstance(recipe, LabelledRecipe):
        return None
    order, subject = _order_of(recipe, composed)
    if order == "balanced":
        _check_options(batch_size, mode, subject, spec.augment)
        _check_data(subject, dataset)
    return order


def check_order(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses options that contradict the order, whatever the data are.

    Raises:
        UsageError: As `order_of` raises it.
    """
    if isinstance(recipe, LabelledRecipe):
        order, subject = _order_of(recipe, composed)
        if order == "balanced":
            mode = recipe.mode if isinstance(recipe, StudentRecipe) else None
            batch_size = recipe.batch_size or SMALLEST_BATCH
            _check_options(batch_size, mode, subject, recipe.augment or [])


def _order_of(recipe: LabelledRecipe, composed: Composition) -> tuple[OrderName, str]:
    """The order, and the option or objective that asks for it, for messages."""
    wanted = next(iter(composed.orders.items()), None)
    if recipe.order is not None or wanted is None:
        return recipe.order or "shuffled", f"order: {recipe.order}"
    return wanted[1], f"objective '{wanted[0]}'"


def _refusal(kind: type[DistillError], subject: str, reason: str, hint: str) -> DistillError:
    opening = (
        subject if subject.startswith("order") else f"{subject} wants batches of all classes alike"
    )
    return kind(f"{opening}: {reason}", hint=f"{hint}, or choose --order shuffled")


def _check_options(batch_size: int, mode: str | None, subject: str, augment: Sequence[str]) -> None:
    mixing = [step for step in augment if step.split(":")[0] in ("mixup", "cutmix")]
    if mixing:
        raise _refusal(
            UsageError,
            subject,
            f"{mixing[0].split(':')[0]} mixes pairs that lie at random over the classes",
            "Leave it out of --augment (or take a cache without it)",
        )
    if mode == "relabel":
        raise _refusal(
            UsageError,
            subject,
            "--mode relabel shuffles copies of the data, one for each teacher",
            "Choose another --mode",
        )
    if batch_size < SMALLEST_BATCH:
        raise _refusal(
            UsageError,
            subject,
            f"a batch of {batch_size} has no two samples of two classes",
            f"Choose a --batch-size of at least {SMALLEST_BATCH}",
        )


def _check_data(subject: str, dataset: Dataset) -> None:
    if dataset.multi_label:
        raise _refusal(
            ArtifactError,
            subject,
            "several labels may apply to an image",
            "Give one label an image",
        )
    label_N = dataset.train.label_N[dataset.fit_rows]
    if unlabelled := int((label_N == UNLABELLED).sum()):
        raise _refusal(
            ArtifactError,
            subject,
            f"{unlabelled:,} of {counted(len(label_N), 'training image')} {'has' if unlabelled == 1 else 'have'} no label",
            "Leave them out",
        )
    count_K = torch.bincount(label_N, minlength=len(dataset.class_names))
    if bool((count_K == 0).any()):
        missing = dataset.class_names[int(count_K.argmin())]
        raise _refusal(
            ArtifactError,
            subject,
            f"class '{missing}' has no image to train on that is not held out",
            "Give it one more",
        )
