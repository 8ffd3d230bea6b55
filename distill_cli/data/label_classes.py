"""Classes as rules of labels name them: those that are trained on, and groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from distill_cli.data.label_files import Hierarchy
from distill_cli.data.label_rules import LabelRules
from distill_cli.errors import ArtifactError, UsageError, nearest


def kept_classes(names: Sequence[str], rules: LabelRules) -> Tensor:
    """bool (K,): the classes that are trained on.

    Raises:
        UsageError: There is no such class.
    """
    named = torch.zeros(len(names), dtype=torch.bool)
    for flag, listed in (("--omit-class", rules.omit), ("--only-classes", rules.only)):
        for name in listed:
            label = class_of(name, names)
            if label is None:
                raise UsageError(f"{flag}: there is no class '{name}'. {nearest(name, names)}")
            named[label] = True
    return named if rules.only else ~named


def class_of(name: str, names: Sequence[str]) -> int | None:
    """A class by its name, or else its number."""
    name = as_named(name, names)
    if name in names:
        return names.index(name)
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1
    return number if 0 <= number < len(names) else None


def as_named(text: str, names: Sequence[str]) -> str:
    """A cell of a list as the name of a class: as it stands where there is one, else without spaces around it."""
    return text if text in names else text.strip()


def group_of_each(
    groups: Iterable[tuple[str, Iterable[str]]], names: Sequence[str], subject: str
) -> dict[str, str]:
    """The group of each class that stands in one.

    Args:
        groups: Name and classes of each.
        names: The classes that there are.
        subject: The file or option, for messages.

    Raises:
        ArtifactError: A class stands in two groups, or is none.
    """
    named: dict[str, str] = {}
    for group, members in groups:
        for member in members:
            if member not in names:
                raise ArtifactError(
                    f"{subject}: there is no class '{member:.80}'. {nearest(member, names)}"
                )
            if member in named:
                raise ArtifactError(f"{subject}: class '{member:.80}' stands twice")
            named[member] = group
    return named


def groups_of_classes(hierarchy: Hierarchy, names: Sequence[str]) -> Tensor:
    """int64 (K,): the group of each class, from 0 in the order of their first classes.

    Raises:
        ArtifactError: A class stands in no group, or in two, or is none.
    """
    named = group_of_each(hierarchy, names, "coarse labels")
    if missing := [name for name in names if name not in named]:
        raise ArtifactError(
            f"coarse labels: class '{missing[0]:.80}' is in no group",
            hint="Every class stands in one; a class may be a group by itself",
        )
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(named[name], len(numbers)) for name in names])
