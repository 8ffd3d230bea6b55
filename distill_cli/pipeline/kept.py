"""The recipe that a run or cache folder keeps: how it was made, and of what. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError
from distill_cli.pipeline.entries import CALIBRATED, PACKED, PEERS
from distill_cli.recipe.load import read_yaml
from distill_cli.recipe.own_folder import at_home

# Keys of a run that say nothing of a network which was trained along.
OF_STUDENT = ("command", "model", "model_args", "teachers", "objective", "init")


def kept_recipe(folder: Path) -> dict[str, Any]:
    """The recipe.yaml of a run or cache folder, moved or not; empty for a plain model folder.

    Of a network that was trained along it is the run's, without what is of the student alone.
    """
    # RUN/model says as much as RUN: its recipe lies beside it.
    places = [folder, folder.parent] if folder.name in ("model", CALIBRATED, PACKED) else [folder]
    along = next((place.parents[1] for place in places if place.parent.name == PEERS), None)
    if along is not None:
        places.append(along)
    found = [place / "recipe.yaml" for place in places if (place / "recipe.yaml").is_file()]
    if not found:
        return {}
    recipe = read_yaml(found[0], ArtifactError)
    recorded = recipe.get("recorded") or {}
    for name, value in (("recorded", recorded), *_parts(recorded)):
        if not isinstance(value, dict):
            raise ArtifactError(f"{found[0]} is malformed: {name} should be keys and values")
    recipe = at_home(recipe, found[0].parent)
    if found[0].parent == along:
        return {key: value for key, value in recipe.items() if key not in OF_STUDENT}
    return recipe


def _parts(recorded: Any) -> list[tuple[str, Any]]:
    """The mappings in what a run records, where it has them."""
    keys = ("versions", "dataset", "asked") if isinstance(recorded, dict) else ()
    return [(f"recorded.{key}", recorded[key]) for key in keys if recorded.get(key) is not None]
