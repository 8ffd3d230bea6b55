"""Run folders as a reader sees them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import read_json
from distill_cli.types import RunResult


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One finished run.

    Attributes:
        folder: Where it is.
        recipe: Every key of recipe.yaml.
        result: Its figures.
        history: One row an epoch, as summary.csv has them.
    """

    folder: Path
    recipe: Mapping[str, Any]
    result: RunResult
    history: tuple[Mapping[str, float], ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What the run noted of machine, data and views."""
        recorded: Mapping[str, Any] = self.recipe.get("recorded") or {}
        return recorded


def read_run(folder: Path) -> RunSummary:
    """Reads a finished run.

    Raises:
        UsageError: There is no such folder, or it is no run.
        ArtifactError: The run did not finish, or a file is malformed.
    """
    if not (folder / "recipe.yaml").is_file():
        what = "is no run folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}")
    if not (folder / "result.json").is_file():
        raise ArtifactError(f"run {folder} did not finish", hint="Go on with --resume")
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        values = read_json(folder / "result.json")
        known = {field.name for field in fields(RunResult)}
        result = RunResult(**{key: value for key, value in values.items() if key in known})
        history = tuple(_rows(folder / "summary.csv"))
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"run {folder} cannot be read: {reason}") from None
    return RunSummary(folder=folder, recipe=recipe, result=result, history=history)


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]
