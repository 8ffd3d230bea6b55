"""Folds of the images to train on: a run may leave out one, of which it then knows nothing.

Shapes: P rows that a run would train on; N rows of train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_choice import Choice
from distill_cli.data.label_draws import Stream, ranked
from distill_cli.errors import ArtifactError, counted
from distill_cli.types import UNLABELLED


def folds_of(rows_P: Tensor, label_N: Tensor, key_N: Tensor, count: int, seed: int) -> Tensor:
    """int64 (P,) fold of each row, from 0: of every class as many in each as in any other, to within one.

    Rows without a label are one more class. All folds have as many rows, to within one.

    Args:
        rows_P: int64 rows, ascending.
        label_N: int64 known class of every row of the split.
        key_N: int64 sample keys.
        count: Number of folds.
        seed: Seed of the draw.
    """
    drawn_P = ranked(rows_P, key_N, seed, Stream.FOLD)
    dealt_P = drawn_P[label_N[drawn_P].argsort(stable=True)]
    fold_P = torch.empty_like(rows_P)
    # Dealt out like cards, class by class, each going on where the one before it ended.
    fold_P[torch.searchsorted(rows_P, dealt_P)] = torch.arange(len(rows_P)) % count
    return fold_P


def check_folds(
    rows_P: Tensor, label_N: Tensor, class_names: Sequence[str], count: int, spec: str
) -> None:
    """Refuses folds of which some would have nothing of a class.

    Args:
        rows_P: int64 rows to train on.
        label_N: int64 known class of every row.
        class_names: Names of the classes.
        count: Number of folds.
        spec: Name of the data.

    Raises:
        ArtifactError: With the class.
    """
    label_P = label_N[rows_P]
    images_K = torch.bincount(label_P[label_P != UNLABELLED], minlength=len(class_names))
    numbers = zip(images_K.tolist(), class_names, strict=True)
    images, name = min((pair for pair in numbers if pair[0]), default=(count, ""))
    if images < count:
        raise ArtifactError(
            f"class '{name}' of {spec} has {counted(images, 'image')} to train on, fewer than there are "
            f"folds ({count}), each of which has some of every class",
            hint=f"Make {images} folds" if images > 1 else "Train without it, by --omit-class",
        )


def without_fold(
    dataset: Dataset, label_N: Tensor, choice: Choice, fold: tuple[int, int], seed: int
) -> Choice:
    """What a run knows without a fold of its training rows: nothing of these.

    Folds of the data themselves do not depend on images from a source beside them.

    Args:
        dataset: As it lies on disk.
        label_N: int64 labels of train, changed.
        choice: What it would know.
        fold: The fold, from 1, and how many there are.
        seed: Seed of the draw.

    Raises:
        ArtifactError: A class has fewer rows than there are folds.
    """
    (number, count), rows = fold, choice.rows
    known_N = torch.full_like(label_N, UNLABELLED)
    known_N[choice.allowed] = label_N[choice.allowed]
    check_folds(rows, known_N, dataset.class_names, count, dataset.spec)
    own = rows < dataset.identity.samples
    kept = [
        side[folds_of(side, known_N, dataset.train.key_N, count, seed) != number - 1]
        for side in (rows[own], rows[~own])
    ]
    left = torch.cat(kept)
    return replace(choice, rows=left, allowed=among(choice.allowed, left))


def among(rows: Tensor, others: Tensor) -> Tensor:
    """The rows that are among others too."""
    return rows[torch.isin(rows, others)]
