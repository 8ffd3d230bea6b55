"""Checks of a table of labels, before its images are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_cli.cache.folder import is_cache
from distill_cli.cache.manifest import read_plan
from distill_cli.data.csv_source import is_listing, slips
from distill_cli.errors import UsageError
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.located import locate
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe


def check_table(recipe: TrainRecipe, names: Sequence[str], runs: Artifacts) -> None:
    """Refuses a table in which nearly every image has one label, unless it is said what is meant.

    One row with two labels, or none, would have every class learnt as a yes or no of its own.

    Args:
        recipe: The recipe, its data known.
        names: Its teachers: where they answer each label by itself, that is what is meant.
        runs: The reader of their folders.

    Raises:
        UsageError: With the first rows of other than one label, and what to write.
    """
    if not isinstance(recipe, LabelledRecipe) or recipe.targets == "sigmoid" or recipe.data is None:
        return
    path = Path(locate(recipe.data))
    if not (is_listing(path) and path.is_file()) or (phrase := slips(path)) is None:
        return
    if names and all(_answers_each_label(name, runs) for name in names):
        return
    raise UsageError(
        f"{path}: {phrase}",
        hint="Give each image one class, in a column that is called label; or, if several labels may "
        "apply to an image, or none, say --targets sigmoid",
    )


def _answers_each_label(name: str, runs: Artifacts) -> bool:
    if is_cache(Path(name)) and not runs.comes(name):
        return read_plan(Path(name)).targets == "sigmoid"
    return runs.recipe(name).get("targets") == "sigmoid"
