"""Gates on the figures of a finished run: `--require test_top1>=0.97`."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from distill_cli.recipe.parsing import Requirement
from distill_cli.report.seed_table import SeedTable
from distill_cli.types import RunResult

COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


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


def _missed(gate: Requirement, figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The gate and the figures that do not meet it, each by its subject; None where all do."""
    by_subject = {subject: values.get(gate.key) for subject, values in figures.items()}
    wrong = [
        f"{subject}is {value}"
        for subject, value in by_subject.items()
        if value is None or not COMPARISONS[gate.comparison](value, gate.bound)
    ]
    return f"{gate} ({', '.join(wrong)})" if wrong else None
