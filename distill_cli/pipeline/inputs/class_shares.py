"""How often classes occur: all alike, or as a file says. Shapes: K classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_cli.data.label_classes import as_named
from distill_cli.errors import ArtifactError, UsageError, nearest
from distill_cli.readers.bounds import read_bounded
from distill_cli.readers.csv_rows import TABLE_BYTES, csv_table
from distill_cli.readers.yaml_values import read_yaml_value

UNIFORM = "uniform"
HEADER = ["class", "share"]
# How far the sum may be from 1.
ROUNDING = 1e-6
HINT = f"Give {UNIFORM}, or a YAML or CSV file of the share of each class"


def shares_of(spec: str, class_names: Sequence[str]) -> Tensor:
    """The share of each class, fp64 (K,), each above 0, of sum 1.

    Args:
        spec: `uniform`; a YAML file that maps each class to its share; or a CSV of class,share.
        class_names: The classes.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It does not fit these classes, or its shares are none.
    """
    if spec == UNIFORM:
        return torch.full((len(class_names),), 1 / len(class_names), dtype=torch.float64)
    path = Path(spec)
    listed = _of_csv(path) if path.suffix.lower() == ".csv" else _of_yaml(path)
    shares: dict[str, float] = {}
    for text, share in listed:
        name = as_named(text, class_names)
        if name not in class_names:
            raise ArtifactError(
                f"prior {path}: there is no class '{name:.80}'. {nearest(name, class_names)}"
            )
        if name in shares:
            raise ArtifactError(f"prior {path}: class '{name:.80}' stands twice")
        shares[name] = _share(path, name, share)
    if missing := [name for name in class_names if name not in shares]:
        raise ArtifactError(f"prior {path}: class '{missing[0]:.80}' has no share")
    total = math.fsum(shares.values())
    if abs(total - 1) > ROUNDING:
        raise ArtifactError(f"prior {path}: shares have the sum 1, not {total:.7g}")
    given_K = torch.tensor([shares[name] for name in class_names], dtype=torch.float64)
    return given_K / given_K.sum()


def _share(path: Path, name: str, share: Any) -> float:
    """A share as a number; that of a CSV is a text."""
    try:
        value = math.nan if isinstance(share, bool) else float(share)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value <= 1:
        raise ArtifactError(
            f"prior {path}: the share of class '{name:.80}' is {share!s:.40}, and should be above 0 and "
            "1 at most",
            hint="No bias takes a class away: for its share to be 0 it would have to be −∞",
        )
    return value


def _of_yaml(path: Path) -> list[tuple[str, Any]]:
    content = read_yaml_value(path, "prior", hint=HINT)
    if not isinstance(content, dict):
        raise ArtifactError(f"prior {path}: it should map each class to its share")
    return [(str(name), share) for name, share in content.items()]


def _of_csv(path: Path) -> list[tuple[str, Any]]:
    try:
        rows = csv_table(read_bounded(path, TABLE_BYTES))
    except OSError as error:
        raise UsageError(f"cannot read prior {path}: {error.strerror}", hint=HINT) from None
    except ValueError as error:
        raise UsageError(f"cannot read prior {path}: {error}") from None
    header, *lines = rows or [(1, [])]
    if [cell.strip() for cell in header[1]] != HEADER:
        raise ArtifactError(f"prior {path}: its first line should be {','.join(HEADER)}")
    for line, row in lines:
        if len(row) != len(HEADER):
            raise ArtifactError(f"prior {path}, line {line}: it should have two cells")
    return [(row[0], row[1].strip()) for _, row in lines]
