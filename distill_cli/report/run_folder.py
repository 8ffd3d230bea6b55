"""Reading of run folders: recipe, result, history and class relations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import real_path
from distill_cli.readers.bounds import USUAL, read_bounded
from distill_cli.readers.csv_rows import csv_rows
from distill_cli.readers.json_values import json_value, read_json
from distill_cli.readers.yaml_values import BadYamlError, yaml_value
from distill_cli.types import PSEUDO_LABELS, PeerResult, PseudoLabelCounts, Relation, RunResult
from distill_cli.types.relation import RELATIONS, checked_text, is_number

RECIPE, RESULT, HISTORY = "recipe.yaml", "result.json", "summary.csv"
# How a command ended that did not finish its run: `code` and `message`.
OUTCOME = "last/outcome.json"
# Bytes of a recipe.yaml or summary.csv.
TEXT_BYTES = USUAL.size
# Keys that earlier versions did not have; figures that a run may not know.
MAY_BE_ABSENT = {field.name for field in fields(RunResult) if field.default is not MISSING}
MAY_BE_NONE = {field.name for field in fields(RunResult) if "None" in str(field.type)}


class NoFiguresError(ArtifactError):
    """A folder is no run that finished, so that it has no figures; nothing in it is damaged."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run, as its folder has it.

    Attributes:
        folder: Path of the run folder.
        recipe: Every key of recipe.yaml.
        result: Its figures; None where the run did not finish.
        history: One row an epoch, as summary.csv has them; an empty cell is NaN.
        relations: Class relations by the objective that has them.
        pseudo_labels: Labels that each epoch made up, where any did.
    """

    folder: Path
    recipe: Mapping[str, Any]
    result: RunResult | None
    history: tuple[Mapping[str, float], ...]
    relations: Mapping[str, Relation] = field(default_factory=dict)
    pseudo_labels: tuple[PseudoLabelCounts, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return real_path(self.folder).name

    @property
    def seed(self) -> Any:
        """The seed of its weights and of its order of images."""
        return self.recipe.get("seed")

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Machine, data and views, as the run noted them."""
        recorded = self.recipe.get("recorded")
        return recorded if isinstance(recorded, Mapping) else {}


def read_run(folder: Path, *, finished: bool = True) -> RunSummary:
    """Reads a run.

    Args:
        folder: The run folder.
        finished: Refuse a run without result.json; else its `result` is None.

    Raises:
        UsageError: There is no such folder.
        NoFiguresError: It is no run, or did not finish.
        ArtifactError: A file in it is malformed.
    """
    if not folder.exists():
        raise UsageError(f"{folder} does not exist", hint="Give the folder of a run")
    if not (folder / RECIPE).is_file():
        raise NoFiguresError(
            f"{folder} is no run folder: it has no {RECIPE}",
            hint="Give the folder of a `distill teacher train` or `distill student`",
        )
    recipe = read_recipe(folder / RECIPE)
    if recipe.get("command") == "hint-init":
        raise NoFiguresError(
            f"{folder} is a hint-init: its classifier is not trained, so that it has no figures",
            hint="Give the student that started from it",
        )
    has_result = (folder / RESULT).is_file()
    if finished and not has_result:
        raise NoFiguresError(
            f"run {folder} did not finish: it has no {RESULT}",
            hint=f"Go on with --resume --out {folder}",
        )
    return RunSummary(
        folder=folder,
        recipe=recipe,
        result=_result(folder / RESULT) if has_result else None,
        history=read_history(folder / HISTORY),
        relations=_relations(folder / RELATIONS),
        pseudo_labels=_pseudo_labels(folder / PSEUDO_LABELS),
    )


def _text(path: Path) -> str:
    try:
        return read_bounded(path, TEXT_BYTES).decode("utf-8")
    except OSError as error:
        raise _malformed(path, str(error.strerror)) from None
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def _malformed(path: Path, reason: str) -> ArtifactError:
    first = (reason.splitlines() or ["unreadable"])[0]
    return ArtifactError(
        f"{path} is malformed: {first}", hint="Restore the file, or make the run again"
    )


def read_recipe(path: Path) -> Mapping[str, Any]:
    """The keys of a recipe.yaml.

    Raises:
        ArtifactError: It is malformed.
    """
    try:
        recipe = yaml_value(_text(path))
    except BadYamlError as error:
        raise _malformed(path, str(error)) from None
    if not isinstance(recipe, dict):
        raise _malformed(path, "it holds no keys")
    return {str(key): value for key, value in recipe.items()}


def _result(path: Path) -> RunResult:
    values = read_json(path)
    if not isinstance(values, dict):
        raise _malformed(path, "it holds no keys")
    known = {field.name for field in fields(RunResult)}
    differing = [
        f"{what} {', '.join(sorted(names))}"
        for what, names in (
            ("lacks", known - MAY_BE_ABSENT - values.keys()),
            ("unknown", values.keys() - known),
        )
        if names
    ]
    if differing:
        raise ArtifactError(
            f"{path} has other figures than this version knows ({'; '.join(differing)})",
            hint="Read it with the version that wrote it (recipe.yaml names it), or run it again",
        )
    warnings, peers = values.pop("warnings", []), values.pop("peers", [])
    if not isinstance(warnings, list) or not isinstance(peers, list):
        raise _malformed(path, "warnings and peers are lists")
    for name, value in values.items():
        if not (is_number(value) or (value is None and name in MAY_BE_NONE)):
            raise _malformed(path, f"{name} is {value!r}, not a finite number")
    try:
        along = tuple(map(PeerResult.from_json, peers))
        return RunResult(**values, warnings=tuple(map(checked_text, warnings)), peers=along)
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def _relations(path: Path) -> dict[str, Relation]:
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise _malformed(path, "it holds no objectives")
    try:
        return {checked_text(name): Relation.from_json(entry) for name, entry in content.items()}
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def _pseudo_labels(path: Path) -> tuple[PseudoLabelCounts, ...]:
    if not path.is_file():
        return ()
    # A line without its end is what a killed writer left of it.
    lines = _text(path).encode().rpartition(b"\n")[0].splitlines()
    try:
        return tuple(PseudoLabelCounts.from_json(json_value(line)) for line in lines)
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def read_history(path: Path) -> tuple[Mapping[str, float], ...]:
    """The rows of a summary.csv, an empty cell as NaN; none where there is no file.

    Raises:
        ArtifactError: It is malformed.
    """
    if not path.is_file():
        return ()
    # A row without its line end is what a killed writer left of it.
    whole = _text(path).removeprefix("\ufeff").rpartition("\n")[0]
    rows = []
    try:
        lines = [line for line in csv_rows(whole.splitlines(keepends=True)) if line[1]]
        (_, header), *others = lines or [(1, [])]
        for number, row in others:
            if len(row) != len(header):
                raise ValueError(f"line {number} has another number of cells than its header")
            rows.append(dict(zip(header, (_cell(number, cell) for cell in row), strict=True)))
    except ValueError as error:
        raise _malformed(path, str(error)) from None
    if rows and "epoch" not in rows[0]:
        raise _malformed(path, "it has no column 'epoch'")
    return tuple(rows)


def _cell(line: int, cell: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise ValueError(f"line {line}: {cell!r:.40} is no number") from None
