"""The order in which a run shows its samples, and the reasons for which one is refused.

Options that contradict an order, or several views of one read, are refused before the data are opened
(`check_order`), data and views that do before the first byte is written (`order_of`, `check_reads`).
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
    """Refuses options that contradict the order, or views of one read, whatever the data are.

    Raises:
        UsageError: As `order_of` and `check_reads` raise it.
    """
    mode = recipe.mode if isinstance(recipe, StudentRecipe) else None
    order: OrderName | None = None
    if isinstance(recipe, LabelledRecipe):
        order, subject = _order_of(recipe, composed)
        if order == "balanced":
            batch_size = recipe.batch_size or SMALLEST_BATCH
            _check_options(batch_size, mode, subject, recipe.augment or [])
    _check_read_options(recipe.views_per_read, order, mode, recipe.augment or [])


def check_reads(
    recipe: TrainRecipe,
    order: OrderName | None,
    mode: str | None,
    spec: ViewSpec,
    stored_views: int | None,
) -> None:
    """Refuses several views of a read where they cannot stand side by side, or nothing is read.

    Args:
        recipe: The recipe of any training verb.
        order: The order of its samples; None without labels.
        mode: How its teachers are joined; None where nobody teaches.
        spec: Its views.
        stored_views: Views that a cache has of each image; None without a cache.

    Raises:
        UsageError: With the reason.
    """
    count = recipe.views_per_read
    if count == 1:
        return
    _check_read_options(count, order, mode, spec.augment)
    if spec.source == "table":
        raise _refused_reads(
            count,
            "these images are held in memory, and no view is read from a file",
            "Leave it out",
        )
    if stored_views is not None and stored_views < count:
        raise _refused_reads(
            count,
            f"the cache has labels of {counted(stored_views, 'view')} of each image",
            f"Leave it out, or dump with --views {count}",
        )


def _check_read_options(
    count: int, order: OrderName | None, mode: str | None, augment: Sequence[str]
) -> None:
    if count == 1:
        return
    hint = "Leave one of them out"
    if mixing := _mixing(augment):
        reason = f"{mixing} mixes an image with another one in each view, which is read as well"
        raise _refused_reads(count, reason, hint)
    if mode == "relabel":
        reason = "--mode relabel shuffles copies of the data, one for each teacher"
        raise _refused_reads(count, reason, hint)
    if order == "balanced":
        reason = "the balanced order shows different images of each class in a batch"
        raise _refused_reads(count, reason, hint)


def _refused_reads(count: int, reason: str, hint: str) -> UsageError:
    return UsageError(f"--views-per-read {count}: {reason}", hint=hint)


def _mixing(augment: Sequence[str]) -> str | None:
    """The name of the first step that mixes images; None where none does."""
    names = (step.split(":")[0] for step in augment)
    return next((name for name in names if name in ("mixup", "cutmix")), None)


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
    if mixing := _mixing(augment):
        raise _refusal(
            UsageError,
            subject,
            f"{mixing} mixes pairs that lie at random over the classes",
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
