"""Files that say what labels become: other labels of some samples, and groups of classes."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.readers.bounds import read_bounded
from distill_cli.readers.csv_rows import TABLE_BYTES, csv_table
from distill_cli.readers.yaml_values import read_yaml_value

HEADER = ["sample_id", "label"]
# The columns of a round of self-training: what a person said has no probability.
ROUND = ["split", "sample_id", "label", "confidence"]
# The labels of a file by sample id, and the classes of each group by its name: in the file's order.
Relabelling = tuple[tuple[str, str], ...]
Hierarchy = tuple[tuple[str, tuple[str, ...]], ...]
# A sample of a list: the split that it is said to be of, empty for train, and its id.
Named = tuple[str, str]
# Samples that are left out, and samples with the class that each is said to be of.
Omitted = tuple[Named, ...]
Corrections = tuple[tuple[Named, str], ...]
SPLITS = ("", "train", "val", "test")
# The columns that a list of labels may have them in; of both, the first one counts: in the list of an
# audit, `label` is the one that is doubted.
OF_LABELS = ("suggested", "label")


def read_relabelling(path: Path) -> Relabelling:
    """Labels by sample id, from a CSV with the columns sample_id and label.

    Raises:
        UsageError: It cannot be read.
        ArtifactError: It has other columns, or a sample twice.
    """
    subject = f"label noise {path}"
    header, lines = _table(path, subject, "Give sym:0.4, pair:0.2, or a CSV of sample_id,label")
    if header != HEADER:
        raise ArtifactError(f"{subject}: its first line should be {','.join(HEADER)}")
    labels: dict[str, str] = {}
    for line, row in lines:
        if len(row) != len(HEADER):
            raise ArtifactError(f"{subject}, line {line}: it should have two cells")
        name, label = row
        if name in labels:
            raise ArtifactError(f"{subject}, line {line}: sample '{name}' stands twice")
        labels[name] = label
    return tuple(labels.items())


def read_samples(path: Path, option: str) -> Omitted:
    """The samples of a list, each once, from a CSV with the column sample_id and perhaps split.

    Raises:
        UsageError: It cannot be read.
        ArtifactError: It lacks the column, or a split is none.
    """
    rows = _listed(path, f"{option} {path}")
    return tuple(dict.fromkeys(_named(row) for _, row in rows))


def read_corrections(path: Path) -> Corrections:
    """Samples and their classes, from a CSV with the columns sample_id and suggested or label.

    A row whose class is empty is passed over: nobody has said it yet. Spaces stay, for a class may be
    called so.

    Raises:
        UsageError: It cannot be read.
        ArtifactError: It lacks a column, a split is none, or a sample has two classes.
    """
    subject = f"--relabel {path}"
    first: dict[Named, str] = {}
    labels: dict[tuple[Named, str], None] = {}
    for line, row in _listed(path, subject):
        column = next((name for name in OF_LABELS if name in row), None)
        if column is None:
            raise ArtifactError(f"{subject}: it should have a column label, or suggested")
        if not (label := row[column]):
            continue
        name = _named(row)
        if first.setdefault(name, label).strip() != label.strip():
            raise ArtifactError(
                f"{subject}, line {line}: sample '{name[1]:.80}' is {first[name]:.80} further up"
            )
        labels[name, label] = None
    return tuple(labels)


def read_probabilities(path: Path) -> dict[tuple[Named, str], str]:
    """The labels of a list that a round of self-training made, each with its probability; none of other lists.

    Raises:
        UsageError: It cannot be read.
    """
    header, lines = _table(path, f"list {path}", "Give a CSV with a column sample_id")
    if header != ROUND:
        return {}
    rows = [row for _, row in lines if len(row) == len(ROUND) and row[-1]]
    return {((split.strip(), name), label): share for split, name, label, share in rows}


def _named(row: dict[str, str]) -> Named:
    return row.get("split", "").strip(), row[HEADER[0]]


def _listed(path: Path, subject: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a list of samples by column, with the lines that they end on."""
    header, lines = _table(path, subject, "Give a CSV with a column sample_id")
    if HEADER[0] not in header:
        raise ArtifactError(f"{subject}: it should have a column {HEADER[0]}")
    if len(set(header)) != len(header):
        raise ArtifactError(f"{subject}: two of its columns have one name")
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise ArtifactError(f"{subject}, line {line}: it should have {len(header)} cells")
        row = dict(zip(header, cells, strict=True))
        if _named(row)[0] not in SPLITS:
            raise ArtifactError(
                f"{subject}, line {line}: there is no split '{row['split']:.80}'",
                hint=f"A split is one of {', '.join(SPLITS[1:])}; val is what is held out",
            )
        rows.append((line, row))
    return rows


def _table(path: Path, subject: str, hint: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The cells of the first line of a CSV, and the other lines that are not empty."""
    try:
        rows = csv_table(read_bounded(path, TABLE_BYTES))
    except OSError as error:
        raise UsageError(f"cannot read {subject}: {error.strerror}", hint=hint) from None
    except ValueError as error:
        raise UsageError(f"cannot read {subject}: {error}") from None
    header, *lines = rows or [(1, [])]
    return [cell.strip() for cell in header[1]], lines


def read_hierarchy(path: Path) -> Hierarchy:
    """The classes of each group, from a YAML mapping of lists.

    Raises:
        UsageError: It cannot be read.
        ArtifactError: It is no mapping of lists.
    """
    content = read_yaml_value(
        path, "coarse labels", hint="Give a YAML file of groups, as `animal: [cat, dog]`"
    )
    if not isinstance(content, dict) or not content:
        raise ArtifactError(f"coarse labels {path}: it should map each group to a list of classes")
    for name, members in content.items():
        if not isinstance(members, list) or not members:
            raise ArtifactError(f"coarse labels {path}: '{name}' should be a list of classes")
    return tuple((str(name), tuple(map(str, members))) for name, members in content.items())
