"""The runs below a folder, and where each stands. Torch-free."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from distill_cli.errors import ArtifactError, DivergedError
from distill_cli.files import is_written, real_path
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.stages import RECIPE as RECIPE_OF_STAGES
from distill_cli.report.format import natural
from distill_cli.report.run_folder import (
    HISTORY,
    OUTCOME,
    RECIPE,
    RESULT,
    read_history,
    read_recipe,
)
from distill_cli.types import FIGURES, STAGES
from distill_cli.types.relation import is_number

State = Literal["done", "running", "resumable", "diverged", "unreadable"]
VERBS = ("teacher train", "student", "hint-init", "self-train")
# The figures that runs can be sorted by, and those of which more is better.
SORTABLE = (*FIGURES, "val_hint")
MORE_IS_BETTER = {
    *("test_top1", "test_map", "test_f1", "test_macro_f1", "val_top1", "val_map"),
    *("test_coarse_top1",),
    *("teacher_agreement", "images_per_second"),
}


@dataclass(frozen=True, kw_only=True)
class RunStanding:
    """A run folder at a glance.

    Attributes:
        folder: Its path.
        name: Its path below the folder that was looked through.
        state: done: it has its result; running: a process writes it now; diverged: its last command
            ended so; resumable: `--resume` goes on with it; unreadable: a file in it is malformed.
        verb: The command that makes it.
        model: Name of the network.
        data: The data, as the recipe names them.
        epoch: Epochs that are over.
        epochs: Epochs of the whole training.
        figures: Figures of result.json that are numbers; of an unfinished run, held-out figures of
            its best epoch so far.
        fault: What is malformed, in words.
    """

    folder: Path
    name: str
    state: State
    verb: str | None = None
    model: str | None = None
    data: str | None = None
    epoch: int = 0
    epochs: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"run": str(values.pop("folder")), **values, "figures": dict(self.figures)}


def runs_below(root: Path) -> list[RunStanding]:
    """The runs in a folder and in the folders below it; of several stages, the run that they make.

    Links are not followed, and hidden folders not looked into.
    """
    found = []
    for folder, below, files in os.walk(root):
        standing = None
        if RECIPE in files or RECIPE_OF_STAGES in files:
            path = Path(folder)
            name = str(path.relative_to(root)) if path != root else real_path(root).name
            standing = _standing(path, name)
        if standing is None:
            below[:] = [name for name in below if not name.startswith(".")]
        else:
            # The folders of a run are its own.
            below.clear()
            found.append(standing)
    return found


def sorted_by(figure: str, runs: Iterable[RunStanding]) -> list[RunStanding]:
    """The best run first; those without the figure come last, by name."""
    sign = -1 if figure in MORE_IS_BETTER else 1

    def key(run: RunStanding) -> tuple[float, list[tuple[int, str]]]:
        value = run.figures.get(figure)
        return (math.inf if value is None else sign * value), natural(run.name)

    return sorted(runs, key=key)


def _standing(folder: Path, name: str) -> RunStanding | None:
    """Where a run stands; None for a cache, or a recipe that no run has kept."""
    several = (folder / RECIPE_OF_STAGES).is_file()
    try:
        recipe = read_recipe(folder / (RECIPE_OF_STAGES if several else RECIPE))
    except ArtifactError as error:
        kept = (folder / "last").is_dir() or (folder / "metrics.jsonl").is_file()
        return _unreadable(folder, name, error) if kept else None
    if recipe.get("command") not in VERBS or not isinstance(recipe.get("recorded"), Mapping):
        return None
    try:
        figures, epoch = _figures(folder)
        state = _state(folder, several=several)
    except ArtifactError as error:
        return _unreadable(folder, name, error)
    epochs = recipe.get("epochs")
    return RunStanding(
        folder=folder,
        name=name,
        state=state,
        verb=str(recipe["command"]),
        model=_text(recipe.get("model")),
        data=_text(recipe.get("data")),
        epoch=epoch,
        epochs=epochs if isinstance(epochs, int) else None,
        figures=figures,
    )


def _unreadable(folder: Path, name: str, error: ArtifactError) -> RunStanding:
    return RunStanding(folder=folder, name=name, state="unreadable", fault=error.message)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _state(folder: Path, *, several: bool) -> State:
    parts = [folder, folder / STAGES, *(folder / STAGES).glob("*")] if several else [folder]
    if any(is_written(part) for part in parts):
        return "running"
    if (folder / RESULT).is_file():
        return "done"
    open_ends = [part for part in parts if not (part / RESULT).is_file()]
    ends = [read_json(part / OUTCOME) for part in open_ends if (part / OUTCOME).is_file()]
    codes = [end.get("code") for end in ends if isinstance(end, Mapping)]
    return "diverged" if DivergedError.exit_code in codes else "resumable"


def _figures(folder: Path) -> tuple[dict[str, float], int]:
    """Figures by name, and the epochs that are over."""
    rows = read_history(folder / HISTORY)
    epoch = int(rows[-1]["epoch"]) if rows else 0
    if (folder / RESULT).is_file():
        result = read_json(folder / RESULT)
        if not isinstance(result, Mapping):
            raise ArtifactError(f"{folder / RESULT} is malformed: it holds no keys")
        return {key: value for key, value in result.items() if is_number(value)}, epoch
    if not rows:
        return {}, epoch
    # Where nothing is held out, the last epoch is kept.
    ranks = [_rank(row) for row in rows]
    best = rows[-1] if math.isinf(min(ranks)) else rows[ranks.index(min(ranks))]
    kept = {key: value for key, value in best.items() if key.startswith("val_")}
    figures = {key: value for key, value in kept.items() if math.isfinite(value)}
    return {**figures, "best_epoch": int(best["epoch"])}, epoch


def _rank(row: Mapping[str, float]) -> float:
    """Less is better."""
    rank = -row["val_top1"] if "val_top1" in row else row.get("val_hint", math.inf)
    return math.inf if math.isnan(rank) else rank
