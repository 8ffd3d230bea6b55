"""Matches labels that other people or tools made with the data, and turns them into logits.

Shapes: M rows of the file, N rows of the train split, K classes, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_cli.errors import ArtifactError, counted, nearest
from distill_cli.pipeline.labels.label_files import Floats, LabelFile
from distill_cli.recipe.schema import Kind

# The share of a class without any vote, whose logarithm is finite.
LEAST = 1e-8
SUM_TOLERANCE = 1e-3
CHUNK = 4096
SHOWN = 3

Flags = npt.NDArray[np.bool_]


def columns_of(label_file: LabelFile, classes: Sequence[str]) -> list[int]:
    """The column of each class of the data; columns without names are taken in the data's order.

    Raises:
        ArtifactError: A class is missing, unknown or named twice, or their number is wrong.
    """
    named, path = label_file.classes, label_file.path
    if named is None:
        if (columns := label_file.values_MK.shape[1]) != len(classes):
            raise ArtifactError(
                f"{path} has {counted(columns, 'class', 'classes')}, the data have {len(classes)}"
            )
        return list(range(len(classes)))
    column_of = {name: column for column, name in enumerate(named)}
    for name in named:
        if name not in classes:
            raise ArtifactError(
                f"{path}: the data have no class '{name}'. {nearest(name, classes)}"
            )
    missing = [name for name in classes if name not in column_of]
    if missing:
        raise ArtifactError(
            f"{path} has no column for {len(missing)} class{'es' * (len(missing) > 1)}: "
            f"{listed(missing)}"
        )
    if len(column_of) < len(named):
        twice = next(name for column, name in enumerate(named) if column_of[name] != column)
        raise ArtifactError(f"{path} has several columns for class '{twice}'")
    return [column_of[name] for name in classes]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The rows of a file that belong to the samples of the train split.

    Attributes:
        row_N: The file's row of each sample of the train split.
        elsewhere: Number of rows of samples in val/ or test/.
        nowhere: Number of rows of unknown samples, which may be images that were skipped.
    """

    row_N: list[int]
    elsewhere: int
    nowhere: int


def match_rows(
    label_file: LabelFile, samples: Sequence[str], *, others: Collection[str], skipped: int
) -> Matched:
    """Finds the one row of every sample, by its id, or by its file name where that is unique.

    Args:
        label_file: Content of the file.
        samples: Ids of the train split, sorted.
        others: Ids of val/ and test/.
        skipped: Number of images that were left out: as many names may be unknown.

    Raises:
        ArtifactError: Samples are missing, unknown, ambiguous or labelled twice; or the file names
            no samples and has another number of rows.
    """
    path, rows = label_file.path, len(label_file.values_MK)
    if label_file.samples is None:
        if rows != len(samples):
            raise ArtifactError(
                f"{path} names no samples and has {counted(rows, 'row')}, the train split has "
                f"{len(samples):,}",
                hint=f"Give it an array 'samples' of names, as '{samples[0]}'",
            )
        return Matched(row_N=list(range(rows)), elsewhere=0, nowhere=0)
    row_of = {name: row for row, name in enumerate(samples)}
    sharing = _by_file_name(samples)
    left_out = {*others, *(_file_name(name) for name in others)}
    row_N = [-1] * len(samples)
    repeated, ambiguous, unknown, elsewhere = [], [], [], 0
    for file_row, name in enumerate(label_file.samples):
        candidates = sharing.get(name, [])
        row = row_of.get(name, candidates[0] if len(candidates) == 1 else None)
        if row is None and candidates:
            ambiguous.append(name)
        elif row is None and name in left_out:
            elsewhere += 1
        elif row is None:
            unknown.append(name)
        elif row_N[row] >= 0:
            repeated.append(name)
        else:
            row_N[row] = file_row
    missing = [name for name, file_row in zip(samples, row_N, strict=True) if file_row < 0]
    faults = (
        (repeated, "it has several labels for", "One each: add up the votes"),
        (ambiguous, "several images may be meant by", f"Spell names as '{samples[0]}'"),
        (unknown, "the data do not have", f"They spell names as '{samples[0]}'"),
        (missing, "it has no label for", "Held-out images of train need theirs too"),
    )
    for names, problem, hint in faults:
        if names and (names is not unknown or len(names) > skipped):
            count = counted(len(names), "sample")
            raise ArtifactError(f"{path}: {problem} {count}: {listed(names)}", hint=hint)
    return Matched(row_N=row_N, elsewhere=elsewhere, nowhere=len(unknown))


