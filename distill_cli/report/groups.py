"""Runs that differ in their seed only belong together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.report.runs import RunSummary

# What may differ between the runs of a group: the seed, and what does not change training.
NOT_THE_RECIPE = {"seed", "view_seed", "out", "recorded", "require", "about", "threads", "device"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """One recipe under several seeds.

    Attributes:
        label: What a reader sees.
        runs: One a seed.
    """

    label: str
    runs: tuple[RunSummary, ...]

    def values(self, figure: str) -> list[float]:
        """A figure of result.json from every run that has it."""
        found = [getattr(run.result, figure) for run in self.runs]
        return [float(value) for value in found if value is not None]

    def mean(self, figure: str) -> float | None:
        """Its mean; None where no run has it."""
        values = self.values(figure)
        return statistics.fmean(values) if values else None

    def sd(self, figure: str) -> float | None:
        """Its sample standard deviation (n − 1); None below two runs."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else None


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """Groups in the order in which each first appears; labels are told apart where need be."""
    found: dict[str, list[RunSummary]] = {}
    for run in runs:
        kept = {key: value for key, value in run.recipe.items() if key not in NOT_THE_RECIPE}
        found.setdefault(json.dumps(kept, sort_keys=True, default=str), []).append(run)
    labels = [label_of(members[0]) for members in found.values()]
    groups = []
    for label, members in zip(labels, found.values(), strict=True):
        if labels.count(label) > 1:
            label = f"{label} ({members[0].name})"
        groups.append(Group(label=label, runs=tuple(members)))
    return groups


def label_of(run: RunSummary) -> str:
    """`mlp_16x1 · kd T=4 α=0.9 · random of 2`."""
    recipe = run.recipe
    parts = [str(recipe.get("model"))]
    objective = recipe.get("objective")
    listed = objective if isinstance(objective, list) else None
    if listed is not None:
        objective = " + ".join(_entry(entry) for entry in listed)
    if recipe.get("command") != "student":
        smoothing = recipe.get("label_smoothing")
        return " · ".join([*parts, f"{objective}" if not smoothing else f"smoothing {smoothing}"])
    said = [f"{objective}"]
    if listed is None:
        alpha = recipe.get("alpha")
        said.append(f"T={_short(recipe.get('temperature') or 4)}")
        said.append(f"α={_short(0.9 if alpha is None else alpha)}")
        if recipe.get("alpha_end") is not None or recipe.get("schedule"):
            said.append(f"→{_short(recipe.get('alpha_end') or 0)}")
    teachers = [Path(str(name)).name for name in recipe.get("teachers") or []]
    mode = str(recipe.get("mode"))
    parts += [
        " ".join(said),
        f"from {teachers[0]}" if mode == "single" else f"{mode} of {len(teachers)}",
    ]
    return " · ".join(parts)


def _entry(entry: Mapping[str, Any]) -> str:
    rest = " ".join(f"{key}={value}" for key, value in entry.items() if key != "name")
    return f"{entry.get('name')} {rest}".strip()


def _short(value: Any) -> str:
    return f"{float(value):g}"
