"""Files that say what labels become: other labels of some samples, and groups of classes."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.readers.bounds import read_bounded
from distill_cli.readers.csv_rows import TABLE_BYTES, csv_rows
from distill_cli.readers.yaml_values import read_yaml_value

HEADER = ["sample_id", "label"]
# The labels of a file by sample id, and the classes of each group by its name: in the file's order.
Relabelling = tuple[tuple[str, str], ...]
Hierarchy = tuple[tuple[str, tuple[str, ...]], ...]


def read_relabelling(path: Path) -> Relabelling:
    """Labels by sample id, from a CSV with the columns sample_id and label.

    Raises:
        UsageError: It cannot be read.
        ArtifactError: It has other columns, or a sample twice.
    """
    try:
        text = read_bounded(path, TABLE_BYTES).decode("utf-8-sig")
        rows = [(line, row) for line, row in csv_rows(text.splitlines(keepends=True)) if row]
    except OSError as error:
        raise UsageError(
            f"cannot read label noise {path}: {error.strerror}",
            hint="Give sym:0.4, pair:0.2, or a CSV of sample_id,label",
        ) from None
    except ValueError as error:
        raise UsageError(f"cannot read label noise {path}: {error}") from None
    header, *lines = rows or [(1, [])]
    if [cell.strip() for cell in header[1]] != HEADER:
        raise ArtifactError(f"label noise {path}: its first line should be {','.join(HEADER)}")
    labels: dict[str, str] = {}
    for line, row in lines:
        if len(row) != len(HEADER):
            raise ArtifactError(f"label noise {path}, line {line}: it should have two cells")
        name, label = row[0], row[1].strip()
        if name in labels:
            raise ArtifactError(f"label noise {path}, line {line}: sample '{name}' stands twice")
        labels[name] = label
    return tuple(labels.items())


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
