"""Values of named objectives, for whoever names them and would change one value of theirs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from distill_cli.recipe.fields import LABELS, option


class ObjectiveValues(BaseModel):
    """Values by objective; a run's recipe.yaml lists its objectives with every value instead."""

    objective_values: dict[str, dict[str, Any]] | None = option(
        None,
        "Values of the named objectives, as --set objective.kd.temperature=2 or --set "
        "objective.pseudo-label.threshold=0.9.",
        LABELS,
        advanced=True,
        unwritten=True,
    )
