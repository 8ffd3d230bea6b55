"""How often images of each class are labelled as another: a matrix in a file. Shapes: K classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distill_cli.errors import ArtifactError
from distill_cli.files import csv_text, write_text
from distill_cli.pipeline.inputs.class_matrix import read_matrix

SUBJECT = "noise matrix"
# How far the sum of a row may be from 1.
ROUNDING = 1e-6


def read_noise(path: Path, class_names: Sequence[str]) -> Tensor:
    """M, (K, K) in fp64: row i has the probabilities of the labels of images of class i.

    Args:
        path: A CSV of class names in the first row, the labels, and perhaps in the first column, the
            classes, both in any order.
        class_names: The class names of the data.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It does not fit these classes, or a row is no distribution.
    """
    noise_KK = read_matrix(path, class_names, SUBJECT, rows_named=False)
    for name, row_K in zip(class_names, noise_KK, strict=True):
        total = float(row_K.sum())
        if not (bool((row_K >= 0).all()) and abs(total - 1) <= ROUNDING):
            raise ArtifactError(
                f"{SUBJECT} {path}: row {name} should be probabilities of sum 1 (its sum is {total:g})",
                hint="A row is a true class, a column the label that its images get",
            )
    return noise_KK


def write_noise(path: Path, noise_KK: Tensor, class_names: Sequence[str]) -> None:
    """Writes what `read_noise` reads, whole or not at all.

    Raises:
        UsageError: It cannot be written.
    """
    rows = zip(class_names, noise_KK.tolist(), strict=True)
    lines = ([name, *map(repr, row_K)] for name, row_K in rows)
    write_text(path, csv_text([["", *class_names], *lines]))
