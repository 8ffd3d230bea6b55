"""Groups of similar classes: from a file, from the words of their names, or as a whole matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_cli.data.label_classes import group_of_each
from distill_cli.errors import ArtifactError
from distill_cli.losses.soft_targets import group_relation
from distill_cli.pipeline.inputs.class_matrix import read_matrix
from distill_cli.readers.yaml_values import read_yaml_value

WORDS = "words"


def rule_of(spec: str, class_names: Sequence[str]) -> Tensor:
    """How alike classes are, (K, K) in fp64, each row of sum 1: ρ of grouped label smoothing.

    Args:
        spec: As `groups_of` takes it, or a CSV of a matrix: class names in the first row and the
            first column, in any order, no number below 0; rows are scaled to sum 1.
        class_names: The class names of the data.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It does not fit these classes.
    """
    if Path(spec).suffix.lower() == ".csv":
        return _from_matrix(Path(spec), class_names)
    return group_relation(torch.tensor(groups_of(spec, class_names)))


def _from_matrix(path: Path, class_names: Sequence[str]) -> Tensor:
    rule_KK = read_matrix(path, class_names, "groups")
    total_K1 = rule_KK.sum(dim=-1, keepdim=True)
    if not bool((rule_KK >= 0).all() & (total_K1 > 0).all() & total_K1.isfinite().all()):
        raise ArtifactError(f"groups {path}: numbers from 0 on, and not a row of zeros alone")
    return rule_KK / total_K1


def groups_of(spec: str, class_names: Sequence[str]) -> list[int]:
    """The group of each class, from 0 in the order of the classes; one that none names is alone.

    Args:
        spec: `words` (classes whose names end in the same word), or a YAML file: groups of class
            names, nested as deep as you like, of which the innermost count.
        class_names: The class names of the data.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It names a class that there is not, or one twice; or no two classes share a
            group.
    """
    named = _by_words(class_names) if spec == WORDS else _from_file(Path(spec), class_names)
    numbers: dict[str, int] = {}
    group_K = [
        numbers.setdefault(named.get(name, f"\0{name}"), len(numbers)) for name in class_names
    ]
    if len(numbers) == len(class_names):
        raise ArtifactError(
            f"groups {spec}: no two classes share a group",
            hint="Write a YAML file of groups, as `animals: [cat, dog]`",
        )
    return group_K


def _by_words(class_names: Sequence[str]) -> dict[str, str]:
    """Each class by the last word of its name: pileated woodpecker, downy_woodpecker."""
    return {name: (re.findall(r"[^\W_]+", name.lower()) or [name])[-1] for name in class_names}


def _from_file(path: Path, class_names: Sequence[str]) -> dict[str, str]:
    content = read_yaml_value(
        path, "groups", hint=f"Give a YAML file, a CSV of a matrix, or {WORDS}"
    )
    return group_of_each(_leaves(content, str(path), ""), class_names, f"groups {path}")


def _leaves(content: Any, where: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The innermost lists of a hierarchy, by their path."""
    if isinstance(content, dict):
        for key, inner in content.items():
            yield from _leaves(inner, where, f"{name}/{key}")
    elif isinstance(content, list):
        yield name, [str(member) for member in content]
    else:
        raise ArtifactError(f"groups {where}: '{name or content}' should be a list of classes")
