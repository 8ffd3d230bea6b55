"""The part `recorded` of a run's recipe.yaml, for recipes that are read again.

Its objectives stand there with every value. Beside them, below `recorded`: `asked`, the flags that
stood for them, and `defaults`, the version of distill whose defaults these flags mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_cli import __version__
from distill_cli.recipe.base import LabelledRecipe

# Flags that speak of the named objectives; a list of objectives says them in its entries.
NAMED_ONLY = (
    *("label_smoothing", "temperature", "alpha", "alpha_end", "schedule"),
    *("hint_layer", "guided_layer", "objective_values"),
)
# Each of these turns a list of objectives back into what was asked for: --hints has weights of
# its own for `kd` by name.
SAID_AGAIN = {"objective", "hints", *NAMED_ONLY}


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is no mapping: files are edited by hand."""
    return value if isinstance(value, Mapping) else {}


def made_by(recorded: Any) -> str | None:
    """The version whose defaults a recipe means; None where it is no run's: today's.

    Before 0.2.0 a run noted no more than the version that it was made by.
    """
    defaults = mapping(recorded).get("defaults")
    return computed_by(recorded) if defaults is None else str(defaults)


def computed_by(recorded: Any) -> str | None:
    """The version that ran, the last of several; None where it is no run's.

    A run that is begun from an earlier one's recipe has that one's defaults, and today's formulas.
    """
    version = mapping(mapping(recorded).get("versions")).get("distill-cli")
    return None if version is None else str(version)


def is_spelled(recorded: Any) -> bool:
    """Whether objectives stand with all the values that they have today."""
    return "defaults" in mapping(recorded) and computed_by(recorded) == __version__


def asked_of(recipe: LabelledRecipe) -> dict[str, Any]:
    """The objectives as they were asked for: names and flags, or a list."""
    before = mapping(mapping(recipe.recorded).get("asked"))
    if "objective" in before and not isinstance(recipe.objective, str):
        # The list is the one that a run spelt out; load() takes the flags where it is not.
        return dict(before)
    asked = {key: getattr(recipe, key, None) for key in ("objective", *NAMED_ONLY)}
    return {key: value for key, value in asked.items() if value is not None}


def said_again(values: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values, ready to have others laid over those that name its objectives.

    Args:
        values: The keys of a file, perhaps a run's, whose list would contradict flags of named
            objectives.
        typed: The keys that are given beside it, with their values.
    """
    if not SAID_AGAIN.intersection(typed):
        return dict(values)
    if isinstance(typed.get("objective"), list):
        # It says in its entries what the flags said of the names that it replaces.
        return {key: value for key, value in values.items() if key not in ("recorded", *NAMED_ONLY)}
    again = {**values, **mapping(mapping(values.get("recorded")).get("asked"))}
    if "objective" in typed:
        # A name that is typed now has today's defaults.
        again.pop("recorded", None)
    return again
