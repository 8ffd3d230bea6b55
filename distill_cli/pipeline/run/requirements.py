"""Gates on the figures of a finished run: `--require test_top1>=0.97`."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from distill_cli.recipe.parsing import Requirement
from distill_cli.types import RunResult

COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def unmet(requirements: Sequence[Requirement], result: RunResult) -> tuple[str, ...]:
    """The `--require` gates that the result does not meet, each with the figure."""
    figures = result.to_json()
    missed = []
    for gate in requirements:
        value = figures[gate.key]
        if value is None or not COMPARISONS[gate.comparison](value, gate.bound):
            missed.append(f"{gate} (is {value})")
    return tuple(missed)
