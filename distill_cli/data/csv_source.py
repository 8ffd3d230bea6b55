"""Datasets listed in a CSV: image files with one label each, several or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_cli.data.archives import Files, FromFolder
from distill_cli.data.class_folders import SPLITS
from distill_cli.data.copies import Contents, contents_of
from distill_cli.data.csv_files import (
    FILE,
    SPLIT,
    check_suffix,
    csv_content,
    csv_lines,
    image_parts,
    split_named,
)
from distill_cli.data.source import FileSource, Source, Splits, digest
from distill_cli.data.splits import TEST_FRACTION, TEST_SEED, group_of, stratified
from distill_cli.errors import ArtifactError, counted
from distill_cli.types import UNLABELLED, DataVersion, SplitBy

LABEL, LABELS = "label", "labels"
ON_OFF = {"1": True, "0": False}
# Fewer rows than this share that have other than one label are taken for slips.
FEW, SHOWN = 0.05, 3


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line: the image's path, labels and split; `where` names the line in messages."""

    where: str
    parts: tuple[str, ...]
    labels: frozenset[str]
    split: str | None

    @property
    def sample_id(self) -> str:
        return "/".join(self.parts)


def is_listing(path: Path) -> bool:
    """Whether a file name is that of a CSV of files and labels."""
    return path.suffix.lower() == ".csv"


def listed_splits(
    path: Path, version: DataVersion = "0.4.0", *, split_by: SplitBy = "id", glance: bool = False
) -> Splits:
    """`train`, `test` and perhaps `val` of a CSV with a header line.

    Its columns are `file`, relative to the CSV's folder; `label`, one name, or `labels`, names
    separated by `;` or `|`, or instead a column of 0 and 1 for each class; and perhaps `split`, by the
    names that folders of splits may have.
    Without `split` a seeded fifth becomes test. Where each row has exactly one name, one class
    applies to an image; else several may.

    Args:
        path: The CSV.
        version: The distill by whose rules files are images: up to 0.3.0, all that it lists.
        split_by: Whether that fifth has all images of equal content, or none.
        glance: Remember no digest, for a dry run.

    Raises:
        ArtifactError: A row is unusable; the message names it.
    """
    content = csv_content(path)
    rows, classes = _rows(path, content)
    if version != "0.3.0":
        for row in rows:
            check_suffix(row.where, row.parts)
    multi_label = classes is not None or any(len(row.labels) != 1 for row in rows)
    paths = tuple(row.parts for row in rows)
    files = Files(str(path.parent), paths, frozenset(), FromFolder(path.parent, paths))
    contents = None
    if split_by == "content" and rows[0].split is None:
        everything = [(index, row.sample_id, UNLABELLED) for index, row in enumerate(rows)]
        contents = contents_of(FileSource(files, tuple(everything), ()), glance=glance)
    splits = _split(path, rows, multi_label, contents)
    names = _class_names(path, splits, classes)
    number = {name: label for label, name in enumerate(names)}
    position = {row.parts: index for index, row in enumerate(rows)}
    sources: dict[str, Source] = {}
    for split, members in splits.items():
        sets = [tuple(sorted(number[label] for label in row.labels)) for row in members]
        sources[split] = FileSource(
            files,
            tuple(
                (position[row.parts], row.sample_id, UNLABELLED if multi_label else labels[0])
                for row, labels in zip(members, sets, strict=True)
            ),
            names,
            label_sets=tuple(sets) if multi_label else None,
            listing=digest(content).hex(),
        )
    return sources


def slips(path: Path) -> str | None:
    """A phrase about rows under `labels` with other than one label, where these are few; else None.

    Nearly every row has one label, as of a table of one class an image with a mistake or two in it.

    Raises:
        ArtifactError: The file is no CSV.
    """
    header, lines = csv_lines(path, csv_content(path))
    if header.count(LABELS) != 1:
        return None
    column = header.index(LABELS)
    cells = [(number, line[column].strip()) for number, line in lines if len(line) == len(header)]
    others = [(number, cell) for number, cell in cells if len(_names(cell)) != 1]
    if not 0 < len(others) < FEW * len(cells):
        return None
    shown = [f"row {number} has {cell or 'none'}" for number, cell in others[:SHOWN]]
    return (
        f"{len(others):,} of {counted(len(cells), 'row')} {'has' if len(others) == 1 else 'have'} "
        f"other than one label: {', '.join(shown)}{', …' if len(others) > SHOWN else ''}"
    )


