"""Matrices of classes by classes, written as tables. Shapes: K classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill_cli.data.label_classes import as_named
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.readers.csv_rows import csv_rows

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def read_matrix(
    path: Path, class_names: Sequence[str], subject: str, *, rows_named: bool = True
) -> Tensor:
    """The numbers of a CSV with class names in the first row and the first column, (K, K) in fp64.

    Args:
        path: The file; its classes in any order.
        class_names: The class names of the data, in whose order rows and columns are returned.
        subject: What it is a matrix of, for messages.
        rows_named: Whether the first column has to be there; where it is not, rows are in the order
            of the columns.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It does not fit these classes, or a cell is no number.
    """
    header, *lines = _lines(path, subject)
    bare = not rows_named and len(header) == len(class_names)
    columns = [as_named(name, class_names) for name in (header if bare else header[1:])]
    names = columns if bare else [as_named(line[0], class_names) for line in lines]
    for where, listed in (("row", columns), ("column", names)):
        if sorted(listed) != sorted(class_names):
            wrong = sorted(set(listed) ^ set(class_names)) or ["a class that stands twice"]
            raise ArtifactError(
                f"{subject} {path}: the first {where} should name each of the {len(class_names)} "
                f"classes once; look at {', '.join(wrong[:3])}"
            )
    cells = [[cell.strip() for cell in (line if bare else line[1:])] for line in lines]
    if len(cells) != len(columns):
        raise ArtifactError(f"{subject} {path}: there should be {counted(len(columns), 'row')}")
    if any(len(row) != len(columns) or not all(map(NUMBER.fullmatch, row)) for row in cells):
        raise ArtifactError(
            f"{subject} {path}: each class's row should be {counted(len(columns), 'number')}"
        )
    given_KK = torch.tensor([[float(cell) for cell in row] for row in cells], dtype=torch.float64)
    given_KK = given_KK[[names.index(name) for name in class_names]]
    return given_KK[:, [columns.index(name) for name in class_names]]


def _lines(path: Path, subject: str) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for _, row in csv_rows(file) if row] or [[]]
    except OSError as error:
        raise UsageError(f"cannot read {subject} {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"cannot read {subject} {path}: {error}") from None
