"""The options of what is known of wrong labels."""

from __future__ import annotations

from pydantic import BaseModel

from distill_cli.recipe.fields import LABELS, Text, option


class NoiseOptions(BaseModel):
    """The option of every verb that learns from labels, by which it knows how they are wrong."""

    noise_matrix: Text | None = option(
        None,
        "For the objective forward: a CSV with a row for each true class of how often its images get "
        "each label, class names in the first row; `distill noise estimate` makes one.",
        LABELS,
    )
