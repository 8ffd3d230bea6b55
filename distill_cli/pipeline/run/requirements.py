"""Gates on the figures of a finished run: `--require test_top1>=0.97`."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from distill_cli.data.dataset import Dataset
from distill_cli.errors import UsageError
from distill_cli.pipeline.inputs.teacher_folders import moves
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.parsing import Requirement
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.report.seed_table import SeedTable
from distill_cli.training.events import Sink
from distill_cli.types import RunResult, Targets

# Figures of held-out images: of the epoch that they choose, and what is fitted to their classes.
CHOSEN = ("val_top1", "val_map", "val_teacher_kl")
FITTED = ("temperature", "test_nll_scaled", "test_ece_scaled")
# Figures of answers beside a teacher's, and of several labels an image.
COMPARED = ("teacher_agreement", "teacher_kl", "val_teacher_kl")
BY_LABEL = ("test_map", "test_f1", "test_macro_f1", "val_map")
COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def check_gates(recipe: TrainRecipe) -> None:
    """Refuses gates on figures that there will not be, whatever the data are.

    Raises:
        UsageError: With the gate and the reason.
    """
    if isinstance(recipe, StudentRecipe):
        own = next((name for name in recipe.teachers or [] if moves(name)), None)
        why = own and f"teacher {own} learns along, and a student is compared with none that does"
    else:
        why = "this run has no teacher to be compared with"
    for gate in _gates(recipe):
        if why and gate.key in COMPARED:
            raise UsageError(f"--require {gate}: {why}", hint="Ask for val_top1 or test_top1")


def _gates(recipe: TrainRecipe) -> Sequence[Requirement]:
    return recipe.require if isinstance(recipe, LabelledRecipe) else []


def check_held_out(recipe: TrainRecipe, dataset: Dataset, targets: Targets, sink: Sink) -> None:
    """Says where nothing is held out, and refuses gates on figures that there will not be.

    Raises:
        UsageError: With the gate and the reason.
    """
    nothing = not len(dataset.val.label_N)
    if nothing:
        kept = "the last epoch's network" if recipe.ema is None else "the last epoch's average"
        sink.message(f"nothing is held out: no epoch is chosen, and {kept} is kept")
    for gate in _gates(recipe):
        if targets == "softmax" and gate.key in BY_LABEL:
            raise UsageError(
                f"--require {gate}: one class of an image applies, and {gate.key} is of several labels",
                hint="Ask for test_top1",
            )
        if targets == "sigmoid" and gate.key in FITTED:
            raise UsageError(
                f"--require {gate}: no temperature is fitted where several labels may apply to an image"
            )
        if gate.key == "test_coarse_top1" and dataset.group_K is None:
            raise UsageError(f"--require {gate}: labels are not coarse", hint="Ask for test_top1")
        if nothing and gate.key in (*CHOSEN, *FITTED):
            raise UsageError(
                f"--require {gate}: nothing is held out, so that there is no {gate.key}",
                hint="Ask for test_top1, or know five labels of a class, of which one is held out",
            )
        if dataset.group_K is not None and gate.key in FITTED:
            raise UsageError(
                f"--require {gate}: held-out labels are coarse, so that no temperature is fitted"
            )


def unmet(requirements: Sequence[Requirement], result: RunResult) -> tuple[str, ...]:
    """The `--require` gates that the result does not meet, each with the figure.

    A gate on each of several seeds is one on the run where there is one.
    """
    missed = (_missed(gate, {"": result.to_json()}) for gate in requirements)
    return tuple(text for text in missed if text is not None)


def unmet_by_seeds(requirements: Sequence[Requirement], table: SeedTable) -> tuple[str, ...]:
    """The gates that the mean over seeds, or for `each:` any of the runs, does not meet.

    Runs that diverged have no figures, and fail no gate: they end with an exit code of their own.
    """
    if not table.done:
        return ()
    means = {"the mean ": {name: spread.mean for name, spread in table.figures.items()}}
    runs = {f"seed {row.seed} ": row.figures for row in table.done}
    missed = (_missed(gate, runs if gate.of_each else means) for gate in requirements)
    return tuple(text for text in missed if text is not None)


def unmet_by_folds(
    requirements: Sequence[Requirement], figures: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The gates that a run without a fold does not meet, with its fold; `figures` are those of each."""
    runs = {f"fold {number} ": values for number, values in enumerate(figures, start=1)}
    missed = (_missed(gate, runs) for gate in requirements)
    return tuple(text for text in missed if text is not None)


def _missed(gate: Requirement, figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The gate and the figures that do not meet it, each by its subject; None where all do."""
    by_subject = {subject: values.get(gate.key) for subject, values in figures.items()}
    wrong = [
        f"{subject}is {value}"
        for subject, value in by_subject.items()
        if value is None or not COMPARISONS[gate.comparison](value, gate.bound)
    ]
    return f"{gate} ({', '.join(wrong)})" if wrong else None
