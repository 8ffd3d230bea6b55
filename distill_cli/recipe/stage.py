"""One run of several after each other, and how it comes out of the recipe of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.load import validate

# Keys that make a recipe several stages; a stage has none of them, nor a folder, gates or a time of
# its own.
SEVERAL = ("stages", "generations", "hints", "hint_epochs")
NOT_OF_A_STAGE = (*SEVERAL, "seeds", "out", "about", "recorded", "require", "max_time")
# The objective that a copy of the network is trained for first.
SELF = "tfkd-self"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of several.

    Attributes:
        name: The name that later stages know it by.
        recipe: With its folder.
        like: The folder of an earlier run whose views it has, unless it says its own.
        list_path: The list that the run before makes for it, of images to learn from and their labels.
    """

    name: str
    recipe: TrainRecipe
    like: str | None = None
    list_path: Path | None = None

    @property
    def out(self) -> Path:
        """Its run folder."""
        return Path(str(self.recipe.out))


def given_of(recipe: TrainRecipe) -> dict[str, Any]:
    """The values that were said, without what makes the recipe several."""
    values = recipe.model_dump(mode="python", include=recipe.model_fields_set)
    return {key: value for key, value in values.items() if key not in NOT_OF_A_STAGE}


def made_of(kind: type[TrainRecipe], values: Mapping[str, Any]) -> TrainRecipe:
    """A recipe of a verb from those of some values that the verb has.

    Raises:
        UsageError: A value is not one that it can have.
    """
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    return validate(kind, {**known, "command": kind.COMMAND})
