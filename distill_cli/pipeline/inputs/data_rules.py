"""By which rules the data of a recipe are read: its own, or those of what it goes on from. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.data.rules import DataRules
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.earlier import DATA_VERSION, data_version_then
from distill_cli.recipe.load import validate
from distill_cli.recipe.recorded import made_by
from distill_cli.recipe.rule_options import RULE_KEYS

R = TypeVar("R", bound=Recipe)


def is_earlier(recipe: Recipe) -> bool:
    """Whether it is the recipe of a run by whose version data were read otherwise."""
    return recipe.data_rules is None and data_version_then(made_by(recipe.recorded)) is not None


def rules_of(recipe: Recipe) -> DataRules:
    """The rules that a recipe means."""
    version = recipe.data_rules or (DATA_VERSION if is_earlier(recipe) else DataRules.version)
    return DataRules(
        version=version,
        split_by=recipe.split_by or ("id" if version == DATA_VERSION else DataRules.split_by),
        channels=recipe.channels,
        dedupe=recipe.dedupe,
        megapixels=recipe.max_megapixels or DataRules.megapixels,
    )


def kept_rules(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the rules by which the data of a run or cache were read; none of a plain model.

    Args:
        kept: The recipe.yaml of its folder; those of versions up to 0.3.0 have no such keys.
    """
    if not kept:
        return {}
    keys = {
        key: kept[key]
        for key in (*RULE_KEYS, "max_megapixels")
        if kept.get(key) not in (None, False)
    }
    return {"data_rules": DATA_VERSION, **keys}


def rules_kept(kept: Mapping[str, Any]) -> DataRules:
    """The same as rules.

    Raises:
        UsageError: A key has a value that it cannot have.
    """
    return rules_of(validate(Recipe, kept_rules(kept)))


def read_as_begun(recipe: R, folder: Path) -> R:
    """The recipe of a dump, with the rules of the unfinished one that is in its folder."""
    begun = kept_rules(kept_recipe(folder))
    open_keys = {key for key in begun if getattr(recipe, key) in (None, False)}
    return recipe.model_copy(update={key: begun[key] for key in open_keys})


def recorded_rules(recipe: Recipe, channels: int) -> dict[str, Any]:
    """The recipe keys that say by which rules its data were read.

    Args:
        recipe: The recipe; of an earlier version, the keys stay absent, which means that version.
        channels: Channels of the views.
    """
    if is_earlier(recipe):
        return {}
    rules = rules_of(recipe)
    return {
        "data_rules": rules.version,
        "split_by": rules.split_by,
        "channels": channels,
        "dedupe": rules.dedupe,
    }