def _file_name(sample: str) -> str:
    return sample.rsplit("/", 1)[-1]


def _by_file_name(samples: Sequence[str]) -> dict[str, list[int]]:
    rows_of: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows_of.setdefault(_file_name(sample), []).append(row)
    return rows_of


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


@np.errstate(all="ignore")
def logits_of(
    label_file: LabelFile,
    row_N: Sequence[int],
    columns_K: Sequence[int],
    *,
    samples: Sequence[str],
    smoothing: float,
) -> Tensor:
    """fp32 logits (N, K) of the train split's rows, whose softmax at T = 1 is the label.

    Args:
        label_file: Content of the file.
        row_N: The file's row of each sample.
        columns_K: The file's column of each class.
        samples: Ids of the train split, for messages.
        smoothing: Votes added to every class.

    Raises:
        ArtifactError: The numbers of a sample are no label of this kind.
    """
    logits_NK = np.empty((len(row_N), len(columns_K)), np.float32)
    bad: list[int] = []
    for start in range(0, len(row_N), CHUNK):
        chunk = slice(start, start + CHUNK)
        given_CK = label_file.values_MK[row_N[chunk]][:, columns_K].astype(np.float64)
        logits_NK[chunk] = as_logits(given_CK, label_file.kind, smoothing)
        wrong_C = _wrong(given_CK, label_file.kind) | ~np.isfinite(logits_NK[chunk]).all(axis=1)
        bad += (start + np.flatnonzero(wrong_C)).tolist()
    if bad:
        others = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        given_K = label_file.values_MK[row_N[bad[0]]][columns_K].astype(np.float64)
        raise ArtifactError(
            f"{label_file.path}: sample '{samples[bad[0]]}' {_fault(given_K, label_file.kind)}{others}",
            hint=_remedy(given_K, label_file.kind),
        )
    return torch.from_numpy(logits_NK)


def as_logits(given_CK: Floats, kind: Kind, smoothing: float = 0.0) -> Floats:
    """fp64 logits of checked numbers: log max(p, 1e-8) of shares p, or the logits as they are."""
    if kind == "logits":
        return given_CK
    if kind == "votes":
        given_CK = given_CK + smoothing
        given_CK = given_CK / given_CK.sum(axis=1, keepdims=True)
    return np.log(np.maximum(given_CK, LEAST))


def _wrong(given_CK: Floats, kind: Kind) -> Flags:
    """Marks the rows that are no labels of this kind."""
    wrong_C: Flags = np.asarray(~np.isfinite(given_CK).all(axis=1))
    if kind == "logits":
        return wrong_C
    total_C = given_CK.sum(axis=1)
    wrong_C |= (given_CK < 0).any(axis=1) | ~np.isfinite(total_C)
    wrong_C |= total_C <= 0 if kind == "votes" else np.abs(total_C - 1) > SUM_TOLERANCE
    return wrong_C


def _remedy(given_K: Floats, kind: Kind) -> str | None:
    """The other kind that such numbers may be of."""
    if kind != "logits" and np.isfinite(given_K).all() and (given_K < 0).any():
        return "If these are logits, say --kind logits"
    return None


def _fault(given_K: Floats, kind: Kind) -> str:
    """The fault of a row that is no label of this kind, as a predicate."""
    if np.isnan(given_K).any():
        return "has a cell that is no number"
    if kind != "logits" and (given_K < 0).any():
        return f"has {kind} below 0: {given_K.min():g}"
    total = given_K.sum()
    if np.isfinite(total) and kind == "votes" and total <= 0:
        return "has no votes"
    if np.isfinite(total) and kind == "probabilities":
        return f"has probabilities that sum to {total:g}, not to 1"
    return f"has {kind} that are too large"