def _rows(path: Path, content: bytes) -> tuple[list[_Row], tuple[str, ...] | None]:
    """The lines sorted by sample id, and the classes where each has a column; else None."""
    header, lines = csv_lines(path, content)
    columns = [name for name in header if name not in (FILE, LABELS, SPLIT)]
    # Beside columns of other classes, `label` is one of them.
    one_class = columns == [LABEL] and LABELS not in header
    if one_class:
        columns = []
    if FILE not in header or (LABELS in header or one_class) == bool(columns):
        raise ArtifactError(
            f"{path} has the columns {', '.join(header) or 'of none'}",
            hint="Its first line should be file,label or file,labels, with split after it or not, or "
            "have a column of 0 and 1 for each class in the place of label",
        )
    if len(set(header)) < len(header) or "" in header:
        raise ArtifactError(f"{path} names a column twice, or not at all: {', '.join(header)}")
    rows: dict[str, _Row] = {}
    for number, cells in lines:
        row = _row(path, f"{path}, row {number}", header, cells, one_class=one_class)
        if row.sample_id in rows:
            raise ArtifactError(f"{row.where} is of {row.sample_id}, as an earlier row is")
        rows[row.sample_id] = row
    if not rows:
        raise ArtifactError(f"{path} lists no images")
    ordered = sorted(rows.values(), key=lambda row: os.fsencode(row.sample_id))
    return ordered, tuple(columns) if columns else None


def _row(
    path: Path, where: str, header: Sequence[str], cells: Sequence[str], *, one_class: bool
) -> _Row:
    if len(cells) != len(header):
        raise ArtifactError(
            f"{where} has {counted(len(cells), 'cell')}, the header has {len(header)}"
        )
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    split = values.get(SPLIT)
    if split is not None:
        split = split_named(where, split)
    return _Row(
        where=where,
        parts=image_parts(path.parent, where, values[FILE]),
        labels=frozenset([_label(where, values)] if one_class else _labels(where, values)),
        split=split,
    )


def _names(cell: str) -> list[str]:
    """The names in a cell, which ; or | separates."""
    return [name.strip() for name in cell.replace("|", ";").split(";") if name.strip()]


def _label(where: str, values: Mapping[str, str]) -> str:
    """The one class of a row under `label`."""
    names = _names(values[LABEL])
    if len(names) != 1:
        held = (
            f"names {counted(len(names), 'class', 'classes')}: {values[LABEL]}"
            if names
            else "is empty"
        )
        raise ArtifactError(
            f"{where}: the cell under '{LABEL}' {held}",
            hint=f"Give each image one class; where several may apply, or none, the column is '{LABELS}'",
        )
    return names[0]


def _labels(where: str, values: Mapping[str, str]) -> Iterable[str]:
    if LABELS in values:
        yield from _names(values[LABELS])
        return
    for name, value in values.items():
        if name in (FILE, SPLIT):
            continue
        if value not in ON_OFF:
            raise ArtifactError(f"{where}: column '{name}' holds '{value}', not 0 or 1")
        if ON_OFF[value]:
            yield name


def _split(
    path: Path, rows: Sequence[_Row], multi_label: bool, contents: Contents | None
) -> dict[str, list[_Row]]:
    """Rows by split: as the rows say, else a seeded fifth is test."""
    if rows[0].split is not None:
        splits = {name: [row for row in rows if row.split == name] for name in SPLITS}
        for name in ("train", "test"):
            if not splits[name]:
                raise ArtifactError(
                    f"{path} has no row of split '{name}'",
                    hint="Leave the column out to have a fifth of the rows as test",
                )
        return {name: members for name, members in splits.items() if members}
    ids = [row.sample_id for row in rows]
    # Sets of labels are too many to be strata.
    kinds = {name: n for n, name in enumerate(sorted({x for row in rows for x in row.labels}))}
    strata = [0 if multi_label else kinds[min(row.labels)] for row in rows]
    held = stratified(ids, strata, TEST_FRACTION, TEST_SEED, contents=contents)
    for name in kinds:
        holders = [index for index, row in enumerate(rows) if name in row.labels]
        if held.issuperset(holders):
            # A rare label is useless in the test split alone.
            held.difference_update(group_of(holders[0], contents))
    test = [row for index, row in enumerate(rows) if index in held]
    if not test:
        raise ArtifactError(f"{path} lists too few images to hold any out as test")
    return {"train": [row for index, row in enumerate(rows) if index not in held], "test": test}


def _class_names(
    path: Path, splits: Mapping[str, Sequence[_Row]], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The labels of train, in the order of their bytes; other splits may have no others."""
    known = {label for row in splits["train"] for label in row.labels}
    for name in classes or ():
        if name not in known:
            raise ArtifactError(f"class '{name}' of {path} has no image to train on")
    for split, rows in splits.items():
        for row in rows:
            if unknown := sorted(row.labels - known):
                raise ArtifactError(
                    f"{row.where}: class '{unknown[0]}' of {split} does not stand in train"
                )
    if not known:
        raise ArtifactError(f"{path} has no image with a label to train on")
    return tuple(sorted(known, key=os.fsencode))
