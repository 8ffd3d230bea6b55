"""Which classes are alike: groups from a file, or from the words of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, UsageError, nearest
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.load import parsed
from distill_cli.types import Need

WORDS = "words"


def groups_asked(recipe: TrainRecipe, needs: Set[Need], class_names: Sequence[str]) -> list[int]:
    """The group of each class, where objectives need them; else none.

    Raises:
        UsageError: They are needed and not given, or given and not needed.
        ArtifactError: As `groups_of` raises it.
    """
    spec = recipe.groups if isinstance(recipe, LabelledRecipe) else None
    needed = Need.GROUPS in needs
    if spec is None and needed:
        raise UsageError(
            "this objective needs to know which classes are alike",
            hint="--groups words, or --groups FILE",
        )
    if spec is not None and not needed:
        raise UsageError("--groups: none of these objectives looks at groups of classes")
    return [] if spec is None else groups_of(spec, class_names)


def groups_of(spec: str, class_names: Sequence[str]) -> list[int]:
    """The group of each class, from 0 in the order of the classes; one that none names is alone.

    Args:
        spec: `words` (classes whose names end in the same word), or a YAML file: groups of class
            names, nested as deep as you like, of which the innermost count.
        class_names: Of the data.

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
    content = parsed(path, "groups", hint=f"Give a YAML file, or {WORDS}")
    named: dict[str, str] = {}
    for group, members in _leaves(content, str(path), ""):
        for member in members:
            if member not in class_names:
                raise ArtifactError(
                    f"groups {path}: there is no class '{member}'. {nearest(member, class_names)}"
                )
            if member in named:
                raise ArtifactError(f"groups {path}: class '{member}' stands twice")
            named[member] = group
    return named


def _leaves(content: Any, where: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The innermost lists of a hierarchy, by their path."""
    if isinstance(content, dict):
        for key, inner in content.items():
            yield from _leaves(inner, where, f"{name}/{key}")
    elif isinstance(content, list):
        yield name, [str(member) for member in content]
    else:
        raise ArtifactError(f"groups {where}: '{name or content}' should be a list of classes")
