"""How pictures become pixels: as a recipe says, as its teachers saw them, as a cache began. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.cache.folder import PLAN, is_cache
from distill_cli.cache.manifest import read_manifest, read_plan
from distill_cli.errors import ArtifactError
from distill_cli.files import read_json
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.earlier import framing_then
from distill_cli.recipe.recorded import made_by
from distill_cli.types import FRAMINGS, Framing

R = TypeVar("R", bound=Recipe)


def framing_of(recipe: Recipe) -> Framing:
    """The framing that a recipe says, by default that of the version whose defaults it has."""
    default = framing_then(made_by(recipe.recorded))
    given = {key: getattr(recipe, key) for key in FRAMINGS}
    return Framing(**{key: given[key] or getattr(default, key) for key in FRAMINGS})


def framed_as(recipe: R) -> R:
    """The recipe with its framing spelt out."""
    return recipe.model_copy(update=asdict(framing_of(recipe)))


def as_begun(recipe: R, folders: Sequence[Path]) -> R:
    """The recipe of a dump, which goes on with the framing that it was begun with.

    Args:
        recipe: The recipe of a verb that makes caches.
        folders: The folders of the caches, which may be there.

    Raises:
        ArtifactError: A plan is malformed.
    """
    for folder in folders:
        if (folder / PLAN).is_file():
            framing = asdict(read_plan(folder).view_spec.framing)
            missing = [key for key in FRAMINGS if getattr(recipe, key) is None]
            return recipe.model_copy(update={key: framing[key] for key in missing})
    return recipe


def framing_shown(name: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The framing of the pictures that a teacher saw, by recipe keys; empty where it is not known.

    Args:
        name: A run, model or cache folder, or timm/NAME.
        kept: The teacher's recipe; of a run to come, the only thing there is.

    Raises:
        ArtifactError: The plan of a cache is malformed.
    """
    folder = Path(name)
    if is_cache(folder):
        plan = read_plan(folder) if (folder / PLAN).is_file() else read_manifest(folder).plan
        return asdict(plan.view_spec.framing)
    if all(kept.get(key) for key in FRAMINGS):
        return {key: kept[key] for key in FRAMINGS}
    for config in (folder / "model/config.json", folder / "config.json"):
        if config.is_file():
            framing = _saved_framing(config)
            return {} if framing is None else asdict(framing)
    return {}


def _saved_framing(config: Path) -> Framing | None:
    """The framing of a model's config; None where it is none of ours, which its reader says."""
    try:
        return Framing.from_json(read_json(config)["distill"].get("view") or {})
    except (ArtifactError, ValueError, TypeError, KeyError, AttributeError):
        return None
